"""Top-p on CPU without sorting the vocabulary.

vLLM (0.32, `apply_top_k_top_p_pytorch`) sorts all logits of every row. With 49,152 tokens and one core that is 4 ms
a row, and with a hundred rows several times what a small model's forward pass takes. The nucleus nearly always lies
in the likeliest few hundred tokens: those alone are sorted, and the mass that they hold says whether they are enough.
The tokens kept are the same; which of several equal logits at the edge stays may differ, as it does between sorts.
"""

from __future__ import annotations

from typing import Any

import torch

HEADS = (256, 4096)
"""Likeliest tokens that are tried one after the other, then all."""


def nucleus(logits_BV: torch.Tensor, k_B: torch.Tensor | None, p_B: torch.Tensor) -> torch.Tensor:
    """Logits outside the top k, and then outside the smallest set whose mass reaches p, at -inf; the likeliest stays.

    k = V and p = 1 set no limit. A new tensor; `logits_BV` is left as it is.
    """
    vocabulary = logits_BV.shape[1]
    k_B = torch.full_like(p_B, vocabulary, dtype=torch.long) if k_B is None else k_B.to(torch.long)
    free_B = (p_B >= 1) & (k_B >= vocabulary)
    p_B = torch.where(p_B < 1, p_B, torch.inf)  # a rounded sum may reach 1 before the end
    kept_BV = torch.where(free_B[:, None], logits_BV, -torch.inf)
    rows_R = (~free_B).nonzero()[:, 0]
    for head in (*HEADS, vocabulary):
        if not len(rows_R):
            break
        logits_RV = logits_BV if len(rows_R) == len(logits_BV) else logits_BV[rows_R]
        values_RH, index_RH, settled_R = _head(logits_RV, k_B[rows_R], p_B[rows_R], min(head, vocabulary))
        done = rows_R[settled_R]
        kept_BV[done] = kept_BV[done].scatter_(1, index_RH[settled_R], values_RH[settled_R])
        rows_R = rows_R[~settled_R]
    return kept_BV


def _head(logits_RV: torch.Tensor, k_R: torch.Tensor, p_R: torch.Tensor, head: int) -> tuple[Any, Any, Any]:
    """(values of the likeliest, -inf where not kept; their tokens; rows in which nothing further down is kept)."""
    values_RH, index_RH = logits_RV.topk(head)
    every = torch.tensor(head == logits_RV.shape[1])
    limited_R = k_R < logits_RV.shape[1]
    edge_R1 = values_RH.gather(1, k_R.clamp(1, head)[:, None] - 1)
    inside_RH = ~limited_R[:, None] | (values_RH >= edge_R1)
    # Top-p is of what top-k left. Values equal to the k-th stay with it, as in vLLM, so all of them must be in sight.
    whole_R = every | (limited_R & (values_RH[:, -1] < edge_R1[:, 0]))
    within_R = torch.where(inside_RH, values_RH, -torch.inf).logsumexp(-1)
    total_R = torch.where(whole_R, within_R, logits_RV.logsumexp(-1))
    mass_RH = torch.where(inside_RH, (values_RH - total_R[:, None]).exp(), 0)
    reached_RH = mass_RH.cumsum(-1)
    stays_RH = inside_RH & (reached_RH - mass_RH < p_R[:, None])
    stays_RH[:, 0] = True
    settled_R = whole_R | (~limited_R & (reached_RH[:, -1] >= p_R))
    return torch.where(stays_RH, values_RH, -torch.inf), index_RH, settled_R
