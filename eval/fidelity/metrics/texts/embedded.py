"""Sentence embeddings of user text (`usersim.text.embeddings`), computed once and stored with a sample.

The text that is read is bounded, so that a paste of megabytes costs nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from importlib.util import find_spec

import numpy as np

from eval.fidelity.samples.features import Sample, user_texts
from usersim.errors import ConfigError
from usersim.stats.estimates import Floats
from usersim.text import embeddings as embed
from usersim.text.embeddings import wheel_folder
from usersim.types import Conversation

TURNS, CHARACTERS = 8, 400
"""First user turns of a conversation, and first characters of each turn, that are read."""
CARRIED = "_embedded"
MOST_KNOWN = 50_000
"""Texts cached in a process, 1.5 KB each."""

Reading = Callable[[Conversation], Sequence[str]]
"""Function that returns the texts of a conversation whose vectors are averaged; at least one."""

_known: dict[str, np.ndarray] = {}


def unavailable() -> str | None:
    """Returns the reason why there are no embeddings, in one line; None where there are. Loads nothing."""
    lacking = [name for name in ("torch", "transformers") if find_spec(name) is None]
    if lacking:
        return f"embeddings need {' and '.join(lacking)}; install the extra `local`"
    try:
        wheel_folder()
    except ConfigError as error:
        return str(error)
    return None


def turn_means(sample: Sample) -> Floats:
    """Returns (N, 384): the mean of the unit vectors of a conversation's user turns. Raises ConfigError without a
    model."""
    return vectors(sample, "turns", opening_turns)


def opening_turns(conversation: Conversation) -> list[str]:
    return [text[:CHARACTERS] for text in user_texts(conversation)[:TURNS]]


def vectors(sample: Sample, name: str, read: Reading) -> Floats:
    """Returns (N, 384) means of the vectors of `read`'s texts, computed once for a sample and name.

    They stay with the sample, also through pickling: vectors computed before work goes to other processes need no
    model there.
    """
    carried: dict[str, Floats] = sample.__dict__.setdefault(CARRIED, {})
    if name not in carried:
        texts = [list(read(conversation)) for conversation in sample.conversations]
        flat = embedded([text for row in texts for text in row])
        ends = np.cumsum([len(row) for row in texts])
        carried[name] = np.array([rows.mean(0) for rows in np.split(flat, ends[:-1])])
    return carried[name]


def embedded(texts: Sequence[str]) -> Floats:
    """Returns (n, 384) unit vectors; texts of this process's cache are not embedded again."""
    distinct = dict.fromkeys(texts)
    new = [text for text in distinct if text not in _known]
    if len(_known) + len(new) > MOST_KNOWN:
        _known.clear()
        new = list(distinct)
    if new:
        _known.update(zip(new, embed.embed(new), strict=True))
    return np.array([_known[text] for text in texts], dtype=np.float64)


def remember(texts: Sequence[str], rows: np.ndarray) -> None:
    """Adds vectors of another process to the cache: `rows[i]` is the vector of `texts[i]`."""
    _known.update(zip(texts, rows, strict=True))


def joined(first: Sample, second: Sample) -> Sample:
    """Returns both samples as one, the first before the second, with the vectors that both have."""
    joined_sample = Sample(first.conversations + second.conversations, first.values + second.values)
    first_vectors, second_vectors = (side.__dict__.get(CARRIED, {}) for side in (first, second))
    joined_sample.__dict__[CARRIED] = {
        name: np.vstack([first_vectors[name], second_vectors[name]])
        for name in first_vectors
        if name in second_vectors
    }
    return joined_sample
