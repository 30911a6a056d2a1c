"""`usersim collab grpo`: GRPO through TRL, with multiturn-aware rewards of sampled replies.

usersim collab grpo configs/collab/grpo.toml

With `iterations` above 1, the ratio to the sampling policy is clipped, as in PPO.
"""

from __future__ import annotations

from typing import Any

from trl.trainer.grpo_config import GRPOConfig
from trl.trainer.grpo_trainer import GRPOTrainer

from collab_train.contexts import Context
from collab_train.trainers.configs import GRPO
from collab_train.trainers.online.online_training import PromptsAsTyped, online_arguments, train


class GRPOAsTyped(PromptsAsTyped, GRPOTrainer):
    pass


def grpo(config: GRPO, contexts: list[Context], *, user: Any = None) -> dict[str, Any]:
    def build(model: Any, tokenizer: Any, lora: Any, prompts: Any, reward: Any) -> Any:
        return GRPOAsTyped(
            model=model,
            reward_funcs=[reward],
            args=GRPOConfig(
                **online_arguments(config),
                num_generations=config.sample_candidates,
                max_completion_length=config.assistant_tokens,
                num_iterations=config.iterations,
                beta=config.beta,
            ),
            train_dataset=prompts,
            processing_class=tokenizer,
            peft_config=lora,
        )

    return train(config, contexts, build, user=user)
