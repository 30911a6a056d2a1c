"""Annotations joined by id."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from data_prep.goals.annotations import Annotation, phrase, read_goals
from data_prep.goals.overlap import overlap, shared
from data_prep.goals.providers import EMPTY, PARROTS, TURN_MISSING, NoGoal, accepted
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
            "provenance": "somebody",
        },
    )
    second = goals_file(
        tmp_path / "goals_b.jsonl",
        {"id": "b", "goal": "User wants to bake bread.", "constraints": ["no yeast"]},
        {"id": "a", "goal": "a second opinion"},
    )
    goals = read_goals([first, second])
    for id_ in ("a", "b"):
        goals.count_chat(id_)

    walk = goals.join(conversation("a", user_turns=2)).profile
    assert walk.goal is not None
    assert walk.goal.summary == "plan a walk"
    assert walk.goal.provenance == "somebody"
    # Turn 3 was not kept, so nobody voices the dog.
    assert walk.goal.facets == (Facet(text="by the sea", turn=1),)
    assert walk.persona == Persona(description="terse hiker", style=Style(words_per_turn=1))

    bread = goals.join(conversation("b")).profile.goal
    assert bread is not None
    assert (bread.summary, bread.facets) == ("bake bread", (Facet(text="no yeast"),))
    assert bread.provenance == "goals_b"

    assert goals.join(conversation("c")) == conversation("c")
    assert goals.summary() == {
        "annotations": 2,
        "id_not_in_source": 0,
        "conversation_rejected": 0,
        "ambiguous_ids": 0,
        "joined": 2,
        "facets_joined": 2,
        "facets_after_last_turn": 1,
        "satisfied_joined": 0,
        "repeated_ids": 1,
        "provenance": {"somebody": 1, "goals_b": 1},
        "wording_shared_with_user": {
            "ngram_words": 3,
            "median": 0.0,
            "mean": 0.0,
            "bound": 0.3,
            "share_above_bound": 0.0,
        },
    }


def test_satisfaction_is_carried_over_unless_turns_it_speaks_of_are_missing(tmp_path: Path) -> None:
    facets = [{"turn": 1, "text": "by the sea"}, {"turn": 2, "text": "with a dog"}]
    rows = [{"id": id_, "goal": "plan a walk", "facets": facets, "satisfied": "no"} for id_ in "ab"]
    goals = read_goals([goals_file(tmp_path / "g.jsonl", *rows)])
    assert goals.join(conversation("a", user_turns=2)).satisfied == "no"
    assert goals.join(conversation("b", user_turns=1)).satisfied is None
    assert goals.summary()["satisfied_joined"] == 1


def test_what_was_never_said_is_kept_apart_from_the_goal(tmp_path: Path) -> None:
    row = {
        "id": "a",
        "goal": "plan a walk",
        "facets": [{"text": "by the sea"}],
        "unsaid": ["is afraid of dogs"],
    }
    goals = read_goals([goals_file(tmp_path / "goals.jsonl", row)])
    goals.count_chat("a")
    joined = goals.join(conversation("a"))
    assert joined.unsaid == ("is afraid of dogs",)
    assert "dogs" not in joined.profile.model_dump_json()
    assert goals.join(conversation("b")).unsaid == ()


def test_personas_can_be_replaced_before_they_are_joined(tmp_path: Path) -> None:
    rows = [{"id": id_, "goal": "User wants to hike", "persona": f"hiker {id_}"} for id_ in "abc"]
    goals = read_goals([goals_file(tmp_path / "g.jsonl", *rows)])
    for id_ in ("a", "b"):
        goals.count_chat(id_)
    assert list(goals.joinable_personas()) == [("a", "hiker a", "hike"), ("b", "hiker b", "hike")]
    goals.replace_personas({"a": "… a", "b": ""})
    for id_, persona in (("a", "… a"), ("b", ""), ("c", "hiker c")):
        joined = goals.join(conversation(id_)).profile.persona
        assert joined is not None
        assert joined.description == persona


def test_overlap_is_the_share_of_three_word_runs_that_the_person_wrote() -> None:
    # "find a cheap", "a cheap hotel", "cheap hotel somewhere": the second is there, across case and comma.
    assert shared("find a cheap hotel somewhere", ["I want A cheap, hotel!"]) == (["a cheap hotel"], 3)
    assert overlap("find a cheap hotel somewhere", ["I want A cheap, hotel!"]) == pytest.approx(1 / 3)
    # Runs do not reach from one message into the next.
    assert overlap("a cheap hotel", ["a cheap", "hotel"]) == 0.0
    assert overlap("learn SQL", ["i must learn sql"]) == 1.0
    assert overlap("...", ["..."]) == 0.0


def test_the_joined_summaries_that_parrot_are_counted(tmp_path: Path) -> None:
    rows = [{"id": "a", "goal": "say hi"}, {"id": "b", "goal": "hi"}]
    goals = read_goals([goals_file(tmp_path / "g.jsonl", *rows)])
    for id_ in ("a", "b"):
        goals.join(conversation(id_))  # in which the person says "hi"
    figures = goals.summary()["wording_shared_with_user"]
    assert (figures["mean"], figures["share_above_bound"]) == (0.5, 0.5)


@pytest.mark.parametrize(
    ("goal", "turn", "reason"),
    [
        ("be greeted by a machine", 1, None),
        ("be greeted by a machine", None, None),
        ("be greeted by a machine", 2, TURN_MISSING),
        ("…", 1, EMPTY),
        ("hi", 1, PARROTS),
    ],
)
def test_what_a_written_goal_must_pass(goal: str, turn: int | None, reason: str | None) -> None:
    annotation = Annotation(id="a", goal=goal, facets=(Facet(text="warmly", turn=turn),))
    assert accepted(annotation, conversation("a")) == (annotation if reason is None else NoGoal(reason))


def test_an_id_that_two_chats_share_gets_no_goal(tmp_path: Path) -> None:
    goals = read_goals([goals_file(tmp_path / "g.jsonl", {"id": "a", "goal": "plan a walk"})])
    goals.count_chat("a")
    goals.count_chat("a")
    assert goals.join(conversation("a")).profile.goal is None
    assert goals.summary()["ambiguous_ids"] == 1


@pytest.mark.parametrize(
    ("written", "read"),
    [
        ("Create a poster.", "create a poster"),
        ("The user wants to learn SQL", "learn SQL"),
        ("User seeks advice on tents.", "get advice on tents"),
        ("You want to rest", "rest"),
        ("To obtain a visa", "obtain a visa"),
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
