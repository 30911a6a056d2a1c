"""Training on pairs that are there already: what SFT and DPO read, plan and measure."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from collab_train.collect import Message
from collab_train.margins import change, compare_replies, greedy_replies, margins
from collab_train.pairs import Pair
from collab_train.rewards import count_tokens
from collab_train.tuning import Course, Tuning, check
from usersim.errors import ConfigError
from usersim.records import read_records
from usersim.runs import RunDir

MEASURED = 64
"""Margins of the pairs trained on are measured of so many at most, evenly spread; of held-out pairs, of all."""


class PairTuning(Tuning):
    train: str = "runs/collab-pairs/train.jsonl"
    heldout: str | None = None
    """Pairs that are only measured on."""


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


def on_pairs(config: PairTuning, pairs: PairFiles, trainer: Any) -> Course:
    """Log-prob margins, and greedy replies to the first prompts (held-out ones first)."""
    shown = [*pairs.heldout, *pairs.train][: config.show]
    some = pairs.train[:: max(1, math.ceil(len(pairs.train) / MEASURED))]

    def measure(model: Any, tokenizer: Any) -> dict[str, Any]:
        return {
            "train": margins(model, tokenizer, some, max_length=config.max_length),
            "heldout": margins(model, tokenizer, pairs.heldout, max_length=config.max_length),
            "contexts": [pair.context for pair in shown],
            "replies": greedy_replies(
                model, tokenizer, [pair.prompt for pair in shown], max_tokens=config.show_tokens
            ),
        }

    def compare(before: dict[str, Any], after: dict[str, Any], run: RunDir) -> dict[str, Any]:
        return {
            "train_margin": change(before["train"], after["train"]),
            "heldout_margin": change(before["heldout"], after["heldout"]),
            **compare_replies(before, after, run),
        }

    return Course(trainer, measure, compare)
