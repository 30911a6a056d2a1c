"""`usersim collab sft`: LoRA fine-tuning on the best reply of each context, loss on that reply alone."""

from __future__ import annotations

from typing import Any

from datasets import Dataset  # type: ignore[import-untyped]
from peft import LoraConfig
from trl.trainer.sft_config import SFTConfig
from trl.trainer.sft_trainer import SFTTrainer

from collab_train.tuning import PairFiles, Tuning, arguments, tune


class SFT(Tuning):
    out: str = "runs/collab-sft"


def sft(config: SFT, pairs: PairFiles) -> dict[str, Any]:
    rows = [pair.model_dump(include={"prompt", "chosen"}) for pair in pairs.train]
    rows = [{"prompt": row["prompt"], "completion": row["chosen"]} for row in rows]

    def make(model: Any, tokenizer: Any, lora: LoraConfig | None) -> Any:
        return SFTTrainer(
            model=model,
            args=SFTConfig(**arguments(config), completion_only_loss=True),
            train_dataset=Dataset.from_list(rows),
            processing_class=tokenizer,
            peft_config=lora,
        )

    return tune(config, pairs, make)
