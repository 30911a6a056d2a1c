"""`usersim collab sft`: LoRA fine-tuning on the assistant's turns of the best conversations, or on the chosen replies.

usersim collab sft configs/collab/sft.toml
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from datasets import Dataset  # type: ignore[import-untyped]
from peft import LoraConfig
from trl.trainer.sft_config import SFTConfig
from trl.trainer.sft_trainer import SFTTrainer

from collab_train.rollout.simulation.best_path import Message, Path
from collab_train.trainers.configs import SFT
from collab_train.trainers.lora_tuning import arguments, check, tune
from collab_train.trainers.masks import IGNORED, labelled
from collab_train.trainers.offline import offline_training as offline
from collab_train.trainers.offline.offline_training import PairFiles, on_pairs, read_heldout, read_pairs
from usersim.errors import ConfigError
from usersim.storage.records import read_records


@dataclass(frozen=True)
class Dialogues:
    """Conversations for SFT, supervised on assistant turns from `starts` on, and pairs to measure."""

    messages: list[tuple[Message, ...]]
    starts: list[int]
    pairs: PairFiles


def read_dialogues(config: SFT) -> Dialogues:
    check(config)
    rows: Sequence[Any]
    if config.paths is None:
        pairs = read_pairs(config)
        rows = pairs.train
    else:
        pairs = PairFiles([], read_heldout(config))
        rows = list(read_records(config.paths, Path))
    if not rows:
        raise ConfigError(f"paths: {config.paths} has no conversations; run `usersim collab pairs` first")
    return Dialogues([(*row.prompt, *row.chosen) for row in rows], [len(row.prompt) for row in rows], pairs)


def plan(config: SFT, dialogues: Dialogues) -> dict[str, Any]:
    texts = [message for messages in dialogues.messages for message in messages]
    return offline.plan(config, len(dialogues.messages), texts)


def sft(config: SFT, dialogues: Dialogues) -> dict[str, Any]:
    def rows(tokenizer: Any) -> list[tuple[dict[str, list[int]], int]]:
        labels = [
            labelled(tokenizer, messages, start)
            for messages, start in zip(dialogues.messages, dialogues.starts, strict=True)
        ]
        return [(row, _prompt_length(row["labels"])) for row in labels]

    def build(
        model: Any, tokenizer: Any, lora: LoraConfig | None, tokenised_rows: list[dict[str, list[int]]]
    ) -> Any:
        return SFTTrainer(
            model=model,
            args=SFTConfig(**arguments(config), max_length=config.max_length),
            train_dataset=Dataset.from_list(tokenised_rows),
            processing_class=tokenizer,
            peft_config=lora,
        )

    return tune(config, on_pairs(config, dialogues.pairs, rows, build))


def _prompt_length(labels: Sequence[int]) -> int:
    """Returns the number of tokens before the first supervised one."""
    return next((at for at, label in enumerate(labels) if label != IGNORED), len(labels))
