"""Causal attention for packed windows: concatenated in one row without padding, each attending only to itself.

With a block-diagonal mask a CPU computes all pairs of windows and discards most. Window by window the cost is the sum
of
their squares.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from usersim.errors import ConfigError

NAME = "usersim_packed"


def packed_attention(
    module: Any,
    query_BHTD: torch.Tensor,
    key_BHTD: torch.Tensor,
    value_BHTD: torch.Tensor,
    attention_mask: torch.Tensor | None,
    *,
    scaling: float | None = None,
    dropout: float = 0.0,
    windows: Sequence[int] | None = None,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    """Computes attention per window. `windows`: their lengths in the one row (B = 1). Returns (B, T, H, D).

    Without `windows` it is ordinary SDPA attention, so that a model in training can be sampled from.
    """
    if windows is None:
        attended: tuple[torch.Tensor, None] = sdpa_attention_forward(
            module,
            query_BHTD,
            key_BHTD,
            value_BHTD,
            attention_mask,
            dropout=dropout,
            scaling=scaling,
            **kwargs,
        )
        return attended
    _refuse_others(kwargs, longest=max(windows))
    sizes = list(windows)
    shared = query_BHTD.shape[1] // key_BHTD.shape[1]
    parts = zip(
        torch.split(query_BHTD, sizes, 2),
        torch.split(key_BHTD.repeat_interleave(shared, 1), sizes, 2),
        torch.split(value_BHTD.repeat_interleave(shared, 1), sizes, 2),
        strict=True,
    )
    outputs = [
        torch.nn.functional.scaled_dot_product_attention(
            query, key, value, is_causal=True, scale=scaling, dropout_p=dropout
        )
        for query, key, value in parts
    ]
    return torch.cat(outputs, 2).transpose(1, 2).contiguous(), None


def _refuse_others(kwargs: dict[str, Any], *, longest: int) -> None:
    """Raises ConfigError for bases with other than plain causal attention, whose results would silently differ."""
    sliding = kwargs.get("sliding_window")
    if (
        kwargs.get("softcap") is not None
        or kwargs.get("s_aux") is not None
        or (sliding and longest > sliding)
    ):
        raise ConfigError(
            "this base has sliding windows, soft caps or sinks in its attention; use attention=flash_attention_2"
        )


def _mask(*, q_length: int, kv_length: int, attention_mask: Any = None, **kwargs: Any) -> torch.Tensor | None:
    """Returns None for unpadded rows, packed or not; else (cached decoding, padding) the mask of SDPA."""
    if attention_mask is None and q_length == kv_length:
        return None
    return sdpa_mask(q_length=q_length, kv_length=kv_length, attention_mask=attention_mask, **kwargs)


def register() -> str:
    """Registers `attn_implementation=NAME` with transformers. Returns NAME."""
    AttentionInterface.register(NAME, packed_attention)
    AttentionMaskInterface.register(NAME, _mask)
    return NAME
