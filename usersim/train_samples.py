"""Openings sampled from the model in training, to be read: a loss says little about how somebody sounds."""

from __future__ import annotations

import asyncio
from typing import Any

from usersim.backends.local import LocalSampler
from usersim.errors import UsersimError
from usersim.render import Renderer
from usersim.runs import RunDir
from usersim.sampling import Guards, Sampling, UserLM
from usersim.types import Conversation, Turn

COUNT = 6


def write_samples(
    run: RunDir, model: Any, renderer: Renderer, dev: list[Conversation], *, step: int, config: Any
) -> None:
    """One opening for each of the first dev profiles, to samples.jsonl and, where it runs, to a wandb table."""
    was_training = model.training
    model.eval()
    rows = []
    user = UserLM(renderer, LocalSampler(model), sampling=Sampling(max_tokens=64), guards=Guards(attempts=2))
    for index, human in enumerate(dev[:COUNT]):
        try:
            said = asyncio.run(user(human.profile, (), seed=config.seed + index))
        except UsersimError:
            continue  # early on the guards may refuse every attempt; there is just nothing to show
        record = Conversation(
            id=f"step-{step}-{human.id}",
            origin="simulated",
            source="training",
            turns=(Turn(role="user", text=said.text),),
            profile=human.profile,
            ended_by="cut",
        )
        run.sample(record)
        goal = human.profile.goal.summary if human.profile.goal else ""
        rows.append([step, goal, said.text, round(said.end_probability, 4)])
    model.train(was_training)
    _to_wandb(rows)


def _to_wandb(rows: list[list[Any]]) -> None:
    import wandb

    if wandb.run is not None and rows:
        table = wandb.Table(columns=["step", "goal", "opening", "p_end"], data=rows)
        wandb.log({"samples": table}, commit=False)
