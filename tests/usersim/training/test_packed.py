"""Windows laid end to end are, to the model, the same windows one by one: logits and gradients."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from usersim.errors import ConfigError
from usersim.training.data import IGNORED, collate
from usersim.training.packed_attention import packed_attention, register
from usersim.weights.base_model import load_user_base

SIZES = (7, 1, 30, 12)


def windows(sizes: Sequence[int] = SIZES) -> list[dict[str, list[int]]]:
    generator = torch.Generator().manual_seed(0)
    drawn = [torch.randint(5, 250, (size,), generator=generator).tolist() for size in sizes]
    return [{"input_ids": ids, "labels": [IGNORED, *ids[1:]]} for ids in drawn]


def logits_and_gradients(
    base: Path, attention: str, batches: list[dict[str, Any]]
) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    model = load_user_base(base, attention=attention).model.train()
    logits = torch.cat([model(**batch, use_cache=False).logits[0] for batch in batches])
    targets = torch.cat([batch["input_ids"][0] for batch in batches])
    torch.nn.functional.cross_entropy(logits, targets, reduction="sum").backward()
    return logits.detach(), {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


def packed_batch(rows: list[dict[str, list[int]]]) -> dict[str, Any]:
    batch = collate(rows)
    batch.pop("labels")
    return batch


def test_packed_windows_have_the_logits_and_gradients_of_separate_ones(tiny_base: Path) -> None:
    separate = [{"input_ids": torch.tensor([row["input_ids"]])} for row in windows()]
    expected_logits, expected = logits_and_gradients(tiny_base, "eager", separate)
    logits, gradients = logits_and_gradients(tiny_base, register(), [packed_batch(windows())])
    # The base has two key heads under four query heads, so a wrong pairing of heads would show here.
    torch.testing.assert_close(logits, expected_logits, atol=1e-5, rtol=1e-4)
    assert gradients.keys() == expected.keys()
    for name, gradient in gradients.items():
        torch.testing.assert_close(gradient, expected[name], atol=1e-4, rtol=1e-3, msg=name)


def test_without_boundaries_it_is_ordinary_attention_padding_and_cache_included(tiny_base: Path) -> None:
    ours = load_user_base(tiny_base, attention=register()).model.eval()
    theirs = load_user_base(tiny_base, attention="sdpa").model.eval()
    ids = torch.tensor([windows([12])[0]["input_ids"], windows([12])[0]["input_ids"][::-1]])
    padded = torch.ones_like(ids)
    padded[0, :5] = 0
    with torch.no_grad():
        torch.testing.assert_close(
            ours(input_ids=ids, attention_mask=padded).logits[:, 5:],
            theirs(input_ids=ids, attention_mask=padded).logits[:, 5:],
        )
        whole = theirs(input_ids=ids).logits
        start = ours(input_ids=ids[:, :6], use_cache=True)
        # Three at once and then one by one: a chunk after a cache is where causal alignment goes wrong.
        chunk = ours(input_ids=ids[:, 6:9], past_key_values=start.past_key_values, use_cache=True)
        last = ours(input_ids=ids[:, 9:10], past_key_values=chunk.past_key_values, use_cache=True)
    pieces = torch.cat([start.logits, chunk.logits, last.logits], dim=1)
    torch.testing.assert_close(pieces, whole[:, :10], atol=1e-5, rtol=1e-4)


def test_dropout_is_drawn_in_training_only(tiny_base: Path) -> None:
    model = load_user_base(tiny_base, attention=register()).model
    for layer in model.model.layers:
        layer.self_attn.attention_dropout = 0.5
    batch = packed_batch(windows())
    with torch.no_grad():
        model.train()
        assert not torch.equal(model(**batch).logits, model(**batch).logits)
        model.eval()
        assert torch.equal(model(**batch).logits, model(**batch).logits)


def test_a_base_whose_attention_it_cannot_give_is_refused() -> None:
    q = torch.zeros(1, 2, 8, 4)
    assert packed_attention(None, q, q, q, None, windows=[4, 4], sliding_window=4)[0].shape == (1, 8, 2, 4)
    with pytest.raises(ConfigError, match="flash_attention_2"):
        packed_attention(None, q, q, q, None, windows=[5, 3], sliding_window=4)
    with pytest.raises(ConfigError, match="flash_attention_2"):
        packed_attention(None, q, q, q, None, windows=[8], softcap=50.0)
