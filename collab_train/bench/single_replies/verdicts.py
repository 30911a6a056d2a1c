"""Yes or no for each of two kinds of single replies: shares by assistant, and their paired differences."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence

from collab_train.bench.measures.intervals import Estimate, share, share_difference
from collab_train.bench.stage import Performance
from collab_train.contexts import Context

Verdicts = dict[str, dict[str, bool]]
"""By kind, and within by context."""


def by_assistant(performances: Sequence[Performance]) -> dict[str, list[Performance]]:
    """In order; also those that failed."""
    grouped: dict[str, list[Performance]] = defaultdict(list)
    for one in performances:
        grouped[one.job.assistant.name].append(one)
    return dict(grouped)


def failed(own: Sequence[Performance]) -> int:
    return sum(one.played.conversation is None for one in own)


def reply_of(one: Performance) -> str:
    """Of a performance that came through."""
    assert one.played.conversation is not None
    return one.played.conversation.turns[-1].text


def verdicts(
    own: Sequence[Performance], kind_of: Callable[[Context], str], says: Callable[[Performance], bool | None]
) -> Verdicts:
    """Of what came through; `says` may not know (None)."""
    found: Verdicts = defaultdict(dict)
    for one in own:
        said = says(one) if one.played.conversation is not None else None
        if said is not None:
            found[kind_of(one.job.context)][one.job.context.id] = said
    return dict(found)


def shares(found: Verdicts) -> dict[str, Estimate]:
    return {kind: share(list(said.values())) for kind, said in found.items()}


def differences(own: Verdicts, other: Verdicts) -> dict[str, Estimate]:
    """By kind, over the contexts that both have."""
    made = {}
    for kind in own:
        both = [name for name in own[kind] if name in other.get(kind, {})]
        if both:
            made[kind] = share_difference([own[kind][n] for n in both], [other[kind][n] for n in both])
    return made


def spread(listed: list[Context], kind_of: Callable[[Context], str], limit: int | None) -> list[Context]:
    """At most `limit` of each kind, evenly from the whole list."""
    grouped: dict[str, list[Context]] = defaultdict(list)
    for context in listed:
        grouped[kind_of(context)].append(context)
    return [
        own[i * len(own) // take]
        for own in grouped.values()
        for take in (min(limit or len(own), len(own)),)
        for i in range(take)
    ]
