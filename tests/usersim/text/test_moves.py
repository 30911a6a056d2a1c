"""What a turn does, by rules."""

from __future__ import annotations

import random

import pytest

from tests.usersim.rendering.test_render import talk
from usersim.rendering import phrases
from usersim.text.user_acts import ACTS, act_of
from usersim.training.data import sample_acts

TOLD = "Paris is the capital of France. Its population is two million."
ASKED = "I can help. How many people will come?"


@pytest.mark.parametrize(
    ("text", "answer", "act"),
    [
        ("thanks!", TOLD, "thanks"),
        ("Great, thank you so much", TOLD, "thanks"),
        ("thanks, can you also do Rome?", TOLD, "asks"),
        ("no, that's wrong", TOLD, "objects"),
        ("that is not what I asked for", TOLD, "objects"),
        ("sorry, I meant Lyon", TOLD, "corrects"),
        ("Actually, make it ten", TOLD, "corrects"),
        ("how old is it", TOLD, "asks"),
        ("And the river?", TOLD, "asks"),
        ("about ten, all adults", ASKED, "answers"),
        ("about ten, all adults", TOLD, None),
        ("write it as a poem", TOLD, None),
        ("write it as a poem", ASKED, None),
        ("is that so?", None, None),
    ],
)
def test_the_act_of_a_turn(text: str, answer: str | None, act: str | None) -> None:
    assert act_of(text, answer) == act


def test_every_act_has_words() -> None:
    assert tuple(phrases.ACTS) == ACTS


def test_acts_are_told_in_half_of_the_conversations_and_rare_ones_there_always() -> None:
    conversation = talk("hi", "hello", "how are you?", "fine", "thanks", "welcome")
    drawn = [sample_acts(conversation, random.Random(seed)) for seed in range(2000)]
    assert sum(not told for told in drawn) / 2000 == pytest.approx(0.5, abs=0.04)
    told = [acts for acts in drawn if acts]
    assert {acts[0] for acts in told} == {None}  # an opening has none
    assert {acts[1] for acts in told} == {None, "asks"}
    assert sum(acts[1] == "asks" for acts in told) / len(told) == pytest.approx(0.25, abs=0.05)
    assert {acts[2] for acts in told} == {"thanks"}
