"""Whether an assistant asks when a question is ambiguous and answers when it is not, on texts it was not trained for.

Abg-CoQA (Guo et al. 2021), as in CollabLLM's generalisation test. The rule is the reward `clarifies`: a reply asks if
one of its sentences ends in a question mark and is no offer of help.
"""

from __future__ import annotations

from collections.abc import Sequence

from pydantic import Field

from collab_train.bench.conditions import Clarify, TaskSpec
from collab_train.bench.measures.cells import earlier
from collab_train.bench.measures.intervals import Estimate, macro
from collab_train.bench.single_replies.verdicts import (
    by_assistant,
    differences,
    failed,
    shares,
    spread,
    verdicts,
)
from collab_train.bench.stage import Performance
from collab_train.contexts import Context
from collab_train.rewards import Episode
from collab_train.rewards.clarify import clarifies
from usersim.types import Record

TASK = "abg_coqa"


class Asking(Record):
    assistant: str
    ambiguous: Estimate | None = None
    """Share of ambiguous questions that it asks back to."""
    clear: Estimate | None = None
    """Share of the others that it answers without asking."""
    macro: Estimate | None = None
    """Mean of the two: 0.5 for an assistant that always asks, and for one that never does."""
    failed: int = 0
    differences: dict[str, Estimate] = Field(default_factory=dict)
    """Of `macro`, by reference, over the questions that both answered."""


def contexts(config: Clarify) -> list[Context]:
    return spread(TaskSpec(name=TASK, path=config.path).heldout(), _kind, config.limit)


def asking(performances: Sequence[Performance], references: Sequence[str]) -> list[Asking]:
    grouped = by_assistant(performances)
    right = {name: verdicts(own, _kind, _clarifies) for name, own in grouped.items()}
    return [
        Asking(
            assistant=name,
            ambiguous=(found := shares(right[name])).get("ambiguous"),
            clear=found.get("clear"),
            macro=_macro(found),
            failed=failed(own),
            differences={
                other: gap
                for other in earlier(references, name)
                if other in right and (gap := _macro(differences(right[name], right[other]))) is not None
            },
        )
        for name, own in grouped.items()
    ]


def _macro(found: dict[str, Estimate]) -> Estimate | None:
    return macro(found["ambiguous"], found["clear"]) if len(found) == 2 else None


def _kind(context: Context) -> str:
    return "ambiguous" if context.metadata["ambiguous"] == "yes" else "clear"


def _clarifies(one: Performance) -> bool:
    assert one.played.conversation is not None
    return bool(clarifies(Episode(one.job.context, one.played.conversation)))
