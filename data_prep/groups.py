"""Connected components: which chats must stay on one side of a split."""

from __future__ import annotations

from typing import Any

import numpy as np

Ints = np.ndarray[Any, np.dtype[np.int64]]
Hashes = np.ndarray[Any, np.dtype[np.uint64]]


def components(nodes: int, one: Ints, other: Ints) -> Ints:
    """The component of each node, from edges."""
    from scipy.sparse import coo_array  # type: ignore[import-untyped]
    from scipy.sparse.csgraph import connected_components  # type: ignore[import-untyped]

    edges = coo_array((np.ones(len(one), dtype=np.int8), (one, other)), shape=(nodes, nodes))
    labels: Ints = connected_components(edges, directed=False)[1]
    return labels


def name_groups(opening: Hashes, person: Hashes, near: Ints) -> Hashes:
    """Chats of the same opening, person (0: not known) or label in `near`, also through others, are one group.

    It is named by its smallest opening, whatever came first.
    """
    chats = np.arange(len(opening))
    known = np.flatnonzero(person)
    openings, opening_of = np.unique(opening, return_inverse=True)
    persons, person_of = np.unique(person[known], return_inverse=True)
    first_person = len(chats) + len(openings)
    # Labels are nodes too, so that n chats of one label are n edges.
    first_near = first_person + len(persons)
    label_of = np.concatenate([len(chats) + opening_of, first_person + person_of, first_near + near])
    nodes = first_near + (int(near.max()) + 1 if len(near) else 0)
    found = components(nodes, np.concatenate([chats, known, chats]), label_of)[: len(chats)]
    names = np.full(nodes, np.iinfo(np.uint64).max, dtype=np.uint64)
    np.minimum.at(names, found, opening)
    return names[found]
