"""Measured style, by hand, and its words."""

from __future__ import annotations

import random

import pytest

from usersim.conditioning import PREFACE, describe, nearest_length, style_words, thin
from usersim.style import measure
from usersim.types import Facet, Goal, Persona, Style, Turn, UserProfile

TURNS = [
    Turn(role="user", text="hey can you fix this"),
    Turn(role="assistant", text="Sure! What is it?"),
    Turn(role="user", text="My bike."),
    Turn(role="assistant", text="Ok."),
    Turn(role="user", text="please? thanks"),
    Turn(role="user", text="42"),
]


def test_style_is_measured_from_the_users_turns_only() -> None:
    assert measure(TURNS) == Style(
        words_per_turn=2.0,  # 5, 2, 2, 1
        opening_words=5.0,
        lowercase_starts=2 / 3,  # "42" has no letter
        questions=0.25,
        politeness=0.25,
        end_punctuation=0.25,
        turns=4.0,
    )


def test_nobody_has_no_style() -> None:
    assert measure([Turn(role="assistant", text="Hi")]) == Style()


@pytest.mark.parametrize(
    ("words", "named"), [(0, 2), (1, 2), (5, 6), (9, 8), (25, 30), (50, 45), (1000, 180)]
)
def test_lengths_are_named_by_the_nearest_ratio(words: float, named: int) -> None:
    assert nearest_length(words) == named


def test_every_attribute_has_its_words_and_absent_ones_none() -> None:
    assert style_words(Style()) == []
    full = style_words(measure(TURNS))
    assert full[0] == "around 2 words a message"
    assert len(full) == 7


def test_an_empty_profile_is_the_preface_alone() -> None:
    assert describe(UserProfile()) == PREFACE


def test_thinning_is_seeded_and_every_part_is_sometimes_dropped() -> None:
    goal = Goal(summary="do it", facets=tuple(Facet(text=f"f{i}") for i in range(3)))
    profile = UserProfile(goal=goal, persona=Persona(description="d", style=measure(TURNS)))
    thinned = [thin(profile, random.Random(seed)) for seed in range(400)]
    assert thinned[:5] == [thin(profile, random.Random(seed)) for seed in range(5)]
    with_goal = sum(t.goal is not None for t in thinned) / 400
    bare = sum(t.goal is not None and not t.goal.facets for t in thinned) / 400
    described = sum(bool(t.persona and t.persona.description) for t in thinned) / 400
    assert 0.78 < with_goal < 0.92
    assert 0.2 < bare < 0.45
    assert 0.42 < described < 0.58
