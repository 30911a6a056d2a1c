"""Sentence vectors of texts, each computed once for all metrics."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from usersim.text.embeddings import Vectors, embed


class TextVectors:
    """Cache over the sentence-embedding model of `usersim.text.embeddings`, by text."""

    def __init__(self) -> None:
        self._vectors: dict[str, Vectors] = {}

    def embed(self, texts: Sequence[str]) -> Vectors:
        """Returns unit vectors (n, width) in the order of `texts`."""
        missing = [text for text in dict.fromkeys(texts) if text not in self._vectors]
        if missing:
            self._vectors.update(zip(missing, embed(missing), strict=True))
        return np.stack([self._vectors[text] for text in texts])
