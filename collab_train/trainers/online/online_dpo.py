"""`usersim collab online-dpo`: DPO on two fresh replies a context, ranked by their multiturn-aware rewards.

usersim collab online-dpo configs/collab/online_dpo.toml
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from accelerate.utils import gather_object  # type: ignore[import-untyped]
from trl.experimental.online_dpo import OnlineDPOConfig, OnlineDPOTrainer

from collab_train.contexts import Context
from collab_train.trainers.configs import OnlineDPO
from collab_train.trainers.online.live_reward import MultiturnReward, Scores
from collab_train.trainers.online.online_training import online_arguments, train
from usersim.rendering.chat_template import harmless


class PairedTrainer(OnlineDPOTrainer):
    """TRL's trainer scores a reply without a reward 0 and lets the first of two equals win; here neither trains.

    It also adds up the losses of accumulated passes where the others take their mean.
    """

    margin: float = 0.0

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.accelerator.gradient_accumulation_steps = self.args.gradient_accumulation_steps
        self._said: dict[str, list[float]] = {}

    def _generate(self, model: Any, prompts: Any, images: Any = None) -> Any:
        made = super()._generate(model, self._harmless(prompts), images)  # type: ignore[no-untyped-call]
        self._mask_BT = made[3]
        return made

    def _generate_vllm(self, prompts: Any, images: Any = None) -> Any:
        made = super()._generate_vllm(self._harmless(prompts), images)  # type: ignore[no-untyped-call]
        self._mask_BT = made[3]
        return made

    def _harmless(self, prompts: Sequence[Sequence[dict[str, str]]]) -> list[list[dict[str, str]]]:
        """This trainer takes prompts as text alone: a control token that a person typed would be one."""
        tokenizer: Any = self.processing_class
        controls = tokenizer.get_added_vocab()
        return [
            [{**message, "content": harmless(message["content"], controls)} for message in prompt]
            for prompt in prompts
        ]

    def _calculate_rewards_from_functions(
        self, prompts: Any, completions: Any, completion_ids_list: Any, **columns: Any
    ) -> Any:
        texts = [completion[0]["content"] for completion in completions]
        reward: Any = self.reward_funcs[0]
        scores: Scores = reward.score_sync(columns["context"], texts, self.state.global_step)
        undecided = undecided_pairs(scores.rewards, self.margin)
        # A masked reply has log-probability 0 on both sides: its pair's loss is a constant, its gradient 0.
        half = len(texts) // 2
        for pair in undecided:
            self._mask_BT[[pair, pair + half]] = 0
        self._note({**scores.metrics, "pairs_left_out": len(undecided) / half})
        return torch.tensor([reward or 0.0 for reward in scores.rewards], device=self.accelerator.device)

    def _note(self, metrics: dict[str, float]) -> None:
        for said in gather_object([metrics]):
            for name, value in said.items():
                self._said.setdefault(name, []).append(value)

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        logs |= {name: sum(values) / len(values) for name, values in self._said.items()}
        self._said.clear()
        super().log(logs, start_time)


def undecided_pairs(rewards: Sequence[float | None], margin: float) -> list[int]:
    """Of replies i and i + half: pairs that lack a reward or whose two are equal or closer than `margin`."""
    half, undecided = len(rewards) // 2, []
    for pair in range(half):
        first, second = rewards[pair], rewards[pair + half]
        if first is None or second is None or first == second or abs(first - second) < margin:
            undecided.append(pair)
    return undecided


def online_dpo(config: OnlineDPO, contexts: list[Context], *, user: Any = None) -> dict[str, Any]:
    def build(model: Any, tokenizer: Any, lora: Any, prompts: Any, reward: MultiturnReward) -> Any:
        named = online_arguments(config)
        trainer = PairedTrainer(
            model=model,
            reward_funcs=[reward],
            args=OnlineDPOConfig(
                **{**named, "per_device_train_batch_size": config.micro_batch // 2},
                max_new_tokens=config.assistant_tokens,
                max_length=config.max_length,
                beta=[config.beta],
            ),
            train_dataset=prompts,
            processing_class=tokenizer,
            peft_config=lora,
        )
        trainer.margin = config.margin
        return trainer

    return train(config, contexts, build, user=user)
