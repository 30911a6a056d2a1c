"""Whoever waits for the same model is decoded together: one forward pass a token for all of them."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from collab_train.decoding.gqa_decode import grouped
from collab_train.decoding.sampling import draw
from usersim.backends.transformers_local import LocalSampler
from usersim.decoding.noise import non_negative
from usersim.users.protocols import Draw, Sampled

GATHER_S = 0.004
"""How long the first to ask waits for company."""
COMPACT = 0.75
"""Ended continuations leave the batch when no more than this share of it goes on; leaving copies the KV cache."""


@dataclass
class _Row:
    """One continuation. Its draws come from its own seed, whatever else is in the batch."""

    asked: Draw
    uniforms: list[float]
    token_ids: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    end_probability: float = 0.0
    end_is_likeliest: bool = False

    @property
    def ended(self) -> bool:
        said = self.token_ids
        return bool(said) and (said[-1] in self.asked.stop_ids or len(said) == self.asked.sampling.max_tokens)

    def sampled(self) -> Sampled:
        return Sampled(
            token_ids=self.token_ids,
            logprobs=self.logprobs,
            finish="stop" if self.token_ids[-1] in self.asked.stop_ids else "length",
            end_probability=self.end_probability,
            end_is_likeliest=self.end_is_likeliest,
        )


class BatchedSampler(LocalSampler):
    """A `LocalSampler` whose waiting requests share forward passes, `rows` continuations at most at a time.

    One batch at a time, in one thread: the model may be live in training. The same seed gives the same tokens up to
    the rounding of matrix products, which depends on the size of the batch; it draws other tokens than
    `LocalSampler`, greedy ones apart. Equal prompts are read once.
    """

    def __init__(self, model: Any, *, rows: int = 32, beside: LocalSampler | None = None) -> None:
        """`beside`: a sampler that never computes at the same time; two on the same cores are slower than in turns."""
        super().__init__(model)
        self.rows = rows
        if beside is not None:
            self._turns = beside._turns
        self._waiting: list[tuple[Draw, asyncio.Future[list[Sampled]]]] = []
        self._worker: asyncio.Task[None] | None = None

    async def sample(self, asked: Draw) -> list[Sampled]:
        if asked.top_logprobs:
            return await super().sample(asked)
        promised: asyncio.Future[list[Sampled]] = asyncio.get_running_loop().create_future()
        self._waiting.append((asked, promised))
        if self._worker is None or self._worker.done():
            self._worker = asyncio.create_task(self._work())
        return await promised

    async def _work(self) -> None:
        await asyncio.sleep(GATHER_S)
        while self._waiting:
            async with self._turn:
                batch = self._take()
                try:
                    made = await asyncio.to_thread(self.batch_sync, [asked for asked, _ in batch])
                except Exception as error:  # it belongs to those who wait, whatever it is
                    made = [error] * len(batch)
            for (_, promised), result in zip(batch, made, strict=True):
                if promised.done():
                    continue  # whoever asked was cancelled
                if isinstance(result, Exception):
                    promised.set_exception(result)
                else:
                    promised.set_result(result)

    def _take(self) -> list[tuple[Draw, asyncio.Future[list[Sampled]]]]:
        """The longest waiting, up to `rows` continuations; one request is never split."""
        taken = 0
        for index, (asked, _) in enumerate(self._waiting):
            if index and taken + asked.n > self.rows:
                batch, self._waiting = self._waiting[:index], self._waiting[index:]
                return batch
            taken += asked.n
        batch, self._waiting = self._waiting, []
        return batch

    @torch.no_grad()
    def batch_sync(self, asked: Sequence[Draw]) -> list[list[Sampled] | Exception]:
        """The continuations of every request, in order."""
        made = [[_Row(one, _uniforms(one, i)) for i in range(one.n)] for one in asked]
        with grouped(self.model):
            self._decode([row for rows in made for row in rows])
        return [[row.sampled() for row in rows] for rows in made]

    def _decode(self, rows: list[_Row]) -> None:
        logits_BV, cache, mask_BT = self._prefill(rows)
        while True:
            _say(rows, logits_BV)
            going = [i for i, row in enumerate(rows) if not row.ended]
            if not going:
                return
            if len(going) <= COMPACT * len(rows):
                kept = torch.tensor(going, device=mask_BT.device)
                cache.batch_select_indices(kept)
                rows, mask_BT = [rows[i] for i in going], mask_BT[kept]
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
        prompts = list(dict.fromkeys(tuple(row.asked.prompt_ids) for row in rows))
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
        places = {prompt: place for place, prompt in enumerate(prompts)}
        place_B = torch.tensor([places[tuple(row.asked.prompt_ids)] for row in rows], device=device)
        cache = out.past_key_values
        if len(prompts) < len(rows):
            cache.batch_select_indices(place_B)
        return out.logits[:, -1].float()[place_B], cache, mask_PT[place_B]


def _say(rows: Sequence[_Row], logits_BV: torch.Tensor) -> None:
    """One token more for every row that has not ended."""
    raw_BV = torch.log_softmax(logits_BV, -1)
    places = [len(row.token_ids) for row in rows]
    uniforms = [row.uniforms[min(at, len(row.uniforms) - 1)] for at, row in zip(places, rows, strict=True)]
    tokens_B = draw(
        raw_BV,
        [row.asked.sampling for row in rows],
        [row.asked.ban_ids for row in rows],
        torch.tensor(uniforms, dtype=torch.float64),
    )
    logprobs = raw_BV.gather(1, tokens_B[:, None])[:, 0].tolist()
    for index, (row, token, logprob) in enumerate(zip(rows, tokens_B.tolist(), logprobs, strict=True)):
        if not row.token_ids:
            row.end_probability = float(raw_BV[index, row.asked.watch_id].exp())
            row.end_is_likeliest = int(raw_BV[index].argmax()) == row.asked.watch_id
        if not row.ended:
            row.token_ids.append(token)
            row.logprobs.append(logprob)


def _uniforms(asked: Draw, index: int) -> list[float]:
    generator = torch.Generator()
    if asked.seed is None:
        generator.seed()
    else:
        generator.manual_seed((non_negative(asked.seed) + index) % 2**63)
    drawn: list[float] = torch.rand(
        asked.sampling.max_tokens, generator=generator, dtype=torch.float64
    ).tolist()
    return drawn
