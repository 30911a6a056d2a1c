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


def name_groups(opening: Hashes, person: Hashes, front: Hashes, near: Ints) -> Hashes:
    """Chats of the same opening, person or front (0: not known) or label in `near`, also through others, are one group.

    It is named by its smallest opening, whatever came first.
    """
    chats = np.arange(len(opening))
    # Labels are nodes too, so that n chats of one label are n edges.
    nodes = len(chats)
    who: list[Ints] = []
    label_of: list[Ints] = []
    for keys in (opening, person, front):
        known = chats if keys is opening else np.flatnonzero(keys)
        labels, of = np.unique(keys[known], return_inverse=True)
        who.append(known)
        label_of.append(nodes + of)
        nodes += len(labels)
    who.append(chats)
    label_of.append(nodes + near)
    nodes += int(near.max()) + 1 if len(near) else 0
    found = components(nodes, np.concatenate(who), np.concatenate(label_of))[: len(chats)]
    names = np.full(nodes, np.iinfo(np.uint64).max, dtype=np.uint64)
    np.minimum.at(names, found, opening)
    return names[found]
