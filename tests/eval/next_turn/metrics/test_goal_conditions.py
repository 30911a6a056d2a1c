import json
from collections import Counter

import numpy as np
import pytest

from eval.next_turn.metrics import goal_conditions
from eval.next_turn.metrics.goal_conditions import read_unsaid, under_condition
from eval.next_turn.prefixes import prefixes_of
from usersim.errors import DataError
from usersim.types import Conversation, Facet, Goal, Turn, UserProfile

AXES = ("bike", "trip")


@pytest.fixture(autouse=True)
def _embedding(monkeypatch):
    """Goals about bikes are near each other, and goals about trips."""
    rows = lambda texts: np.array([[float(word in text) for word in AXES] for text in texts])  # noqa: E731
    monkeypatch.setattr(goal_conditions, "embed", rows)


def talk(name, summary="buy a bike", facets=("cheap", "red"), user=None):
    turns = (Turn(role="user", text="hi"), Turn(role="assistant", text="hello")) * 2
    goal = Goal(summary, facets=[Facet(text, turn=1) for text in facets])
    profile = UserProfile(goal=goal)
    return Conversation(
        id=name, origin="human", source="t", turns=turns, profile=profile, ended_by="user", user=user
    )


def prefixes(*conversations):
    return [prefix for conversation in conversations for prefix in prefixes_of(conversation)]


def goals(found):
    return {prefix.conversation: prefix.goal for prefix in found}


def test_own_and_none():
    given = prefixes(talk("a"))
    assert under_condition(given, "own") == given
    assert [prefix.goal for prefix in under_condition(given, "none")] == [None] * 3


def test_the_number_of_facets_says_nothing_about_the_number_said():
    few, many = (f"few{i}" for i in range(400)), (f"many{i}" for i in range(400))
    unsaid = {f"{kind}{i}": ["u1", "u2", "u3"] for kind in ("few", "many") for i in range(400)}
    given = prefixes(
        *(talk(name, facets=("a",)) for name in few), *(talk(name, facets=tuple("abcdefg")) for name in many)
    )
    found = goals(under_condition(given, "count_neutral", unsaid=unsaid))
    for kind in ("few", "many"):
        counts = Counter(len(goal.facets) for name, goal in found.items() if name.startswith(kind))
        assert set(counts) == {1, 2, 3, 4}
        assert all(65 < count < 135 for count in counts.values())  # 100 expected, sd 8.7


def test_at_least_one_facet_said_at_most_three_unsaid():
    unsaid = {f"c{i}": ["u1", "u2", "u3"] for i in range(100)}
    given = prefixes(*(talk(f"c{i}", facets=("a", "b", "c")) for i in range(100)))
    for goal in goals(under_condition(given, "count_neutral", unsaid=unsaid)).values():
        texts = [facet.text for facet in goal.facets]
        assert len(set(texts)) == len(texts)
        assert any(text in "abc" for text in texts)
        assert goal.summary == "buy a bike"


def test_one_goal_a_conversation_whatever_else_is_there():
    unsaid = {name: ["u1", "u2", "u3"] for name in "ab"}
    alone = under_condition(prefixes(talk("a")), "count_neutral", unsaid=unsaid)
    both = under_condition(prefixes(talk("b"), talk("a")), "count_neutral", unsaid=unsaid)
    assert len({prefix.goal for prefix in alone}) == 1
    assert goals(alone)["a"] == goals(both)["a"]
    seeds = {
        goals(under_condition(prefixes(talk("a")), "count_neutral", unsaid=unsaid, seed=s))["a"]
        for s in range(9)
    }
    assert len(seeds) > 1


def test_facets_of_the_nearest_goal_of_another_person_where_none_are_known():
    given = prefixes(
        talk("a", user="me"),
        talk("same", facets=("mine",), user="me"),
        talk("near", "sell a bike", ("x1", "x2", "x3", "cheap")),
        talk("far", "plan a trip", ("sunny", "near the sea", "short")),
    )
    texts = set()
    for seed in range(30):
        texts |= {
            facet.text for facet in goals(under_condition(given, "count_neutral", seed=seed))["a"].facets
        }
    assert texts == {"cheap", "red", "x1", "x2", "x3"}


def test_goals_without_facets_stay():
    given = prefixes(talk("a", facets=()))
    assert under_condition(given, "count_neutral") == given


def test_unsaid_from_an_annotation_file(tmp_path):
    path = tmp_path / "goals.jsonl"
    lines = [
        {"id": "a", "goal": "g", "unsaid": [" x ", "y"]},
        {"id": "b", "goal": "g"},
        {"id": "c", "unsaid": []},
    ]
    path.write_text("\n".join(map(json.dumps, lines)))
    assert read_unsaid(path) == {"a": ("x", "y")}
    path.write_text('{"id": "a", "unsaid": "x"}')
    with pytest.raises(DataError, match=r"goals.jsonl:1: unsaid must be a list of texts"):
        read_unsaid(path)
    path.write_text('{"goal": "a"}')
    with pytest.raises(DataError, match="has no id"):
        read_unsaid(path)
