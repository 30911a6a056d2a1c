"""Sample conversations with the model in training, for reading: a loss says little about style."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

from usersim.backends.transformers_local import LocalSampler
from usersim.errors import UsersimError
from usersim.rendering.renderer import Renderer
from usersim.storage.runs import RunDir
from usersim.types import Conversation, Turn, UserTurn
from usersim.users.guards import Guards
from usersim.users.protocols import Sampling
from usersim.users.userlm import UserLM

COUNT, TURNS = 4, 3
COLUMNS = ("step", "conversation", "turn", "goal", "assistant_before", "human", "model", "p_end")


def write_samples(
    run: RunDir, model: Any, renderer: Renderer, dev: Sequence[Conversation], *, step: int, seed: int
) -> list[list[Any]]:
    """Samples the model's first user turns between the real assistant's, for the first dev conversations.

    The conversations are written to samples.jsonl. Returns rows of `COLUMNS` with each turn beside the human's; none
    for
    a conversation where the guards reject every attempt.
    """
    was_training = model.training
    model.eval()
    rows = []
    user = UserLM(renderer, LocalSampler(model), sampling=Sampling(max_tokens=64), guards=Guards(attempts=2))
    for index, human in enumerate(dev[:COUNT]):
        user_turns: list[UserTurn] = []
        try:
            record = asyncio.run(_converse(user, human, user_turns, seed=seed + index))
        except UsersimError:
            continue  # early in training the guards may reject every attempt
        run.sample(record.model_copy(update={"id": f"step-{step}-{human.id}"}))
        rows += [[step, human.id, *row] for row in _table(human, user_turns)]
    model.train(was_training)
    return rows


async def _converse(
    user: UserLM, human: Conversation, user_turns: list[UserTurn], *, seed: int
) -> Conversation:
    turns: list[Turn] = []
    left = [None] if human.ended_by == "user" and human.turns[-1].role == "assistant" else []
    for real in [*human.turns, *left]:
        if real is not None and real.role == "assistant":
            turns.append(real)
            continue
        if len(user_turns) == TURNS:
            break
        user_turns.append(await user(human.profile, turns, seed=seed + 7_919 * len(user_turns)))
        if user_turns[-1].ends:
            break
        turns.append(Turn(role="user", text=user_turns[-1].text))
    return Conversation(
        id=human.id,
        origin="simulated",
        source="training",
        turns=tuple(turns),
        profile=human.profile,
        ended_by="user" if user_turns and user_turns[-1].ends else "cut",
    )


def _table(human: Conversation, user_turns: list[UserTurn]) -> list[list[Any]]:
    goal = human.profile.goal.summary if human.profile.goal else ""
    people = [turn.text for turn in human.turns if turn.role == "user"]
    replies = [turn.text for turn in human.turns if turn.role == "assistant"]
    if human.turns and human.turns[0].role == "user":
        replies = ["", *replies]
    return [
        [
            index + 1,
            goal,
            replies[index],
            people[index] if index < len(people) else "(left)",
            "(leaves)" if turn.ends else turn.text,
            round(turn.end_probability, 4),
        ]
        for index, turn in enumerate(user_turns)
    ]
