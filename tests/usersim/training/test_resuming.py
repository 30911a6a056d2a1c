"""Every file that a killed process is resumed from, cut at every byte; and several processes at one place."""

from __future__ import annotations

import json
import logging
import os
import resource
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from usersim.errors import BackendError, ConfigError, DataError
from usersim.storage.locks import locked
from usersim.storage.records import append_line, atomic_writer, read_conversations, read_jsonl, whole_lines
from usersim.storage.runs import METRICS, SAMPLES, RunDir
from usersim.storage.toml_config import Config
from usersim.types import Conversation, Turn
from usersim.users.simulate import BatchJournal, run_file
from usersim.weights import default_model as model

ODD = "naïve 😀\u2028line\u0085two"
SETTINGS: dict[str, object] = {"seed": 0, "system": ODD}
NAMES = ("a", "b", "ç")


def conversation(name: str) -> Conversation:
    return Conversation(id=name, origin="simulated", source="s", turns=(Turn(role="user", text=ODD + name),))


def journal_of(out: Path, *names: str) -> BatchJournal:
    journal = BatchJournal(out, SETTINGS)
    for name in names:
        journal.add(conversation(name))
    return journal


def ends(content: bytes) -> list[int]:
    """Where each line is complete: its newline need not be there."""
    return [at for at, byte in enumerate(content) if byte == ord("\n")]


def test_a_journal_cut_anywhere_keeps_what_was_whole_and_goes_on(tmp_path: Path) -> None:
    out = tmp_path / "out.jsonl"
    path = journal_of(out, *NAMES).path
    content = path.read_bytes()
    head, *lines = ends(content)
    for cut in range(len(content) + 1):
        path.write_bytes(content[:cut])
        again = BatchJournal(out, SETTINGS)
        assert list(again.finished) == [name for name, end in zip(NAMES, lines, strict=True) if cut >= end]
        for name in NAMES:
            if name not in again.finished:
                again.add(conversation(name))
        assert again.path.read_bytes() == content
    assert head < cut
    assert again.close(NAMES) == 3
    assert read_conversations(out) == [conversation(name) for name in NAMES]


def test_a_damaged_line_costs_that_line_alone(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    out = tmp_path / "out.jsonl"
    path = journal_of(out, *NAMES).path
    lines = path.read_bytes().split(b"\n")
    for damage in (b"", b"{", b"\xff\xfe", b"[]", lines[2][:40] + lines[2]):
        path.write_bytes(b"\n".join([*lines[:2], damage, *lines[3:]]))
        with caplog.at_level(logging.WARNING):
            assert list(BatchJournal(out, SETTINGS).finished) == ["a", "ç"]
    assert ":3: " in caplog.text


def test_a_journal_whose_settings_are_unknown_is_not_gone_on_with(tmp_path: Path) -> None:
    out = tmp_path / "out.jsonl"
    path = journal_of(out, *NAMES).path
    path.write_bytes(b"x" + path.read_bytes())
    with pytest.raises(DataError, match="which holds the settings"):
        BatchJournal(out, SETTINGS)


def test_a_damaged_run_file_is_said_in_one_line(tmp_path: Path) -> None:
    out = tmp_path / "out.jsonl"
    journal_of(out, *NAMES).close(NAMES, {})
    for damage in ("", "[]", "{}", '{"settings": 1, "sessions": []}'):
        run_file(out).write_text(damage, encoding="utf-8")
        with pytest.raises(DataError, match=r"out\.run\.json: not the record of a batch"):
            BatchJournal(out, SETTINGS)


class Toy(Config):
    steps: int = 3


@pytest.mark.parametrize("name", [METRICS, SAMPLES])
def test_a_log_of_training_cut_anywhere_is_rewound_and_written_on(tmp_path: Path, name: str) -> None:
    run, file = RunDir(tmp_path, Toy()), tmp_path / name
    lines = [json.dumps({"step": step, "text": ODD}, ensure_ascii=False) for step in range(3)]
    for line in lines:
        append_line(file, line)
    content = file.read_bytes()
    for cut in range(len(content) + 1):
        file.write_bytes(content[:cut])
        kept = sum(cut >= end for end in ends(content))
        run.keep(name, lambda value: value["step"] <= 1)
        assert [value["step"] for _, _, value in whole_lines(file)] == list(range(min(kept, 2)))
        for line in lines[min(kept, 2) :]:
            append_line(file, line)
        assert file.read_bytes() == content


def test_metrics_are_read_past_what_was_cut_off(tmp_path: Path) -> None:
    run = RunDir(tmp_path, Toy())
    run.metric(step=1, text=ODD)
    with (tmp_path / METRICS).open("ab") as stream:
        stream.write('{"step": 2, "text": "é'.encode()[:-1])
    assert run.metrics() == [{"step": 1, "text": ODD}]
    run.metric(step=2)
    assert [values["step"] for values in run.metrics()] == [1, 2], "a line never joins a torn one"


def test_lines_end_with_a_newline_alone(tmp_path: Path) -> None:
    file = tmp_path / "r.jsonl"
    values = ["a\u2028b", "c\u0085d", "e\u000cf", "g\u001eh"]
    file.write_text("\r\n".join(json.dumps(value, ensure_ascii=False) for value in values), encoding="utf-8")
    assert [value for _, value in read_jsonl(file)] == values
    assert [value for _, _, value in whole_lines(file)] == values


# -- a full disk ---------------------------------------------------------------------------------------


@contextmanager
def files_end_at(size: int) -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, before)


def test_a_line_that_has_no_room_is_taken_back(tmp_path: Path) -> None:
    out = tmp_path / "out.jsonl"
    journal = journal_of(out, "a")
    before = journal.path.read_bytes()
    for room in (1, 40, 81):
        with files_end_at(len(before) + room), pytest.raises(BackendError, match="make room"):
            journal.add(conversation("b"))
        assert journal.path.read_bytes() == before
    journal.add(conversation("b"))
    assert list(BatchJournal(out, SETTINGS).finished) == ["a", "b"]


# -- several processes ---------------------------------------------------------------------------------


def in_another_process(code: str, *args: object) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", code, *map(str, args)]
    started = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert started.stdout
    assert started.stdout.readline() == "ready\n"
    return started


def killed(process: subprocess.Popen[str]) -> None:
    process.kill()
    process.communicate()


HOLDER = """
import sys, time
from usersim.storage.locks import locked
with locked(sys.argv[1]):
    print("ready", flush=True)
    time.sleep(600)
"""


def test_a_place_is_for_one_process_until_that_is_gone(tmp_path: Path) -> None:
    out = tmp_path / "out.jsonl"
    other = in_another_process(HOLDER, out)
    with pytest.raises(BackendError, match=r"another process is writing to .*out\.jsonl"), locked(out):
        pass
    killed(other)
    with locked(out):
        pass
    assert list(tmp_path.iterdir()) == []


def test_two_simulations_into_one_file_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from usersim.__main__ import main

    goals, out = tmp_path / "goals.jsonl", tmp_path / "out.jsonl"
    goals.write_text('{"goal": "x"}\n', encoding="utf-8")
    with locked(out):
        argv = [
            "--goals",
            str(goals),
            "--assistant",
            "http://127.0.0.1:9",
            "--out",
            str(out),
            "--url",
            "http://x",
        ]
        assert main(["simulate", *argv]) == 2
    assert "another process is writing to" in capsys.readouterr().err


def test_of_many_that_want_a_model_one_builds_it(tmp_path: Path) -> None:
    out, built, failed = tmp_path / "m", list[int](), list[BaseException]()
    start = threading.Barrier(6)

    def make(folder: Path) -> None:
        built.append(1)
        (folder / "model.safetensors").write_text("weights", encoding="utf-8")

    def want() -> None:
        start.wait()
        try:
            # Every lock is on a file of its own opening, as in processes.
            assert model._is_built(model._materialise(out, {"of": "a"}, make), {"of": "a"})
        except BaseException as error:
            failed.append(error)

    threads = [threading.Thread(target=want) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (built, failed) == ([1], [])
    assert list(tmp_path.iterdir()) == [out]


WRITER = """
import sys, time
from usersim.storage.records import atomic_writer
with atomic_writer(sys.argv[1]) as stream:
    stream.write("half")
    stream.flush()
    print("ready", flush=True)
    time.sleep(600)
"""


def test_what_a_killed_writer_left_is_swept_and_not_what_another_is_writing(tmp_path: Path) -> None:
    target = tmp_path / "train.jsonl"
    (dead, alive) = (in_another_process(WRITER, target) for _ in range(2))
    killed(dead)
    try:
        with atomic_writer(target) as stream:
            stream.write("whole")
        assert len(list(tmp_path.glob(".train.jsonl.*"))) == 1, "of the one at work"
    finally:
        killed(alive)
    with atomic_writer(target) as stream:
        stream.write("whole again")
    assert os.listdir(tmp_path) == ["train.jsonl"]  # noqa: PTH208


# -- the cache of models -------------------------------------------------------------------------------


@pytest.mark.parametrize("damage", ["[]", "", "{}", "1", '{"of": "a"}'])
def test_a_damaged_manifest_is_no_model(tmp_path: Path, damage: str) -> None:
    def make(folder: Path) -> None:
        (folder / "model.safetensors").write_text("weights", encoding="utf-8")

    out = model._materialise(tmp_path / "m", {"of": "a"}, make)
    (out / model.MANIFEST).write_text(damage, encoding="utf-8")
    assert not model._is_built(out, {"of": "a"})
    with pytest.raises(ConfigError, match=r"no readable build\.json"):
        model.verify(out)
    assert model.verify(model._materialise(out, {"of": "a"}, make))


def test_weights_damaged_at_the_same_size_are_built_again(tmp_path: Path) -> None:
    def make(folder: Path) -> None:
        (folder / "model.safetensors").write_text("weights", encoding="utf-8")

    out = model._materialise(tmp_path / "m", {"of": "a"}, make)
    (out / "model.safetensors").write_text("wEights", encoding="utf-8")
    model._materialise(out, {"of": "a"}, make)
    assert (out / "model.safetensors").read_text(encoding="utf-8") == "weights"


@pytest.mark.parametrize("cache", ["", "relative/folder"])
def test_an_empty_or_relative_cache_folder_is_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cache: str
) -> None:
    for name, value in {"XDG_CACHE_HOME": cache, "HOME": str(tmp_path)}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("USERSIM_HOME", raising=False)
    assert model.home() == tmp_path / ".cache" / "usersim"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "c"))
    assert model.home() == tmp_path / "c" / "usersim"
