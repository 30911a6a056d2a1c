"""Duplicates planted among real chats, and chats that only look like duplicates: what `judge` makes of them."""

from __future__ import annotations

import random
import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import count
from typing import Any

import numpy as np

from data_prep.dedup.duplicates import NEAR_DUPLICATE, DuplicateVerdict, judge
from data_prep.dedup.signatures import hash_words, shingles, sign
from data_prep.raw_chats import RawChat, RawTurn
from usersim.stats.estimates import wilson

FEW = 20
"""Words from which on one in twenty can be edited, or a tenth left out."""
MARGIN = 0.1
"""A found pair that nobody planted is right with a true similarity of at least the threshold less this."""
TEMPLATE = (
    "You are the editor of a small newspaper with thirty years of practice. Read what I give you below with "
    "care, keep my voice, and answer in three short paragraphs without lists. Do not add facts of your own. "
    "Here is the first piece:"
)

Said = list[str]
Change = Callable[[Said, random.Random, Sequence[str]], Said]

SAME_OPENING = "same opening, another's follow-ups"
SAME_TEMPLATE = "same template, another's content"


@dataclass(frozen=True)
class Planted:
    chat: RawChat
    kind: str
    of: int | None
    """The host that it was made from or looks like; None: it looks like others of its kind."""
    same: bool = True
    """Whether it should be found as a duplicate."""


def measure(chats: Sequence[RawChat], seed: int, *, threshold: float = NEAR_DUPLICATE) -> dict[str, Any]:
    """Recall over the planted; precision over all pairs that were found.

    Two chats in three stand in the corpus. The third lends what it says to those that only look like duplicates;
    to take one of these for another is wrong however little it says of its own. `precision_by_similarity` takes
    the sketch at its word instead: right is what is alike by the sets of shingles themselves.
    """
    base = _distinct(chats, threshold)
    random.Random(seed).shuffle(base)
    hosts, donors = base[: 2 * len(base) // 3], base[2 * len(base) // 3 :]
    planted = [*copies(hosts, seed), *lookalikes(hosts, donors)]
    everything = [*hosts, *(each.chat for each in planted)]
    verdict = _judge(everything, threshold)
    tried, found = Counter[str](), Counter[str]()
    for row, each in enumerate(planted, start=len(hosts)):
        tried[each.kind] += 1
        found[each.kind] += _taken(verdict, row, each.of)
    positive = {each.kind for each in planted if each.same}
    hits, total = sum(found[kind] for kind in positive), sum(tried[kind] for kind in positive)
    right, alike, pairs = _precision(everything, len(hosts), planted, verdict, threshold)
    shares = {kind: wilson(found[kind], tried[kind]).model_dump() for kind in sorted(tried)}
    return {
        "neardup_recall": hits / total,
        "neardup_precision": right / pairs,
        "neardup": {
            "threshold": threshold,
            "chats": len(hosts),
            "recall": wilson(hits, total).model_dump(),
            "precision": wilson(right, pairs).model_dump(),
            "precision_by_similarity": alike / pairs,
            "recall_by_kind": {kind: share for kind, share in shares.items() if kind in positive},
            "taken_for_a_duplicate": {kind: share for kind, share in shares.items() if kind not in positive},
        },
    }


def copies(hosts: Sequence[RawChat], seed: int) -> Iterator[Planted]:
    """One of each chat, changed in a way that it is long enough for."""
    rng = random.Random(seed)
    words = [word for chat in hosts for text in chat.user_texts for word in text[:400].split()]
    kinds = list(CHANGES)
    for row, chat in enumerate(hosts):
        for kind in kinds[row % len(kinds) :] + kinds[: row % len(kinds)]:
            fewest, turns, change = CHANGES[kind]
            said = list(chat.user_texts)
            if _count(said) >= fewest and len(said) >= turns:
                yield Planted(_said(f"{kind} {row}", change(said, rng, words)), kind, of=row)
                break


def lookalikes(hosts: Sequence[RawChat], donors: Sequence[RawChat]) -> Iterator[Planted]:
    """Each donor speaks once: after a host's opening, or after a template that others of them use too."""
    several = [row for row, chat in enumerate(hosts) if len(chat.user_texts) > 1]
    for number, donor in enumerate(donors):
        said = donor.user_texts
        if number % 3 and len(said) > 1:
            row = several[number % len(several)]
            texts = [hosts[row].user_texts[0], *said[1:]]
            yield Planted(_said(f"opening {number}", texts), SAME_OPENING, of=row, same=False)
        elif number % 3 == 0:
            texts = [f"{TEMPLATE} {said[0]}", *said[1:]]
            yield Planted(_said(f"template {number}", texts), SAME_TEMPLATE, of=None, same=False)


def edit(said: Said, rng: random.Random, words: Sequence[str]) -> Said:
    total = _count(said)
    chosen = set(rng.sample(range(total), k=max(1, round(total / 20))))
    place, edited = count(), []
    for text in said:
        parts = re.split(r"(\s+)", text.strip())
        # Words and the spaces between them take turns.
        parts[::2] = [rng.choice(words) if next(place) in chosen else word for word in parts[::2]]
        edited.append("".join(parts))
    return edited


def truncate(said: Said, rng: random.Random, words: Sequence[str]) -> Said:
    gone = round(_count(said) * rng.uniform(0.1, 0.2))
    kept = list(said)
    while gone and len(kept[-1].split()) <= gone:
        gone -= len(kept.pop().split())
    if gone:
        kept[-1] = " ".join(kept[-1].split()[:-gone])
    return kept


def change_case(said: Said, rng: random.Random, words: Sequence[str]) -> Said:
    case = rng.choice([str.lower, str.upper, str.title])
    return [re.sub(r"[.,;:!?]", rng.choice(["", " ", "!"]), case(text)) for text in said]


CHANGES: dict[str, tuple[int, int, Change]] = {
    "5 % of words replaced": (FEW, 1, edit),
    "last 10-20 % of words left out": (FEW, 1, truncate),
    "last of 6 or more turns left out": (FEW, 6, lambda said, rng, words: said[:-1]),
    "case and punctuation": (8, 1, change_case),
    "a word added at the end": (
        8,
        1,
        lambda said, rng, words: [*said[:-1], f"{said[-1]} {rng.choice(words)}"],
    ),
}
"""Fewest words and user turns of a chat, and what is done to it."""


def _distinct(chats: Sequence[RawChat], threshold: float) -> list[RawChat]:
    return [chats[row] for row in _judge(chats, threshold).kept_rows]


def _judge(chats: Sequence[RawChat], threshold: float) -> DuplicateVerdict:
    signatures = sign(chats)
    return judge([lambda: signatures], template_count=None, near_duplicate=threshold)


def _said(id_: str, said: Said) -> RawChat:
    turns = tuple(RawTurn(role="user", text=text) for text in said)
    return RawChat(id=id_, source="planted", place=id_, turns=turns)


def _count(said: Sequence[str]) -> int:
    return sum(len(text.split()) for text in said)


def _taken(verdict: DuplicateVerdict, row: int, of: int | None) -> bool:
    kept = int(verdict.like[row])
    return kept != row if of is None else kept == int(verdict.like[of])


def _precision(
    chats: Sequence[RawChat],
    hosts: int,
    planted: Sequence[Planted],
    verdict: DuplicateVerdict,
    threshold: float,
) -> tuple[int, int, int]:
    """Of pairs of a dropped chat and the one kept for it: the right ones, those alike, and all."""
    # A lookalike is of no family.
    family = [*range(hosts), *(each.of if each.same else None for each in planted)]
    pairs = [(row, int(verdict.like[row])) for row in np.flatnonzero(verdict.reason).tolist()]
    right = alike = 0
    for row, other in pairs:
        planted_pair = family[row] is not None and family[row] == family[other]
        similar = planted_pair or _jaccard(chats[row], chats[other]) >= threshold - MARGIN
        right += planted_pair or (similar and None not in (family[row], family[other]))
        alike += similar
    return right, alike, len(pairs)


def _jaccard(one: RawChat, other: RawChat) -> float:
    first, second = (set(shingles([hash_words(t) for t in c.user_texts], 0).tolist()) for c in (one, other))
    return len(first & second) / len(first | second)
