"""Causal attention over windows laid end to end in one row, each on its own: no padding, no mask, no crossing.

With a block-diagonal mask a CPU computes every pair of windows and throws most away; window by window the cost is
the sum of their squares.
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
    """`windows`: the length of each in the one row (B = 1). Returns (B, T, H, D).

    Without `windows` ordinary SDPA attention, so that a model in training can be sampled from.
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
    """Plain causal attention only: a silent difference to how the base was trained would be worse than an error."""
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
    """None for whole unpadded rows, in windows or one piece; else (cached decoding, padding) the mask of SDPA."""
    if attention_mask is None and q_length == kv_length:
        return None
    return sdpa_mask(q_length=q_length, kv_length=kv_length, attention_mask=attention_mask, **kwargs)


def register() -> str:
    """Makes `attn_implementation=NAME` known to transformers; returns NAME."""
    AttentionInterface.register(NAME, packed_attention)
    AttentionMaskInterface.register(NAME, _mask)
    return NAME
