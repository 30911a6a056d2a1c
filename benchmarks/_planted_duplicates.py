"""Precision and recall of `judge` on duplicates planted among real chats, and on chats that only look alike."""

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
"""Least words of a chat of which one in twenty is edited, or a tenth left out."""
MARGIN = 0.1
"""Tolerance: a pair that was not planted is right if its true similarity is at least the threshold minus this."""
TEMPLATE = (
    "You are the editor of a small newspaper with thirty years of practice. Read what I give you below with "
    "care, keep my voice, and answer in three short paragraphs without lists. Do not add facts of your own. "
    "Here is the first piece:"
)

UserTexts = list[str]
Change = Callable[[UserTexts, random.Random, Sequence[str]], UserTexts]

SAME_OPENING = "same opening, another's follow-ups"
SAME_TEMPLATE = "same template, another's content"


@dataclass(frozen=True)
class PlantedChat:
    chat: RawChat
    kind: str
    of: int | None
    """Row of the host it was made from or looks like; None if it looks like others of its kind."""
    same: bool = True
    """True if it should be found as a duplicate."""


def measure(chats: Sequence[RawChat], seed: int, *, threshold: float = NEAR_DUPLICATE) -> dict[str, Any]:
    """Measures recall over planted duplicates and precision over all pairs found.

    Two thirds of the chats form the corpus. The user turns of the other third go into chats that only look like
    duplicates. A match with one of these is wrong, however little text of its own it has. For
    `precision_by_similarity`, a pair is right if its sets of shingles are similar enough.
    """
    base = _distinct(chats, threshold)
    random.Random(seed).shuffle(base)
    hosts, donors = base[: 2 * len(base) // 3], base[2 * len(base) // 3 :]
    planted = [*copies(hosts, seed), *lookalikes(hosts, donors)]
    all_chats = [*hosts, *(entry.chat for entry in planted)]
    verdict = _judge(all_chats, threshold)
    planted_by_kind, hits_by_kind = Counter[str](), Counter[str]()
    for row, entry in enumerate(planted, start=len(hosts)):
        planted_by_kind[entry.kind] += 1
        hits_by_kind[entry.kind] += _is_duplicate(verdict, row, entry.of)
    positive = {entry.kind for entry in planted if entry.same}
    hits, total = (
        sum(hits_by_kind[kind] for kind in positive),
        sum(planted_by_kind[kind] for kind in positive),
    )
    right, similar, pairs = _precision(all_chats, len(hosts), planted, verdict, threshold)
    shares = {
        kind: wilson(hits_by_kind[kind], planted_by_kind[kind]).model_dump()
        for kind in sorted(planted_by_kind)
    }
    return {
        "neardup_recall": hits / total,
        "neardup_precision": right / pairs,
        "neardup": {
            "threshold": threshold,
            "chats": len(hosts),
            "recall": wilson(hits, total).model_dump(),
            "precision": wilson(right, pairs).model_dump(),
            "precision_by_similarity": similar / pairs,
            "recall_by_kind": {kind: share for kind, share in shares.items() if kind in positive},
            "taken_for_a_duplicate": {kind: share for kind, share in shares.items() if kind not in positive},
        },
    }


def copies(hosts: Sequence[RawChat], seed: int) -> Iterator[PlantedChat]:
    """Yields one changed copy of each chat, by a change that suits its length."""
    rng = random.Random(seed)
    words = [word for chat in hosts for text in chat.user_texts for word in text[:400].split()]
    kinds = list(CHANGES)
    for row, chat in enumerate(hosts):
        for kind in kinds[row % len(kinds) :] + kinds[: row % len(kinds)]:
            min_words, min_turns, change = CHANGES[kind]
            texts = list(chat.user_texts)
            if _count(texts) >= min_words and len(texts) >= min_turns:
                yield PlantedChat(_chat(f"{kind} {row}", change(texts, rng, words)), kind, of=row)
                break


def lookalikes(hosts: Sequence[RawChat], donors: Sequence[RawChat]) -> Iterator[PlantedChat]:
    """Yields one chat per donor: its turns after the opening of a host, or after a template shared by donors."""
    several = [row for row, chat in enumerate(hosts) if len(chat.user_texts) > 1]
    for number, donor in enumerate(donors):
        donor_texts = donor.user_texts
        if number % 3 and len(donor_texts) > 1:
            row = several[number % len(several)]
            texts = [hosts[row].user_texts[0], *donor_texts[1:]]
            yield PlantedChat(_chat(f"opening {number}", texts), SAME_OPENING, of=row, same=False)
        elif number % 3 == 0:
            texts = [f"{TEMPLATE} {donor_texts[0]}", *donor_texts[1:]]
            yield PlantedChat(_chat(f"template {number}", texts), SAME_TEMPLATE, of=None, same=False)


def edit(texts: UserTexts, rng: random.Random, words: Sequence[str]) -> UserTexts:
    total = _count(texts)
    edited_words = set(rng.sample(range(total), k=max(1, round(total / 20))))
    counter, edited = count(), []
    for text in texts:
        parts = re.split(r"(\s+)", text.strip())
        # Even parts are words, odd parts the spaces between them.
        parts[::2] = [rng.choice(words) if next(counter) in edited_words else word for word in parts[::2]]
        edited.append("".join(parts))
    return edited


def truncate(texts: UserTexts, rng: random.Random, words: Sequence[str]) -> UserTexts:
    excess = round(_count(texts) * rng.uniform(0.1, 0.2))
    shortened = list(texts)
    while excess and len(shortened[-1].split()) <= excess:
        excess -= len(shortened.pop().split())
    if excess:
        shortened[-1] = " ".join(shortened[-1].split()[:-excess])
    return shortened


def change_case(texts: UserTexts, rng: random.Random, words: Sequence[str]) -> UserTexts:
    case = rng.choice([str.lower, str.upper, str.title])
    return [re.sub(r"[.,;:!?]", rng.choice(["", " ", "!"]), case(text)) for text in texts]


CHANGES: dict[str, tuple[int, int, Change]] = {
    "5 % of words replaced": (FEW, 1, edit),
    "last 10-20 % of words left out": (FEW, 1, truncate),
    "last of 6 or more turns left out": (FEW, 6, lambda texts, rng, words: texts[:-1]),
    "case and punctuation": (8, 1, change_case),
    "a word added at the end": (
        8,
        1,
        lambda texts, rng, words: [*texts[:-1], f"{texts[-1]} {rng.choice(words)}"],
    ),
}
"""By kind: least words and user turns of a chat, and the change."""


def _distinct(chats: Sequence[RawChat], threshold: float) -> list[RawChat]:
    return [chats[row] for row in _judge(chats, threshold).kept_rows]


def _judge(chats: Sequence[RawChat], threshold: float) -> DuplicateVerdict:
    signatures = sign(chats)
    return judge([lambda: signatures], template_count=None, near_duplicate=threshold)


def _chat(id_: str, texts: UserTexts) -> RawChat:
    turns = tuple(RawTurn(role="user", text=text) for text in texts)
    return RawChat(id=id_, source="planted", place=id_, turns=turns)


def _count(texts: Sequence[str]) -> int:
    return sum(len(text.split()) for text in texts)


def _is_duplicate(verdict: DuplicateVerdict, row: int, host: int | None) -> bool:
    kept_row = int(verdict.like[row])
    return kept_row != row if host is None else kept_row == int(verdict.like[host])


def _precision(
    chats: Sequence[RawChat],
    hosts: int,
    planted: Sequence[PlantedChat],
    verdict: DuplicateVerdict,
    threshold: float,
) -> tuple[int, int, int]:
    """Counts pairs of a dropped chat and the one kept for it: right ones, similar ones, and all."""
    # A lookalike belongs to no family.
    family = [*range(hosts), *(entry.of if entry.same else None for entry in planted)]
    pairs = [(row, int(verdict.like[row])) for row in np.flatnonzero(verdict.reason).tolist()]
    right = similar_pairs = 0
    for row, other in pairs:
        is_planted = family[row] is not None and family[row] == family[other]
        is_similar = is_planted or _jaccard(chats[row], chats[other]) >= threshold - MARGIN
        right += is_planted or (is_similar and None not in (family[row], family[other]))
        similar_pairs += is_similar
    return right, similar_pairs, len(pairs)


def _jaccard(one: RawChat, other: RawChat) -> float:
    first, second = (set(shingles([hash_words(t) for t in c.user_texts], 0).tolist()) for c in (one, other))
    return len(first & second) / len(first | second)
