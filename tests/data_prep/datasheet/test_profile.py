"""Profiles of splits, counted while they are written."""

from __future__ import annotations

import json
import random
from collections import Counter
from statistics import median
from typing import Any

import pytest

from data_prep.datasheet.histogram import SHARES, TURNS, WORDS, bin_names, rounded, summarise, top
from data_prep.datasheet.profile import READ_CHARS, Profile, across, words_of
from usersim.types import Conversation, Facet, Goal, Persona, Style, Turn, UserProfile


def conversation(id_: str, *texts: str, **changes: Any) -> Conversation:
    turns = [t for text in texts for t in (Turn(role="user", text=text), Turn(role="assistant", text="ok"))]
    fields = {"id": id_, "origin": "human", "source": "t", "turns": turns, "ended_by": "user"}
    return Conversation.model_validate(fields | changes)


def profiled(*conversations: Conversation, **options: int) -> Profile:
    profile = Profile(**options)
    for one in conversations:
        profile.add(one)
    return profile


def counts(shape: dict[str, Any]) -> dict[str, int]:
    return {name: n for name, n in zip(shape["bins"], shape["counts"], strict=True) if n}


def test_a_summary_by_hand() -> None:
    facets = (Facet(text="in May", turn=2), Facet(text="cheap", turn=1), Facet(text="by train"))
    goal = Goal(summary="plan a trip", facets=facets, provenance="a person")
    persona = Persona(description="terse", style=Style(questions=0.5, words_per_turn=3), language="de")
    summary = profiled(
        conversation("a", "one two three", "four", group="g1", user="u1", flags=("toxic", "long")),
        conversation("b", "x " * 30, group="g1", user="u1", satisfied="yes", ended_by="cut"),
        conversation(
            "c",
            "a b",
            "c d",
            "e f",
            group="g2",
            profile=UserProfile(goal=goal, persona=persona),
            system="Be kind.",
        ),
        conversation("d", profile=UserProfile(persona=Persona(language="en"))),
    ).summary()
    assert {name: value for name, value in summary.items() if not isinstance(value, dict | str)} == {
        "conversations": 4,
        "turns": 12,
        "user_turns": 6,
        "with_system": 1,
        "with_flags": 1,
        "with_goal": 1,
        "with_facets": 1,
        "facets": 3,
        "with_persona": 1,
        "with_style": 1,
        "median_words_per_user_turn": 2.0,
        "groups": 2,
        "largest_group": 2,
        "users": 1,
        "largest_user": 2,
    }
    assert summary["ended_by"] == {"user": 3, "cut": 1}
    assert summary["flags"] == {"long": 1, "toxic": 1}
    assert summary["satisfied"] == {"yes": 1}
    assert summary["languages"] == {"de": 1, "en": 1}
    assert summary["goal_provenance"] == {"a person": 1}
    assert counts(summary["user_turns_per_conversation"]) == {"0": 1, "1": 1, "2": 1, "3": 1}
    assert counts(summary["words_per_user_turn"]) == {"1": 1, "2": 3, "3–4": 1, "17–32": 1}  # noqa: RUF001
    assert counts(summary["facets_per_goal"]) == {"3": 1}
    assert counts(summary["first_reveal_turn"]) == {"1": 1, "2": 1}
    assert counts(summary["group_sizes"]) == {"1": 1, "2": 1}
    assert counts(summary["style"]["questions"]) == {"≤ 60": 1}
    assert summary["style"]["words_per_turn"]["median"] == 3
    assert "politeness" not in summary["style"]
    json.dumps(summary, allow_nan=False)


def test_an_empty_split_has_a_summary() -> None:
    summary = Profile().summary()
    assert (summary["conversations"], summary["largest_group"]) == (0, 0)
    assert summary["median_words_per_user_turn"] is None
    json.dumps(summary, allow_nan=False)


def people(count: int) -> list[Conversation]:
    rng = random.Random(7)
    return [
        conversation(
            str(n),
            *("w " * rng.choice((1, 4, 20, 90, 400)) for _ in range(rng.randint(1, 9))),
            group=str(rng.randrange(60)),
            user=str(rng.randrange(20)),
            profile=UserProfile(
                persona=Persona(style=Style(questions=rng.random(), typos=40 * rng.random()))
            ),
        )
        for n in range(count)
    ]


def test_order_and_merging_change_nothing() -> None:
    everybody = people(120)
    whole = profiled(*everybody, seed=3, examples=5)
    backwards = profiled(*reversed(everybody), seed=3, examples=5)
    merged = profiled(*everybody[80:], seed=3, examples=5)
    merged.merge(profiled(*everybody[:30], seed=3, examples=5))
    merged.merge(profiled(*everybody[30:80], seed=3, examples=5))
    for other in (backwards, merged):
        assert other.summary() == whole.summary()
        assert other.examples == whole.examples
        assert list(other.summary()["style"]) == list(whole.summary()["style"])


def test_examples_are_drawn_by_the_seed_and_clipped() -> None:
    conversations = people(120)
    ids_by_seed = {
        seed: [c.id for c in profiled(*conversations, seed=seed, examples=5).examples] for seed in (0, 1)
    }
    assert len(ids_by_seed[0]) == len(set(ids_by_seed[0])) == 5
    assert ids_by_seed[0] != ids_by_seed[1]
    assert profiled(*conversations, examples=0).examples == []
    assert len(profiled(*conversations[:3], examples=5).examples) == 3
    long = conversation("a", *["y" * 50_000] * 100)
    (example,) = profiled(long).examples
    assert len(example.turns) == 40
    assert max(len(turn.text) for turn in example.turns) < 2100


def test_every_conversation_is_drawn_equally_often() -> None:
    everybody = people(10)
    often = dict.fromkeys((c.id for c in everybody), 0)
    for seed in range(200):
        for one in profiled(*everybody, seed=seed, examples=3).examples:
            often[one.id] += 1
    # 60 expected each; the standard deviation is about 6.
    assert all(35 < times < 85 for times in often.values())


def test_what_is_in_two_splits_is_counted() -> None:
    train = profiled(conversation("a", "x", group="g", user="u"), conversation("b", "y", group="h"))
    test = profiled(conversation("c", "z", group="g"), conversation("d", "w", user="v"))
    assert across({"train": train, "test": test, "dev": Profile()}) == {"groups": 1, "users": 0}
    assert across({}) == {"groups": 0, "users": 0}


def test_numbers_stay_close_and_on_their_side_of_an_edge() -> None:
    assert [rounded(n) for n in (0, 1, 7, 32, 2.25, 27.5)] == [0, 1, 7, 32, 2.2, 27.5]
    for value in range(33, 5_000, 3):
        assert abs(rounded(value) / value - 1) < 0.0225
        for edge in WORDS:
            assert (value <= edge) == (rounded(value) <= edge)
    values = {rounded(value) for value in range(0, 1_000_000, 37)}
    assert len(values) < 300  # bounded, whatever is counted


def test_quantiles_are_close_to_those_of_all_values() -> None:
    rng = random.Random(1)
    for values in ([1, 2, 3, 4], [5], [round(rng.lognormvariate(4, 1.5)) for _ in range(2001)]):
        counts: dict[float, int] = {}
        for value in values:
            counts[rounded(value)] = counts.get(rounded(value), 0) + 1
        assert summarise(counts, WORDS)["median"] == pytest.approx(median(values), rel=0.0225)
    assert summarise({}, WORDS)["median"] is None


def test_bins_have_names() -> None:
    assert bin_names(TURNS)[10:14] == ["10", "11–12", "13–15", "16–20"]  # noqa: RUF001
    assert bin_names(TURNS)[-1] == "> 50"
    assert bin_names((125, 250))[:2] == ["≤ 125", "126–250"]  # noqa: RUF001
    assert len(bin_names(SHARES)) == len(SHARES) + 1
    shares = summarise({0.0: 2, 0.01: 1, 0.5: 1, 0.99: 1, 1.0: 4}, SHARES)
    assert counts(shares) == {"0 %": 2, "≤ 20": 1, "≤ 60": 1, "< 100": 1, "100 %": 4}


def test_the_rest_is_summed() -> None:
    assert top(Counter(a=1, b=5, c=1, d=3), 2) == {"b": 5, "d": 3, "other": 2}


def test_words_of_long_turns_are_estimated() -> None:
    assert words_of("it's  well-kept,\nyes") == 3
    text = "four " * 4000
    assert len(text) > READ_CHARS
    assert words_of(text) == pytest.approx(4000, rel=0.01)
