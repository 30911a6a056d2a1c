"""One token for every row of a batch: temperature, then top_k, then top_p, by inverting the cumulated probabilities."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from usersim.nucleus import kept
from usersim.sampling import Sampling

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
    tokens_B = torch.empty(len(samplings), dtype=torch.long, device=device)
    for rows_R, tokens_RH, logits_RH in kept(logprobs_BV / temperature_B[:, None], k_B, p_B):
        place_R1 = _inverted(logits_RH, uniforms_B.to(device)[rows_R])
        tokens_B[rows_R] = tokens_RH.gather(1, place_R1)[:, 0]
    return tokens_B


def _inverted(logits_RH: torch.Tensor, uniforms_R: torch.Tensor) -> torch.Tensor:
    """Where the cumulated probabilities, in double precision, pass the uniform number. [R, 1]"""
    reach_RH = (logits_RH - logits_RH.amax(-1, keepdim=True)).double().exp().cumsum(-1)
    whole_R1 = reach_RH[:, -1:]
    passed_R1 = torch.searchsorted(reach_RH, uniforms_R[:, None] * whole_R1, right=True)
    # A product rounded up to the whole points behind the last token that stays.
    return torch.minimum(passed_R1, (reach_RH < whole_R1).sum(-1, keepdim=True))
