"""`usersim collab rloo`: RLOO through TRL, with multiturn-aware rewards of sampled replies.

usersim collab rloo configs/collab/rloo.toml
"""

from __future__ import annotations

from typing import Any

from trl.trainer.rloo_config import RLOOConfig
from trl.trainer.rloo_trainer import RLOOTrainer

from collab_train.contexts import Context
from collab_train.trainers.configs import RLOO
from collab_train.trainers.online.online_training import PromptsAsTyped, online_arguments, train


class RLOOAsTyped(PromptsAsTyped, RLOOTrainer):
    pass


def rloo(config: RLOO, contexts: list[Context], *, user: Any = None) -> dict[str, Any]:
    def build(model: Any, tokenizer: Any, lora: Any, prompts: Any, reward: Any) -> Any:
        return RLOOAsTyped(
            model=model,
            reward_funcs=[reward],
            args=RLOOConfig(
                **online_arguments(config),
                num_generations=config.sample_candidates,
                max_completion_length=config.assistant_tokens,
                beta=config.beta,
            ),
            train_dataset=prompts,
            processing_class=tokenizer,
            peft_config=lora,
        )

    return train(config, contexts, build, user=user)
