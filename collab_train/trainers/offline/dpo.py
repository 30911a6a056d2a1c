"""`usersim collab dpo`: offline DPO on pairs with LoRA, through TRL.

The reference is the initial policy: the base without an adapter, or a frozen copy of the adapter of an earlier run, so
that DPO after SFT keeps the SFT adapter.

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


class TokenisedDPOTrainer(DPOTrainer):
    """DPO trainer of TRL on rows already tokenised by `pair_ids`."""

    def _prepare_dataset(self, dataset: Any, *args: Any) -> Any:
        return dataset


def pair_ids(tokenizer: Any, pair: Pair) -> dict[str, list[int]]:
    """Tokenises a pair like TRL, except that control tokens typed by a person stay text.

    Replies begin where prompt and conversation diverge.
    """
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

    def build(
        model: Any, tokenizer: Any, lora: LoraConfig | None, tokenised_rows: list[dict[str, Any]]
    ) -> Any:
        return TokenisedDPOTrainer(
            model=model,
            args=DPOConfig(**arguments(config), max_length=config.max_length, beta=config.beta),
            train_dataset=Dataset.from_list(tokenised_rows),
            processing_class=tokenizer,
            peft_config=lora,
        )

    return tune(config, on_pairs(config, pairs, rows, build))
