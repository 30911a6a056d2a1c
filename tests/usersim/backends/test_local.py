"""The transformers backend and the public door, on a tiny random model."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
import torch

import usersim
from tests.conftest import LLAMA3, make_base
from usersim.backends.transformers_local import LocalSampler, _draw
from usersim.chat_models.local_chat import LocalChat
from usersim.chat_models.openai_chat import ChatSettings
from usersim.errors import ConfigError
from usersim.rendering.renderer import END_OF_CONVERSATION, Renderer
from usersim.types import Persona, Style, Turn
from usersim.users.guards import Guards
from usersim.users.protocols import Draw, EndPolicy, Sampling, as_profile
from usersim.users.userlm import UserLM
from usersim.weights.base_model import load_user_base, save_user_lm

FREE = Guards(empty=False, repeat=False, goal_copy=False, assistant_speak=False, max_words=None)
SHORT = Sampling(max_tokens=12)


@pytest.fixture(scope="module")
def user(tiny_userlm: Path) -> UserLM:
    return usersim.load(tiny_userlm, sampling=SHORT, guards=FREE)


def test_the_same_seed_gives_the_same_turn_and_another_another(user: UserLM) -> None:
    first, again, other = (usersim.sample(goal="g", seed=seed, user=user) for seed in (1, 1, 2))
    assert first == again
    assert first.text != other.text


def test_the_seed_of_a_turn_among_n_gives_it_again_alone(user: UserLM) -> None:
    many = asyncio.run(user.sample(as_profile("g"), [], n=3, seed=10))
    single = asyncio.run(user.sample(as_profile("g"), [], n=1, seed=many[2].seed))
    assert many[2].text == single[0].text
    assert many[2].logprob == pytest.approx(single[0].logprob, abs=1e-3)
    neighbour = asyncio.run(user.sample(as_profile("g"), [], n=1, seed=11))
    assert neighbour[0].text not in {turn.text for turn in many}


def test_end_probability_is_the_models_own_and_raw(tiny_userlm: Path, user: UserLM) -> None:
    prompt = user.renderer.prompt(as_profile("g"), [])
    model = LocalSampler.from_pretrained(tiny_userlm).model
    logits = model(torch.tensor([prompt])).logits[0, -1].float().detach()
    expected = float(torch.softmax(logits, -1)[user.renderer.settings.end_of_conversation_id])
    for policy in (EndPolicy(mode="never"), EndPolicy(mode="sample", min_user_turns=0)):
        said = asyncio.run(
            user.sample(
                as_profile("g"), [], seed=0, end=policy, sampling=Sampling(temperature=2, max_tokens=2)
            )
        )
        assert said[0].end_probability == pytest.approx(expected, rel=1e-4)


def test_a_banned_end_is_never_drawn_and_a_certain_one_always(user: UserLM) -> None:
    never = asyncio.run(user.sample(as_profile("g"), [], n=16, seed=0, end=EndPolicy(mode="never")))
    assert not any(turn.ends for turn in never)
    always = EndPolicy(mode="threshold", threshold=0.0, min_user_turns=0)
    assert all(t.ends for t in asyncio.run(user.sample(as_profile("g"), [], n=4, seed=0, end=always)))


def test_logprob_is_the_sum_over_the_sampled_tokens(tiny_userlm: Path) -> None:
    sampler = LocalSampler.from_pretrained(tiny_userlm)
    prompt = [1, 40, 41]
    sampled = sampler.sample_sync(Draw(prompt, [2], 3, Sampling(max_tokens=4), seed=3))[0]
    logits = sampler.model(torch.tensor([prompt + sampled.token_ids])).logits[0].float().detach()
    scored = torch.log_softmax(logits, -1)
    expected = [float(scored[len(prompt) - 1 + i, t]) for i, t in enumerate(sampled.token_ids)]
    assert sampled.logprobs == pytest.approx(expected, abs=1e-4)


def test_top_p_keeps_the_smallest_set_that_reaches_it() -> None:
    logprobs = torch.log(torch.tensor([0.5, 0.3, 0.15, 0.05]))
    generator = torch.Generator().manual_seed(0)
    drawn = {_draw(logprobs, Sampling(top_p=0.7), [], generator) for _ in range(300)}
    assert drawn == {0, 1}
    assert {_draw(logprobs, Sampling(top_p=0.7), [0], generator) for _ in range(300)} == {1, 2}
    assert _draw(logprobs, Sampling(temperature=0), [0], generator) == 1


def test_strings_and_objects_condition_alike(user: UserLM) -> None:
    text = user.renderer.prompt(as_profile("plan a trip", "terse"), [])
    full = user.renderer.prompt(
        as_profile(usersim.Goal(summary="plan a trip"), Persona(description="terse")), []
    )
    styled = user.renderer.prompt(as_profile("plan a trip", Persona(style=Style(questions=1.0))), [])
    assert text == full != styled


def test_sample_many_keeps_order_and_failures_in_place(user: UserLM) -> None:
    good, bad = (as_profile("g"), []), (as_profile("g"), [{"role": "user", "content": "no reply yet"}])
    first, second, third = usersim.sample_many([good, bad, good], seed=0, user=user)
    assert isinstance(first, usersim.UserTurn)
    assert isinstance(third, usersim.UserTurn)
    assert "ends with a user turn" in str(second)


def test_a_whole_conversation_with_a_local_assistant(user: UserLM, tiny_base: Path) -> None:
    settings = ChatSettings(max_tokens=8, temperature=1)
    assistant = LocalChat.from_pretrained(tiny_base, settings=settings)
    made = usersim.converse(assistant, goal="g", user=user, max_user_turns=2, seed=1)
    assert made.origin == "simulated"
    assert made.source == "tiny-userlm"
    assert [turn.role for turn in made.turns][:2] == ["user", "assistant"]


def test_turns_that_are_not_turns_are_named(user: UserLM) -> None:
    with pytest.raises(ConfigError, match="turn 0: needs role"):
        usersim.sample(turns=[{"speaker": "me"}], user=user)


@pytest.mark.parametrize("tied", [True, False])
def test_the_end_token_gets_a_row_in_both_embeddings(tmp_path: Path, tied: bool) -> None:
    base = load_user_base(make_base(tmp_path / "b", tied=tied))
    end, like = base.settings.end_of_conversation_id, base.settings.end_of_turn_id
    for layer in (base.model.get_input_embeddings(), base.model.get_output_embeddings()):
        assert torch.equal(layer.weight[end], layer.weight[like])
    assert base.tokenizer_json["model"]["vocab"][END_OF_CONVERSATION] == end


def test_a_llama3_base_and_one_without_an_unused_token_work(tmp_path: Path) -> None:
    llama = load_user_base(make_base(tmp_path / "l", LLAMA3))
    assert llama.settings.chat_format == "llama3"
    bare = load_user_base(make_base(tmp_path / "n", ("<|endoftext|>", "<|im_start|>", "<|im_end|>")))
    assert bare.settings.end_of_conversation_id == 3 + 256  # the first spare row after controls and bytes


def test_a_saved_user_lm_is_read_back_and_kept_as_it_is(tiny_userlm: Path, tmp_path: Path) -> None:
    again = load_user_base(tiny_userlm)
    save_user_lm(again, again.model, tmp_path / "copy")
    original, copy = Renderer.from_pretrained(tiny_userlm), Renderer.from_pretrained(tmp_path / "copy")
    assert copy.fingerprint == original.fingerprint


def test_a_folder_that_is_no_user_lm_is_refused(tiny_base: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"no userlm\.json"):
        Renderer.from_pretrained(tiny_base)
    with pytest.raises(ConfigError, match="no model there"):
        usersim.load(tmp_path)


def test_history_may_begin_with_the_assistant(user: UserLM) -> None:
    said = usersim.sample(
        goal="g", turns=[Turn(role="assistant", text="Hi! How can I help?")], user=user, seed=0
    )
    assert said.prompt_tokens > 0


def test_several_turns_at_once_on_one_event_loop_after_another(user: UserLM) -> None:
    async def three() -> list[str]:
        turns = await asyncio.gather(*(user(as_profile("g"), [], seed=seed) for seed in range(3)))
        return [turn.text for turn in turns]

    assert asyncio.run(three()) == asyncio.run(three())
