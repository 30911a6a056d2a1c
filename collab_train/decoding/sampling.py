"""Sampling of one token per batch row: temperature, top_k, top_p, then inverse transform sampling."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from usersim.decoding.top_p import nucleus
from usersim.users.protocols import Sampling

GREEDY = 1e-5


def draw(
    logprobs_BV: torch.Tensor,
    samplings: Sequence[Sampling],
    bans: Sequence[Sequence[int]],
    uniforms_B: torch.Tensor,
) -> torch.Tensor:
    """Samples token ids, [B]; the same distribution and uniform number give the same token.

    Args:
        logprobs_BV: log-probabilities.
        samplings: parameters of each row. A temperature below 1e-5 means greedy.
        bans: token ids that each row may not sample; removed first, as in vLLM.
        uniforms_B: random numbers in [0, 1).
    """
    device, vocabulary = logprobs_BV.device, logprobs_BV.shape[1]
    banned = [(row, token) for row, ids in enumerate(bans) for token in ids]
    if banned:
        logprobs_BV = logprobs_BV.clone()
        row_N, token_N = torch.tensor(banned, device=device).T
        logprobs_BV[row_N, token_N] = -torch.inf
    temperature_B = torch.tensor([max(s.temperature, GREEDY) for s in samplings], device=device)
    k_B = torch.tensor([s.top_k if s.top_k > 0 else vocabulary for s in samplings], device=device)
    # A nucleus of no mass keeps only the likeliest token.
    p_B = torch.tensor([s.top_p if s.temperature >= GREEDY else 0.0 for s in samplings], device=device)
    return _inverse_transform(nucleus(logprobs_BV / temperature_B[:, None], k_B, p_B), uniforms_B.to(device))


def _inverse_transform(logits_BV: torch.Tensor, uniforms_B: torch.Tensor) -> torch.Tensor:
    """Token ids where the cumulative probabilities, in double precision, pass the uniform number, [B]."""
    cumulative_BV = (logits_BV - logits_BV.amax(-1, keepdim=True)).exp().cumsum(-1, dtype=torch.float64)
    mass_B1 = cumulative_BV[:, -1:]
    index_B1 = torch.searchsorted(cumulative_BV, uniforms_B[:, None] * mass_B1, right=True)
    # A product rounded up to the total mass points past the last token of the nucleus.
    return torch.minimum(index_B1, (cumulative_BV < mass_B1).sum(-1, keepdim=True))[:, 0]
