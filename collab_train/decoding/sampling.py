"""One token for every row of a batch: temperature, then top_k, then top_p, by inverting the cumulated probabilities."""

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
    """Token ids, [B]. `uniforms_B` in [0, 1) decide: the same number and distribution give the same token.

    Below a temperature of 1e-5 the likeliest token. Banned tokens go first, as in vLLM.
    """
    device, vocabulary = logprobs_BV.device, logprobs_BV.shape[1]
    banned = [(row, token) for row, ids in enumerate(bans) for token in ids]
    if banned:
        logprobs_BV = logprobs_BV.clone()
        row_N, token_N = torch.tensor(banned, device=device).T
        logprobs_BV[row_N, token_N] = -torch.inf
    temperature_B = torch.tensor([max(s.temperature, GREEDY) for s in samplings], device=device)
    k_B = torch.tensor([s.top_k if s.top_k > 0 else vocabulary for s in samplings], device=device)
    # Of a nucleus of no mass the likeliest token alone is left.
    p_B = torch.tensor([s.top_p if s.temperature >= GREEDY else 0.0 for s in samplings], device=device)
    return _inverted(nucleus(logprobs_BV / temperature_B[:, None], k_B, p_B), uniforms_B.to(device))


def _inverted(logits_BV: torch.Tensor, uniforms_B: torch.Tensor) -> torch.Tensor:
    """Token ids where the cumulated probabilities, in double precision, pass the uniform number. [B]"""
    reach_BV = (logits_BV - logits_BV.amax(-1, keepdim=True)).exp().cumsum(-1, dtype=torch.float64)
    whole_B1 = reach_BV[:, -1:]
    passed_B1 = torch.searchsorted(reach_BV, uniforms_B[:, None] * whole_B1, right=True)
    # A product rounded up to the whole points behind the last token that stays.
    return torch.minimum(passed_B1, (reach_BV < whole_B1).sum(-1, keepdim=True))[:, 0]
