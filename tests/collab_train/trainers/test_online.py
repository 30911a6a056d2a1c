"""Training on rewards of the model's own replies: TRL's trainers for a step or two on tiny models."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("trl", reason="trl is not installed (pip install 'usersim-lm[collab]')")

import torch
from safetensors.torch import load_file
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM, TrainerCallback
from trl.trainer.grpo_config import GRPOConfig
from trl.trainer.grpo_trainer import GRPOTrainer

from collab_train.contexts import Context
from collab_train.decoding.dynamic_batching import BatchedSampler
from collab_train.decoding.sampling import draw
from collab_train.rollout.accounting.results import Future
from collab_train.rollout.cache.journal import Journal
from collab_train.trainers.online.grpo import GRPO, grpo
from collab_train.trainers.online.live_policy import LivePolicy, fingerprint
from collab_train.trainers.online.live_reward import MultiturnReward
from collab_train.trainers.online.online_dpo import OnlineDPO, online_dpo, undecided_pairs
from collab_train.trainers.online.online_training import online_arguments, train
from collab_train.trainers.online.rloo import RLOO, rloo
from collab_train.trainers.run_log import Bars
from usersim.backends.transformers_local import LocalSampler
from usersim.chat_models.openai_chat import ChatSettings
from usersim.errors import BackendError
from usersim.testing import ScriptedAssistant, ScriptedUser
from usersim.types import Facet, Goal, Turn, UserProfile, UserTurn
from usersim.users.protocols import Draw, Sampling

SMALL = {
    "wandb": "disabled",
    "batch": 2,
    "sample_candidates": 2,
    "micro_batch": 4,
    "assistant_tokens": 8,
    "w": 1,
    "n": 2,
    "show": 1,
    "show_tokens": 4,
    "rewards": {"facet_coverage": 1.0},
    "token_penalty": 0.01,
}


def contexts(count: int = 4) -> list[Context]:
    goal = Goal(summary="plan a trip", facets=(Facet(text="by train"),))
    return [
        Context(id=f"c{i}", turns=(Turn(role="user", text=f"plan trip {i}"),), profile=UserProfile(goal=goal))
        for i in range(count)
    ]


class Talker(ScriptedUser):
    """Says one line and leaves; fails at the calls it is told to."""

    def __init__(self, *fails: int, error: BaseException | None = None) -> None:
        super().__init__("plan a trip", "by train")
        self.fails, self.error = fails, error or BackendError("engine gone")

    async def __call__(
        self, profile: UserProfile, turns: Sequence[Turn], *, seed: int | None = None
    ) -> UserTurn:
        if len(self.heard) in self.fails:
            self.heard.append(tuple(turns))
            raise self.error
        return await super().__call__(profile, turns, seed=seed)


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Tiny matrices; threads would only wait for each other."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def base(tiny_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """As `tiny_base`, but what it says next is not what it said last."""
    folder = tmp_path_factory.mktemp("untied") / "model"
    config = LlamaConfig.from_pretrained(tiny_base, tie_word_embeddings=False)
    torch.manual_seed(3)
    LlamaForCausalLM(config).save_pretrained(folder)
    AutoTokenizer.from_pretrained(tiny_base).save_pretrained(folder)
    return folder


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def weights(model: Any) -> dict[str, torch.Tensor]:
    return {name: p.detach().clone() for name, p in model.named_parameters() if p.requires_grad}


class Snapshots(TrainerCallback):
    """The weights that each step begins with."""

    def __init__(self) -> None:
        self.kept: list[dict[str, torch.Tensor]] = []

    def on_step_begin(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:
        self.kept.append(weights(model))


def test_futures_are_answered_by_the_policy_as_it_is_at_that_step(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("USERSIM_PRECISION", "fp32")  # greedy texts of different batches are compared
    # Temperature 0 in the futures, 1 for the replies trained on; gradient checkpointing, which has no KV cache.
    config = GRPO(
        **{**SMALL, "temperature": 1e-6, "lr": 0.5, "max_steps": 3},
        assistant=str(base),
        out=str(tmp_path / "grpo"),
        gradient_checkpointing=True,
    )
    snapshots, trainers = Snapshots(), []

    def build(model: Any, tokenizer: Any, lora: Any, prompts: Any, reward: Any) -> Any:
        named = {**online_arguments(config), "temperature": 1.0}
        args = GRPOConfig(**named, num_generations=2, max_completion_length=8)
        trainers.append(
            GRPOTrainer(model, [reward], args, prompts, peft_config=lora, processing_class=tokenizer)
        )
        trainers[0].add_callback(snapshots)
        return trainers[0]

    summary = train(config, contexts(), build, user=Talker())
    assert (summary["steps"], len(summary["mr_by_step"])) == (3, 3)
    model, tokenizer = trainers[0].model.eval(), trainers[0].processing_class
    stale = 0
    for step in (1, 2):
        futures = Journal(tmp_path / "grpo" / "futures" / f"step-{step:06d}-0.jsonl", Future).read()
        answered = [f.conversation.turns for f in futures if f.conversation is not None]
        assert answered
        for turns in answered:
            now, at_first = (greedy(model, tokenizer, snapshots.kept[i], turns[:-1]) for i in (step, 0))
            assert turns[-1].text == now
            stale += now == at_first
    assert stale == 0


def greedy(model: Any, tokenizer: Any, state: dict[str, torch.Tensor], turns: Sequence[Turn]) -> str:
    """By transformers' own generate, with these weights."""
    model.load_state_dict(state, strict=False)
    messages = [{"role": turn.role, "content": turn.text} for turn in turns]
    ids = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=False)
    out = model.generate(input_ids=torch.tensor([ids]), do_sample=False, max_new_tokens=8)
    return str(tokenizer.decode(out[0, len(ids) :], skip_special_tokens=True)).strip()


def test_a_killed_run_ends_as_if_undisturbed_and_simulates_nothing_twice(base: Path, tmp_path: Path) -> None:
    def run(out: str, user: Talker) -> Path:
        config = GRPO(
            **SMALL,
            assistant=str(base),
            out=str(tmp_path / out),
            max_steps=2,
            save_every=1,
            lr=0.1,
            concurrency=1,
        )
        grpo(config, contexts(), user=user)
        return tmp_path / out / "adapter" / "adapter_model.safetensors"

    whole = Talker()
    undisturbed = load_file(run("whole", whole))
    # Killed in the second step, when one of its eight futures is there.
    first_step = len(lines(tmp_path / "whole" / "futures" / "step-000000-0.jsonl"))
    with pytest.raises(RuntimeError, match="killed"):
        run("killed", Talker(first_step + 1, error=RuntimeError("killed")))
    assert not (tmp_path / "killed" / "adapter").exists()
    finished = lines(tmp_path / "killed" / "futures" / "step-000001-0.jsonl")
    again = Talker()
    resumed = load_file(run("killed", again))
    assert finished
    assert len(again.heard) == len(whole.heard) - first_step - len(finished)
    assert all(torch.equal(resumed[name], weight) for name, weight in undisturbed.items())
    steps = [line["step"] for line in lines(tmp_path / "killed" / "metrics.jsonl") if "mr" in line]
    assert steps == [1, 2]


def test_a_failed_future_is_counted_and_left_out_of_training(base: Path, tmp_path: Path) -> None:
    config = RLOO(**SMALL, assistant=str(base), out=str(tmp_path), max_steps=1, concurrency=1, retries=0)
    summary = rloo(config, contexts(), user=Talker(0, 1))
    assert (summary["futures"], summary["futures_failed"]) == (8, 2)
    (line,) = [line for line in lines(tmp_path / "metrics.jsonl") if "mr" in line]
    assert line["replies_without_mr"] == 1
    assert line["mr"] == pytest.approx(line["rewards/mr/mean"])
    assert line["mr"] == pytest.approx(line["mr/facet_coverage"] + line["mr/intrinsic"], abs=1e-6)
    assert {"reply_tokens", "question_rate", "rollout_s"} <= line.keys()


def test_a_step_without_any_reward_stops_the_run_in_one_line(base: Path, tmp_path: Path) -> None:
    config = GRPO(**SMALL, assistant=str(base), out=str(tmp_path), max_steps=1, retries=0)
    with pytest.raises(
        BackendError, match=r"no reply of this step has a reward \(BackendError: engine gone\)"
    ):
        grpo(config, contexts(), user=Talker(*range(99)))


def test_online_dpo_trains_on_decided_pairs_only(base: Path, tmp_path: Path) -> None:
    def run(out: str, **changes: Any) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
        small = {**SMALL, **changes}
        config = OnlineDPO(**small, assistant=str(base), out=str(tmp_path / out), max_steps=1, lr=0.1)
        online_dpo(config, contexts(), user=Talker())
        (line,) = [line for line in lines(tmp_path / out / "metrics.jsonl") if "mr" in line]
        return load_file(tmp_path / out / "adapter" / "adapter_model.safetensors"), line

    # Nothing is ever served and tokens are free: all rewards are 0, and equal ones are no preference.
    still, line = run("equal", token_penalty=0.0)
    assert line["pairs_left_out"] == 1
    assert all(bool((w == 0).all()) for name, w in still.items() if "lora_B" in name)
    moved, line = run("unequal", margin=0.0)
    assert line["pairs_left_out"] < 1
    assert any(bool((w != 0).any()) for name, w in moved.items() if "lora_B" in name)


def test_undecided_pairs_by_hand() -> None:
    # Replies 0 and 3, 1 and 4, 2 and 5 belong together.
    assert undecided_pairs([0.5, 0.25, None, 0.5, 0.5, 1.0], 0.0) == [0, 2]
    assert undecided_pairs([0.5, 0.25, 1.0, 0.0, 0.5, 0.0], 0.375) == [1]


def test_equal_replies_are_simulated_once_and_empty_ones_not_at_all(tmp_path: Path) -> None:
    user = Talker()
    config = GRPO.model_validate({**SMALL, "out": str(tmp_path)})
    reward = MultiturnReward(contexts(2), user, config, folder=tmp_path, bars=Bars(), example_count=1)
    reward.connect(ScriptedAssistant("Trains leave hourly."), lambda: "w", lambda text: len(text))
    scores = reward.score_sync(["c0", "c1", "c0", "c0"], ["Hi.", " ", "Hi.", "Ho?"], 0)
    assert len(user.heard) == 4  # two replies, two futures each
    # 2 + 2 tokens and 4 of the answer.
    assert scores.rewards == [pytest.approx(0.92), None, pytest.approx(0.92), pytest.approx(0.92)]
    assert scores.metrics["replies_without_mr"] == 1
    assert scores.metrics["question_rate"] == 0.25
    assert (
        reward.rows[0][4]
        == "user: plan trip 0\nassistant: Hi.\nuser: by train\nassistant: Trains leave hourly."
    )
    # Other weights are another policy: nothing of it is reused; the same ones are.
    reward.score_sync(["c0"], ["Hi."], 0)
    assert len(user.heard) == 4
    reward.connect(ScriptedAssistant("Trains leave hourly."), lambda: "v", lambda text: len(text))
    reward.score_sync(["c0"], ["Hi."], 0)
    assert len(user.heard) == 6


def test_the_policy_is_held_in_evaluation_mode_and_let_go(base: Path) -> None:
    model = LlamaForCausalLM.from_pretrained(base).train()
    policy = LivePolicy(model, AutoTokenizer.from_pretrained(base), settings=ChatSettings())

    def fails() -> None:
        with policy.in_eval_mode():
            assert not model.training
            raise BackendError("gone")

    with pytest.raises(BackendError, match="gone"):
        fails()
    assert model.training
    before = fingerprint(model)
    with torch.no_grad():
        model.lm_head.weight[0, 0] += 1
    assert fingerprint(model) != before


class Counting(torch.nn.Module):
    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model, self.config, self.device, self.shapes = model, model.config, model.device, []

    def forward(self, **inputs: Any) -> Any:
        self.shapes.append(tuple(inputs["input_ids"].shape))
        return self.model(**inputs)


def test_waiting_requests_share_forward_passes_and_say_what_they_say_alone(base: Path) -> None:
    model = Counting(LlamaForCausalLM.from_pretrained(base).eval())
    greedy, free = Sampling(temperature=0, max_tokens=6), Sampling(temperature=1, max_tokens=6)
    asked = [Draw([5, 6, 7, 8, 9], [1], 3, greedy), Draw([10, 11], [1], 3, greedy)]
    asked += [Draw([10, 11], [1], 3, free, n=2, seed=7), Draw([12], [1], 3, free, seed=11, ban_ids=[20])]

    async def everything(sampler: LocalSampler) -> list[Any]:
        return await asyncio.gather(*(sampler.sample(one) for one in asked))

    together = asyncio.run(everything(BatchedSampler(model)))
    assert model.shapes[0] == (3, 5)  # three different prompts, padded to the longest
    assert max(shape[0] for shape in model.shapes[1:]) == 5
    assert len(model.shapes) <= 6
    alone = asyncio.run(everything(BatchedSampler(model, rows=1)))
    one_by_one = asyncio.run(everything(LocalSampler(model)))
    for here, there in zip(together, alone, strict=True):
        assert [s.token_ids for s in here] == [s.token_ids for s in there]
    for here, there in zip(together[:2], one_by_one[:2], strict=True):
        assert here[0].token_ids == there[0].token_ids
        assert here[0].logprobs == pytest.approx(there[0].logprobs, abs=1e-4)
        assert here[0].end_probability == pytest.approx(there[0].end_probability, abs=1e-5)
    assert together[2][0].token_ids != together[2][1].token_ids  # seeds 7 and 8


def test_a_failure_in_the_batch_reaches_everybody_in_it_and_nobody_after(base: Path) -> None:
    class Broken(Counting):
        def forward(self, **inputs: Any) -> Any:
            if not self.shapes:
                self.shapes.append((0, 0))
                raise RuntimeError("out of memory")
            return super().forward(**inputs)

    async def ask(sampler: BatchedSampler) -> list[Any]:
        draws = [Draw([5], [1], 3, Sampling(max_tokens=2), seed=i) for i in range(2)]
        first = await asyncio.gather(*map(sampler.sample, draws), return_exceptions=True)
        return [*first, await sampler.sample(draws[0])]

    one, other, later = asyncio.run(
        ask(BatchedSampler(Broken(LlamaForCausalLM.from_pretrained(base).eval())))
    )
    assert (str(one), str(other)) == ("out of memory", "out of memory")
    assert len(later[0].token_ids) <= 2


def test_nucleus_by_hand() -> None:
    logprobs = torch.tensor([[0.2, 0.5, 0.3]]).log()

    def token(u: float, **settings: Any) -> int:
        sampling = Sampling(**{"temperature": 1.0, "top_p": 1.0, **settings})
        return int(draw(logprobs, [sampling], [[]], torch.tensor([u], dtype=torch.float64)))

    # In the order of the vocabulary: token 0 up to 0.2, token 1 up to 0.7, token 2 to 1.
    assert [token(0.19), token(0.21), token(0.69), token(0.71), token(0.999)] == [0, 1, 1, 2, 2]
    # 0.5 and 0.3 reach 0.7, so 0.2 goes: 0.5 / 0.8 = 0.625.
    assert [token(u, top_p=0.7) for u in (0.01, 0.62, 0.63, 0.999)] == [1, 1, 2, 2]
    # 0.5 alone is below 0.6, so 0.3 stays as well: 0.5 / 0.8 = 0.625.
    assert [token(0.62, top_p=0.6), token(0.63, top_p=0.6), token(0.999, top_p=0.6)] == [1, 2, 2]
    assert token(0.999, top_k=1) == token(0.999, top_p=0.01) == token(0.999, temperature=0) == 1
    # At temperature 0.5 squares: 0.04, 0.25, 0.09 of 0.38, so token 1 from 0.105 to 0.763.
    assert [token(u, temperature=0.5) for u in (0.104, 0.106, 0.762, 0.764)] == [0, 1, 1, 2]
    banned = draw(logprobs, [Sampling(temperature=0)], [[1]], torch.tensor([0.5], dtype=torch.float64))
    assert int(banned) == 2


def test_a_flat_distribution_is_drawn_from_to_its_end() -> None:
    flat = torch.log_softmax(-1e-5 * torch.arange(4000.0), -1).expand(2, -1)
    settings = [Sampling(temperature=1, top_p=1), Sampling(temperature=1, top_p=1, top_k=600)]
    uniforms = torch.tensor([0.9999, 0.9999], dtype=torch.float64)
    tokens = draw(flat, settings, [[], []], uniforms)
    assert tokens.tolist() == [3999, 599]
