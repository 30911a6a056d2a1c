"""`usersim collab online-dpo`: DPO on two sampled replies per context, ranked by their multiturn-aware rewards.

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
from collab_train.trainers.online.live_reward import MultiturnReward, ReplyScores
from collab_train.trainers.online.online_training import online_arguments, train
from usersim.rendering.chat_template import harmless


class PairedTrainer(OnlineDPOTrainer):
    """Online DPO trainer of TRL that masks pairs without a decision, and averages accumulated losses.

    TRL's own trainer scores a reply without a reward 0 and prefers the first of two equal replies. It also sums the
    losses of accumulated passes, where other trainers average them.
    """

    margin: float = 0.0

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.accelerator.gradient_accumulation_steps = self.args.gradient_accumulation_steps
        self._metric_values: dict[str, list[float]] = {}

    def _generate(self, model: Any, prompts: Any, images: Any = None) -> Any:
        output = super()._generate(model, self._harmless(prompts), images)  # type: ignore[no-untyped-call]
        self._mask_BT = output[3]
        return output

    def _generate_vllm(self, prompts: Any, images: Any = None) -> Any:
        output = super()._generate_vllm(self._harmless(prompts), images)  # type: ignore[no-untyped-call]
        self._mask_BT = output[3]
        return output

    def _harmless(self, prompts: Sequence[Sequence[dict[str, str]]]) -> list[list[dict[str, str]]]:
        """Escapes control tokens typed by a person, because this trainer tokenises prompts as plain text."""
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
        scores: ReplyScores = reward.score_sync(columns["context"], texts, self.state.global_step)
        undecided = undecided_pairs(scores.rewards, self.margin)
        # A masked reply has log-probability 0 in both models, so the loss of its pair is constant and its gradient 0.
        half = len(texts) // 2
        for pair in undecided:
            self._mask_BT[[pair, pair + half]] = 0
        self._note({**scores.metrics, "pairs_left_out": len(undecided) / half})
        return torch.tensor([reward or 0.0 for reward in scores.rewards], device=self.accelerator.device)

    def _note(self, metrics: dict[str, float]) -> None:
        for process_metrics in gather_object([metrics]):
            for name, value in process_metrics.items():
                self._metric_values.setdefault(name, []).append(value)

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        logs |= {name: sum(values) / len(values) for name, values in self._metric_values.items()}
        self._metric_values.clear()
        super().log(logs, start_time)


def undecided_pairs(rewards: Sequence[float | None], margin: float) -> list[int]:
    """Returns the pairs (replies i and i + half) that lack a reward, or whose rewards are equal or within `margin`."""
    half, undecided = len(rewards) // 2, []
    for pair in range(half):
        first, second = rewards[pair], rewards[pair + half]
        if first is None or second is None or first == second or abs(first - second) < margin:
            undecided.append(pair)
    return undecided


def online_dpo(config: OnlineDPO, contexts: list[Context], *, user: Any = None) -> dict[str, Any]:
    def build(model: Any, tokenizer: Any, lora: Any, prompts: Any, reward: MultiturnReward) -> Any:
        trl_arguments = online_arguments(config)
        trainer = PairedTrainer(
            model=model,
            reward_funcs=[reward],
            args=OnlineDPOConfig(
                **{**trl_arguments, "per_device_train_batch_size": config.micro_batch // 2},
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
