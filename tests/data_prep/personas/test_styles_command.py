"""`usersim data styles`: cut points by hand, and what it refuses."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from data_prep.personas.styles_command import cut, main, quantile
from usersim.cli import run_main
from usersim.storage.records import write_records
from usersim.text.style_bins import read_bins
from usersim.types import Conversation, Turn


def conversation(number: int, text: str, *, origin: str = "human", ended_by: str = "user") -> Conversation:
    return Conversation.model_validate(
        {"id": f"c{number}", "origin": origin, "source": "invented", "ended_by": ended_by,
         "turns": (Turn(role="user", text=text), Turn(role="assistant", text="Ok."))}
    )  # fmt: skip


def test_cuts_are_at_the_thirds() -> None:
    assert quantile([1, 2, 3, 4], 0.5) == 2
    thirds = cut([1, 2, 3, 4, 5, 6, 7, 8, 9])
    assert (thirds.low, thirds.high, thirds.n) == (3, 6, 9)
    assert [thirds.level(value) for value in (3, 4, 6, 7)] == ["low", "middle", "middle", "high"]


def test_where_most_are_zero_high_is_above_the_median_of_the_others() -> None:
    rare = cut([0, 0, 0, 0, 0, 0, 1, 2, 3])
    assert (rare.low, rare.high) == (0, 2)
    assert cut([0, 0, 0]).model_dump() == {"low": 0, "high": 0, "n": 3}


def test_bins_are_written_and_shown(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    texts = [
        "one",
        "one two",
        "one two three",
        "one two three four",
        "one two three four five",
        "a b c d e f",
    ]
    people = [conversation(n, text, ended_by="cut" if n == 5 else "user") for n, text in enumerate(texts)]
    write_records(tmp_path / "some.jsonl", people)
    out = tmp_path / "bins.json"
    assert main([str(tmp_path / "some.jsonl"), "--out", str(out), "--json"]) == 0
    bins = read_bins(out)
    assert bins.conversations == {"invented": 6}
    assert (bins.attributes["words_per_turn"].low, bins.attributes["words_per_turn"].high) == (2, 4)
    assert bins.attributes["turns"].n == 5, "who was cut off did not leave"
    assert "pushback" not in bins.attributes, "nobody has a second turn"
    report = json.loads(capsys.readouterr().out)
    assert report["spread"]["words_per_turn"]["levels"] == {"low": 0.333, "middle": 0.333, "high": 0.333}
    assert main([str(tmp_path / "some.jsonl")]) == 0
    assert "words_per_turn" in capsys.readouterr().out


def test_no_people_no_styles(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_records(tmp_path / "fake.jsonl", [conversation(0, "hi", origin="simulated")])
    (tmp_path / "empty.jsonl").write_text("", encoding="utf-8")
    for name, complaint in (
        ("fake", "is simulated"),
        ("empty", "no conversations"),
        ("none", "no such file"),
    ):
        assert run_main(main, [str(tmp_path / f"{name}.jsonl")]) == 2
        assert complaint in capsys.readouterr().err
