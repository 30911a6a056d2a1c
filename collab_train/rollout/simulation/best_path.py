"""Conversations along the best replies: score candidates, take the best, continue with the user's next turn.

That turn is the first one of the best candidate's first future, so it is already simulated.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from collab_train.contexts import Context, Split
from collab_train.rollout.accounting.results import ContextMR, Future
from collab_train.rollout.simulation.candidates import Candidates
from collab_train.rollout.simulation.gather import gather
from collab_train.rollout.simulation.rollout import Rewarded, Rollout
from usersim.types import NonEmpty, Record, Turn


class Message(Record):
    role: Literal["system", "user", "assistant"]
    content: str


class Path(Record):
    """Best conversation from one context, for SFT: `prompt` followed by `chosen`.

    `prompt` is the context: the system prompt, if any, and the history, which ends with a user turn. `chosen` begins
    and ends with an assistant turn, with user turns between. Train only on its assistant turns.
    """

    context: NonEmpty
    split: Split
    prompt: tuple[Message, ...]
    chosen: tuple[Message, ...]
    mrs: tuple[float, ...]
    """Multiturn-aware rewards of the assistant turns in `chosen`, in order."""
    ended_by: Literal["user", "turns", "lost"]
    """user: the user left after the last reply. turns: all turns done. lost: every candidate or future failed."""
    goal: str | None = None


@dataclass(frozen=True)
class PathStep:
    context: Context
    """Context with its candidates; without any if no reply could be sampled."""
    result: ContextMR
    following: Context | None
    """Context one exchange later, without candidates; None at the end."""
    left: bool
    """True if the user left after the best reply."""


async def collect(
    contexts: Sequence[Context],
    rollout: Rollout,
    candidates: Candidates,
    *,
    turns: int = 1,
    reduce_total: Callable[[int], None] = lambda futures: None,
) -> list[list[PathStep]]:
    """Scores candidates along the best path of each context, concurrently.

    `reduce_total` is called with the number of futures not needed: equal candidates, a user who left, a decided race.

    Returns:
        The steps of each context, at most `turns`.
    """
    return await gather(
        _path_steps(context, rollout, candidates, turns, reduce_total) for context in contexts
    )


async def _path_steps(
    context: Context,
    rollout: Rollout,
    candidates: Candidates,
    turns: int,
    reduce_total: Callable[[int], None],
) -> list[PathStep]:
    steps, current, n = list[PathStep](), context, rollout.config.futures
    for number in range(1, turns + 1):
        filled = await candidates.fill(current)
        reduce_total(((len(current.candidates) or candidates.count) - len(filled.candidates)) * n)
        if not filled.candidates:
            steps.append(PathStep(filled, ContextMR(id=filled.id, candidates=()), None, left=False))
            break
        steps.append(_step(filled, await rollout.reward(filled), f"{context.id}/{number + 1}"))
        reduce_total(sum(candidate.stopped for candidate in steps[-1].result.candidates))
        following = steps[-1].following
        if following is None:
            break
        current = following
    reduce_total((turns - len(steps)) * candidates.count * n)
    return steps


def _step(context: Context, rewarded: Rewarded, name: str) -> PathStep:
    best = rewarded.result.best
    if best is None:
        return PathStep(context, rewarded.result, None, left=False)
    number = rewarded.result.candidates.index(best)
    first = next(future for future in rewarded.futures if future.candidate == number)
    user_turn = _next_user_turn(context, first)
    if user_turn is None:
        left = first.conversation is not None and first.conversation.ended_by == "user"
        return PathStep(context, rewarded.result, None, left=left)
    turns = (*context.turns, Turn(role="assistant", text=best.text), user_turn)
    following = context.model_copy(update={"id": name, "turns": turns, "candidates": ()})
    return PathStep(context, rewarded.result, following, left=False)


def _next_user_turn(context: Context, future: Future) -> Turn | None:
    turns = future.conversation.turns[len(context.turns) + 1 :] if future.conversation else ()
    return turns[0] if turns else None


def best_path(steps: Sequence[PathStep]) -> Path | None:
    """Builds the best conversation; None if the first turn has no scored candidate."""
    chosen = [best for step in steps if (best := step.result.best) is not None]
    if not chosen:
        return None
    root, last = steps[0].context, steps[len(chosen) - 1]
    user_turns = [step.following.turns[-1] for step in steps[: len(chosen) - 1] if step.following]
    replies = [Message(role="assistant", content=best.text) for best in chosen]
    user_messages = [Message(role="user", content=turn.text) for turn in user_turns]
    messages = [
        message for pair in zip(replies, [*user_messages, None], strict=True) for message in pair if message
    ]
    lost = len(chosen) < len(steps)
    goal = root.profile.goal
    return Path(
        context=root.id,
        split=root.split,
        prompt=prompt_messages(root),
        chosen=tuple(messages),
        mrs=tuple(best.mr for best in chosen if best.mr is not None),
        ended_by="lost" if lost else "user" if last.left else "turns",
        goal=goal.summary if goal else None,
    )


def prompt_messages(context: Context) -> tuple[Message, ...]:
    turns = (Message(role=turn.role, content=turn.text) for turn in context.turns)
    return (*((Message(role="system", content=context.system),) if context.system else ()), *turns)
