"""What vLLM's samplers want of `usersim.nucleus`: logits with everything outside at -inf."""

from __future__ import annotations

import torch

from usersim.nucleus import kept


def nucleus(logits_BV: torch.Tensor, k_B: torch.Tensor | None, p_B: torch.Tensor) -> torch.Tensor:
    """A new tensor; `logits_BV` is left as it is. k = V (or none) and p = 1 set no limit."""
    if k_B is None:
        k_B = torch.full_like(p_B, logits_BV.shape[1], dtype=torch.long)
    inside_BV = torch.full_like(logits_BV, -torch.inf)
    for rows_R, tokens_RH, logits_RH in kept(logits_BV, k_B.to(torch.long), p_B):
        inside_BV[rows_R] = inside_BV[rows_R].scatter_(1, tokens_RH, logits_RH)
    return inside_BV
