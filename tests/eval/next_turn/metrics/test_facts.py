"""Numbers and names: what is one, what supports it, what contradicts the goal."""

import pytest

from eval.next_turn.metrics.facts import FactSupport, contradictions, facts_of, support
from eval.next_turn.prefixes import Prefix
from usersim.types import Goal, Turn


def prefix(*texts: str, goal: Goal | None = None) -> Prefix:
    roles = ("user", "assistant")
    history = tuple(Turn(role=roles[i % 2], text=text) for i, text in enumerate(texts))
    position = len(texts) // 2 + 1
    return Prefix(
        id="c@1",
        conversation="c",
        cluster="c",
        source="invented",
        position=position,
        history=history,
        goal=goal,
        text="x",
    )


@pytest.mark.parametrize(
    ("text", "quantities"),
    [
        ("a budget of $1,500 for 3 days", [(1500, "money"), (3, "day")]),
        ("five hundred words", [(500, "word")]),
        ("twenty-five people", [(25, "peopl")]),
        ("a 10-day trip, about 20k steps", [(10, "day"), (20000, "step")]),
        ("it is 50% or 2 million euros", [(50, "percent"), (2000000, "money")]),
        ("one of them is 12m north", [(12, None)]),
        ("1. first\n2) second", []),
        ("see https://example.org/2023/05", []),
    ],
)
def test_numbers(text, quantities):
    assert [(quantity.value, quantity.unit) for quantity in facts_of(text).quantities] == quantities


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("I asked Anna about Paris. She said no", {"anna", "paris"}),
        ("Please do NOT use GPT-4 or JavaScript", {"gpt-4", "javascript"}),
        ("How To Write A Good Letter Fast", set()),
        ("What I'm doing is OK", set()),
    ],
)
def test_names(text, names):
    assert facts_of(text).names == names


def test_support_by_goal_and_history():
    place = prefix(
        "we are 4 people",
        "Anna's boat takes twelve people.",
        goal=Goal("rent a boat", facets=["pay at most 300 euros"]),
    )
    # 4, 12, 300 and Anna stand there; 5 and Oslo do not.
    assert support(place, "4 or 12 of us, 300 euros, 5 days, with Anna in Oslo") == (4, 6)
    assert support(place, "fine, go on") == (0, 0)


def test_contradictions():
    place = prefix(
        "hello",
        "Hi, 250 dollars?",
        goal=Goal("buy a chair", facets=["a budget of 500 dollars", "within 3 days"]),
    )
    found = contradictions(place, "I have $200 and 3 days")
    assert [(goal.value, own.value, own.unit) for goal, own in found] == [(500, 200, "money")]
    assert contradictions(place, "that is over $250, I have 500 dollars") == []
    assert contradictions(place, "give me 7 chairs") == []
    both = Goal("buy chairs", facets=["3 days here", "5 days there"])
    assert contradictions(prefix(goal=both), "in 4 days") == []


def test_values():
    goal = Goal("sell a bike", facets=["asks 90 euros"])
    prefixes = [prefix(goal=goal), prefix("hi", "Hello, Tom!", goal=goal), prefix("hi", "Hello!")]
    values = FactSupport().values(prefixes, ["80 euros", "90 euros from Tom or Ben", "nothing new"])
    assert values["facts.supported"].numerator_P.tolist() == [0, 2, 0]
    assert values["facts.supported"].denominator_P.tolist() == [0, 3, 0]
    assert values["facts.introduced"].numerator_P.tolist() == [0, 1, 0]
    assert values["facts.introduced"].denominator_P.tolist() == [0, 1, 1]
    assert values["facts.contradicted"].numerator_P.tolist() == [1, 0, 0]
    assert values["facts.contradicted"].denominator_P.tolist() == [1, 1, 0]
