"""Acts of a next turn: objections, answers, thanks, the assistant's voice."""

import numpy as np
import pytest

from eval.next_turn.metrics.acts import Acts, Voices, answers, thanks
from eval.next_turn.prefixes import Prefix, prefixes_of
from usersim.errors import DataError
from usersim.types import Conversation, Turn


def prefix(*texts: str) -> Prefix:
    history = tuple(Turn(role=("user", "assistant")[i % 2], text=text) for i, text in enumerate(texts))
    return Prefix(
        id="c@1",
        conversation="c",
        cluster="c",
        source="invented",
        position=len(texts) // 2 + 1,
        history=history,
        goal=None,
        text="x",
    )


@pytest.mark.parametrize(
    "text",
    [
        "Thanks!",
        "ok ty",
        "thx, now the second part",
        "Cheers, much appreciated.",
        "I really appreciate it",
        "That was very helpful.",
        "You've been a great help",
        "You're the best",
        "much obliged",
        "so grateful for this",
        "thank u so much",
        "now in French please. Cheers",
    ],
)
def test_thanks(text):
    assert thanks(text)


@pytest.mark.parametrize(
    "text",
    [
        "write a thank you note to my boss",
        "the crowd cheers for the team",
        "I would appreciate if you wrote less",
        "what is a party",
        "make it helpful",
        "say it with empty lines",
    ],
)
def test_no_thanks(text):
    assert not thanks(text)


def test_answers_to_what_was_asked():
    place = prefix("help me with my essay", "Sure! What is the topic of your essay?")
    assert answers(place, "the history of tea") is True
    assert answers(place, "My topic: write it on tea") is True
    assert answers(place, "no, it's about tea") is True
    assert answers(place, "Write a poem about the sea") is False
    assert answers(place, "what do you mean") is False
    assert answers(prefix("hi", "Tea is a drink."), "the history of tea") is None


def test_values():
    prefixes = [
        prefix(),
        prefix("hi", "I'm sorry, but I can't help with that."),
        prefix("hi", "I apologize for the mistake. It is 5."),
    ]
    values = Acts().values(prefixes, ["no, wrong", "you didn't read it", "thanks"])
    assert values["acts.objects"].numerator_P.tolist() == [0, 1, 0]
    assert values["acts.objects"].denominator_P.tolist() == [0, 1, 1]
    assert values["acts.objects.after_refusal"].denominator_P.tolist() == [0, 1, 0]
    assert values["acts.objects.after_error"].denominator_P.tolist() == [0, 0, 1]
    assert values["acts.thanks"].numerator_P.tolist() == [0, 0, 1]
    assert values["acts.answers"].denominator_P.sum() == 0
    assert "acts.voice" not in values


def conversation(number: int) -> Conversation:
    place = "Rome Oslo Bern Lima Cairo Paris Delhi Quito Accra Minsk".split()[number % 10]  # noqa: SIM905
    return Conversation(
        id=f"c{number}",
        source="invented",
        origin="human",
        turns=(
            Turn(role="user", text=f"wanna see {place} cheap, any tips {number}"),
            Turn(
                role="assistant",
                text=f"Certainly! Here are several suggestions for visiting {place}. It is important to plan ahead.",
            ),
            Turn(role="user", text=f"ok and food in {place}"),
            Turn(
                role="assistant",
                text=f"Of course! The restaurants of {place} are renowned. It is advisable to reserve.",
            ),
        ),
    )


def test_voice_is_cross_fitted_and_catches_the_assistants_sentences():
    people = [conversation(number) for number in range(30)]
    prefixes = [p for c in people for p in prefixes_of(c) if p.text]
    metric = Acts(people)
    own = metric.values(prefixes, [p.text or "" for p in prefixes])["acts.voice"]
    planted = metric.values(prefixes, ["It is important to plan ahead." for _ in prefixes])["acts.voice"]
    assert own.denominator_P.tolist() == planted.denominator_P.tolist() == [1.0] * 60
    assert own.numerator_P.mean() <= 0.2
    assert planted.numerator_P.mean() >= 0.9
    flags = Voices(people).is_assistant(prefixes, ["ok and food"] * len(prefixes))
    assert flags.dtype == np.bool_
    with pytest.raises(DataError, match="25 conversations"):
        Voices(people[:24])
