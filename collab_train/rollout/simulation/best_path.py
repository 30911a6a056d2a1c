"""Conversations along the best replies: score candidates, take the best, go on with what its user said next.

The user's next turn is the one that the winner's first future began with: it is simulated already.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from collab_train.contexts import Context, Split
from collab_train.rollout.accounting.results import ContextMR, Future
from collab_train.rollout.simulation.candidates import Candidates
from collab_train.rollout.simulation.gather import together
from collab_train.rollout.simulation.rollout import Rewarded, Rollout
from usersim.types import NonEmpty, Record, Turn


class Message(Record):
    role: Literal["system", "user", "assistant"]
    content: str


class Path(Record):
    """The best conversation from one context, for SFT: `prompt` + `chosen` is the whole of it.

    `prompt` is the context (system prompt first, where there is one; ends with the user). `chosen` begins and ends
    with the assistant and holds the user's turns between: train on its assistant turns only.
    """

    context: NonEmpty
    split: Split
    prompt: tuple[Message, ...]
    chosen: tuple[Message, ...]
    mrs: tuple[float, ...]
    """Of the assistant's turns in `chosen`, in order."""
    ended_by: Literal["user", "turns", "lost"]
    """user: left after the last reply. turns: as many as asked for. lost: no candidate or no future came through."""
    goal: str | None = None


@dataclass(frozen=True)
class Step:
    context: Context
    """With its candidates; none where no reply could be sampled."""
    result: ContextMR
    following: Context | None
    """The conversation one exchange later, without candidates."""
    left: bool
    """The user left after the best reply."""


async def collect(
    contexts: Sequence[Context],
    rollout: Rollout,
    candidates: Candidates,
    *,
    turns: int = 1,
    fewer: Callable[[int], None] = lambda futures: None,
) -> list[list[Step]]:
    """For each context its steps, `turns` at most; no context waits for another.

    `fewer` hears of futures that are not needed after all: equal candidates, a user who left, a decided race.
    """
    return await together(_chain(context, rollout, candidates, turns, fewer) for context in contexts)


async def _chain(
    context: Context, rollout: Rollout, candidates: Candidates, turns: int, fewer: Callable[[int], None]
) -> list[Step]:
    steps, coming, n = list[Step](), context, rollout.config.futures
    for number in range(1, turns + 1):
        filled = await candidates.fill(coming)
        fewer(((len(coming.candidates) or candidates.count) - len(filled.candidates)) * n)
        if not filled.candidates:
            steps.append(Step(filled, ContextMR(id=filled.id, candidates=()), None, left=False))
            break
        steps.append(_step(filled, await rollout.reward(filled), f"{context.id}/{number + 1}"))
        fewer(sum(candidate.stopped for candidate in steps[-1].result.candidates))
        following = steps[-1].following
        if following is None:
            break
        coming = following
    fewer((turns - len(steps)) * candidates.count * n)
    return steps


def _step(context: Context, rewarded: Rewarded, name: str) -> Step:
    best = rewarded.result.best
    if best is None:
        return Step(context, rewarded.result, None, left=False)
    number = rewarded.result.candidates.index(best)
    first = next(future for future in rewarded.futures if future.candidate == number)
    said = _said_next(context, first)
    if said is None:
        left = first.conversation is not None and first.conversation.ended_by == "user"
        return Step(context, rewarded.result, None, left=left)
    turns = (*context.turns, Turn(role="assistant", text=best.text), said)
    following = context.model_copy(update={"id": name, "turns": turns, "candidates": ()})
    return Step(context, rewarded.result, following, left=False)


def _said_next(context: Context, future: Future) -> Turn | None:
    turns = future.conversation.turns[len(context.turns) + 1 :] if future.conversation else ()
    return turns[0] if turns else None


def best_path(steps: Sequence[Step]) -> Path | None:
    """None where not even the first turn has a scored candidate."""
    chosen = [best for step in steps if (best := step.result.best) is not None]
    if not chosen:
        return None
    root, last = steps[0].context, steps[len(chosen) - 1]
    said = [step.following.turns[-1] for step in steps[: len(chosen) - 1] if step.following]
    replies = [Message(role="assistant", content=best.text) for best in chosen]
    between = [Message(role="user", content=turn.text) for turn in said]
    spoken = [message for pair in zip(replies, [*between, None], strict=True) for message in pair if message]
    lost = len(chosen) < len(steps)
    goal = root.profile.goal
    return Path(
        context=root.id,
        split=root.split,
        prompt=prompt_messages(root),
        chosen=tuple(spoken),
        mrs=tuple(best.mr for best in chosen if best.mr is not None),
        ended_by="lost" if lost else "user" if last.left else "turns",
        goal=goal.summary if goal else None,
    )


def prompt_messages(context: Context) -> tuple[Message, ...]:
    turns = (Message(role=turn.role, content=turn.text) for turn in context.turns)
    return (*((Message(role="system", content=context.system),) if context.system else ()), *turns)
