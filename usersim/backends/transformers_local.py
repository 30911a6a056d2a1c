"""Sampler over a transformers model in this process (CPU or one GPU).

It is deterministic in its seeds. Sample i of n has its own generator with `seed + i`, so it does not depend on the rest
of the batch, up to the float noise of batched matrix products.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

import torch
from safetensors import SafetensorError
from transformers import AutoModelForCausalLM

from usersim.cli import quiet_transformers
from usersim.decoding.noise import non_negative
from usersim.errors import BackendError
from usersim.users.protocols import Draw, Sampled, SampledPiece, Sampling
from usersim.weights.precision import default_device, torch_dtype


@dataclass(frozen=True)
class _Step:
    """Tokens sampled at one position, by continuation; None for a continuation that has ended."""

    token_ids: list[int | None]
    logprobs: list[float]
    tops: list[dict[int, float]]
    end_probability: float
    end_is_likeliest: bool


class LocalSampler:
    """Sampler over a model, which may be in training: every call uses its current weights."""

    def __init__(self, model: Any) -> None:
        self.model = model
        self._turns: WeakKeyDictionary[asyncio.AbstractEventLoop, asyncio.Lock] = WeakKeyDictionary()

    @classmethod
    def from_pretrained(cls, path: str | Path, *, dtype: torch.dtype | None = None) -> LocalSampler:
        quiet_transformers()
        device = default_device()
        dtype = dtype or torch_dtype(device)
        try:
            model: Any = AutoModelForCausalLM.from_pretrained(path, dtype=dtype)
        except (OSError, ValueError, SafetensorError) as error:
            raise BackendError(f"{path}: the model cannot be loaded ({error})") from error
        return cls(model.to(device).eval())

    @property
    def _turn(self) -> asyncio.Lock:
        """Lock of the running event loop, since an asyncio lock is bound to one loop."""
        return self._turns.setdefault(asyncio.get_running_loop(), asyncio.Lock())

    async def sample(self, request: Draw) -> list[Sampled]:
        async with self._turn:
            return await asyncio.to_thread(self.sample_sync, request)

    async def stream(self, request: Draw) -> AsyncGenerator[SampledPiece, None]:
        stops, count = set(request.stop_ids), 0
        async with self._turn:
            steps = self._steps(request)
            while (step := await asyncio.to_thread(next, steps, None)) is not None:
                token, count = step.token_ids[0], count + 1
                assert token is not None
                last = count == request.sampling.max_tokens
                yield SampledPiece(
                    token_ids=[token],
                    logprobs=step.logprobs,
                    end_probability=step.end_probability,
                    end_is_likeliest=step.end_is_likeliest,
                    finish="stop" if token in stops else "length" if last else None,
                )

    def sample_sync(self, request: Draw) -> list[Sampled]:
        rows: list[list[int]] = [[] for _ in range(request.n)]
        logprobs: list[list[float]] = [[] for _ in range(request.n)]
        tops: list[list[dict[int, float]]] = [[] for _ in range(request.n)]
        for step in self._steps(request):
            for i, token in enumerate(step.token_ids):
                if token is not None:
                    rows[i].append(token)
                    logprobs[i].append(step.logprobs[i])
                    tops[i] += step.tops[i : i + 1]
        return [
            Sampled(
                token_ids=rows[i],
                logprobs=logprobs[i],
                finish="stop" if rows[i][-1] in request.stop_ids else "length",
                end_probability=step.end_probability,
                end_is_likeliest=step.end_is_likeliest,
                top_logprobs=tops[i],
            )
            for i in range(request.n)
        ]

    @torch.inference_mode()
    def _steps(self, request: Draw) -> Iterator[_Step]:
        """Yields decoding steps: one prefill of the prompt, then its `n` continuations as one batch."""
        n, seed, device = request.n, request.seed, self.model.device
        generators = [_generator(None if seed is None else non_negative(seed) + i) for i in range(n)]
        prompt = torch.tensor([list(request.prompt_ids)], device=device)
        out = self.model(input_ids=prompt, use_cache=True, logits_to_keep=1)
        cache = out.past_key_values
        if n > 1:
            cache.batch_repeat_interleave(n)
        logits_BV = out.logits[:, -1].float().expand(n, -1)
        first = torch.log_softmax(logits_BV[0], -1)
        end_probability = float(first[request.watch_id].exp())
        end_is_likeliest = int(first.argmax()) == request.watch_id
        open_rows, stops = set(range(n)), set(request.stop_ids)
        for _ in range(request.sampling.max_tokens):
            raw_BV = torch.log_softmax(logits_BV, -1)
            tokens = [_draw(raw_BV[i], request.sampling, request.ban_ids, generators[i]) for i in range(n)]
            yield _Step(
                token_ids=[token if i in open_rows else None for i, token in enumerate(tokens)],
                logprobs=[float(raw_BV[i, token]) for i, token in enumerate(tokens)],
                tops=_likeliest(raw_BV, request.top_logprobs),
                end_probability=end_probability,
                end_is_likeliest=end_is_likeliest,
            )
            open_rows -= {i for i, token in enumerate(tokens) if token in stops}
            if not open_rows:
                break
            step = torch.tensor(tokens, device=device).unsqueeze(1)
            logits_BV = (
                self.model(input_ids=step, past_key_values=cache, use_cache=True).logits[:, -1].float()
            )

    async def aclose(self) -> None:
        """Nothing to close."""


def _likeliest(raw_BV: torch.Tensor, count: int) -> list[dict[int, float]]:
    """Returns the `count` highest log-probabilities by token, for each continuation."""
    if not count:
        return []
    values, tokens = raw_BV.topk(count, dim=-1)
    return [dict(zip(t, v, strict=True)) for t, v in zip(tokens.tolist(), values.tolist(), strict=True)]


def _generator(seed: int | None) -> torch.Generator:
    generator = torch.Generator()
    if seed is None:
        generator.seed()
    else:
        generator.manual_seed(seed % 2**63)
    return generator


def _draw(
    logprobs_V: torch.Tensor, sampling: Sampling, ban_ids: Sequence[int], generator: torch.Generator
) -> int:
    """Samples one token: ban, temperature, top_k, then the smallest set with mass top_p (vLLM's order)."""
    if ban_ids:
        logprobs_V = logprobs_V.clone()
        logprobs_V[list(ban_ids)] = -torch.inf
    if sampling.temperature < 1e-5:
        return int(logprobs_V.argmax())
    scaled_V = logprobs_V / sampling.temperature
    if 0 < sampling.top_k < len(scaled_V):
        scaled_V = scaled_V.masked_fill(scaled_V < scaled_V.topk(sampling.top_k).values[-1], -torch.inf)
    probs_V = torch.softmax(scaled_V, -1).cpu()
    if sampling.top_p < 1:
        ordered, index = probs_V.sort(descending=True)
        # A token stays while the mass before it is below top_p, so that at least one does.
        ordered[ordered.cumsum(0) - ordered >= sampling.top_p] = 0
        return int(index[torch.multinomial(ordered, 1, generator=generator)])
    return int(torch.multinomial(probs_V, 1, generator=generator))
