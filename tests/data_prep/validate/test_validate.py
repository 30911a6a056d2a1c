"""`usersim data validate FILE…`."""

from __future__ import annotations

import gzip
import json
import re
import tracemalloc
from pathlib import Path
from typing import Any

import pytest

from data_prep.data_command import main
from data_prep.dedup.hash_index import HashIndex, Place
from data_prep.validate import checks as module
from data_prep.validate.checks import validate
from usersim.errors import DataError


def line(id_: str, text: str = "hi", **changes: Any) -> str:
    turns = [{"role": "user", "text": text}, {"role": "assistant", "text": "hello"}]
    fields = {"id": id_, "origin": "human", "source": "t", "turns": turns, "ended_by": "user"}
    return json.dumps(fields | changes)


def write(path: Path, *rows: str | bytes) -> Path:
    path.write_bytes(b"".join((row.encode() if isinstance(row, str) else row) + b"\n" for row in rows))
    return path


def run(file: Path, capsys: pytest.CaptureFixture[str]) -> tuple[int, dict[str, Any], list[str]]:
    code = main(["validate", str(file), "--json"])
    printed = capsys.readouterr()
    return code, json.loads(printed.out), printed.err.splitlines()


def test_a_good_file_is_counted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    goal = {"goal": {"summary": "plan a walk"}}
    text = line("a") + "\n\n" + line("b", profile=goal, ended_by="cut") + "\n" + line("c", turns=[]) + "\n"
    plain, packed = tmp_path / "c.jsonl", tmp_path / "c.jsonl.gz"
    plain.write_text(text)
    packed.write_bytes(gzip.compress(text.encode()))
    for file in (plain, packed):
        code, report, complaints = run(file, capsys)
        assert (code, complaints) == (0, [])
        assert report == {
            "ok": True,
            "lines": 3,
            "bad": 0,
            "conversations": 3,
            "user_turns": 2,
            "without_user_turn": 1,
            "with_goal": 1,
            "ended_by": {"cut": 1, "user": 2},
            "files": [{"file": str(file), "lines": 3, "bad": 0, "conversations": 3}],
            "reasons": {},
            "problems": [],
            "crossing": {},
            "crossings": [],
        }


BAD: list[tuple[str, str | bytes, str]] = [
    ("not JSON", b"{oops", "Invalid JSON"),
    ("truncated JSON", line("b")[:60], "EOF while parsing"),
    ("schema: value error", line("b", turns=[{"role": "user", "text": "hi"}] * 2), "turns must alternate"),
    ("schema: extra forbidden", line("c", colour="red"), "colour"),
    ("schema: literal error", line("c", turns=[{"role": "bot", "text": "hi"}]), "turns.0.role"),
    ("schema: model type", "[1, 2]", "Input should be an object"),
    ("not UTF-8", b'{"id": "\xff"}', "byte 0xff at position 9"),
    ("not UTF-8", "{}".encode("utf-16"), "byte 0xff at position 1"),
    ("byte order mark", b"\xef\xbb\xbf" + line("d").encode(), "byte order mark"),
    ("lone surrogate", line("d", text="\ud83d"), "half of a character"),
    ("not JSON", "[" * 100_000, "recursion limit"),
    (
        "facet beyond the last user turn",
        line("e", profile={"goal": {"summary": "walk", "facets": [{"text": "a"}, {"text": "b", "turn": 2}]}}),
        "profile.goal.facets.1.turn: 2, but there are 1 user turns",
    ),
    ("repeated id", line("a"), "its id is already in line 1"),
]


@pytest.mark.parametrize(("reason", "row", "what"), BAD)
def test_every_kind_of_bad_line_is_named(tmp_path: Path, reason: str, row: str | bytes, what: str) -> None:
    file = write(tmp_path / "c.jsonl", line("a"), row, line("z"))
    report = validate(file)
    assert (report["ok"], report["lines"], report["bad"], report["conversations"]) == (False, 3, 1, 2)
    assert report["reasons"] == {reason: 1}
    (problem,) = report["problems"]
    assert problem.startswith(f"{file}:2: ")
    assert what in problem


def test_the_command_complains_in_order_and_fails(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = write(tmp_path / "c.jsonl", line("a"), line("a"), "{oops", line("a"), line("b"))
    code, report, complaints = run(file, capsys)
    assert (code, report["bad"]) == (2, 3)
    assert complaints == report["problems"]
    assert [text.split(": ")[0] for text in complaints] == [f"{file}:{n}" for n in (2, 3, 4)]


def test_the_same_id_in_another_source_is_another_id(tmp_path: Path) -> None:
    assert validate(write(tmp_path / "c.jsonl", line("a"), line("a", source="u")))["ok"]


def test_twenty_are_shown_and_the_rest_counted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = write(tmp_path / "c.jsonl", *["{}"] * 25)
    code, report, complaints = run(file, capsys)
    assert (code, report["bad"], len(report["problems"])) == (2, 25, 20)
    assert complaints[-1] == "… and 5 more"


def test_nothing_of_a_strange_file_reaches_the_terminal_raw(tmp_path: Path) -> None:
    file = write(tmp_path / "c.jsonl", line("a", **{"\x1b]0;owned\x07": 1}))
    (problem,) = validate(file)["problems"]
    assert "\\x1b]0;owned\\x07" in problem
    assert not re.search(r"[\x00-\x1f]", problem)


def test_what_is_in_two_files_is_found(tmp_path: Path) -> None:
    train = write(
        tmp_path / "train.jsonl",
        line("a", "one", group="g1", user="u1"),
        line("b", "two", group="g1"),
        line("c", "How  are you?", group="g3"),
    )
    dev = write(tmp_path / "dev.jsonl", line("d", "four", group="g4", user="u4"))
    test = write(
        tmp_path / "test.jsonl",
        line("e", "five", group="g1"),
        line("f", "six", group="g1", user="u1"),
        line("c", "how are YOU?"),
        line("g", "seven", user="u1", source="other"),
    )
    report = validate(train, dev, test)
    assert report["crossing"] == {"id": 1, "group": 1, "person": 1, "opening": 1, "beginning": 0}
    assert report["crossings"] == [
        f"{test}:1: its group is also in {train}:1",
        f"{test}:2: its person is also in {train}:1",
        f"{test}:3: its id is also in {train}:3",
        f"{test}:3: its opening is also in {train}:3",
    ]
    assert (report["ok"], report["bad"], report["conversations"]) == (False, 0, 8)
    assert [f["conversations"] for f in report["files"]] == [3, 1, 4]
    assert validate(train, dev)["ok"]


def test_a_copied_beginning_in_two_files_is_found(tmp_path: Path) -> None:
    """As prep groups: 200 characters of words, over turns where the opening is short."""
    words = "please act as a travel agent and plan a trip for me " * 4  # 208 characters
    train = write(
        tmp_path / "train.jsonl", line("a", words + "to rome"), line("b", words[:190] + "by car now")
    )
    test = write(
        tmp_path / "test.jsonl",
        line("c", words.upper().replace("AGENT", "AGENT,") + "- to oslo"),
        line("d", words[:190]),
    )
    report = validate(train, test)
    assert report["crossing"] == {"id": 0, "group": 0, "person": 0, "opening": 0, "beginning": 1}
    assert report["crossings"] == [f"{test}:1: its beginning is also in {train}:1"]
    assert not report["ok"]


def test_an_empty_or_missing_file_is_an_error(tmp_path: Path) -> None:
    empty = tmp_path / "c.jsonl"
    empty.write_text("\n")
    with pytest.raises(DataError, match=r"c\.jsonl: empty"):
        main(["validate", str(empty)])
    with pytest.raises(DataError, match="no such file"):
        main(["validate", str(tmp_path / "missing.jsonl")])
    good = write(tmp_path / "good.jsonl", line("a"))
    with pytest.raises(DataError, match="given twice"):
        validate(good, tmp_path / "." / "good.jsonl")


@pytest.mark.parametrize(
    "damage", [lambda b: b[:40], lambda b: b[:20] + b"\xff" * 9 + b[29:], lambda b: b"x" + b]
)
def test_a_broken_gzip_file_is_an_error(tmp_path: Path, damage: Any) -> None:
    broken = tmp_path / "b.jsonl.gz"
    broken.write_bytes(damage(gzip.compress(line("a").encode() * 50)))
    with pytest.raises(DataError, match=r"b\.jsonl\.gz:1: cannot be read"):
        validate(broken)


def test_a_line_without_an_end_does_not_fill_the_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "LONGEST_LINE", 1000)
    monkeypatch.setattr(module, "PIECE", 1 << 16)
    file = write(tmp_path / "c.jsonl", line("a"), "x" * 5_000_000, line("b"), "y" * 1001, line("c"))
    tracemalloc.start()
    try:
        report = validate(file)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert report["reasons"] == {"too long": 2}
    assert [p.split(": ")[0] for p in report["problems"]] == [f"{file}:2", f"{file}:4"]
    assert peak < 2_000_000


def test_a_huge_turn_is_fine(tmp_path: Path) -> None:
    report = validate(write(tmp_path / "c.jsonl", line("a", "x" * 50_000_000)))
    assert (report["ok"], report["user_turns"]) == (True, 1)


def test_places_are_found_again() -> None:
    places = HashIndex()
    for file, number, text in [(0, 1, "a"), (0, 2, "b"), (0, 7, "a"), (1, 1, "c"), (1, 2, "a"), (1, 3, "a")]:
        places.add(text, Place(file, number))
    assert sorted(places.repeated()) == [(Place(0, 1), Place(0, 7)), (Place(1, 2), Place(1, 3))]
    assert list(places.crossing()) == [(Place(0, 1), Place(1, 2))]
