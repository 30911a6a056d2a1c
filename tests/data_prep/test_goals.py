"""Annotations joined by id."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from data_prep.goals import phrase, read_goals
from usersim.errors import DataError
from usersim.types import Conversation, Facet, Persona, Style, Turn, UserProfile


def goals_file(path: Path, *rows: dict[str, Any]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def conversation(id_: str, user_turns: int = 1) -> Conversation:
    pair = (Turn(role="user", text="hi"), Turn(role="assistant", text="hello"))
    profile = UserProfile(persona=Persona(style=Style(words_per_turn=1)))
    return Conversation(id=id_, origin="human", source="t", turns=pair * user_turns, profile=profile)


def test_facets_keep_their_turns_and_constraints_have_none(tmp_path: Path) -> None:
    first = goals_file(
        tmp_path / "goals_a.jsonl",
        {
            "id": "a",
            "goal": "plan a walk",
            "facets": [{"turn": 1, "text": "by the sea"}, {"turn": 3, "text": "with a dog"}],
            "persona": "terse hiker",
            "satisfied": "yes",
        },
    )
    second = goals_file(
        tmp_path / "goals_b.jsonl",
        {"id": "b", "goal": "User wants to bake bread.", "constraints": ["no yeast"]},
        {"id": "a", "goal": "a second opinion"},
    )
    goals = read_goals([first, second])
    for id_ in ("a", "b"):
        goals.see(id_)

    walk = goals.join(conversation("a", user_turns=2)).profile
    assert walk.goal is not None
    assert walk.goal.summary == "plan a walk"
    assert walk.goal.provenance == "goals_a"
    # Turn 3 was not kept, so nobody voices the dog.
    assert walk.goal.facets == (Facet(text="by the sea", turn=1),)
    assert walk.persona == Persona(description="terse hiker", style=Style(words_per_turn=1))

    bread = goals.join(conversation("b")).profile.goal
    assert bread is not None
    assert (bread.summary, bread.facets) == ("bake bread", (Facet(text="no yeast"),))

    assert goals.join(conversation("c")) == conversation("c")
    assert goals.summary() == {
        "annotations": 2,
        "id_not_in_source": 0,
        "conversation_rejected": 0,
        "ambiguous_ids": 0,
        "joined": 2,
        "facets_joined": 2,
        "facets_after_last_turn": 1,
        "repeated_ids": 1,
    }


def test_an_id_that_two_chats_share_gets_no_goal(tmp_path: Path) -> None:
    goals = read_goals([goals_file(tmp_path / "g.jsonl", {"id": "a", "goal": "plan a walk"})])
    goals.see("a")
    goals.see("a")
    assert goals.join(conversation("a")).profile.goal is None
    assert goals.summary()["ambiguous_ids"] == 1


@pytest.mark.parametrize(
    ("written", "read"),
    [
        ("Create a poster.", "create a poster"),
        ("The user wants to learn SQL", "learn SQL"),
        ("SQL joins explained", "SQL joins explained"),
        ("plan a trip to Peru", "plan a trip to Peru"),
    ],
)
def test_a_summary_reads_on_from_you_want_to(written: str, read: str) -> None:
    assert phrase(written) == read


@pytest.mark.parametrize(
    ("row", "complaint"),
    [
        ({"id": "b"}, "goal: Field required"),
        ({"id": "b", "goal": " "}, "goal: "),
        ({"id": "b", "goal": "x", "facets": [{"text": "y", "turn": 0}]}, "facets.0.turn: "),
        ({"id": "b", "goal": "x", "mood": "good"}, "mood: Extra inputs"),
        ({"id": "b", "goal": "x", "facets": [{"text": "y"}], "constraints": ["z"]}, "give one"),
    ],
)
def test_a_malformed_annotation_names_path_and_line(
    tmp_path: Path, row: dict[str, Any], complaint: str
) -> None:
    file = goals_file(tmp_path / "g.jsonl", {"id": "a", "goal": "x"}, row)
    with pytest.raises(DataError) as caught:
        read_goals([file])
    assert str(caught.value).startswith(f"{file}:2: ")
    assert complaint in str(caught.value)


def test_an_empty_goals_file_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"g\.jsonl: no annotation"):
        read_goals([goals_file(tmp_path / "g.jsonl")])
