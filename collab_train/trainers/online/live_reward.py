"""Multiturn-aware reward of newly sampled replies, simulated with the model in training."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from collab_train.contexts import Context
from collab_train.rewards import Tools
from collab_train.rollout.accounting.results import CandidateMR, ContextMR, Future
from collab_train.rollout.cache.journal import Journal
from collab_train.rollout.simulation.rollout import RolloutConfig, multiturn_rewards
from collab_train.trainers.online.live_policy import LivePolicy
from collab_train.trainers.run_log import Bars
from usersim.api import run as run_async
from usersim.errors import BackendError
from usersim.types import Conversation
from usersim.users.dialogue import Assistant
from usersim.users.protocols import User

STEP_SEED = 7_919
"""Distance between the seeds of consecutive steps, so that a repeated context gets other futures."""


@dataclass(frozen=True)
class ReplyScores:
    rewards: list[float | None]
    """Reward of each reply; None if it was empty or all its futures failed."""
    metrics: dict[str, float]


class MultiturnReward:
    """Asynchronous reward function for GRPO and RLOO of TRL; `score_sync` is its synchronous form.

    The column `context` of the prompt dataset holds context ids. A reply without a reward gets None, which TRL leaves
    out of its group. All calls use one event loop, so that connections stay open between steps.
    """

    __name__ = "mr"  # name in the logs of TRL

    def __init__(
        self,
        contexts: Sequence[Context],
        user: User,
        config: RolloutConfig,
        *,
        folder: Path,
        bars: Bars,
        tools: Tools | None = None,
        rank: int = 0,
        example_count: int = 0,
    ) -> None:
        self.contexts = {context.id: context for context in contexts}
        self.user, self.config, self.folder, self.bars = user, config, folder, bars
        self.tools, self.rank, self.example_count = tools or Tools(user=user), rank, example_count
        self.rows: list[list[Any]] = []
        """Example conversations of the last step, for `TrainLog`."""

    def connect(
        self, assistant: Assistant, weights: Callable[[], str], tokens: Callable[[str], int]
    ) -> MultiturnReward:
        """Sets what exists only after the trainer is built.

        Args:
            assistant: the assistant in futures.
            weights: returns a hash of its current weights.
            tokens: counts the tokens of a reply.
        """
        self.assistant, self.weights, self.tokens = assistant, weights, tokens
        return self

    async def __call__(
        self,
        prompts: Sequence[Any],
        completions: Sequence[Any],
        completion_ids: Sequence[Any],
        context: Sequence[str],
        trainer_state: Any,
        log_metric: Callable[[str, float], None],
        **columns: Any,
    ) -> list[float | None]:
        texts = [completion[0]["content"] for completion in completions]
        scores = await asyncio.to_thread(self.score_sync, context, texts, trainer_state.global_step)
        for name, value in scores.metrics.items():
            log_metric(name, value)
        return scores.rewards

    def score_sync(self, names: Sequence[str], texts: Sequence[str], step: int) -> ReplyScores:
        return run_async(self.score(names, texts, step))

    async def score(self, names: Sequence[str], texts: Sequence[str], step: int) -> ReplyScores:
        """Scores replies to contexts; equal replies are simulated once.

        Args:
            names: context id of each reply.
            texts: the replies.
            step: optimiser step.

        Raises:
            BackendError: no reply has a reward, so the step could not train.
        """
        started, contexts = time.monotonic(), self._filled(names, texts)
        futures = list[Future]()
        self.bars.futures(sum(len(c.candidates) for c in contexts) * self.config.futures)
        with self._evaluation_mode():
            results = await multiturn_rewards(
                contexts,
                self.user,
                self.assistant,
                self.config.model_copy(update={"seed": self.config.seed + STEP_SEED * (step + 1)}),
                journal=Journal(self.folder / f"step-{step:06d}-{self.rank}.jsonl", Future),
                cache_key=self.weights(),
                tools=self.tools,
                done=lambda future: self._done(futures, future),
            )
        by_reply = {(result.id, c.text): c for result in results for c in result.candidates}
        scored = [by_reply.get((name, text.strip())) for name, text in zip(names, texts, strict=True)]
        _require_a_reward(scored)
        self.rows = self._rows(step, results, futures)
        metrics = {**self._metrics(texts, scored), "rollout_s": round(time.monotonic() - started, 2)}
        return ReplyScores([candidate.mr if candidate else None for candidate in scored], metrics)

    def _filled(self, names: Sequence[str], texts: Sequence[str]) -> list[Context]:
        """Returns the contexts of the replies, with the replies as candidates."""
        replies: dict[str, dict[str, None]] = {}
        for name, text in zip(names, texts, strict=True):
            if text.strip():
                replies.setdefault(name, {})[text.strip()] = None
        return [
            self.contexts[name].model_copy(update={"candidates": tuple(texts_of_context)})
            for name, texts_of_context in replies.items()
        ]

    def _evaluation_mode(self) -> AbstractContextManager[None]:
        return self.assistant.in_eval_mode() if isinstance(self.assistant, LivePolicy) else nullcontext()

    def _done(self, futures: list[Future], future: Future) -> None:
        futures.append(future)
        self.bars.future(sum(simulated.conversation is None for simulated in futures))

    def _metrics(self, texts: Sequence[str], scored: Sequence[CandidateMR | None]) -> dict[str, float]:
        rewarded = [c for c in scored if c is not None and c.mr is not None]
        names = list(rewarded[0].components)
        unique_candidates = {id(c): c for c in scored if c is not None}.values()
        return {
            "mr": fmean(c.mr or 0.0 for c in rewarded),
            **{f"mr/{name}": fmean(c.components[name] for c in rewarded) for name in names},
            "reply_tokens": fmean(self.tokens(text) for text in texts),
            "question_rate": fmean("?" in text for text in texts),
            "replies_without_mr": len(scored) - len(rewarded),
            "futures": sum(c.n + c.failed for c in unique_candidates),
            "futures_failed": sum(c.failed for c in unique_candidates),
        }

    def _rows(self, step: int, results: Sequence[ContextMR], futures: Sequence[Future]) -> list[list[Any]]:
        first: dict[str, Future] = {}
        for future in futures:
            if future.conversation is not None:
                first.setdefault(future.context, future)
        by_id = {result.id: result for result in results}
        return [
            [
                step,
                name,
                goal.summary if (goal := self.contexts[name].profile.goal) else "",
                by_id[name].candidates[future.candidate].mr,
                transcript(future.conversation),
            ]
            for name, future in list(first.items())[: self.example_count]
        ]


def transcript(conversation: Conversation | None) -> str:
    return "\n".join(f"{turn.role}: {turn.text}" for turn in conversation.turns) if conversation else ""


def _require_a_reward(scored: Sequence[CandidateMR | None]) -> None:
    if any(candidate is not None and candidate.mr is not None for candidate in scored):
        return
    reasons = [reason for candidate in scored if candidate for reason in candidate.errors]
    first = reasons[0] if reasons else "every reply of the assistant was empty"
    raise BackendError(
        f"no reply of this step has a reward ({first}); fix the cause and rerun the same command"
    )
