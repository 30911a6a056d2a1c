"""Online training on rewards of sampled replies: checks, prompts, and the user and assistant in futures."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from datasets import Dataset  # type: ignore[import-untyped]
from peft import LoraConfig

from collab_train import rewards
from collab_train.contexts import Context
from collab_train.decoding.dynamic_batching import BatchedSampler
from collab_train.rollout.command import choose_contexts, reward_weights
from collab_train.rollout.engines.models import open_assistant, open_user
from collab_train.rollout.simulation.best_path import prompt_messages
from collab_train.trainers.configs import Online
from collab_train.trainers.lora_tuning import TrainingRecipe, arguments, check, tune
from collab_train.trainers.margins import compare_replies, greedy_replies
from collab_train.trainers.online.live_policy import LivePolicy, fingerprint
from collab_train.trainers.online.live_reward import MultiturnReward
from collab_train.trainers.run_log import Bars
from usersim.api import run as run_async
from usersim.backends.transformers_local import LocalSampler
from usersim.chat_models.openai_chat import ChatSettings
from usersim.errors import ConfigError
from usersim.rendering.chat_template import chat_ids
from usersim.storage.runs import RunDir
from usersim.users.userlm import UserLM

Build = Callable[[Any, Any, LoraConfig | None, Dataset, MultiturnReward], Any]
"""(model, tokenizer, LoRA or None if the model has an adapter, prompts, reward) → a TRL trainer."""


def read_online(config: Online) -> list[Context]:
    """Returns the contexts to train on.

    Raises:
        UsersimError: the config or a file is wrong. All such errors are raised here, before training.
    """
    check(config)
    if config.candidates:
        raise ConfigError("candidates: the replies are sampled from the model in training; leave it out")
    contexts = choose_contexts(config)
    if len(contexts) < config.batch:
        raise ConfigError(f"batch={config.batch} contexts per step, but there are only {len(contexts)}")
    return contexts


def plan(config: Online, contexts: list[Context]) -> dict[str, Any]:
    """Returns the size of a run. Token counts are upper bounds: turns are usually shorter, and users leave."""
    steps = config.max_steps or len(contexts) // config.batch * config.epochs
    futures = config.sequences_per_step * config.futures
    turns = futures * config.w
    return {
        "contexts": len(contexts),
        "steps": steps,
        "replies_per_step": config.sequences_per_step,
        "futures_per_step": futures,
        "w": config.w,
        "n": config.futures,
        "rewards": reward_weights(config),
        "token_penalty": config.token_penalty,
        "user_tokens_at_most": steps * turns * config.user_tokens,
        "assistant_tokens_at_most": steps * (turns + config.sequences_per_step) * config.assistant_tokens,
        "passes_over_the_contexts": round(steps * config.batch / len(contexts), 2),
        "out": config.out,
    }


def train(config: Online, contexts: list[Context], build: Build, *, user: Any = None) -> dict[str, Any]:
    """Trains and returns the summary.

    Args:
        config: the training.
        contexts: contexts to sample replies to.
        build: makes the TRL trainer.
        user: a `User` with `aclose`, instead of the user of the config.
    """
    user = user or _open_user(config)
    tools = rewards.open_tools(config, user)
    weights = reward_weights(config)
    rewards.check(contexts, config.required_rewards(weights), tools)
    scoring = config.model_copy(update={"rewards": weights})
    prompts = Dataset.from_list([_row(context) for context in contexts])
    reward_functions = list[MultiturnReward]()

    def trainer(model: Any, tokenizer: Any, lora: LoraConfig | None, run: RunDir, bars: Bars) -> Any:
        tokenizer.padding_side = "left"
        reward = MultiturnReward(
            contexts,
            user,
            scoring,
            folder=Path(config.out) / "futures",
            bars=bars,
            tools=tools,
            example_count=config.show,
        )
        reward_functions.append(reward)
        built = build(model, tokenizer, lora, prompts, reward)
        reward.rank = built.args.process_index
        assistant = _assistant(config, built.model, tokenizer, user)
        reward.connect(
            assistant, lambda: fingerprint(built.model), lambda text: len(tokenizer(text).input_ids)
        )
        return built

    try:
        return tune(config, _recipe(config, contexts, trainer, reward_functions))
    finally:
        run_async(_close(tools, user, *(getattr(reward, "assistant", None) for reward in reward_functions)))


def _recipe(
    config: Online, contexts: list[Context], trainer: Any, reward_functions: list[MultiturnReward]
) -> TrainingRecipe:
    example_contexts = contexts[: config.show]

    def measure(model: Any, tokenizer: Any) -> dict[str, Any]:
        prompts = [prompt_messages(context) for context in example_contexts]
        replies = greedy_replies(model, tokenizer, prompts, max_tokens=config.show_tokens)
        return {"contexts": [context.id for context in example_contexts], "replies": replies}

    def compare(before: dict[str, Any], after: dict[str, Any], run: RunDir) -> dict[str, Any]:
        lines = [line for line in run.metrics() if "mr" in line]
        return {
            "mr_by_step": [round(line["mr"], 4) for line in lines],
            "futures": sum(round(line["futures"]) for line in lines),
            "futures_failed": sum(round(line["futures_failed"]) for line in lines),
            "rollout_s": round(sum(line["rollout_s"] for line in lines), 1),
            **compare_replies(before, after, run),
        }

    return TrainingRecipe(trainer, measure, compare, lambda: reward_functions[-1].rows)


def online_arguments(config: Online) -> dict[str, Any]:
    """Returns the TRL arguments of online training. There is no top_p, which would bias the gradient."""
    server = {"use_vllm": True, "vllm_mode": "server", "vllm_server_base_url": config.vllm}
    return {**arguments(config), "temperature": config.temperature, **(server if config.vllm else {})}


class PromptsAsTyped:
    """Mixin for TRL trainers that tokenise prompts: control tokens typed by a person stay text."""

    processing_class: Any

    def _tokenize_prompts(
        self, prompts: list[list[dict[str, str]]]
    ) -> tuple[list[list[int]], None, dict[str, Any]]:
        return [chat_ids(self.processing_class, prompt) for prompt in prompts], None, {}


def _row(context: Context) -> dict[str, Any]:
    return {"prompt": [message.model_dump() for message in prompt_messages(context)], "context": context.id}


def _open_user(config: Online) -> Any:
    user = open_user(config.user, max_tokens=config.user_tokens)
    if isinstance(user, UserLM) and isinstance(user.sampler, LocalSampler):
        user.sampler = BatchedSampler(user.sampler.model, rows=config.concurrency)
    return user


def _assistant(config: Online, model: Any, tokenizer: Any, user: Any) -> Any:
    settings = ChatSettings(temperature=config.temperature, max_tokens=config.assistant_tokens)
    if config.vllm:
        return open_assistant(config.vllm, settings)
    beside = user.sampler if isinstance(user, UserLM) and isinstance(user.sampler, LocalSampler) else None
    return LivePolicy(model, tokenizer, settings=settings, rows=config.concurrency, beside=beside)


async def _close(*resources: Any) -> None:
    for resource in resources:
        if resource is not None and hasattr(resource, "aclose"):
            await resource.aclose()
