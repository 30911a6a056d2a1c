"""Generalisation test on Abg-CoQA (Guo et al. 2021): asking back at ambiguous questions, answering clear ones.

CollabLLM has the same test. The rule is the reward `clarifies`: a reply asks if one of its sentences ends in a
question mark and is not an offer of help.
"""

from __future__ import annotations

from collections.abc import Sequence

from pydantic import Field

from collab_train.bench.conditions import Clarify, TaskSpec
from collab_train.bench.measures.cells import references_of
from collab_train.bench.measures.intervals import IntervalEstimate, macro
from collab_train.bench.single_replies.verdicts import (
    by_assistant,
    differences,
    failed,
    select_evenly,
    shares,
    verdicts,
)
from collab_train.bench.stage import JobResult
from collab_train.contexts import Context
from collab_train.rewards import Episode
from collab_train.rewards.clarify import clarifies
from usersim.types import Record

TASK = "abg_coqa"


class Asking(Record):
    assistant: str
    ambiguous: IntervalEstimate | None = None
    """Share of ambiguous questions at which it asks back."""
    clear: IntervalEstimate | None = None
    """Share of clear questions that it answers without asking."""
    macro: IntervalEstimate | None = None
    """Mean of the two: 0.5 for an assistant that always asks, and for one that never does."""
    failed: int = 0
    differences: dict[str, IntervalEstimate] = Field(default_factory=dict)
    """Differences of `macro`, by reference, over the questions that both answered."""


def contexts(config: Clarify) -> list[Context]:
    return select_evenly(TaskSpec(name=TASK, path=config.path).heldout(), _kind, config.limit)


def asking(results: Sequence[JobResult], references: Sequence[str]) -> list[Asking]:
    grouped = by_assistant(results)
    correct = {name: verdicts(own_results, _kind, _clarifies) for name, own_results in grouped.items()}
    return [
        Asking(
            assistant=name,
            ambiguous=(by_kind := shares(correct[name])).get("ambiguous"),
            clear=by_kind.get("clear"),
            macro=_macro(by_kind),
            failed=failed(own_results),
            differences={
                other: gap
                for other in references_of(references, name)
                if other in correct
                and (gap := _macro(differences(correct[name], correct[other]))) is not None
            },
        )
        for name, own_results in grouped.items()
    ]


def _macro(by_kind: dict[str, IntervalEstimate]) -> IntervalEstimate | None:
    return macro(by_kind["ambiguous"], by_kind["clear"]) if len(by_kind) == 2 else None


def _kind(context: Context) -> str:
    return "ambiguous" if context.metadata["ambiguous"] == "yes" else "clear"


def _clarifies(result: JobResult) -> bool:
    assert result.played.conversation is not None
    return bool(clarifies(Episode(result.job.context, result.played.conversation)))
