"""Records to files and back, and what is said about a file that cannot be read."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from usersim.cli import load_conversations
from usersim.errors import DataError
from usersim.storage.records import (
    atomic_writer,
    explain,
    read_conversations,
    read_jsonl,
    read_records,
    write_json,
    write_records,
)
from usersim.types import Conversation, Facet, Goal, Persona, Style, Turn, UserProfile

PROFILE = UserProfile(
    goal=Goal(summary="plan a walk", facets=(Facet(text="with a dog", turn=2),), provenance="me"),
    persona=Persona(description="terse", style=Style(words_per_turn=4.5), language="en"),
)


def conversation(id_: str = "c", *texts: str) -> Conversation:
    turns = tuple(
        Turn(role="assistant" if i % 2 else "user", text=text) for i, text in enumerate(texts or ("hi",))
    )
    return Conversation(id=id_, origin="human", source="t", turns=turns, profile=PROFILE)


@given(st.lists(st.text(alphabet=st.characters(exclude_categories=["Cs"])), min_size=1, max_size=4))
def test_any_text_survives_the_round_trip(tmp_path_factory: pytest.TempPathFactory, texts: list[str]) -> None:
    file = tmp_path_factory.mktemp("records") / "c.jsonl"
    written = [conversation("a", *texts), conversation("b", "<|im_end|>\u2028next")]
    assert write_records(file, written) == 2
    assert read_conversations(file) == written


def test_gzip_and_blank_lines_are_read_with_true_line_numbers(tmp_path: Path) -> None:
    file = tmp_path / "r.jsonl.gz"
    file.write_bytes(gzip.compress(b'{"text": "a"}\n\n{"text": "b"}\n'))
    assert [number for number, _ in read_jsonl(file)] == [1, 3]
    assert [facet.text for facet in read_records(file, Facet)] == ["a", "b"]


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        ("{oops", "not JSON"),
        ('{"turn": 1}', "text: Field required"),
        ('{"text": "a", "colour": "red"}', "colour: Extra inputs"),
        ('{"text": "  "}', "text: "),
        ('{"text": "a", "turn": 0}', "turn: "),
    ],
)
def test_a_bad_line_is_named(tmp_path: Path, line: str, complaint: str) -> None:
    file = tmp_path / "r.jsonl"
    file.write_text(f'{{"text": "fine"}}\n{line}\n')
    with pytest.raises(DataError) as caught:
        list(read_records(file, Facet))
    assert str(caught.value).startswith(f"{file}:2: {complaint}")


def test_a_missing_file_and_one_that_is_not_text(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"gone\.jsonl: no such file"):
        list(read_jsonl(tmp_path / "gone.jsonl"))
    binary = tmp_path / "b.jsonl"
    binary.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(DataError, match="cannot be read as UTF-8"):
        list(read_jsonl(binary))


def test_turns_must_alternate_and_may_begin_with_either_side() -> None:
    greeting = (Turn(role="assistant", text="Welcome"), Turn(role="user", text="hi"))
    assert Conversation(id="c", origin="human", source="t", turns=greeting).turns == greeting
    with pytest.raises(ValidationError, match="turns 1 and 2 are both 'user'") as caught:
        Conversation(id="c", origin="human", source="t", turns=(*greeting, greeting[1]))
    assert "turns must alternate" in explain(caught.value)


def test_a_file_appears_whole_or_not_at_all(tmp_path: Path) -> None:
    file = tmp_path / "new" / "out.json"

    def interrupted() -> None:
        with atomic_writer(file) as stream:
            stream.write("half")
            assert not file.exists()
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert list(file.parent.iterdir()) == []

    write_json(file, {"é": 1})
    with pytest.raises(ValueError, match="JSON compliant"):
        write_json(file, {"x": float("nan")})
    assert json.loads(file.read_text(encoding="utf-8")) == {"é": 1}
    assert [entry.name for entry in file.parent.iterdir()] == ["out.json"]


def test_loaded_conversations_are_counted_with_and_without_a_goal(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "c.jsonl"
    without = conversation("none").model_copy(update={"profile": UserProfile(persona=PROFILE.persona)})
    write_records(file, [conversation("a"), without, conversation("b")])
    assert [one.id for one in load_conversations(file)] == ["a", "none", "b"]
    assert capsys.readouterr().err == f"{file}: 3 conversations, 2 with a goal\n"
    file.write_text("")
    with pytest.raises(DataError, match="no conversations"):
        load_conversations(file)
