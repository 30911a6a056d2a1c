"""Training on pairs that are there already: what SFT and DPO read, plan and measure."""

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
from collab_train.trainers.lora_tuning import Course, check
from collab_train.trainers.margins import change, compare_replies, greedy_replies, margins
from collab_train.trainers.masks import template_ids
from collab_train.trainers.pairs import Pair
from collab_train.trainers.run_log import Bars
from usersim.errors import ConfigError
from usersim.storage.records import read_records
from usersim.storage.runs import RunDir

R = TypeVar("R")
log = logging.getLogger(__name__)
MEASURED = 64
"""Margins of the pairs trained on are measured of so many at most, evenly spread; of held-out pairs, of all."""


@dataclass(frozen=True)
class PairFiles:
    train: list[Pair]
    heldout: list[Pair]


def read_pairs(config: PairTuning) -> PairFiles:
    check(config)
    train = list(read_records(config.train, Pair))
    if not train:
        raise ConfigError(
            f"train: {config.train} holds no pairs; run `usersim collab pairs` with a smaller margin"
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
    """The rows of (row, tokens before its first supervised one) of which `max_length` leaves something to learn.

    Says how many are left out. Raises ConfigError where none is left.
    """
    kept = [row for row, before in rows if before < config.max_length]
    if not kept:
        raise ConfigError(
            f"max_length={config.max_length} cuts the reply of each of the {len(rows)} rows away; the shortest prompt "
            f"takes {min(before for _, before in rows)} tokens: choose a longer max_length or shorter prompts"
        )
    if cut := len(rows) - len(kept):
        log.warning(
            "max_length=%d cuts the whole reply of %d of %d rows away; they are left out",
            config.max_length,
            cut,
            len(rows),
        )
    return kept


def prompt_length(tokenizer: Any, prompt: Sequence[Message]) -> int:
    """Tokens before the reply."""
    return len(template_ids(tokenizer, prompt, add_generation_prompt=True))


def on_pairs(
    config: PairTuning,
    pairs: PairFiles,
    rows: Callable[[Any], Sequence[tuple[R, int]]],
    build: Callable[[Any, Any, LoraConfig | None, list[R]], Any],
) -> Course:
    """Log-prob margins, and greedy replies to the first prompts (held-out ones first).

    Args:
        rows: tokenizer → (row to train on, tokens before its first supervised one).
        build: (model, tokenizer, LoRA where there is no adapter yet, rows) → a TRL trainer.
    """
    shown = [*pairs.heldout, *pairs.train][: config.show]
    some = pairs.train[:: max(1, math.ceil(len(pairs.train) / MEASURED))]
    cut_away = dict[str, int]()

    def trainer(model: Any, tokenizer: Any, lora: LoraConfig | None, run: RunDir, bars: Bars) -> Any:
        all_rows = rows(tokenizer)
        kept = fitting(config, all_rows)
        cut_away["rows_cut_away"] = len(all_rows) - len(kept)
        return build(model, tokenizer, lora, kept)

    def measure(model: Any, tokenizer: Any) -> dict[str, Any]:
        def margins_of(measured: Sequence[Pair]) -> list[float]:
            whole = [pair for pair in measured if prompt_length(tokenizer, pair.prompt) < config.max_length]
            return margins(model, tokenizer, whole, max_length=config.max_length)

        return {
            "train": margins_of(some),
            "heldout": margins_of(pairs.heldout),
            "contexts": [pair.context for pair in shown],
            "replies": greedy_replies(
                model, tokenizer, [pair.prompt for pair in shown], max_tokens=config.show_tokens
            ),
        }

    def compare(before: dict[str, Any], after: dict[str, Any], run: RunDir) -> dict[str, Any]:
        return {
            **cut_away,
            "train_margin": change(before["train"], after["train"]),
            "heldout_margin": change(before["heldout"], after["heldout"]),
            **compare_replies(before, after, run),
        }

    return Course(trainer, measure, compare)
