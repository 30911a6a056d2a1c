"""The discriminator, and the best of n turns by it, over prepared continuations."""

from __future__ import annotations

import asyncio
import math
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.usersim.rendering.test_render import END, LEFT, renderer
from usersim.errors import ConfigError
from usersim.testing import ScriptedSampler
from usersim.types import Goal, Turn, UserTurn
from usersim.users.discriminator import (
    BUCKETS,
    FORM,
    ReplyContext,
    TurnDiscriminator,
    TurnPair,
    discriminator_of,
    fit,
    read_discriminator,
)
from usersim.users.protocols import EndPolicy, Sampling, as_profile
from usersim.users.userlm import UserLM
from usersim.weights.default_model import DISCRIMINATOR_FILE

HISTORY = [Turn(role="user", text="hi there"), Turn(role="assistant", text="Which city? Rome or Paris?")]
WIDTH = BUCKETS + len(FORM)


def likes(feature: str, *, weight: float = 1.0) -> TurnDiscriminator:
    """Scores by one number of `FORM` alone."""
    weights = np.zeros(WIDTH, dtype=np.float16)
    weights[BUCKETS + FORM.index(feature)] = weight
    return TurnDiscriminator(weights, renderer().fingerprint, None)


def test_form_by_hand() -> None:
    context = ReplyContext(Goal(summary="plan a cheap trip to rome"), HISTORY)
    form = dict(zip(FORM, context.form("rome, cheap pls"), strict=True))
    length = math.log(4)
    assert form["length"] == form["length at turn 2"] == pytest.approx(length)
    assert form["length at turn 2, squared"] == pytest.approx(length**2)
    assert form["length at turn 3 and later"] == 0
    assert form["starts in lower case"] == 1
    assert form["ends with punctuation"] == form["question"] == 0
    assert form["share of content words in the answer"] == pytest.approx(1 / 3)  # rome
    assert form["share of content words in the goal"] == pytest.approx(2 / 3)  # rome, cheap
    again = dict(zip(FORM, ReplyContext(None, HISTORY).form("Hi  there"), strict=True))
    assert (
        again["repeats an earlier user turn"]
        == again["share of content words in the earlier user turns"]
        == 1
    )
    assert again["share of capitals"] == pytest.approx(1 / 7)


def test_n_grams_have_length_one_for_each_kind_and_a_stable_place() -> None:
    features = ReplyContext(None, []).features("hey")
    # crc32("w hey"); then " he", "hey", "ey " and " hey", "hey " with 1/√5 each.
    grams = {place: value for place, value in features.items() if place < BUCKETS}
    assert sorted(round(value, 6) for value in grams.values()) == [round(5**-0.5, 6)] * 5 + [1.0]
    assert grams[__import__("zlib").crc32(b"w hey") % BUCKETS] == 1.0


def pairs(marked: bool, count: int = 60) -> list[TurnPair]:
    rng = random.Random(3)
    words = "bread soup chess music rivers bikes stars birds tents lamps boats trees".split()  # noqa: SIM905

    def text() -> str:
        return " ".join(rng.sample(words, 4))

    return [
        TurnPair(None, tuple(HISTORY), text(), f"certainly {text()}" if marked else text(), f"p{i // 2}")
        for i in range(count)
    ]


def test_a_planted_difference_is_found_and_exchangeable_turns_are_not() -> None:
    planted = pairs(True)
    fitted = fit(planted)
    assert np.mean(fitted.choices) > 0.95
    assert set(fitted.by_cluster(planted)) == {f"p{i}" for i in range(30)}
    bad, good = fitted.discriminator.scores(None, HISTORY, ["certainly bread soup", "bread soup"])
    assert good > bad
    assert 0.3 < np.mean(fit(pairs(False)).choices) < 0.7


def test_round_trip_and_damage(tmp_path: Path) -> None:
    file = tmp_path / DISCRIMINATOR_FILE
    made = likes("question")
    made.save(file)
    assert file.stat().st_size < 300_000
    read = read_discriminator(file)
    assert read.scores(None, HISTORY, ["rome?", "rome"]) == [1.0, 0.0]
    assert discriminator_of(tmp_path, renderer(), best_of=4) is not None
    TurnDiscriminator(made.weights_D, "another", None).save(file)
    with pytest.raises(ConfigError, match="another model"):
        discriminator_of(tmp_path, renderer())
    TurnDiscriminator(made.weights_D[:-1], "x", None).save(file)
    with pytest.raises(ConfigError, match="another shape"):
        read_discriminator(file)
    made.save(file)
    whole = file.read_bytes()
    for damaged in (b"", b"not a zip", whole[: len(whole) // 2]):
        file.write_bytes(damaged)
        with pytest.raises(ConfigError, match="damaged"):
            read_discriminator(file)
    file.unlink()
    assert discriminator_of(tmp_path, renderer()) is None
    with pytest.raises(ConfigError, match="fit-discriminator"):
        discriminator_of(tmp_path, renderer(), best_of=2)


def test_a_file_for_other_weights_is_refused(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_bytes(bytes(10_000))
    TurnDiscriminator(np.zeros(WIDTH, dtype=np.float16), renderer().fingerprint, "other").save(
        tmp_path / DISCRIMINATOR_FILE
    )
    with pytest.raises(ConfigError, match="another model"):
        discriminator_of(tmp_path, renderer())


def said(
    *texts: str, best_of: int = 4, discriminator: Any = None, **options: Any
) -> tuple[UserLM, ScriptedSampler]:
    r = renderer()
    ids = [[LEFT] if text == "(leaves)" else [*r.encode(text), END] for text in texts]
    scripted = ScriptedSampler(*ids)
    user = UserLM(r, scripted, sampling=Sampling(best_of=best_of), discriminator=discriminator, **options)
    return user, scripted


def ask(user: UserLM, **options: Any) -> list[UserTurn]:
    return asyncio.run(user.sample(as_profile("eat out"), HISTORY, **options))


def test_the_candidate_with_the_highest_score_is_said() -> None:
    user, scripted = said("no", "why rome?", "yes", "what?", discriminator=likes("question"))
    (turn,) = ask(user, seed=5)
    assert turn.text == "why rome?"  # the first of the two that ask
    assert (turn.tokens, turn.drawn_tokens, turn.cost_tokens) == (10, 3 + 10 + 4 + 6, 23)
    assert (turn.seed, turn.rejected) == (5, ())
    assert [asked.n for asked in scripted.asked] == [4]


def test_one_candidate_is_as_without_a_discriminator() -> None:
    told = [
        ask(said("", "one", "two", best_of=1, discriminator=d)[0], n=2, seed=3)
        for d in (None, likes("question"))
    ]
    assert told[0] == told[1]
    assert "drawn_tokens" not in told[0][0].model_dump()


def test_a_seed_gives_a_turn_of_several_again() -> None:
    user, scripted = said(*"abcdef", best_of=2, discriminator=likes("length"))
    turns = ask(user, n=2, seed=7)
    ask(user, seed=turns[1].seed)
    first, again = (asked.seed for asked in scripted.asked)
    assert first is not None
    assert again == first + 2  # candidates 2 and 3 of the first request


def test_what_the_guards_refuse_is_dropped_and_told() -> None:
    user, _ = said("", "hi there?", "ok?", "ok", discriminator=likes("question"))
    (turn,) = ask(user)
    assert (turn.text, turn.rejected) == ("ok?", ("empty", "repeat"))
    user, scripted = said("", "", "rome", "rome?", best_of=2, discriminator=likes("question"))
    (turn,) = ask(user)
    assert (turn.text, turn.rejected) == ("rome?", ("empty", "empty"))
    assert [asked.n for asked in scripted.asked] == [2, 2]


def test_leaving_is_the_first_candidates_and_is_never_chosen() -> None:
    user, _ = said("(leaves)", "why?", best_of=2, discriminator=likes("question"))
    assert ask(user)[0].ends
    user, _ = said("no", "(leaves)", best_of=2, discriminator=likes("length", weight=-1))
    assert ask(user)[0].text == "no"
    user, _ = said(
        "no",
        "why?",
        best_of=2,
        discriminator=likes("question"),
        end=EndPolicy(mode="threshold", threshold=0.05),
    )
    assert ask(user)[0].ends


def test_at_temperature_0_there_is_nothing_to_choose() -> None:
    user, scripted = said("rome", discriminator=likes("question"))
    assert ask(user, sampling=Sampling(temperature=0, best_of=4))[0].text == "rome"
    assert scripted.asked[0].n == 1


def test_without_a_discriminator_and_in_a_stream_it_says_why() -> None:
    with pytest.raises(ConfigError, match="fit-discriminator"):
        ask(said("rome")[0])

    async def stream() -> None:
        async for _ in said("rome", discriminator=likes("question"))[0].stream(as_profile("eat"), HISTORY):
            pass

    with pytest.raises(ConfigError, match="a stream has one candidate"):
        asyncio.run(stream())
