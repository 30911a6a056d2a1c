"""Records of a rollout: futures, and rewards of candidates with interval and cost."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from statistics import fmean, stdev
from typing import ClassVar

from pydantic import Field

from usersim.types import Conversation, NonEmpty, Record

T_975 = (
    12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179, 2.160, 2.145, 2.131,
    2.120, 2.110, 2.101, 2.093, 2.086, 2.080, 2.074, 2.069, 2.064, 2.060, 2.056, 2.052, 2.048, 2.045, 2.042,
)  # fmt: skip
"""Student's t, 97.5 % point, for 1 to 30 degrees of freedom; 1.96 beyond."""


class Cost(Record):
    """Counts of generated turns and tokens; of prompts, only those of the user are counted."""

    COUNTS: ClassVar[tuple[str, ...]] = (
        "user_turns",
        "user_turns_cut",
        "user_tokens",
        "user_prompt_tokens",
        "assistant_turns",
        "assistant_tokens",
        "retries",
    )

    user_turns: int = 0
    """User turns; leaving counts as one."""
    user_turns_cut: int = 0
    """User turns cut by the token limit."""
    user_tokens: int = 0
    """Tokens sampled by the user model, end tokens included."""
    user_prompt_tokens: int = 0
    """Prompt tokens of the user model, without caching except for the shared prompt of a candidate's first turns."""
    assistant_turns: int = 0
    assistant_tokens: int = 0
    """Words and punctuation marks of the assistant's replies (`rewards.count_tokens`), without the candidate."""
    retries: int = 0
    """Retries of calls that failed or returned an empty reply."""
    seconds: float = 0.0
    """Sum over futures, waiting included. Futures overlap, so this exceeds the wall time."""


class Future(Record):
    """One simulated continuation of one candidate, or the error that prevented it."""

    key: NonEmpty
    """Hash of everything that its text depends on."""
    context: NonEmpty
    candidate: int
    index: int
    seed: int
    conversation: Conversation | None = None
    error: str | None = None
    cost: Cost = Cost()


class CandidateMR(Record):
    text: str
    mr: float | None = None
    """Mean reward over the successful futures; None without any."""
    se: float | None = None
    """Standard error over futures; None with fewer than two."""
    interval: tuple[float, float] | None = None
    """95 % interval, Student's t over futures."""
    n: int = 0
    failed: int = 0
    """Number of failed futures. They are left out, never scored 0."""
    failures: dict[str, int] = Field(default_factory=dict)
    """Number of failed futures, by error."""
    stopped: int = 0
    """Number of futures stopped by a decided race (`RolloutConfig.racing`); neither scored nor failed."""
    components: dict[str, float] = Field(default_factory=dict)
    """Means over the successful futures: unweighted extrinsic rewards, intrinsic reward, tokens of the window."""
    rewards: tuple[float, ...] = ()
    """R of each successful future, by index."""
    cost: Cost = Cost()

    @property
    def errors(self) -> tuple[str, ...]:
        return tuple(self.failures)


class ContextMR(Record):
    id: NonEmpty
    candidates: tuple[CandidateMR, ...]

    @property
    def best(self) -> CandidateMR | None:
        scored = [c for c in self.candidates if c.mr is not None]
        return max(scored, key=lambda c: c.mr or 0.0) if scored else None


def candidate_mr(
    text: str,
    scored: Sequence[tuple[float, dict[str, float]]],
    failed: Sequence[str],
    costs: Sequence[Cost],
    *,
    stopped: int = 0,
) -> CandidateMR:
    rewards = [total for total, _ in scored]
    names = list(scored[0][1]) if scored else []
    return CandidateMR(
        text=text,
        mr=fmean(rewards) if rewards else None,
        se=standard_error(rewards),
        interval=interval(rewards),
        n=len(rewards),
        failed=len(failed),
        failures=dict(sorted(Counter(failed).items())),
        stopped=stopped,
        components={name: fmean(parts[name] for _, parts in scored) for name in names},
        rewards=tuple(rewards),
        cost=total_cost(costs),
    )


def standard_error(values: Sequence[float]) -> float | None:
    return stdev(values) / math.sqrt(len(values)) if len(values) > 1 else None


def interval(values: Sequence[float]) -> tuple[float, float] | None:
    """Returns the 95 % interval of the mean, Student's t; None for fewer than two values."""
    error = standard_error(values)
    if error is None:
        return None
    half = (T_975[len(values) - 2] if len(values) - 1 <= len(T_975) else 1.96) * error
    return fmean(values) - half, fmean(values) + half


def total_cost(costs: Sequence[Cost]) -> Cost:
    counts = {name: sum(getattr(cost, name) for cost in costs) for name in Cost.COUNTS}
    return Cost(**counts, seconds=round(sum(cost.seconds for cost in costs), 3))
