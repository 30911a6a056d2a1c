"""Yes-or-no verdicts on two kinds of single replies: shares by assistant, and paired differences."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence

from collab_train.bench.measures.intervals import IntervalEstimate, share, share_difference
from collab_train.bench.stage import JobResult
from collab_train.contexts import Context

Verdicts = dict[str, dict[str, bool]]
"""Verdicts by kind, then by context id."""


def by_assistant(results: Sequence[JobResult]) -> dict[str, list[JobResult]]:
    """Groups results by assistant, failed ones included, and keeps their order."""
    grouped: dict[str, list[JobResult]] = defaultdict(list)
    for result in results:
        grouped[result.job.assistant.name].append(result)
    return dict(grouped)


def failed(results: Sequence[JobResult]) -> int:
    return sum(result.played.conversation is None for result in results)


def reply_of(result: JobResult) -> str:
    """Returns the reply of a result that did not fail."""
    assert result.played.conversation is not None
    return result.played.conversation.turns[-1].text


def verdicts(
    results: Sequence[JobResult], kind_of: Callable[[Context], str], judge: Callable[[JobResult], bool | None]
) -> Verdicts:
    """Returns the verdicts on results that did not fail; those where `judge` returns None are left out."""
    by_kind: Verdicts = defaultdict(dict)
    for result in results:
        verdict = judge(result) if result.played.conversation is not None else None
        if verdict is not None:
            by_kind[kind_of(result.job.context)][result.job.context.id] = verdict
    return dict(by_kind)


def shares(by_kind: Verdicts) -> dict[str, IntervalEstimate]:
    return {kind: share(list(by_context.values())) for kind, by_context in by_kind.items()}


def differences(first: Verdicts, second: Verdicts) -> dict[str, IntervalEstimate]:
    """Paired differences by kind, over the contexts that both assistants answered."""
    gaps = {}
    for kind in first:
        shared = [name for name in first[kind] if name in second.get(kind, {})]
        if shared:
            gaps[kind] = share_difference([first[kind][n] for n in shared], [second[kind][n] for n in shared])
    return gaps


def select_evenly(
    contexts: list[Context], kind_of: Callable[[Context], str], limit: int | None
) -> list[Context]:
    """Selects at most `limit` contexts of each kind, evenly spaced over the list."""
    grouped: dict[str, list[Context]] = defaultdict(list)
    for context in contexts:
        grouped[kind_of(context)].append(context)
    return [
        group[i * len(group) // count]
        for group in grouped.values()
        for count in (min(limit or len(group), len(group)),)
        for i in range(count)
    ]
