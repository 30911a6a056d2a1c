"""Dynamic batching: concurrent requests to one in-process model share each forward pass."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from collab_train.decoding.gqa_decode import grouped_decoding
from collab_train.decoding.sampling import draw
from usersim.backends.transformers_local import LocalSampler
from usersim.decoding.noise import non_negative
from usersim.users.protocols import Draw, Sampled

GATHER_S = 0.004
"""Seconds that the first request waits for others to join its batch."""
COMPACT = 0.75
"""Finished continuations are removed once at most this share is unfinished. Removal copies the KV cache."""


@dataclass
class _Row:
    """One continuation. Its random numbers come from its own seed, independent of the rest of the batch."""

    request: Draw
    uniforms: list[float]
    token_ids: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    end_probability: float = 0.0
    end_is_likeliest: bool = False

    @property
    def ended(self) -> bool:
        token_ids = self.token_ids
        return bool(token_ids) and (
            token_ids[-1] in self.request.stop_ids or len(token_ids) == self.request.sampling.max_tokens
        )

    def sampled(self) -> Sampled:
        return Sampled(
            token_ids=self.token_ids,
            logprobs=self.logprobs,
            finish="stop" if self.token_ids[-1] in self.request.stop_ids else "length",
            end_probability=self.end_probability,
            end_is_likeliest=self.end_is_likeliest,
        )


class BatchedSampler(LocalSampler):
    """`LocalSampler` with dynamic batching, of at most `rows` continuations per batch.

    Batches run one at a time in one thread, because the model may be in training. Equal prompts are prefilled once.
    The same seed gives the same tokens, up to rounding of matrix products, which depends on the batch size. Sampled
    tokens differ from those of `LocalSampler`; greedy ones do not.
    """

    def __init__(self, model: Any, *, rows: int = 32, beside: LocalSampler | None = None) -> None:
        """Makes a sampler.

        Args:
            model: the causal language model.
            rows: maximum continuations per batch.
            beside: sampler that shares its lock with this one. Two samplers at once on the same cores are slower than
                in turns.
        """
        super().__init__(model)
        self.rows = rows
        if beside is not None:
            self._turns = beside._turns
        self._waiting: list[tuple[Draw, asyncio.Future[list[Sampled]]]] = []
        self._worker: asyncio.Task[None] | None = None

    async def sample(self, request: Draw) -> list[Sampled]:
        if request.top_logprobs:
            return await super().sample(request)
        future: asyncio.Future[list[Sampled]] = asyncio.get_running_loop().create_future()
        self._waiting.append((request, future))
        if self._worker is None or self._worker.done():
            self._worker = asyncio.create_task(self._work())
        return await future

    async def _work(self) -> None:
        await asyncio.sleep(GATHER_S)
        while self._waiting:
            async with self._turn:
                batch = self._take()
                try:
                    results = await asyncio.to_thread(self.batch_sync, [request for request, _ in batch])
                except Exception as error:  # any error goes to the requests that wait for it
                    results = [error] * len(batch)
            for (_, future), result in zip(batch, results, strict=True):
                if future.done():
                    continue  # the caller was cancelled
                if isinstance(result, Exception):
                    future.set_exception(result)
                else:
                    future.set_result(result)

    def _take(self) -> list[tuple[Draw, asyncio.Future[list[Sampled]]]]:
        """Takes the oldest requests, up to `rows` continuations; a request is never split."""
        row_count = 0
        for index, (request, _) in enumerate(self._waiting):
            if index and row_count + request.n > self.rows:
                batch, self._waiting = self._waiting[:index], self._waiting[index:]
                return batch
            row_count += request.n
        batch, self._waiting = self._waiting, []
        return batch

    @torch.no_grad()
    def batch_sync(self, requests: Sequence[Draw]) -> list[list[Sampled] | Exception]:
        """Samples the continuations of every request, in order."""
        request_rows = [
            [_Row(request, _uniforms(request, i)) for i in range(request.n)] for request in requests
        ]
        with grouped_decoding(self.model):
            self._decode([row for rows in request_rows for row in rows])
        return [[row.sampled() for row in rows] for rows in request_rows]

    def _decode(self, rows: list[_Row]) -> None:
        logits_BV, cache, mask_BT = self._prefill(rows)
        while True:
            _append_tokens(rows, logits_BV)
            unfinished = [i for i, row in enumerate(rows) if not row.ended]
            if not unfinished:
                return
            if len(unfinished) <= COMPACT * len(rows):
                kept_rows = torch.tensor(unfinished, device=mask_BT.device)
                cache.batch_select_indices(kept_rows)
                rows, mask_BT = [rows[i] for i in unfinished], mask_BT[kept_rows]
            mask_BT = torch.cat([mask_BT, mask_BT.new_ones(len(rows), 1)], dim=1)
            out = self.model(
                input_ids=torch.tensor([[row.token_ids[-1]] for row in rows], device=mask_BT.device),
                attention_mask=mask_BT,
                position_ids=mask_BT.sum(1, keepdim=True) - 1,
                past_key_values=cache,
                use_cache=True,
            )
            logits_BV = out.logits[:, -1].float()

    def _prefill(self, rows: list[_Row]) -> tuple[torch.Tensor, Any, torch.Tensor]:
        """Next-token logits, KV cache and attention mask of the prompts, padded on the left."""
        prompts = list(dict.fromkeys(tuple(row.request.prompt_ids) for row in rows))
        length, device = max(map(len, prompts)), self.model.device
        ids_PT = torch.tensor([[0] * (length - len(p)) + list(p) for p in prompts], device=device)
        mask_PT = torch.tensor([[0] * (length - len(p)) + [1] * len(p) for p in prompts], device=device)
        out = self.model(
            input_ids=ids_PT,
            attention_mask=mask_PT,
            position_ids=(mask_PT.cumsum(1) - 1).clamp(min=0),
            use_cache=True,
            logits_to_keep=1,
        )
        prompt_index = {prompt: index for index, prompt in enumerate(prompts)}
        prompt_index_B = torch.tensor(
            [prompt_index[tuple(row.request.prompt_ids)] for row in rows], device=device
        )
        cache = out.past_key_values
        if len(prompts) < len(rows):
            cache.batch_select_indices(prompt_index_B)
        return out.logits[:, -1].float()[prompt_index_B], cache, mask_PT[prompt_index_B]


def _append_tokens(rows: Sequence[_Row], logits_BV: torch.Tensor) -> None:
    """Samples one more token for every row that has not ended."""
    raw_BV = torch.log_softmax(logits_BV, -1)
    lengths = [len(row.token_ids) for row in rows]
    uniforms = [
        row.uniforms[min(length, len(row.uniforms) - 1)] for length, row in zip(lengths, rows, strict=True)
    ]
    tokens_B = draw(
        raw_BV,
        [row.request.sampling for row in rows],
        [row.request.ban_ids for row in rows],
        torch.tensor(uniforms, dtype=torch.float64),
    )
    logprobs = raw_BV.gather(1, tokens_B[:, None])[:, 0].tolist()
    for index, (row, token, logprob) in enumerate(zip(rows, tokens_B.tolist(), logprobs, strict=True)):
        if not row.token_ids:
            row.end_probability = float(raw_BV[index, row.request.watch_id].exp())
            row.end_is_likeliest = int(raw_BV[index].argmax()) == row.request.watch_id
        if not row.ended:
            row.token_ids.append(token)
            row.logprobs.append(logprob)


def _uniforms(request: Draw, index: int) -> list[float]:
    generator = torch.Generator()
    if request.seed is None:
        generator.seed()
    else:
        generator.manual_seed((non_negative(request.seed) + index) % 2**63)
    uniforms: list[float] = torch.rand(
        request.sampling.max_tokens, generator=generator, dtype=torch.float64
    ).tolist()
    return uniforms
