"""Offline training on stored pairs: reading, planning and measuring, for SFT and DPO."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from peft import LoraConfig

from collab_train.rewards import count_tokens
from collab_train.rollout.simulation.best_path import Message
from collab_train.trainers.configs import PairTuning
from collab_train.trainers.lora_tuning import TrainingRecipe, check
from collab_train.trainers.margins import change, compare_replies, greedy_replies, margins
from collab_train.trainers.masks import template_ids
from collab_train.trainers.pairs import Pair
from collab_train.trainers.run_log import Bars
from usersim.errors import ConfigError
from usersim.storage.records import read_records
from usersim.storage.runs import RunDir

R = TypeVar("R")
log = logging.getLogger(__name__)
MAX_MEASURED_PAIRS = 64
"""Maximum training pairs, evenly spread, whose margins are measured. Held-out pairs are all measured."""


@dataclass(frozen=True)
class PairFiles:
    train: list[Pair]
    heldout: list[Pair]


def read_pairs(config: PairTuning) -> PairFiles:
    check(config)
    train = list(read_records(config.train, Pair))
    if not train:
        raise ConfigError(
            f"train: {config.train} has no pairs; run `usersim collab pairs` with a smaller margin"
        )
    return PairFiles(train, read_heldout(config))


def read_heldout(config: PairTuning) -> list[Pair]:
    return list(read_records(config.heldout, Pair)) if config.heldout else []


def plan(config: PairTuning, rows: int, texts: Sequence[Message]) -> dict[str, Any]:
    per_epoch = math.ceil(rows / config.batch)
    steps = config.max_steps or per_epoch * config.epochs
    return {
        "rows": rows,
        "steps": steps,
        "words_and_marks_per_epoch": sum(count_tokens(message.content) for message in texts),
        "passes_over_the_rows": round(steps / per_epoch, 2),
        "out": config.out,
    }


def fitting(config: PairTuning, rows: Sequence[tuple[R, int]]) -> list[R]:
    """Selects the rows whose supervised tokens are not all cut by `max_length`, and logs how many are left out.

    Args:
        config: the training.
        rows: (row, number of tokens before its first supervised token).

    Raises:
        ConfigError: no row is left.
    """
    fitting_rows = [row for row, prompt_tokens in rows if prompt_tokens < config.max_length]
    if not fitting_rows:
        raise ConfigError(
            f"max_length={config.max_length} cuts the reply of each of the {len(rows)} rows away; the shortest prompt "
            f"takes {min(length for _, length in rows)} tokens: choose a longer max_length or shorter prompts"
        )
    if left_out_count := len(rows) - len(fitting_rows):
        log.warning(
            "max_length=%d cuts the whole reply of %d of %d rows away; they are left out",
            config.max_length,
            left_out_count,
            len(rows),
        )
    return fitting_rows


def prompt_length(tokenizer: Any, prompt: Sequence[Message]) -> int:
    """Returns the number of tokens before the reply."""
    return len(template_ids(tokenizer, prompt, add_generation_prompt=True))


def on_pairs(
    config: PairTuning,
    pairs: PairFiles,
    rows: Callable[[Any], Sequence[tuple[R, int]]],
    build: Callable[[Any, Any, LoraConfig | None, list[R]], Any],
) -> TrainingRecipe:
    """Makes a recipe that measures log-probability margins, and greedy replies (held-out prompts first).

    Args:
        config: the training.
        pairs: pairs to measure.
        rows: tokenizer → (row, tokens before its first supervised one).
        build: (model, tokenizer, LoRA or None, rows) → a TRL trainer.
    """
    example_pairs = [*pairs.heldout, *pairs.train][: config.show]
    measured_pairs = pairs.train[:: max(1, math.ceil(len(pairs.train) / MAX_MEASURED_PAIRS))]
    cut_away = dict[str, int]()

    def trainer(model: Any, tokenizer: Any, lora: LoraConfig | None, run: RunDir, bars: Bars) -> Any:
        all_rows = rows(tokenizer)
        fitting_rows = fitting(config, all_rows)
        cut_away["rows_cut_away"] = len(all_rows) - len(fitting_rows)
        return build(model, tokenizer, lora, fitting_rows)

    def measure(model: Any, tokenizer: Any) -> dict[str, Any]:
        def margins_of(measured: Sequence[Pair]) -> list[float]:
            fitting_pairs = [
                pair for pair in measured if prompt_length(tokenizer, pair.prompt) < config.max_length
            ]
            return margins(model, tokenizer, fitting_pairs, max_length=config.max_length)

        return {
            "train": margins_of(measured_pairs),
            "heldout": margins_of(pairs.heldout),
            "contexts": [pair.context for pair in example_pairs],
            "replies": greedy_replies(
                model, tokenizer, [pair.prompt for pair in example_pairs], max_tokens=config.show_tokens
            ),
        }

    def compare(before: dict[str, Any], after: dict[str, Any], run: RunDir) -> dict[str, Any]:
        return {
            **cut_away,
            "train_margin": change(before["train"], after["train"]),
            "heldout_margin": change(before["heldout"], after["heldout"]),
            **compare_replies(before, after, run),
        }

    return TrainingRecipe(trainer, measure, compare)
