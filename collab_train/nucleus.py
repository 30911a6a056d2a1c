"""One token for every row of a batch: temperature, then top_k, then top_p, by inverting the cumulated probabilities."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from usersim.sampling import Sampling

HEAD = 512
"""Sorting a whole vocabulary takes longer than a small model's forward pass; the nucleus is nearly always in these."""
GREEDY = 1e-5


def draw(
    logprobs_BV: torch.Tensor,
    samplings: Sequence[Sampling],
    bans: Sequence[Sequence[int]],
    uniforms_B: torch.Tensor,
) -> torch.Tensor:
    """Token ids, [B]. `uniforms_B` in [0, 1) decide: the same number and distribution give the same token.

    Below a temperature of 1e-5 the likeliest token. Banned tokens go first, as in vLLM.
    """
    device = logprobs_BV.device
    banned = [(row, token) for row, ids in enumerate(bans) for token in ids]
    if banned:
        logprobs_BV = logprobs_BV.clone()
        row_N, token_N = torch.tensor(banned, device=device).T
        logprobs_BV[row_N, token_N] = -torch.inf
    temperature_B = torch.tensor([max(s.temperature, GREEDY) for s in samplings], device=device)
    return _draw(logprobs_BV / temperature_B[:, None], samplings, uniforms_B.to(device), HEAD)


def _draw(
    scaled_BV: torch.Tensor, samplings: Sequence[Sampling], uniforms_B: torch.Tensor, head: int
) -> torch.Tensor:
    device, head = scaled_BV.device, min(head, scaled_BV.shape[1])
    values_BK, index_BK = scaled_BV.topk(head)
    probs_BK = (values_BK - scaled_BV.logsumexp(-1, keepdim=True)).exp().double()
    top_k_B = torch.tensor(
        [s.top_k if 0 < s.top_k < scaled_BV.shape[1] else 0 for s in samplings], device=device
    )
    top_p_B = torch.tensor([s.top_p for s in samplings], device=device, dtype=torch.float64)
    limited_B1 = (top_k_B > 0)[:, None]
    inside_BK = ~limited_B1 | (torch.arange(head, device=device) < top_k_B[:, None])
    probs_BK = probs_BK * inside_BK
    mass_B1 = probs_BK.sum(-1, keepdim=True)
    probs_BK = torch.where(limited_B1, probs_BK / mass_B1, probs_BK)
    # A token stays while the mass before it is below top_p, so that at least one does.
    kept_BK = probs_BK * (probs_BK.cumsum(-1) - probs_BK < top_p_B[:, None])
    reach_BK = kept_BK.cumsum(-1)
    pick_B1 = torch.searchsorted(reach_BK, uniforms_B[:, None] * reach_BK[:, -1:], right=True)
    last_B1 = (kept_BK > 0).sum(-1, keepdim=True) - 1
    tokens_B = index_BK.gather(1, torch.minimum(pick_B1, last_B1))[:, 0]
    greedy_B = torch.tensor([s.temperature < GREEDY for s in samplings], device=device)
    tokens_B = torch.where(greedy_B, index_BK[:, 0], tokens_B)
    if head == scaled_BV.shape[1]:
        return tokens_B
    outside_B = torch.where(limited_B1[:, 0], top_k_B > head, mass_B1[:, 0] < top_p_B) & ~greedy_B
    if bool(outside_B.any()):
        rows = outside_B.nonzero()[:, 0].tolist()
        picked = [samplings[row] for row in rows]
        tokens_B[rows] = _draw(scaled_BV[rows], picked, uniforms_B[rows], 8 * head)
    return tokens_B
