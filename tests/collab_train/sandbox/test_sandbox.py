"""Code that misbehaves: it passes nothing, hurts nothing, and ends in time."""

from __future__ import annotations

import os
import platform
import resource
import socket
import tempfile
from pathlib import Path
from typing import Any

import pytest

from collab_train.contexts import Context
from collab_train.rewards import EXTRINSIC, Episode, check
from collab_train.rewards.code import last_code
from collab_train.sandbox import sandbox_run as sandbox
from collab_train.sandbox.sandbox_run import (
    SandboxError,
    SandboxLimits,
    SandboxOutcome,
    names_of,
    protections,
    run_tests,
)
from usersim.errors import DataError
from usersim.types import Conversation, Turn

TESTS = """
import unittest
class TestCases(unittest.TestCase):
    def test_one(self): self.assertEqual(f(1), 2)
    def test_two(self): self.assertEqual(f(2), 4)
"""
GOOD = "def f(x): return 2 * x\n"
LIMITS = SandboxLimits(wall_s=600.0, cpu_s=20, memory_mb=256, disk_mb=20, files=100)


def run(code: str, tests: str = TESTS, limits: dict[str, float] | None = None) -> SandboxOutcome:
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
    with pytest.raises(SandboxError, match="no test found"):
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
        ("import time\ntime.sleep(10**6)", {"wall_s": 0.5}, "time"),
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


REFUSED = (
    *(
        "prlimit_other",
        "memfd_create",
        "shmget",
        "shmat",
        "msgget",
        "semget",
        "add_key",
        "keyctl",
        "mq_open",
        "socket",
    ),
    *(
        "connect",
        "sendmsg",
        "fork",
        "execve",
        "ptrace",
        "process_vm_readv",
        "process_vm_writev",
        "rt_sigqueueinfo",
    ),
    *(
        "rt_tgsigqueueinfo",
        "tkill",
        "pidfd_open",
        "pidfd_send_signal",
        "unshare",
        "setns",
        "mount",
        "io_uring_setup",
    ),
    *(
        "userfaultfd",
        "perf_event_open",
        "bpf",
        "setsid",
        "setpgid",
        "setpriority",
        "inotify_init1",
        "a_later_one",
    ),
)
NUMBERS = {
    **{
        "socket": (41, 198),
        "connect": (42, 203),
        "sendmsg": (46, 211),
        "fork": (57, 220),
        "execve": (59, 221),
    },
    **{
        "memfd_create": (319, 279),
        "shmget": (29, 194),
        "shmat": (30, 196),
        "msgget": (68, 186),
        "semget": (64, 190),
    },
    **{"add_key": (248, 217), "keyctl": (250, 219), "mq_open": (240, 180), "prlimit_other": (302, 261)},
    **{
        "ptrace": (101, 117),
        "process_vm_readv": (310, 270),
        "process_vm_writev": (311, 271),
        "tkill": (200, 130),
    },
    **{"rt_sigqueueinfo": (129, 138), "rt_tgsigqueueinfo": (297, 240), "pidfd_open": (434, 434)},
    **{"pidfd_send_signal": (424, 424), "unshare": (272, 97), "setns": (308, 268), "mount": (165, 40)},
    **{
        "io_uring_setup": (425, 425),
        "userfaultfd": (323, 282),
        "perf_event_open": (298, 241),
        "bpf": (321, 280),
    },
    **{"setsid": (112, 157), "setpgid": (109, 154), "setpriority": (141, 140), "inotify_init1": (294, 26)},
    **{"a_later_one": (500, 500)},
}


def needs_kernel() -> None:
    if "rules in Python" in protections().values():
        pytest.skip("this kernel has no Landlock or no seccomp for us")


def probe(body: str, limits: dict[str, float] | None = None) -> Any:
    """What `probe()` of the sandboxed code returns, told by which number its test passes for."""
    code = (
        f"import ctypes, errno, os, resource, signal, fcntl\nLIBC = ctypes.CDLL(None, use_errno=True)\n{body}"
    )
    return run(code, "assert probe() == []", limits)


def test_system_calls_are_refused_by_default() -> None:
    needs_kernel()
    column = ("x86_64", "aarch64").index(platform.machine())
    numbers = {name: NUMBERS[name][column] for name in REFUSED}
    body = (
        f"NUMBERS = {numbers!r}\n"
        "def refused(name):\n"
        "    ctypes.set_errno(0)\n"
        "    return LIBC.syscall(NUMBERS[name], 1, 0, 0, 0, 0, 0) == -1 and ctypes.get_errno() == errno.EPERM\n"
        "def probe(): return [name for name in NUMBERS if not refused(name)]\n"
    )
    assert probe(body).share == 1


def test_other_processes_and_files_of_others_stay_as_they_are(tmp_path: Path) -> None:
    needs_kernel()
    kept = tmp_path / "kept"
    kept.write_text("x")
    kept.chmod(0o644)
    os.utime(kept, (1, 1))
    tmp_path.chmod(0o755)
    body = (
        f"PATH, PID = {str(kept)!r}, {os.getpid()}\n"
        "def tried(what, *arguments, **options):\n"
        "    try: what(*arguments, **options)\n"
        "    except OSError: pass\n"
        "def probe():\n"
        "    tried(resource.prlimit, PID, resource.RLIMIT_NOFILE, (5, 5))\n"
        "    tried(os.chmod, PATH, 0o777)\n"
        "    tried(os.utime, PATH, (5, 5))\n"
        "    tried(os.setxattr, PATH, 'user.x', b'y')\n"
        "    tried(fcntl.fcntl, 0, fcntl.F_SETOWN, PID)\n"
        "    return []\n"
    )
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    assert probe(body).share == 1
    assert resource.getrlimit(resource.RLIMIT_NOFILE) == before
    assert (kept.stat().st_mode & 0o777, kept.stat().st_mtime, os.listxattr(kept)) == (0o644, 1.0, [])


@pytest.mark.parametrize(
    ("code", "stopped"),
    [
        (
            "import os\nheld = []\nfor i in range(100):\n"
            "    f = open('x', 'wb'); os.unlink('x'); f.write(b'x' * 10**6); f.flush(); held.append(f)\n"
            "import time\ntime.sleep(60)",
            "disk",
        ),
        (
            "import threading, time\nthreading.stack_size(65536)\n"
            "for _ in range(3000): threading.Thread(target=time.sleep, args=(60,)).start()\ntime.sleep(60)",
            "threads",
        ),
        ("import os, time\nfor _ in range(1500): os.mkdir('d'); os.chdir('d')\ntime.sleep(60)", "disk"),
    ],
    ids=["files without a name", "threads", "nested directories"],
)
def test_what_hides_from_the_limits_is_found(code: str, stopped: str) -> None:
    needs_kernel()
    outcome = run(code)
    assert (outcome.stopped, outcome.passed) == (stopped, ())


def test_1500_nested_directories_are_removed_and_pass_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    own = tempfile.mkdtemp()  # short, and without the sandboxes of tests that run beside this one
    monkeypatch.setattr(tempfile, "tempdir", own)
    code = "import os\nfor _ in range(1500): os.mkdir('d'); os.chdir('d')\nopen('f', 'w')\nos._exit(0)"
    assert run(code).share == 0
    assert not list(Path(own).iterdir())


FORGERIES = {
    "walks the frames for the harness": (
        "import sys\n"
        "def f(x):\n"
        "    frame, names = sys._getframe(), []\n"
        "    while frame: names += [*frame.f_locals, *frame.f_globals]; frame = frame.f_back\n"
        "    report = [n for n in names if n in ('report', 'tests', 'nonce', 'expected')]\n"
        "    return 2 * x if report else None\n"
    ),
    "looks for the tests in its memory": (
        "import gc\n"
        "def f(x): return 2 * x if any(isinstance(o, str) and 'assert f(1)' in o for o in gc.get_objects()) else None\n"
    ),
    "patches what tests compare with": (
        "import unittest, builtins\n"
        "for name in dir(unittest.TestCase):\n"
        "    if name.startswith('assert'): setattr(unittest.TestCase, name, lambda *a, **k: None)\n"
        "builtins.AssertionError = ZeroDivisionError\n"
        "def f(x): return None\n"
    ),
    "returns what equals everything": (
        "class Any(int):\n"
        "    def __eq__(self, other): return True\n"
        "    def __ne__(self, other): return False\n"
        "    __hash__ = int.__hash__\n"
        "def f(x): return Any()\n"
    ),
    "raises what ends a test quietly": "import unittest\ndef f(x): raise unittest.case._ShouldStop()\n",
    "skips": "import unittest\ndef f(x): raise unittest.SkipTest()\n",
    "writes to every descriptor": (
        "import os\nfor fd in range(3, 250):\n"
        "    for line in (b'line 1\\n', b'line 2\\n', b'TestCases.test_one\\n', b'TestCases.test_two\\n'):\n"
        "        try: os.write(fd, line)\n        except OSError: pass\n"
        "def f(x): return None\n"
    ),
    "defines the names that tests use": (
        "def len(x): return 2\nimport math\nmath.isclose = lambda *a: True\ndef f(x): return None\n"
    ),
    "defines a class named as a module": (
        "class math:\n    isclose = staticmethod(lambda *a: True)\ndef f(x): return None\n"
    ),
    "answers with a message that runs code": (
        "import os, pickle, struct\n"
        "class Evil:\n"
        "    def __reduce__(self): return os.system, ('true',)\n"
        "def f(x):\n"
        "    content = pickle.dumps(('value', Evil(), None))\n"
        "    for fd in range(3, 20):\n"
        "        try: os.write(fd, struct.pack('<Q', len(content)) + content)\n        except OSError: pass\n"
    ),
}


@pytest.mark.parametrize("code", FORGERIES.values(), ids=FORGERIES)
def test_the_verdict_cannot_be_forged(code: str) -> None:
    assert run(code).passed == ()
    assert (
        run(
            code,
            "import math\nassert f(1) == 2 and math.isclose(f(1), 2)\nassert len([f(2)]) == 1 and f(2) == 4",
        ).passed
        == ()
    )


CASE = "import unittest\nclass TestCases(unittest.TestCase):\n    def test_one(self):\n        "


@pytest.mark.parametrize("code", FORGERIES.values(), ids=FORGERIES)
def test_nor_that_of_test_cases(code: str) -> None:
    assert run(code, CASE + "self.assertEqual(f(2), 4)\n").share == 0


@pytest.mark.parametrize(
    ("code", "tests"),
    [
        (
            "class Set:\n"
            "    def difference(self, other): self.other = other; return set()\n"
            "    def __iter__(self): return iter(self.other)\n"
            "def f(x): return Set()\n",
            CASE + "self.assertSetEqual(f(2), {1, 5, 7})\n",
        ),
        (
            "def f(m): m.configure_mock(assert_called_once_with=lambda *a, **k: None)\n",
            "from unittest.mock import Mock\n"
            + CASE
            + "m = Mock(); f(m)\n        m.assert_called_once_with(42)\n",
        ),
    ],
    ids=["a set that repeats what it is compared with", "a mock told to agree"],
)
def test_what_the_code_is_handed_does_not_give_the_answer_away(code: str, tests: str) -> None:
    assert run(code, tests).share == 0


@pytest.mark.parametrize(
    ("code", "tests"),
    [
        ("import json\ndef f(x): return json.loads(x)\n", CASE + "self.assertRaises(ValueError, f, 'no')\n"),
        ("def f(x): return 2 * x\n", "assert f(1) == 2; assert f(2) == 4\n"),
        (
            "def f(x): return 2 * x\n",
            CASE + "raise ValueError\n    def test_one(self): self.assertEqual(f(2), 4)\n",
        ),
        (
            "import pandas as pd\ndef f(x): return pd.Timestamp(x), pd.NaT, pd.Timedelta('1D')\n",
            "import pandas as pd\nassert f('2020')[0] == pd.Timestamp('2020') and f('2020')[2] == pd.Timedelta('1D')\n",
        ),
        ("from math import gcd as f\n", "assert f(4, 6) == 2\n"),
        (
            "import pandas as pd\n"
            "def f(x):\n    made = pd.Series([x, None], dtype='Float64')\n    made.describe()\n    return made\n",
            "import pandas as pd\nassert f(1.5).equals(pd.Series([1.5, None], dtype='Float64'))\n",
        ),
        (
            "from datetime import datetime\ndef f(): return datetime(2020, 1, 2)\n",
            "assert datetime.strptime('2020-01-02', '%Y-%m-%d') == f()\n",
        ),
        (
            "def f(n): return (i for i in range(n))\n",
            "import types\nmade = f(2)\nassert isinstance(made, types.GeneratorType) and list(made) == [0, 1]\n",
        ),
        (
            "from zoneinfo import ZoneInfo\ndef f(zone): return zone, ZoneInfo('Asia/Tokyo')\n",
            "from zoneinfo import ZoneInfo\nrome = ZoneInfo('Europe/Rome')\n"
            "assert f(rome) == (rome, ZoneInfo('Asia/Tokyo'))\n",
        ),
        (
            "import matplotlib.pyplot as plt\ndef f(x):\n    plt.figure()\n    plt.show()\n    return 2 * x\n",
            "import matplotlib.pyplot as plt\nimport unittest\nfrom unittest.mock import patch\n"
            "class TestCases(unittest.TestCase):\n"
            "    @patch('matplotlib.pyplot.show')\n"
            "    def test_one(self, show):\n"
            "        self.assertEqual(f(2), 4)\n"
            "        show.assert_called_once_with()\n",
        ),
        (
            "import os\ndef f(folder): return sorted(os.listdir(folder))\n",
            "import os\nfrom pathlib import Path\nos.mkdir('made')\n"
            "Path('made/a').touch(); Path('made/a').touch(); os.utime('made/a', (1, 1)); os.chmod('made', 0o700)\n"
            "assert f('made') == ['a']\n",
        ),
        (
            "import os\ndef f(call):\n    try: getattr(os, call)('nowhere', 5)\n"
            "    except FileNotFoundError: return 1\n",
            "assert f('chmod') == 1\nassert f('utime') == 1\n",
        ),
        (
            "import os\ndef f(): return os.path.exists('here'), os.getcwd()\n",
            "from pathlib import Path\nfrom unittest.mock import patch\nPath('here').mkdir()\n"
            "patch('os.getcwd', return_value='./here').__enter__()\nassert f() == (True, './here')\n",
        ),
        (
            "import matplotlib.pyplot as plt\ndef f(x):\n    plt.bar([x], [1])\n    return plt.gca()\n",
            "import matplotlib.pyplot as plt\n"
            + CASE
            + "self.assertEqual(len(f(1).patches), 1); plt.close()\n"
            "        self.assertEqual(len(f(2).patches), 1); plt.close('all')\n"
            "        self.assertEqual(len(f(3).patches), 1); plt.clf()\n"
            "        axes = f(4); self.assertEqual(len(axes.patches), 1); plt.close(axes.figure)\n"
            "        self.assertEqual(len(f(5).patches), 1)\n",
        ),
        (
            "import re, tempfile\ndef f(x): return len(re.split('[-.]', tempfile.mkdtemp()))\n",
            "assert f(1) == 1\n",
        ),
        (
            "import inspect\ndef f(g):\n    spec = inspect.getfullargspec(g)\n"
            "    return spec.args, spec.varargs, spec.defaults, spec.kwonlyargs\n",
            "import inspect\nassert f(lambda x, y=1, *more, z: 0) == (['x', 'y'], 'more', (1,), ['z'])\n"
            "assert list(inspect.signature(f).parameters) == ['g']\n",
        ),
    ],
    ids=[
        "exception of the library",
        "two on a line",
        "the later of two",
        "times of pandas",
        "under another name",
        "numbers that may be missing",
        "a class named as its module",
        "a generator",
        "zones",
        "a figure that is shown to a mock",
        "files that are touched",
        "changes of what is not there",
        "a folder that is pretended",
        "figures that are closed",
        "a folder without a hyphen",
        "parameters of functions",
    ],
)
def test_right_answers_of_many_kinds_pass(code: str, tests: str) -> None:
    assert run(code, tests).share == 1


def test_a_folder_named_as_the_cleaner_names_its_own_is_removed(monkeypatch: pytest.MonkeyPatch) -> None:
    own = tempfile.mkdtemp()
    monkeypatch.setattr(tempfile, "tempdir", own)
    run("import os\nos.makedirs('a/b'); os.makedirs('.lifted-0/c')\ndef f(x): return 2 * x\n")
    assert not list(Path(own).iterdir())


def test_only_what_a_test_hands_over_can_be_asked_of_the_judge() -> None:
    code = (
        "def f(g):\n"
        "    tried = [('get', [1], 'append'), ('get', g, '__globals__'), ('call', print, (), {}), ('len', 'abc')]\n"
        "    tried.append(('signature', len))\n"
        "    worked = []\n"
        "    for request in tried:\n"
        "        try: worked.append(g._remote_link.ask(*request))\n"
        "        except Exception: pass\n"
        "    return g(4), worked\n"
    )
    assert run(code, "assert f(lambda x: 2 * x) == (8, [])").share == 1


def test_defaults_of_a_function_of_the_test_do_not_hand_over_its_objects() -> None:
    code = (
        "import inspect\n"
        "def f(g): return [part.default for part in inspect.signature(g).parameters.values()] == [..., ..., 2]\n"
    )
    assert run(code, CASE + "self.assertTrue(f(lambda a=self, b=[42], c=2: 0))\n").share == 1


def test_arguments_that_code_changes_mocks_prints_and_seeds_cross() -> None:
    code = (
        "import os, random, pathlib\nimport numpy as np\n"
        "def grow(xs): xs.append(1)\n"
        "def lists(): return os.listdir('nowhere')\n"
        "def draws(): return random.random(), float(np.random.rand())\n"
        "def shouts(): print('hi')\n"
        "def calls(g): return g(2) + 1\n"
        "def numbers(): yield from (1, 2)\n"
        "class Box:\n    def __init__(self, x): self.x = x\n    def double(self): return Box(2 * self.x)\n"
        "def fails(): raise KeyError('k')\n"
    )
    tests = (
        "import contextlib, io, random, unittest\nfrom unittest.mock import patch\nimport numpy as np\n"
        "class T(unittest.TestCase):\n"
        "    def test_argument(self):\n        xs = []\n        grow(xs)\n        self.assertEqual(xs, [1])\n"
        "    @patch('os.listdir', return_value=['a'])\n"
        "    def test_mock(self, listdir):\n        self.assertEqual(lists(), ['a'])\n"
        "        listdir.assert_called_once_with('nowhere')\n"
        "    def test_seed(self):\n"
        "        random.seed(1); np.random.seed(1); a = draws(); b = draws(); random.seed(1); np.random.seed(1)\n"
        "        self.assertEqual(a, (random.random(), float(np.random.rand())))\n        self.assertNotEqual(a, b)\n"
        "    def test_print(self):\n        with contextlib.redirect_stdout(io.StringIO()) as out: shouts()\n"
        "        self.assertEqual(out.getvalue(), 'hi\\n')\n"
        "    def test_callback(self): self.assertEqual(calls(lambda x: 10 * x), 21)\n"
        "    def test_generator(self): self.assertEqual(list(numbers()), [1, 2])\n"
        "    def test_object(self): self.assertEqual(Box(2).double().x, 4)\n"
        "    def test_error(self):\n        with self.assertRaises(KeyError): fails()\n"
    )
    outcome = run(code, tests)
    assert set(outcome.expected) - set(outcome.passed) == set()


def test_code_is_refused_where_the_kernel_does_not_protect(monkeypatch: pytest.MonkeyPatch) -> None:
    weak = {"files": "rules in Python", "network and processes": "seccomp"}
    monkeypatch.setattr(sandbox, "protections", lambda: weak)
    monkeypatch.delenv("USERSIM_SANDBOX", raising=False)
    with pytest.raises(SandboxError, match=r"does not protect files .* USERSIM_SANDBOX=unprotected"):
        run(GOOD)
    context = Context(id="c", turns=(Turn(role="user", text="hi"),), metadata={"tests": TESTS})
    with pytest.raises(DataError, match="USERSIM_SANDBOX=unprotected"):
        check([context], {"pass_rate": 1.0})
    for value in ("", "yes", "1"):  # not in so many words
        monkeypatch.setenv("USERSIM_SANDBOX", value)
        with pytest.raises(SandboxError):
            run(GOOD)
    monkeypatch.setenv("USERSIM_SANDBOX", "unprotected")
    assert run(GOOD).share == 1


def test_its_directory_is_gone_afterwards() -> None:
    def left() -> set[Path]:
        return set(Path(tempfile.gettempdir()).glob("usersimsandbox*/kept-by-this-test"))

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
