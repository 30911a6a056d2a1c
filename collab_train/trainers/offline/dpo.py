"""`usersim collab dpo`: offline DPO on pairs with LoRA, through TRL.

The reference is the starting point: the base without the adapter, or TRL's frozen copy of the adapter that an
earlier run left, so that SFT → DPO drops nothing.

    usersim collab dpo configs/collab/dpo.toml
"""

from __future__ import annotations

from typing import Any

from datasets import Dataset  # type: ignore[import-untyped]
from peft import LoraConfig
from trl.trainer.dpo_config import DPOConfig
from trl.trainer.dpo_trainer import DPOTrainer

from collab_train.trainers.configs import DPO
from collab_train.trainers.lora_tuning import arguments, tune
from collab_train.trainers.masks import common_length, template_ids
from collab_train.trainers.offline import offline_training as offline
from collab_train.trainers.offline.offline_training import PairFiles, on_pairs, prompt_length
from collab_train.trainers.pairs import Pair


def plan(config: DPO, pairs: PairFiles) -> dict[str, Any]:
    texts = [m for p in pairs.train for m in (*p.prompt, *p.chosen, *p.prompt, *p.rejected)]
    return {**offline.plan(config, len(pairs.train), texts), "heldout_pairs": len(pairs.heldout)}


class Tokenised(DPOTrainer):
    """TRL's trainer on rows that `pair_ids` made."""

    def _prepare_dataset(self, dataset: Any, *args: Any) -> Any:
        return dataset


def pair_ids(tokenizer: Any, pair: Pair) -> dict[str, list[int]]:
    """As TRL tokenises a pair, but a control token that a person typed stays text: replies begin where prompt and
    whole part."""
    prompt = template_ids(tokenizer, pair.prompt, add_generation_prompt=True)
    chosen, rejected = (
        template_ids(tokenizer, [*pair.prompt, *reply], add_generation_prompt=False)
        for reply in (pair.chosen, pair.rejected)
    )
    start = min(common_length(prompt, whole) for whole in (chosen, rejected))
    return {"prompt_ids": prompt[:start], "chosen_ids": chosen[start:], "rejected_ids": rejected[start:]}


def dpo(config: DPO, pairs: PairFiles) -> dict[str, Any]:
    def rows(tokenizer: Any) -> list[tuple[dict[str, Any], int]]:
        return [(pair_ids(tokenizer, pair), prompt_length(tokenizer, pair.prompt)) for pair in pairs.train]

    def build(model: Any, tokenizer: Any, lora: LoraConfig | None, kept: list[dict[str, Any]]) -> Any:
        return Tokenised(
            model=model,
            args=DPOConfig(**arguments(config), max_length=config.max_length, beta=config.beta),
            train_dataset=Dataset.from_list(kept),
            processing_class=tokenizer,
            peft_config=lora,
        )

    return tune(config, on_pairs(config, pairs, rows, build))
