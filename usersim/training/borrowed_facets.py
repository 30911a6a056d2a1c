"""Facets borrowed from the nearest other goal, as unsaid wishes of conversations without such annotations."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from usersim.storage.records import write_json
from usersim.text.embeddings import Vectors, embed
from usersim.types import Conversation

NEIGHBOURS = ".neighbours.json"
"""File in the run folder that stores the lenders, so that a resumed run borrows the same facets despite rounding."""
BLOCK = 2048


def borrowed(conversations: Sequence[Conversation], folder: Path) -> dict[int, tuple[str, ...]]:
    """Returns borrowed facets by index, for goals without annotated `unsaid`.

    The lender is the nearest goal with facets and a different summary. Facets that the borrower has too are left out.
    `folder` stores the pairs.
    """
    lenders: dict[int, str] = {}
    borrowers: dict[int, str] = {}
    for index, conversation in enumerate(conversations):
        if (goal := conversation.profile.goal) is not None:
            if goal.facets:
                lenders[index] = goal.summary
            if not conversation.unsaid:
                borrowers[index] = goal.summary
    facets_by_borrower: dict[int, tuple[str, ...]] = {}
    for borrower, lender in _neighbours(borrowers, lenders, folder / NEIGHBOURS).items():
        own, other = conversations[borrower].profile.goal, conversations[lender].profile.goal
        assert own is not None
        assert other is not None
        own_facets = {facet.text.casefold() for facet in own.facets}
        facets_by_borrower[borrower] = tuple(
            f.text for f in other.facets if f.text.casefold() not in own_facets
        )
    return facets_by_borrower


def _neighbours(borrowers: dict[int, str], lenders: dict[int, str], file: Path) -> dict[int, int]:
    request_hash = hashlib.sha256(
        json.dumps([list(borrowers.items()), list(lenders.items())]).encode()
    ).hexdigest()
    if file.is_file():
        cache = json.loads(file.read_bytes())
        if cache["asked"] == request_hash:
            return dict(cache["neighbours"])
    neighbours = _nearest(borrowers, lenders)
    if file.parent.is_dir():  # not in a dry run
        write_json(file, {"asked": request_hash, "neighbours": list(neighbours.items())})
    return neighbours


def _nearest(borrowers: dict[int, str], lenders: dict[int, str]) -> dict[int, int]:
    if not borrowers or len(lenders) < 2:
        return {}
    indices, texts = list(lenders), np.array(list(lenders.values()))
    vectors = embed(list(lenders.values()))
    neighbours: dict[int, int] = {}
    queries = list(borrowers.items())
    for start in range(0, len(queries), BLOCK):
        block = queries[start : start + BLOCK]
        cosine: Vectors = np.round(embed([text for _, text in block]) @ vectors.T, 3)
        for row, (borrower, text) in zip(cosine, block, strict=True):
            row[texts == text] = -2  # itself, and goals with the same summary
            if (best := int(row.argmax())) >= 0 and row[best] > -2:
                neighbours[borrower] = indices[best]
    return neighbours
