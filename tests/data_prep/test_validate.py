"""`usersim data validate FILE`."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from data_prep.data_command import main
from usersim.errors import DataError


def line(id_: str, **changes: Any) -> str:
    turns = [{"role": "user", "text": "hi"}, {"role": "assistant", "text": "hello"}]
    given = {"id": id_, "origin": "human", "source": "t", "turns": turns, "ended_by": "user"}
    return json.dumps(given | changes)


def run(file: Path, capsys: pytest.CaptureFixture[str]) -> tuple[int, dict[str, Any], list[str]]:
    code = main(["validate", str(file), "--json"])
    printed = capsys.readouterr()
    return code, json.loads(printed.out), printed.err.splitlines()


def test_a_good_file_is_counted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    goal = {"goal": {"summary": "plan a walk"}}
    text = line("a") + "\n\n" + line("b", profile=goal, ended_by="cut") + "\n"
    plain, packed = tmp_path / "c.jsonl", tmp_path / "c.jsonl.gz"
    plain.write_text(text)
    packed.write_bytes(gzip.compress(text.encode()))
    for file in (plain, packed):
        code, report, complaints = run(file, capsys)
        assert (code, complaints) == (0, [])
        assert report == {
            "file": str(file),
            "ok": True,
            "lines": 2,
            "bad": 0,
            "conversations": 2,
            "user_turns": 2,
            "with_goal": 1,
            "ended_by": {"cut": 1, "user": 1},
            "problems": [],
        }


def test_every_bad_line_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "c.jsonl"
    twice = [{"role": "user", "text": "hi"}] * 2
    rows = [
        line("a").encode(),
        b"{oops",
        line("b", turns=twice).encode(),
        line("c", colour="red").encode(),
        b"\xff\xfe",
        line("a").encode(),
    ]
    file.write_bytes(b"\n".join(rows) + b"\n")
    code, report, complaints = run(file, capsys)
    assert code == 2
    assert (report["lines"], report["bad"], report["conversations"]) == (6, 5, 1)
    assert complaints == report["problems"]
    assert [text.split(": ")[0] for text in complaints] == [f"{file}:{n}" for n in (2, 3, 4, 5, 6)]
    for text, expected in zip(
        complaints,
        ("Invalid JSON", "turns must alternate", "colour", "", "already in line 1"),
        strict=True,
    ):
        assert expected in text


def test_twenty_are_shown_and_the_rest_counted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "c.jsonl"
    file.write_text("{}\n" * 25)
    code, report, complaints = run(file, capsys)
    assert (code, report["bad"], len(report["problems"])) == (2, 25, 20)
    assert complaints[-1] == "… and 5 more"


def test_an_empty_or_missing_file_is_an_error(tmp_path: Path) -> None:
    empty = tmp_path / "c.jsonl"
    empty.write_text("\n")
    with pytest.raises(DataError, match=r"c\.jsonl: empty"):
        main(["validate", str(empty)])
    with pytest.raises(DataError, match="no such file"):
        main(["validate", str(tmp_path / "missing.jsonl")])
    broken = tmp_path / "b.jsonl.gz"
    broken.write_bytes(gzip.compress(line("a").encode() * 50)[:40])
    with pytest.raises(DataError, match="cannot be read"):
        main(["validate", str(broken)])
