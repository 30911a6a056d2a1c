"""Code that misbehaves: it passes nothing, hurts nothing, and ends in time."""

from __future__ import annotations

import os
import platform
import socket
import tempfile
from pathlib import Path

import pytest

from collab_train.contexts import Context
from collab_train.rewards import EXTRINSIC, Episode
from collab_train.rewards.code import last_code
from collab_train.sandbox import Limits, Outcome, SandboxError, names_of, protections, run_tests
from collab_train.sandbox_kernel import CALLS
from usersim.types import Conversation, Turn

TESTS = """
import unittest
class TestCases(unittest.TestCase):
    def test_one(self): self.assertEqual(f(1), 2)
    def test_two(self): self.assertEqual(f(2), 4)
"""
GOOD = "def f(x): return 2 * x\n"
LIMITS = Limits(wall_s=30.0, cpu_s=20, memory_mb=256, disk_mb=20, files=100)


def run(code: str, tests: str = TESTS, limits: dict[str, float] | None = None) -> Outcome:
    return run_tests(code, tests, LIMITS.model_copy(update=limits))


def test_the_share_of_tests_that_pass() -> None:
    assert run(GOOD).share == 1
    half = run("def f(x): return x + 1\n")
    assert (half.share, half.passed) == (0.5, ("TestCases.test_one",))
    assert run("def f(x) return").share == 0


def test_statements_are_tests_where_there_are_no_classes() -> None:
    tests = (
        "base = 1\nassert f(base) == 2\nassert f(1) == 3\n\ndef check(g):\n    assert g(2) == 4\n\ncheck(f)\n"
    )
    assert names_of(tests) == ("line 2", "line 3", "line 8")
    assert run(GOOD, tests).passed == ("line 2", "line 8")


def test_tests_without_a_test_are_a_mistake_of_the_task() -> None:
    with pytest.raises(SandboxError, match="no test"):
        run(GOOD, "x = 1")
    with pytest.raises(SandboxError, match="not Python"):
        run(GOOD, "def (")


@pytest.mark.parametrize(
    "code",
    [
        "print('TestCases.test_one passed')\nimport sys\nsys.exit(0)",
        "import os\ndef f(x): os._exit(0)",
        "import os\nfor fd in range(3, 20):\n    try: os.write(fd, b'TestCases.test_one\\n')\n    except OSError: pass",
        "import os\nwhile True: os.fork()",
    ],
    ids=["prints and exits", "exits inside a test", "writes to every descriptor", "fork bomb"],
)
def test_leaving_early_saying_passed_and_forking_pass_nothing(code: str) -> None:
    assert run(code).passed == ()


@pytest.mark.parametrize(
    ("code", "limits", "stopped"),
    [
        ("while True: pass", {"cpu_s": 1}, "CPU time"),
        ("import time\ntime.sleep(60)", {"wall_s": 0.5}, "time"),
        ("import itertools\nfor i in itertools.count(): open(f'{i}', 'w').close()", {}, "disk"),
        ("x = b'x' * (3 * 10**8)\nimport time\ntime.sleep(60)", {}, "memory"),
    ],
    ids=["endless loop", "sleep", "many files", "memory"],
)
def test_what_never_ends_is_ended(code: str, limits: dict[str, float], stopped: str) -> None:
    outcome = run(code, limits=limits)
    assert (outcome.stopped, outcome.passed) == (stopped, ())


def test_a_file_of_ten_gigabytes_is_cut_off() -> None:
    code = f"with open('big', 'wb') as f:\n    for _ in range(10_000): f.write(b'x' * 10**6)\n{GOOD}"
    assert run(code).passed == ()


FORBIDDEN = {
    "reads a file of others": "open(SECRET).read()",
    "lists the home directory": "os.listdir(HOME)",
    "writes elsewhere": "open(SECRET + '2', 'w')",
    "reads our environment": "open(f'/proc/{PARENT}/environ', 'rb').read()",
    "connects": "socket.create_connection(('127.0.0.1', PORT), 1)",
    "starts a program": "subprocess.run(['true'])",
    "forks": "os.fork()",
    "kills": "os.kill(os.getppid(), 9)",
    "takes ten gigabytes": "bytearray(10**10)",
}
ALLOWED = {
    "uses its own directory": "open(tempfile.mkdtemp() + '/a', 'w').write('x')",
    "uses threads": "threading.Thread(target=print).start()",
    "uses asyncio": "asyncio.run(asyncio.sleep(0))",
    "sees no keys": "[].pop() if any('KEY' in name for name in os.environ) else 0",
}


def test_what_code_may_and_what_it_may_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "secret")
    secret = tmp_path / "secret"
    secret.write_text("x")
    known = {"SECRET": str(secret), "HOME": str(Path.home()), "PARENT": os.getpid()}
    with socket.create_server(("127.0.0.1", 0)) as server:
        known["PORT"] = server.getsockname()[1]
        attempts = [*FORBIDDEN.items(), *ALLOWED.items()]
        methods = "".join(
            f"    def test_{number}(self):\n        {body}\n" for number, (_, body) in enumerate(attempts)
        )
        setting = "".join(f"{name} = {value!r}\n" for name, value in known.items())
        imports = "import asyncio, os, socket, subprocess, tempfile, threading, unittest\n"
        outcome = run("pass", f"{imports}{setting}class T(unittest.TestCase):\n{methods}")
    worked = {attempts[int(name.rpartition("_")[2])][0] for name in outcome.passed}
    assert outcome.stopped is None
    assert worked == set(ALLOWED)
    assert not (tmp_path / "secret2").exists()


def test_other_ways_to_signal_and_to_look_into_processes_are_refused_by_the_kernel() -> None:
    if protections()["network and processes"] != "seccomp":
        pytest.skip("this kernel has no seccomp for us")
    _, numbers = CALLS[platform.machine()]
    names = ("rt_sigqueueinfo", "rt_tgsigqueueinfo", "process_vm_readv", "process_vm_writev", "unshare")
    methods = "".join(
        f"    def test_{name}(self):\n"
        f"        self.assertEqual(LIBC.syscall({numbers[name]}, 0, 0, 0, 0, 0, 0), -1)\n"
        "        self.assertEqual(ctypes.get_errno(), errno.EPERM)\n"
        for name in names
    )
    head = "import ctypes, errno, unittest\nLIBC = ctypes.CDLL(None, use_errno=True)\n"
    assert run("pass", f"{head}class T(unittest.TestCase):\n{methods}").share == 1


def test_its_directory_is_gone_afterwards() -> None:
    def left() -> set[Path]:
        return set(Path(tempfile.gettempdir()).glob("usersim-sandbox-*/kept-by-this-test"))

    assert run("open('kept-by-this-test', 'w').close()\n" + GOOD).share == 1
    assert not left()


def test_what_protects_is_named() -> None:
    found = protections()
    assert set(found) == {"files", "network and processes"}
    assert set(found.values()) <= {"Landlock", "seccomp", "rules in Python"}


def test_the_last_python_block_of_the_last_reply_with_one() -> None:
    text = "```python\ndef f(x): ...\n```\nUse it:\n```\nf(1)\n```\n```bash\nls\n```"
    assert last_code([text, "You're welcome!"]) == "f(1)\n"
    assert last_code([text], "f") == "def f(x): ...\n"
    assert last_code(["```py\ncut off"]) == "cut off"
    assert last_code(["no code"]) is None


def test_pass_rate_gives_the_stub_first_and_nothing_for_no_code() -> None:
    known = {"tests": TESTS, "entry_point": "f", "prefix": "import math\ndef f(x):\n    pass\n"}
    user = Turn(role="user", text="double it")
    context = Context(id="c", turns=(user,), metadata=known)

    def episode(reply: str) -> Episode:
        turns = (user, Turn(role="assistant", text=reply))
        return Episode(context, Conversation(id="f", origin="simulated", source="t", turns=turns))

    code = "```python\ndef f(x):\n    return math.floor(2.5 * x)\n```"  # 2 and 5
    assert EXTRINSIC["pass_rate"].score(episode(code)) == 0.5
    assert EXTRINSIC["pass_all"].score(episode(code)) == 0
    assert EXTRINSIC["pass_rate"].score(episode("I would double it.")) == 0
