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
    for one in results:
        grouped[one.job.assistant.name].append(one)
    return dict(grouped)


def failed(own: Sequence[JobResult]) -> int:
    return sum(one.played.conversation is None for one in own)


def reply_of(one: JobResult) -> str:
    """Returns the reply of a result that did not fail."""
    assert one.played.conversation is not None
    return one.played.conversation.turns[-1].text


def verdicts(
    own: Sequence[JobResult], kind_of: Callable[[Context], str], judge: Callable[[JobResult], bool | None]
) -> Verdicts:
    """Returns the verdicts on results that did not fail; those where `judge` returns None are left out."""
    by_kind: Verdicts = defaultdict(dict)
    for one in own:
        verdict = judge(one) if one.played.conversation is not None else None
        if verdict is not None:
            by_kind[kind_of(one.job.context)][one.job.context.id] = verdict
    return dict(by_kind)


def shares(by_kind: Verdicts) -> dict[str, IntervalEstimate]:
    return {kind: share(list(by_context.values())) for kind, by_context in by_kind.items()}


def differences(own: Verdicts, other: Verdicts) -> dict[str, IntervalEstimate]:
    """Paired differences by kind, over the contexts that both assistants answered."""
    gaps = {}
    for kind in own:
        both = [name for name in own[kind] if name in other.get(kind, {})]
        if both:
            gaps[kind] = share_difference([own[kind][n] for n in both], [other[kind][n] for n in both])
    return gaps


def spread(listed: list[Context], kind_of: Callable[[Context], str], limit: int | None) -> list[Context]:
    """Selects at most `limit` contexts of each kind, evenly spaced over the list."""
    grouped: dict[str, list[Context]] = defaultdict(list)
    for context in listed:
        grouped[kind_of(context)].append(context)
    return [
        own[i * len(own) // take]
        for own in grouped.values()
        for take in (min(limit or len(own), len(own)),)
        for i in range(take)
    ]
