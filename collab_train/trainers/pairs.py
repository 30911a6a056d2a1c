"""`usersim collab pairs`: preference pairs of the best and worst candidate of each context.

With `turns`, the conversation continues along the best reply (`collect`), and every assistant turn gives a pair.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import Field, model_validator

from collab_train.contexts import Context, Split
from collab_train.rollout import command as mr
from collab_train.rollout.accounting.results import CandidateMR, ContextMR
from collab_train.rollout.cache.windows import copy_futures
from collab_train.rollout.command import MRConfig, run_mr
from collab_train.rollout.scored import summarise
from collab_train.rollout.simulation.best_path import Message, best_path, prompt_messages
from usersim.storage.records import write_json, write_records
from usersim.storage.runs import RunDir
from usersim.types import NonEmpty, Record


class PairsConfig(MRConfig):
    out: str = "runs/collab-pairs"
    margin: float = Field(default=0.02, ge=0)
    """Minimum difference of the two rewards. Equal rewards never make a pair. May change in a resumed run."""

    turns: int = Field(default=1, ge=1, le=32)
    """Assistant turns along the best path of each context. May grow in a resumed run."""

    pairs_per_context: int = Field(default=1, ge=1)
    """Number of pairs: best and worst, second best and second worst, etc. May change in a resumed run."""

    reuse: str | None = None
    """Earlier run whose candidates and futures are reused, also with another window (`windows`)."""

    @model_validator(mode="after")
    def _turns_need_a_user(self) -> PairsConfig:
        if self.turns > 1 and self.w == 0:
            raise ValueError("turns: w=0 has no user turns, so there is no second turn; set w=1 or more")
        return self

    @property
    def scoring(self) -> MRConfig:
        """Settings of the rewards. The settings of pairs are left out, so that they may change in a resumed run."""
        return MRConfig.model_validate(self.model_dump(exclude=set(PairsConfig.__annotations__)))


class Pair(Record):
    """Preference pair in the conversational format of TRL, with its context and rewards."""

    context: NonEmpty
    split: Split
    prompt: tuple[Message, ...]
    chosen: tuple[Message, ...]
    rejected: tuple[Message, ...]
    mr_chosen: float
    mr_rejected: float
    n_chosen: int
    n_rejected: int
    goal: str | None = None


@dataclass(frozen=True)
class Pairs:
    pairs: list[Pair]
    left_out: Counter[str]
    """Number of contexts without a pair, by reason."""


def build_pairs(
    contexts: Sequence[Context], results: Sequence[ContextMR], *, margin: float, per_context: int = 1
) -> Pairs:
    """Builds preference pairs. A candidate is in at most one pair; one without a reward is in none."""
    pairs, left_out = [], Counter[str]()
    for context, result in zip(contexts, results, strict=True):
        ranked = sorted(
            ((c.mr, i) for i, c in enumerate(result.candidates) if c.mr is not None), reverse=True
        )
        if len(ranked) < 2:
            left_out["fewer than two scored candidates"] += 1
            continue
        sides = [
            (result.candidates[best], result.candidates[worst])
            for (high, best), (low, worst) in zip(ranked[: len(ranked) // 2], reversed(ranked), strict=False)
            if high > low and high - low >= margin
        ]
        if not sides:
            left_out["rewards too close"] += 1
        pairs += [_pair(context, best, worst) for best, worst in sides[:per_context]]
    return Pairs(pairs, left_out)


def _pair(context: Context, best: CandidateMR, worst: CandidateMR) -> Pair:
    assert best.mr is not None
    assert worst.mr is not None
    goal = context.profile.goal
    return Pair(
        context=context.id,
        split=context.split,
        prompt=prompt_messages(context),
        chosen=(Message(role="assistant", content=best.text),),
        rejected=(Message(role="assistant", content=worst.text),),
        mr_chosen=best.mr,
        mr_rejected=worst.mr,
        n_chosen=best.n,
        n_rejected=worst.n,
        goal=goal.summary if goal else None,
    )


def plan(config: PairsConfig, contexts: list[Context]) -> dict[str, Any]:
    """Returns the size of a run, as `mr.plan`, over all turns. Replies of later turns are always sampled."""
    first = mr.plan(config, contexts)
    later = mr.plan(config, [context.model_copy(update={"candidates": ()}) for context in contexts])
    summed_keys = (
        "candidates",
        "candidates_to_sample",
        "futures",
        *(key for key in first if "at_most" in key),
    )
    totals = {key: first[key] + (config.turns - 1) * later[key] for key in summed_keys}
    return {
        **first,
        **totals,
        "turns": config.turns,
        "pairs_at_most": config.turns * config.pairs_per_context * len(contexts),
    }


def run_pairs(config: PairsConfig, contexts: list[Context], run: RunDir) -> dict[str, Any]:
    """Scores candidates, writes pairs and best conversations, and returns the summary.

    Pairs go to train.jsonl and heldout.jsonl, conversations (`best_path.Path`) to paths.jsonl and paths_heldout.jsonl.
    Files without records are not written.
    """
    if config.reuse:
        copy_futures(run, config.reuse)
    scored = run_mr(config, contexts, run, turns=config.turns)
    per_context = config.pairs_per_context
    pairs = build_pairs(scored.contexts, scored.results, margin=config.margin, per_context=per_context)
    paths = [path for steps in scored.steps if (path := best_path(steps)) is not None]
    summary: dict[str, Any] = {
        **summarise(scored),
        "margin": config.margin,
        "turns": config.turns,
        "pairs_per_context": config.pairs_per_context,
        "left_out": dict(pairs.left_out),
        "pairs": {},
        "paths": {},
        "files": [],
    }
    for split in ("train", "heldout"):
        own_pairs = [pair for pair in pairs.pairs if pair.split == split]
        best = [path for path in paths if path.split == split]
        summary["pairs"][split], summary["paths"][split] = len(own_pairs), len(best)
        ending = "" if split == "train" else f"_{split}"
        for name, records in ((f"{split}.jsonl", own_pairs), (f"paths{ending}.jsonl", best)):
            file: Path = run.path / name
            file.unlink(missing_ok=True)
            if records:
                write_records(file, records)
                summary["files"].append(str(file))
    write_json(run.path / "summary.json", summary)
    return summary
