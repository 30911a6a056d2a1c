"""Which noise a seed stands for: its own for every prompt, and none twice."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path
from statistics import fmean, variance

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tests.usersim.rendering.test_render import END, LEFT, renderer
from usersim.backends.transformers_local import LocalSampler, _draw, _generator
from usersim.backends.vllm_http import HttpSampler
from usersim.decoding.noise import BITS, nth_seed, sampler_seed
from usersim.testing import ScriptedSampler
from usersim.types import Turn
from usersim.users.guards import Guards
from usersim.users.protocols import Draw, EndPolicy, Sampled, Sampling, as_profile
from usersim.users.userlm import UserLM

SEEDS = st.integers(-(2**63), 2**63 - 1)
P_END = 0.4


class Coin(ScriptedSampler):
    """Leaves with `P_END`, by the draw of the local backend; every prompt has the same two tokens before it."""

    async def sample(self, asked: Draw) -> list[Sampled]:
        logprobs = torch.tensor([1 - P_END, P_END]).log()
        assert asked.seed is not None
        drawn = [_draw(logprobs, Sampling(top_p=1), (), _generator(asked.seed + i)) for i in range(asked.n)]
        self.continuations = [[LEFT] if token else [*renderer().encode("ok"), END] for token in drawn]
        return await super().sample(asked)


def leavers(prompts: list[tuple[str, list[Turn]]], seed: int, *, common: bool) -> int:
    user = UserLM(
        renderer(),
        Coin(),
        end=EndPolicy(min_user_turns=0),
        guards=Guards.off(),
        common_noise=common,
    )

    async def all_of_them() -> int:
        turns = [await user(as_profile(goal), history, seed=seed) for goal, history in prompts]
        return sum(turn.ends for turn in turns)

    return asyncio.run(all_of_them())


TALK = [Turn(role="user", text="hi"), Turn(role="assistant", text="Hello!")]
GOALS = [(f"wish number {n}", TALK) for n in range(10)]
TURNS = [("one wish", [*TALK * n]) for n in range(10)]


@pytest.mark.parametrize("prompts", [GOALS, TURNS], ids=["goals", "turns of one conversation"])
def test_users_of_one_seed_leave_as_independently_as_those_of_many(
    prompts: list[tuple[str, list[Turn]]],
) -> None:
    """A client that sends one seed a trial must not make all its users leave together."""
    counts = [leavers(prompts, 7919 * seed, common=False) for seed in range(1, 151)]
    independent = len(prompts) * P_END * (1 - P_END)
    # A chi-squared of 149 degrees of freedom over 149 stays within [0.5, 1.5] but once in 10,000; the seeds are fixed.
    assert 0.5 * independent < variance(counts) < 1.5 * independent
    assert fmean(counts) == pytest.approx(len(prompts) * P_END, abs=0.5)


def test_common_noise_makes_them_leave_together() -> None:
    counts = {leavers(GOALS, seed, common=True) for seed in range(40)}
    assert counts == {0, 10}


@given(SEEDS, st.lists(st.integers(0, 2**31), max_size=20), st.integers(0, 15))
def test_the_nth_seed_draws_what_the_nth_of_many_draws(seed: int, prompt: list[int], index: int) -> None:
    for common in (True, False):
        own = nth_seed(seed, index, common=common)
        assert -(2**63) <= own < 2**63
        expected = sampler_seed(seed, prompt, common=common) + index
        if common:
            assert sampler_seed(own, prompt, common=True) == expected % 2**63
        else:
            assert (sampler_seed(own, prompt, common=False) - expected) % 2**62 in (0, 2**62 - 2**BITS)


@pytest.mark.parametrize("seed", [-1, -2, -(2**62), -(2**62) - 1, -(2**63), 0, 1, 2**62 - 1, 2**62])
def test_common_noise_of_any_seed_is_the_same_here_and_in_an_engine(tiny_base: Path, seed: int) -> None:
    """vLLM gives seed + i to continuation i; so do we, and a turn's own seed gives it again."""
    asked = Draw([5, 6], [END], END, Sampling(max_tokens=12, top_p=1), seed=seed, n=2)
    local = LocalSampler.from_pretrained(tiny_base)

    def ids(asked: Draw) -> list[list[int]]:
        return [each.token_ids for each in asyncio.run(local.sample(asked))]

    sent = HttpSampler("http://127.0.0.1:9").body(asked)["seed"]
    assert 0 <= sent < 2**63
    assert sent == sampler_seed(seed, [5, 6], common=True)
    first, second = ids(asked)
    assert first != second
    for index, expected in enumerate((first, second)):
        own = nth_seed(seed, index, common=True)
        assert HttpSampler("http://127.0.0.1:9").body(replace(asked, seed=own, n=1))["seed"] == sent + index
        assert ids(replace(asked, seed=own, n=1)) == ids(replace(asked, seed=sent + index, n=1)) == [expected]


def test_samples_of_neighbouring_seeds_do_not_overlap() -> None:
    drawn = [nth_seed(seed, index, common=False) for seed in range(2000) for index in range(16)]
    assert len(set(drawn)) == len(drawn)
    noise = [sampler_seed(seed, [1], common=False) + index for seed in range(2000) for index in range(16)]
    assert len(set(noise)) == len(noise)


def test_another_prompt_has_other_noise() -> None:
    prompts = [[1], [2], [1, 2], [2, 1], [], [1, 1]]
    assert len({sampler_seed(3, prompt, common=False) for prompt in prompts}) == len(prompts)
    assert {sampler_seed(3, prompt, common=True) for prompt in prompts} == {3}
