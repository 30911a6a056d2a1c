"""Files of collab's runs: cut at every byte, in use by two, with lines that hold odd characters."""

from __future__ import annotations

import json
import resource
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from collab_train.rollout.cache.journal import Journal
from collab_train.rollout.command import MRConfig
from collab_train.run_lock import exclusive
from usersim.errors import BackendError, ConfigError, DataError
from usersim.storage.runs import METRICS, RunDir
from usersim.types import Record


class Line(Record):
    text: str


LINES = [Line(text=text) for text in ("plain", "Züri 🚲 \u2028 next", "\u0085", "last é")]


def test_a_journal_cut_at_every_byte_goes_on(tmp_path: Path) -> None:
    whole = Journal(tmp_path / "whole.jsonl", Line)
    for line in LINES:
        whole.append(line)
    content = whole.path.read_bytes()
    assert whole.read() == LINES
    for cut in range(len(content) + 1):
        path = tmp_path / "cut.jsonl"
        path.write_bytes(content[:cut])
        complete = content[:cut].count(b"\n")
        resumed = Journal(path, Line)
        assert resumed.read() == LINES[:complete]
        for line in LINES[complete:]:
            resumed.append(line)
        assert path.read_bytes() == content


def test_a_line_that_a_full_disk_cut_off_is_taken_back(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "j.jsonl", Line)
    journal.append(LINES[0])
    before = journal.path.read_bytes()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(before) + 12, hard))
    try:
        with pytest.raises(BackendError, match="make room"):
            journal.append(LINES[1])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, ignored)
    assert journal.path.read_bytes() == before
    journal.append(LINES[2])  # there is room again, in the same process
    assert journal.read() == [LINES[0], LINES[2]]


def test_a_damaged_line_of_a_journal_is_named(tmp_path: Path) -> None:
    (tmp_path / "j.jsonl").write_text('{"text":"a"}\n{"te\n{"text":"b"}\n')
    with pytest.raises(DataError, match=r"j\.jsonl:2: .*; delete that line to go on"):
        Journal(tmp_path / "j.jsonl", Line).read()


def test_metrics_cut_at_every_byte_are_read_and_added_to(tmp_path: Path) -> None:
    run = RunDir(tmp_path, MRConfig())
    for step, note in enumerate(("plain", "Züri \u2028 next", "\u0085 é")):
        run.metric(step=step, note=note)
    file = tmp_path / METRICS
    content = file.read_bytes()
    for cut in range(len(content) + 1):
        file.write_bytes(content[:cut])
        complete = content[:cut].count(b"\n")
        # All but its line end may have been written: then the line is whole.
        steps = [line["step"] for line in run.metrics()]
        assert steps in (list(range(complete)), list(range(complete + 1)))
        run.metric(step=9, note="new")
        assert [line["step"] for line in run.metrics()] == [*steps, 9]
        run.keep(METRICS, lambda line: line["step"] <= 9)
        assert [json.loads(line)["step"] for line in file.read_bytes().split(b"\n")[:-1]] == [*steps, 9]


def test_a_damaged_config_of_a_run_says_what_to_do(tmp_path: Path) -> None:
    RunDir(tmp_path, MRConfig())
    content = (tmp_path / "config.json").read_bytes()
    for cut in (0, 1, len(content) // 2):
        (tmp_path / "config.json").write_bytes(content[:cut])
        with pytest.raises(ConfigError, match=r"config\.json is damaged; choose another out="):
            RunDir(tmp_path, MRConfig())


def test_a_directory_is_used_by_one_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    code = (
        "import sys\nfrom collab_train.run_lock import exclusive\n"
        "with exclusive(sys.argv[1]): print('held', flush=True); sys.stdin.read()\n"
    )
    other = subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert other.stdin is not None
    assert other.stdout is not None
    assert other.stdout.readline() == b"held\n"
    message = rf"in use by another run \(process {other.pid}\).*choose another out="
    with pytest.raises(ConfigError, match=message), exclusive(tmp_path):
        pass
    monkeypatch.setenv("RANK", "1")  # of the launch whose rank 0 holds it
    with exclusive(tmp_path):
        pass
    monkeypatch.delenv("RANK")
    other.communicate()
    with exclusive(tmp_path):
        pass
