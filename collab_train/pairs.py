"""`usersim collab pairs`: best against worst candidate of each context, where their rewards lie apart."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from collab_train.contexts import Context, Split
from collab_train.mr import MRConfig, run_mr, summarise
from collab_train.results import ContextMR
from usersim.records import write_json, write_records
from usersim.runs import RunDir
from usersim.types import NonEmpty, Record


class PairsConfig(MRConfig):
    out: str = "runs/collab-pairs"
    margin: float = Field(default=0.02, ge=0)
    """Smallest difference of the two rewards; equal rewards never make a pair. May change when a run is resumed."""

    @property
    def scoring(self) -> MRConfig:
        """What the rewards depend on; pairs with another margin are made from the same run directory."""
        return MRConfig.model_validate(self.model_dump(exclude={"margin"}))


class Message(Record):
    role: Literal["system", "user", "assistant"]
    content: str


class Pair(Record):
    """A preference in the conversational form that TRL takes; the other columns say where it comes from."""

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
    made: list[Pair]
    left_out: Counter[str]
    """Contexts without a pair, by reason."""


def build_pairs(contexts: Sequence[Context], results: Sequence[ContextMR], *, margin: float) -> Pairs:
    """One pair a context at most; a candidate without a reward is neither best nor worst."""
    made, left_out = [], Counter[str]()
    for context, result in zip(contexts, results, strict=True):
        scored = sorted((c for c in result.candidates if c.mr is not None), key=lambda c: c.mr or 0.0)
        if len(scored) < 2:
            left_out["fewer than two scored candidates"] += 1
            continue
        worst, best = scored[0], scored[-1]
        low, high = worst.mr or 0.0, best.mr or 0.0
        if high == low or high - low < margin:
            left_out["rewards too close"] += 1
            continue
        goal = context.profile.goal
        made.append(
            Pair(
                context=context.id,
                split=context.split,
                prompt=prompt_messages(context),
                chosen=(Message(role="assistant", content=best.text),),
                rejected=(Message(role="assistant", content=worst.text),),
                mr_chosen=high,
                mr_rejected=low,
                n_chosen=best.n,
                n_rejected=worst.n,
                goal=goal.summary if goal else None,
            )
        )
    return Pairs(made, left_out)


def prompt_messages(context: Context) -> tuple[Message, ...]:
    turns = (Message(role=turn.role, content=turn.text) for turn in context.turns)
    return (*((Message(role="system", content=context.system),) if context.system else ()), *turns)


def run_pairs(config: PairsConfig, contexts: list[Context], run: RunDir) -> dict[str, Any]:
    """Writes train.jsonl and heldout.jsonl (each only where it has pairs) and returns the summary."""
    scored = run_mr(config, contexts, run)
    pairs = build_pairs(scored.contexts, scored.results, margin=config.margin)
    summary = {
        **summarise(scored),
        "margin": config.margin,
        "left_out": dict(pairs.left_out),
        "pairs": {},
        "files": [],
    }
    for split in ("train", "heldout"):
        kept = [pair for pair in pairs.made if pair.split == split]
        summary["pairs"][split] = len(kept)
        path: Path = run.path / f"{split}.jsonl"
        path.unlink(missing_ok=True)
        if kept:
            write_records(path, kept)
            summary["files"].append(str(path))
    write_json(run.path / "summary.json", summary)
    return summary
