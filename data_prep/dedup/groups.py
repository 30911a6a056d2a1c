"""Groups of chats that must stay in one split, as connected components."""

from __future__ import annotations

from typing import Any

import numpy as np

Ints = np.ndarray[Any, np.dtype[np.int64]]
Hashes = np.ndarray[Any, np.dtype[np.uint64]]


def components(nodes: int, one: Ints, other: Ints) -> Ints:
    """Returns the component label of each node of a graph given by its edges."""
    from scipy.sparse import coo_array  # type: ignore[import-untyped]
    from scipy.sparse.csgraph import connected_components  # type: ignore[import-untyped]

    edges = coo_array((np.ones(len(one), dtype=np.int8), (one, other)), shape=(nodes, nodes))
    labels: Ints = connected_components(edges, directed=False)[1]
    return labels


def name_groups(opening: Hashes, person: Hashes, front: Hashes, near: Ints) -> Hashes:
    """Returns the group name of each chat.

    Chats of one opening, person, front or near-duplicate label are one group, also through other chats. A group is
    named by its smallest opening hash, independent of the order of chats.

    Args:
        opening: hash of the first user turn.
        person: hash of the person; 0 where unknown.
        front: hash of the first characters; 0 where too short.
        near: near-duplicate label.
    """
    chats = np.arange(len(opening))
    # Labels are nodes as well, so that n chats of one label need only n edges.
    nodes = len(chats)
    chat_nodes: list[Ints] = []
    label_nodes: list[Ints] = []
    for keys in (opening, person, front):
        with_key = chats if keys is opening else np.flatnonzero(keys)
        labels, label = np.unique(keys[with_key], return_inverse=True)
        chat_nodes.append(with_key)
        label_nodes.append(nodes + label)
        nodes += len(labels)
    chat_nodes.append(chats)
    label_nodes.append(nodes + near)
    nodes += int(near.max()) + 1 if len(near) else 0
    component = components(nodes, np.concatenate(chat_nodes), np.concatenate(label_nodes))[: len(chats)]
    names = np.full(nodes, np.iinfo(np.uint64).max, dtype=np.uint64)
    np.minimum.at(names, component, opening)
    return names[component]
