"""Streams and log-probabilities on a tiny real model; `top_k` in the order that vLLM has it."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
import torch

from usersim.backends.transformers_local import LocalSampler, _draw
from usersim.rendering.renderer import Renderer
from usersim.rendering.token_text import DetailedTurn
from usersim.types import UserTurn
from usersim.users.guards import Guards
from usersim.users.protocols import Draw, EndPolicy, Sampling, TurnPiece, as_profile
from usersim.users.userlm import UserLM

SHORT = Sampling(max_tokens=12)
NEVER = EndPolicy(mode="never")


@pytest.fixture(scope="module")
def user(tiny_userlm: Path) -> UserLM:
    sampler = LocalSampler.from_pretrained(tiny_userlm)
    return UserLM(Renderer.from_pretrained(tiny_userlm), sampler, sampling=SHORT, guards=Guards.off())


def drain(user: UserLM, seed: int, end: EndPolicy) -> list[TurnPiece | UserTurn]:
    async def collect() -> list[TurnPiece | UserTurn]:
        return [piece async for piece in user.stream(as_profile("g"), [], seed=seed, end=end)]

    return asyncio.run(collect())


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("end", [NEVER, EndPolicy(min_user_turns=0)], ids=["never", "sample"])
def test_a_stream_says_what_a_sample_of_that_seed_says(user: UserLM, seed: int, end: EndPolicy) -> None:
    *pieces, said = drain(user, seed, end)
    (whole,) = asyncio.run(user.sample(as_profile("g"), [], seed=seed, end=end))
    assert said == whole
    assert "".join(piece.text for piece in pieces) == whole.text


def test_a_stream_that_is_closed_lets_the_next_one_in(user: UserLM) -> None:
    async def leave_early() -> UserTurn:
        stream = user.stream(as_profile("g"), [], seed=0, end=NEVER)
        await anext(stream)
        await stream.aclose()
        async with asyncio.timeout(60):
            return await user(as_profile("g"), [], seed=0)

    assert asyncio.run(leave_early()).tokens


def test_logprobs_are_raw_and_the_likeliest_are_the_models_own(user: UserLM) -> None:
    hot = Sampling(temperature=2, max_tokens=4)
    (said,) = asyncio.run(user.sample(as_profile("g"), [], seed=1, end=NEVER, sampling=hot, logprobs=3))
    assert isinstance(said, DetailedTurn)
    prompt = user.renderer.prompt(as_profile("g"), [])
    ids = [token.id for token in said.trace]
    assert isinstance(user.sampler, LocalSampler)
    logits = user.sampler.model(torch.tensor([prompt + ids])).logits[0].float().detach()
    scored = torch.log_softmax(logits, -1)[len(prompt) - 1 :]
    for place, token in enumerate(said.trace):
        assert token.logprob == pytest.approx(float(scored[place, token.id]), abs=1e-4)
        assert [top.id for top in token.top] == scored[place].topk(3).indices.tolist()
    assert sum(token.logprob for token in said.trace) == pytest.approx(said.logprob)


def test_greedy_needs_the_likeliest_token_of_the_whole_vocabulary(user: UserLM) -> None:
    assert isinstance(user.sampler, LocalSampler)
    end = user.renderer.settings.end_of_conversation_id
    prompt = user.renderer.prompt(as_profile("g"), [])
    asked = Draw(prompt, user.renderer.stop_ids, end, SHORT, seed=0, rank_watched=True)
    logits = user.sampler.model(torch.tensor([prompt])).logits[0, -1]
    assert user.sampler.sample_sync(asked)[0].end_is_likeliest is (int(logits.argmax()) == end)


LOGPROBS = torch.log(torch.tensor([0.4, 0.3, 0.2, 0.1]))


@pytest.mark.parametrize(
    ("sampling", "kept"),
    [
        (Sampling(top_k=0, top_p=1), {0, 1, 2, 3}),
        (Sampling(top_k=2, top_p=1), {0, 1}),
        (Sampling(top_k=9, top_p=1), {0, 1, 2, 3}),
        # Of the two that stay, the first has 4/7 of the mass: enough for 0.5, though 0.4 of all was not.
        (Sampling(top_k=2, top_p=0.5), {0}),
        (Sampling(top_k=0, top_p=0.5), {0, 1}),
    ],
    ids=["off", "two", "more-than-there-are", "then-top-p", "top-p-alone"],
)
def test_top_k_comes_before_top_p(sampling: Sampling, kept: set[int]) -> None:
    generator = torch.Generator().manual_seed(0)
    assert {_draw(LOGPROBS, sampling, [], generator) for _ in range(300)} == kept


def test_a_banned_token_takes_no_place_among_the_k() -> None:
    generator = torch.Generator().manual_seed(0)
    drawn = {_draw(LOGPROBS, Sampling(top_k=2, top_p=1), [0], generator) for _ in range(300)}
    assert drawn == {1, 2}
