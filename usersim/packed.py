"""Causal attention over windows laid end to end in one row, each on its own: no padding, no mask, no crossing.

With a block-diagonal mask a CPU computes every pair of windows and throws most away; window by window the cost is
the sum of their squares.
"""

from __future__ import annotations

from typing import Any

import torch
from transformers import AttentionInterface, AttentionMaskInterface

NAME = "usersim_packed"


def packed_attention(
    module: Any,
    query_BHTD: torch.Tensor,
    key_BHTD: torch.Tensor,
    value_BHTD: torch.Tensor,
    attention_mask: None,
    *,
    scaling: float | None = None,
    dropout: float = 0.0,
    cu_seq_lens_q: torch.Tensor,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    """One row (B = 1); `cu_seq_lens_q`: 0 and where each window ends. Returns (1, T, H, D)."""
    sizes = cu_seq_lens_q.diff().tolist()
    shared = query_BHTD.shape[1] // key_BHTD.shape[1]
    windows = zip(
        query_BHTD.split(sizes, 2),
        key_BHTD.repeat_interleave(shared, 1).split(sizes, 2),
        value_BHTD.repeat_interleave(shared, 1).split(sizes, 2),
        strict=True,
    )
    attended = [
        torch.nn.functional.scaled_dot_product_attention(
            query, key, value, is_causal=True, scale=scaling, dropout_p=dropout
        )
        for query, key, value in windows
    ]
    return torch.cat(attended, 2).transpose(1, 2).contiguous(), None


def _no_mask(*args: Any, **kwargs: Any) -> None:
    """The windows part themselves."""


def register() -> str:
    """Makes `attn_implementation=NAME` known to transformers; returns NAME."""
    AttentionInterface.register(NAME, packed_attention)
    AttentionMaskInterface.register(NAME, _no_mask)
    return NAME
