"""Measured style, by hand."""

from __future__ import annotations

import importlib.util
import random
from math import log

import pytest

from usersim.rendering.conditioning import PREFACE, describe, drop_conditions, nearest_length, style_words
from usersim.text import spelling
from usersim.text.code_blocks import LOOKED_AT, is_code, split
from usersim.text.spelling import is_typo
from usersim.text.style import (
    count_words,
    ends_punctuated,
    is_expressive,
    is_polite,
    length_spread,
    marks_of,
    measure,
    typos,
    words,
)
from usersim.text.user_acts import is_order, is_pushback
from usersim.types import Facet, Goal, Persona, Style, Turn, UserProfile

spelled = pytest.mark.skipif(
    importlib.util.find_spec("spellchecker") is None, reason="pyspellchecker is not installed"
)

TURNS = [
    Turn(role="user", text="hey can you fix this"),
    Turn(role="assistant", text="Sure! What is it?"),
    Turn(role="user", text="My bike."),
    Turn(role="assistant", text="Ok."),
    Turn(role="user", text="please? thanks"),
    Turn(role="user", text="42"),
]
SENTENCES = (
    "the weather was lovely when we walked along the river this morning",
    "please describe how people learned about history before there were schools",
    "because nobody could answer the question they decided to write another letter",
    "children often remember stories better than their parents believe they would",
)


def user(*texts: str) -> Style:
    return measure([Turn(role="user", text=text) for text in texts])


def test_style_is_measured_from_the_users_turns_only() -> None:
    assert measure(TURNS).model_copy(update={"typos": None, "length_spread": None}) == Style(
        words_per_turn=2.0,  # 5, 2, 2, 1
        opening_words=5.0,
        lowercase_starts=2 / 3,  # "42" has no letter
        questions=0.25,
        politeness=0.25,
        end_punctuation=0.25,
        turns=4.0,
        imperatives=0.0,
        pushback=0.0,
        chat_speak=0.0,
        first_person=0.25,  # "My"
        expressive_marks=0.0,
        code_share=0.0,
        line_breaks=0.0,
    )
    assert measure(TURNS).length_spread == pytest.approx((log(6 / 3) + log(3 / 2)) / 4)


def test_nobody_has_no_style() -> None:
    assert measure([Turn(role="assistant", text="Hi")]) == Style()


def test_shares_of_turns() -> None:
    style = user("ok now write a poem", "no, i said short!", "is that all?", "u dont get it...\nim done")
    assert style.imperatives == 0.25
    assert style.pushback == pytest.approx(1 / 3)
    assert style.chat_speak == 0.25
    assert style.first_person == 0.5  # "i said", "im done"
    assert style.expressive_marks == 0.5
    assert style.line_breaks == 0.25


def test_one_turn_has_neither_pushback_nor_spread() -> None:
    style = user("write a poem")
    assert style.pushback is None
    assert style.length_spread is None
    assert style.imperatives == 1


def test_length_spread_is_the_mean_distance_in_logarithms() -> None:
    assert length_spread([3, 3, 3]) == 0
    assert length_spread([1, 3, 7]) == pytest.approx(2 * log(2) / 3)
    assert length_spread([4]) is None


@pytest.mark.parametrize(
    "text", ["Write a poem", "please, summarize this", "OK now make it shorter", "list 5 names", "continue"]
)
def test_orders(text: str) -> None:
    assert is_order(text)


@pytest.mark.parametrize(
    "text",
    ["", "can you write a poem", "what is love", "I want a poem", "answer is 5", "writer"],
)
def test_no_orders(text: str) -> None:
    assert not is_order(text)


@pytest.mark.parametrize(
    "text",
    [
        "No, the other one",
        "that's not what I meant",
        "That\u2019s wrong.",
        "wrong",
        "i said five lines",
        "you didn't answer",
        "you forgot the title",
        "But it doesn't work",
        "I ran it and I get this error: x",
        "it still does not work",
        "are you sure?",
        "this is too long",
    ],
)
def test_pushback(text: str) -> None:
    assert is_pushback(text)


@pytest.mark.parametrize(
    "text",
    [
        "No thanks",
        "now the next one",
        "Noah was a man",
        "great",
        "what is not allowed there",
        "add a title",
        "",
    ],
)
def test_no_pushback(text: str) -> None:
    assert not is_pushback(text)


@pytest.mark.parametrize(
    "line",
    [
        "import os",
        "def main(argv):",
        "  x = foo(1)",
        "print('hi')",
        "for item in items:",
        "}",
        "color: red;",
        "<div class='a'>",
        "SELECT a FROM b",
        "if (a && b)",
        "pip install torch",
        "names[0].run()",
    ],
)
def test_lines_of_code(line: str) -> None:
    assert is_code(line)


@pytest.mark.parametrize(
    "line",
    [
        "import taxes are too high",
        "I have a class on Monday: maths",
        "for example:",
        "use `x = 1;` there",
        "write a poem (a short one)",
        "replace [name] by mine",
        "if you can, please: do it",
        "5 > 3",
        "",
    ],
)
def test_lines_of_prose(line: str) -> None:
    assert not is_code(line)


def test_code_share_counts_characters_of_fences_and_lines() -> None:
    part = split("fix this\n```\nhello\n```\nx = 1\nthanks")
    assert part.prose == "fix this\nthanks"
    assert (part.code_characters, part.characters) == (3 + 5 + 3 + 5, 16 + 8 + 6)
    assert user("fix this\nx = 1").code_share == pytest.approx(5 / 13)


def test_only_the_beginning_of_a_turn_is_looked_at_and_no_word_is_cut() -> None:
    part = split("word " * 1000)
    assert len(part.prose) <= LOOKED_AT
    assert set(part.prose.split()) == {"word"}
    assert split("x" * 5000).characters == LOOKED_AT


def test_expressive_marks() -> None:
    assert [is_expressive(text) for text in ("hi!", "why??", "well...", "ok…", "hi. why? e.g.")] == [
        True, True, True, True, False,
    ]  # fmt: skip


def test_words_are_counted_as_they_are_found() -> None:
    rng = random.Random(0)
    for _ in range(3000):
        text = "".join(rng.choice("ab1 -'’_.é\n") for _ in range(rng.randrange(14)))  # noqa: RUF001
        assert count_words(text) == len(words(text)), text


def test_politeness_needs_a_whole_word() -> None:
    polite = ("Thank you", "ty", "pls fix", "would you mind", "PLEASE")
    assert all(map(is_polite, polite))
    assert not any(map(is_polite, ("city type", "pleased", "thankful", "duty", "")))


def test_a_turn_ends_punctuated_before_its_blanks() -> None:
    assert ends_punctuated("done. \n")
    assert not ends_punctuated("done . x")
    assert not ends_punctuated("")


@spelled
@pytest.mark.parametrize("word", ["recieve", "seperate", "becuase", "tommorow", "adress", "speling", "thsi"])
def test_typos(word: str) -> None:
    assert is_typo(word)


@spelled
@pytest.mark.parametrize(
    "word",
    [
        "receive",
        "colour",
        "organise",
        "backend",
        "json",
        "dont",
        "pls",
        "xqzvw",
        "teh",
        "children's",
        "fulfil",
    ],
)
def test_no_typos(word: str) -> None:
    """Right, British, newer than the dictionary, chat speak, nothing like a word, too short to tell."""
    assert not is_typo(word)


@spelled
def test_names_code_addresses_and_numbers_are_not_looked_at() -> None:
    assert "t" not in marks_of("Recieve `recieve` recieve2 http://recieve.com recieve_this RECIEVE @recieve")
    assert "t" in marks_of("please (recieve),")
    assert user("look at this here for me now ok", "recieve = 1\nseperate();").typos == 0


@spelled
def test_planted_typos_are_recovered_in_proportion() -> None:
    clean = marks_of(" ".join(SENTENCES))
    assert typos([clean]) == 0
    rates = []
    for share in (0.1, 0.3, 0.6):
        rng = random.Random(1)
        written = [
            plant(word, rng) if rng.random() < share else word for word in " ".join(SENTENCES * 20).split()
        ]
        rates.append(typos([marks_of(" ".join(written))]))
    assert rates[0] is not None
    assert rates[1] is not None
    assert rates[2] is not None
    assert 5 < rates[0] < 10
    assert 2.3 < rates[1] / rates[0] < 3.7
    assert 1.6 < rates[2] / rates[1] < 2.4


def plant(word: str, rng: random.Random) -> str:
    """Two letters swapped, one dropped or one doubled; the first stays."""
    if len(word) < 4:
        return word
    at = rng.randrange(1, len(word) - 1)
    return rng.choice(
        [
            word[:at] + word[at + 1] + word[at] + word[at + 2 :],
            word[:at] + word[at + 1 :],
            word[:at] + word[at] + word[at:],
        ]
    )


@spelled
def test_few_words_and_other_languages_have_no_rates() -> None:
    assert user("fix teh bike").typos is None
    dutch = user("kunt u mij vertellen hoe ik dat het beste kan doen met deze fiets")
    assert (dutch.typos, dutch.imperatives, dutch.pushback, dutch.first_person) == (None,) * 4
    assert dutch.words_per_turn == 14
    assert user("как мне это сделать чтобы всё было хорошо и быстро").chat_speak is None


def test_without_the_dictionary_there_is_no_typo_rate(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spelling, "dictionary", lambda: None)
    monkeypatch.setattr("usersim.text.style.dictionary", lambda: None)
    assert typos(["w" * 20]) is None
    assert not is_typo("recieve")


def test_the_marks_of_a_million_tokens_do_not_pile_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spelling, "REMEMBERED", 10)
    marks = spelling.Marks()
    for number in range(100):
        assert marks[f"x{number}"] == ""
    assert len(marks) <= 10


@pytest.mark.parametrize(
    ("words", "named"), [(0, 2), (1, 2), (5, 6), (9, 8), (25, 30), (50, 45), (1000, 180)]
)
def test_lengths_are_named_by_the_nearest_ratio(words: float, named: int) -> None:
    assert nearest_length(words) == named


def test_every_attribute_has_its_words_and_absent_ones_none() -> None:
    assert style_words(Style()) == []
    full = style_words(measure(TURNS))
    assert full[0] == "tiny messages of around 2 words"
    assert full[6] == "leaves after about 4 messages"


def test_an_empty_profile_is_the_preface_alone() -> None:
    assert describe(UserProfile()) == PREFACE


def test_thinning_is_seeded_and_every_part_is_sometimes_dropped() -> None:
    goal = Goal(summary="do it", facets=tuple(Facet(text=f"f{i}") for i in range(3)))
    profile = UserProfile(goal=goal, persona=Persona(description="d", style=measure(TURNS)))
    thinned = [drop_conditions(profile, random.Random(seed)) for seed in range(400)]
    assert thinned[:5] == [drop_conditions(profile, random.Random(seed)) for seed in range(5)]
    with_goal = sum(t.goal is not None for t in thinned) / 400
    bare = sum(t.goal is not None and not t.goal.facets for t in thinned) / 400
    described = sum(bool(t.persona and t.persona.description) for t in thinned) / 400
    assert 0.78 < with_goal < 0.92
    assert 0.45 < bare / with_goal < 0.7  # no facets half of the time, and each of three dropped now and then
    assert 0.42 < described < 0.58
