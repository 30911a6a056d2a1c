"""Sampled conversations of a training run: the model's turns in the human's chat."""

from __future__ import annotations

import asyncio

from tests.usersim.rendering.test_render import talk
from usersim.testing import ScriptedUser
from usersim.training.samples import _converse
from usersim.types import UserTurn


def test_a_model_that_leaves_early_ends_the_sample_there() -> None:
    human = talk("hi", "Hello!", "and then?", "So it is.", "bye", "Bye.")
    said: list[UserTurn] = []
    record = asyncio.run(_converse(ScriptedUser("hey"), human, said, seed=0))  # type: ignore[arg-type]
    assert [turn.text for turn in record.turns] == ["hey", "Hello!"]
    assert record.ended_by == "user"
    assert [turn.ends for turn in said] == [False, True]
