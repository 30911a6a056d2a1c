"""Profiles in words: today's canonical wording to the letter, and paraphrases that keep the facts."""

from __future__ import annotations

import random
from collections import Counter
from pathlib import Path

import pytest

from usersim.errors import ConfigError
from usersim.rendering import phrases
from usersim.rendering.conditioning import (
    ATTRIBUTE_KEEP_PROBABILITIES,
    KEEP_PROBABILITY,
    PREFACE,
    SAID,
    describe,
    drop_conditions,
    size_word,
    style_level,
    style_words,
)
from usersim.text.style_bins import LEVELS, Bin, read_bins, shipped_bins
from usersim.types import Facet, Goal, Persona, Style, UserProfile

TERSE = Style(
    words_per_turn=5,
    opening_words=13,
    lowercase_starts=1,
    questions=0,
    politeness=0.5,
    end_punctuation=0.1,
    turns=3,
)
FORMAL = Style(
    words_per_turn=60,
    opening_words=400,
    lowercase_starts=0,
    questions=0.5,
    politeness=1,
    end_punctuation=1,
    turns=1,
)
GOAL = Goal(
    summary="Plan a cheap weekend trip.", facets=(Facet(text="by train only"), Facet(text="two people"))
)


def profile(style: Style) -> UserProfile:
    return UserProfile(goal=GOAL, persona=Persona(description="student, impatient.", style=style))


def test_a_profile_reads_as_plain_english() -> None:
    assert describe(profile(TERSE)) == (
        "You are a person typing to an AI assistant.\n"
        "You want to plan a cheap weekend trip.\n"
        "What matters to you: by train only; two people.\n"
        "About you: student, impatient.\n"
        "How you write: short messages of around 6 words, a medium opening of 15 words, all lower case, "
        "bare endings, statements only, polite now and then, leaves after about 3 messages."
    )
    assert describe(UserProfile(persona=Persona(style=FORMAL))) == (
        "You are a person typing to an AI assistant.\n"
        "How you write: long messages of around 70 words, a huge opening of 180 words, capital letters, full stops, "
        "some questions, polite, leaves after about 1 messages."
    )
    middling = Style(lowercase_starts=0.25, questions=0.76, politeness=0.1, end_punctuation=0.75)
    assert style_words(middling) == ["some capitals", "some full stops", "asks questions", "matter-of-fact"]


def test_the_other_attributes_follow_and_common_levels_are_unsaid() -> None:
    assert style_words(Style(typos=0, pushback=0, chat_speak=0, expressive_marks=0, code_share=0)) == []
    loud = Style(
        typos=30, imperatives=1, pushback=1, chat_speak=1, first_person=1, expressive_marks=1, line_breaks=1,
        length_spread=3, code_share=1,
    )  # fmt: skip
    assert style_words(loud) == [
        "many typos", "gives orders", "objects often", "chat abbreviations", "often says I",
        "exclamation marks and dots", "several lines a message", "messages of very uneven length", "pastes code",
    ]  # fmt: skip
    assert style_words(Style(questions=1, typos=30)) == ["asks questions", "many typos"]


def test_the_canonical_words_of_opposite_levels_are_told_apart_by_more_than_a_negation() -> None:
    for attribute, levels in phrases.LEVELLED.items():
        if levels["low"] and levels["high"]:
            low, high = (set(levels[level][0].split()) - {"a"} for level in ("low", "high"))
            assert (low ^ high) - {"no", "not", "never"}, attribute
    assert [size_word(n) for n in (2, 4, 6, 15, 45, 180)] == [
        "tiny", "tiny", "short", "medium", "long", "huge"
    ]  # fmt: skip


def test_every_attribute_is_said_and_binned() -> None:
    assert set(SAID) == set(Style.model_fields) == set(shipped_bins().attributes)
    assert set(phrases.COUNTED) | set(phrases.LEVELLED) == set(SAID)
    for words in phrases.LEVELLED.values():
        assert set(words) == set(LEVELS)
        assert words["high"]


def test_a_bin_is_low_up_to_its_cut_and_high_above_the_other() -> None:
    cut = Bin(low=1, high=2, n=9)
    assert [cut.level(value) for value in (0, 1, 1.5, 2, 2.1)] == ["low", "low", "middle", "middle", "high"]
    assert style_level("questions", 0.2) == "low"  # the first seven go by quarters, not by bins


def test_a_damaged_file_of_bins_is_one_readable_line(tmp_path: Path) -> None:
    (tmp_path / "bins.json").write_text('{"attributes": 3}', encoding="utf-8")
    with pytest.raises(ConfigError, match="not a file of style bins"):
        read_bins(tmp_path / "bins.json")
    with pytest.raises(ConfigError, match="usersim data styles"):
        read_bins(tmp_path / "none.json")


def test_paraphrases_are_seeded_varied_and_keep_what_was_said() -> None:
    asked = profile(TERSE)
    told = [describe(asked, random.Random(seed)) for seed in range(60)]
    assert told[:3] == [describe(asked, random.Random(seed)) for seed in range(3)]
    assert len(set(told)) > 50
    for text in told:
        lines = text.split("\n")
        assert len(lines) == 5
        assert "plan a cheap weekend trip" in lines[1]
        assert "by train only; two people" in lines[2]
        assert "student, impatient" in lines[3]
        assert len(style_words(TERSE)) == 7
        assert "{" not in text


def test_no_paraphrase_is_written_for_two_levels_or_attributes() -> None:
    everything = [p for levels in phrases.LEVELLED.values() for of in levels.values() for p in of]
    everything += [p for of in phrases.COUNTED.values() for p in of]
    assert len(everything) == len(set(everything))


def test_goals_with_braces_are_text() -> None:
    odd = UserProfile(goal=Goal(summary="fill in {n} and {}"))
    assert describe(odd) == f"{PREFACE}\nYou want to fill in {{n}} and {{}}."
    assert "fill in {n} and {}" in describe(odd, random.Random(0))


EVERYTHING = UserProfile(
    goal=Goal(summary="plan a trip", facets=tuple(Facet(text=f"facet {i}") for i in range(4))),
    persona=Persona(description="student", style=Style(**dict.fromkeys(SAID, 1.0))),
)


def stated(thinned: UserProfile) -> list[str]:
    style = thinned.persona.style if thinned.persona else None
    return [name for name in SAID if style is not None and getattr(style, name) is not None]


def test_every_part_is_dropped_on_its_own_at_its_rate() -> None:
    drawn = [drop_conditions(EVERYTHING, random.Random(seed)) for seed in range(3000)]
    goals = [p.goal for p in drawn if p.goal]
    styled = [p for p in drawn if stated(p)]
    assert len(goals) / 3000 == pytest.approx(KEEP_PROBABILITY["goal"], abs=0.03)
    facets = [len(goal.facets) for goal in goals]
    assert sum(facets) / len(facets) == pytest.approx(
        4 * KEEP_PROBABILITY["facets"] * KEEP_PROBABILITY["facet"], abs=0.1
    )
    described = [bool(p.persona and p.persona.description) for p in drawn]
    assert sum(described) / 3000 == pytest.approx(KEEP_PROBABILITY["description"], abs=0.03)
    none_drawn = sum((1 - rate) ** len(SAID) for rate in ATTRIBUTE_KEEP_PROBABILITIES) / len(
        ATTRIBUTE_KEEP_PROBABILITIES
    )
    assert len(styled) / 3000 == pytest.approx(KEEP_PROBABILITY["style"] * (1 - none_drawn), abs=0.03)
    both = sum(bool(p.goal) and not stated(p) for p in drawn) / 3000
    assert both == pytest.approx(KEEP_PROBABILITY["goal"] * (1 - len(styled) / 3000), abs=0.03)


def test_one_attribute_alone_and_all_sixteen_occur() -> None:
    counts = [len(stated(drop_conditions(EVERYTHING, random.Random(seed)))) for seed in range(3000)]
    assert counts.count(16) / 3000 == pytest.approx(
        KEEP_PROBABILITY["style"] / len(ATTRIBUTE_KEEP_PROBABILITIES), abs=0.03
    )
    assert counts.count(1) / 3000 > 0.02
    each = [
        sum(name in stated(drop_conditions(EVERYTHING, random.Random(s))) for s in range(500))
        for name in SAID
    ]
    assert max(each) - min(each) < 0.15 * 500


def test_what_was_never_said_comes_among_the_facets_in_any_number_and_place() -> None:
    unsaid = ("never 1", "never 2", "never 3", "never 4")
    drawn = [drop_conditions(EVERYTHING, random.Random(seed), unsaid=unsaid).goal for seed in range(4000)]
    facets = [[facet.text for facet in goal.facets] for goal in drawn if goal and goal.facets]
    added = Counter(sum(text in unsaid for text in texts) for texts in facets)
    shares = [added[count] / len(facets) for count in range(5)]
    assert shares == pytest.approx([0.25, 0.25, 0.25, 0.25, 0], abs=0.04)
    bare = sum(not goal.facets for goal in drawn if goal) / sum(bool(goal) for goal in drawn)
    assert bare == pytest.approx(1 - KEEP_PROBABILITY["facets"] * (1 - 0.4**4 / 4), abs=0.03)
    mixed = [texts for texts in facets if 0 < sum(text in unsaid for text in texts) < len(texts)]
    last = sum(texts[-1] in unsaid for texts in mixed) / len(mixed)
    expected = sum(sum(text in unsaid for text in texts) / len(texts) for texts in mixed) / len(mixed)
    assert last == pytest.approx(
        expected, abs=0.05
    )  # a place at random: what is unsaid is last as often as elsewhere
    assert all(len(set(texts)) == len(texts) for texts in facets)
    plain = drop_conditions(EVERYTHING, random.Random(1)).goal
    assert plain is None or not any(facet.text in unsaid for facet in plain.facets)


def test_thinning_draws_the_same_whatever_the_persona_holds() -> None:
    after = set()
    for profile_ in (EVERYTHING.model_copy(update={"goal": None}), UserProfile()):
        rng = random.Random(7)
        drop_conditions(profile_, rng)
        after.add(rng.random())
    assert len(after) == 1
    assert drop_conditions(EVERYTHING, random.Random(3)) == drop_conditions(EVERYTHING, random.Random(3))
