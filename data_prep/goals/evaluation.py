"""Evaluation of a goal model on held-out annotations, with baselines that need no training.

python -m data_prep.goals.evaluation --train data/arena/train.jsonl --test data/arena/test.jsonl --out goal-model
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from data_prep.goals.baselines import (
    Write,
    first_words,
    model_goals,
    nearest_goal,
    opening_sentence,
    prompted_base,
    random_goal,
)
from data_prep.goals.format import annotated
from data_prep.goals.local_model import GoalModel, load_goal_model
from data_prep.goals.scores import FACET_COSINE, METRICS, Floats, GoalScores, draws, estimate, metrics, score
from usersim.cli import console
from usersim.errors import ConfigError
from usersim.extras import cure_for
from usersim.storage.records import atomic_writer, write_json
from usersim.types import Conversation, Goal

HEADINGS = {
    "coverage": "readable",
    "chrf": "chrF",
    "cosine": "cosine",
    "retrieval": "own of 10",
    "overlap": "their words",
    "parrots": "refused as parroting",
    "facet_precision": "facet precision",
    "facet_recall": "facet recall",
    "facet_f1": "facet F1",
    "facet_turn": "right turn",
    "facets": "facets",
}
COMPARED = ("chrf", "cosine", "retrieval", "facet_f1")

Table = dict[str, dict[str, dict[str, float] | None]]


def annotated_goals(conversations: Sequence[Conversation]) -> list[Goal | None]:
    """Returns the annotated goals, written by reading the conversations: the upper bound."""
    return [conversation.profile.goal for conversation in conversations]


def report(
    model: GoalModel, train: Sequence[Conversation], test: Sequence[Conversation], *, repeats: int, seed: int
) -> dict[str, Any]:
    started = time.monotonic()
    goals = model_goals(model, test, [model.renderer.prompt(conversation) for conversation in test])
    minutes = (time.monotonic() - started) / 60
    systems: dict[str, Write] = {
        "nearest training goal": nearest_goal(train),
        "opening sentence": opening_sentence,
        "first 12 words": first_words,
        "random training goal": random_goal(train, seed),
        "base, prompted": prompted_base(model),
        "annotation": annotated_goals,
    }
    scored = {"goal model": score(goals, test)}
    for name, write in systems.items():
        scored[name] = score(write(test), test)
        console.print(f"{name}: scored on {len(test)} conversations", style="dim")
    parts = {"all": list(range(len(test)))}
    for index, conversation in enumerate(test):
        parts.setdefault(conversation.source, []).append(index)
    return {
        "n": {name: len(rows) for name, rows in parts.items()},
        "facet_cosine": FACET_COSINE,
        "resamples": repeats,
        "tables": {name: _table(scored, rows, repeats, seed) for name, rows in parts.items()},
        "goal model minus": _differences(scored, len(test), repeats, seed),
        "speed": {
            "goals_per_minute": round(len(test) / minutes, 1),
            "batch": model.batch,
            "threads": os.environ.get("OMP_NUM_THREADS"),
        },
    }


def _table(scored: dict[str, GoalScores], rows: list[int], repeats: int, seed: int) -> Table:
    counts = np.zeros((repeats + 1, len(next(iter(scored.values())).cosine)))
    counts[:, rows] = draws(len(rows), repeats, seed)
    return {
        name: {key: estimate(values) for key, values in metrics(scores, counts).items()}
        for name, scores in scored.items()
    }


def _differences(scored: dict[str, GoalScores], n: int, repeats: int, seed: int) -> Table:
    """Paired differences, on the same resamples."""
    counts: Floats = draws(n, repeats, seed)
    own = metrics(scored["goal model"], counts)
    return {
        name: {key: estimate(own[key] - baseline[key]) for key in COMPARED}
        for name, baseline in ((name, metrics(scores, counts)) for name, scores in scored.items())
        if name != "goal model"
    }


def as_markdown(result: dict[str, Any]) -> str:
    """Returns the result as Markdown tables."""
    parts = []
    for name, table in result["tables"].items():
        head = ["", *(HEADINGS[key] for key in METRICS)]
        lines = [f"**{name}**, {result['n'][name]} conversations", "", _row(head), _row(["---"] * len(head))]
        lines += [_row([system, *(_cell(row[key]) for key in METRICS)]) for system, row in table.items()]
        parts.append("\n".join(lines))
    head = ["goal model minus", *(HEADINGS[key] for key in COMPARED)]
    lines = [_row(head), _row(["---"] * len(head))]
    for system, row in result["goal model minus"].items():
        lines.append(_row([system, *(_cell(row[key]) for key in COMPARED)]))
    return "\n\n".join([*parts, "\n".join(lines)]) + "\n"


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _cell(one: dict[str, float] | None) -> str:
    if one is None:
        return "none"
    digits = 1 if abs(one["value"]) >= 10 else 2
    value, low, high = (f"{one[key]:.{digits}f}" for key in ("value", "low", "high"))
    return value if low == high == value else f"{value} [{low}, {high}]"


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m data_prep.goals.evaluation", description=__doc__)
    parser.add_argument("--model", type=Path, help="an adapter or a run directory (default: the shipped one)")
    parser.add_argument(
        "--train", nargs="+", required=True, help="conversations with goals, for the baselines"
    )
    parser.add_argument("--test", nargs="+", required=True, help="held-out conversations with goals")
    parser.add_argument(
        "--limit", type=int, help="use N held-out conversations, evenly spaced (default: all)"
    )
    parser.add_argument("--resamples", type=int, default=2000, help="bootstrap resamples (default: 2000)")
    parser.add_argument("--batch", type=int, default=16, help="conversations a batch (default: 16)")
    parser.add_argument("--seed", type=int, default=0, help="seed of baselines and bootstrap (default: 0)")
    parser.add_argument(
        "--out", type=Path, required=True, help="stem of the two output files, .json and .tables.md"
    )
    args = parser.parse_args(argv)
    if importlib.util.find_spec("sacrebleu") is None:
        raise ConfigError(f"sacrebleu is missing: {cure_for('sacrebleu', 'collab')}")
    test = annotated(args.test)
    if args.limit:
        test = [test[i * len(test) // args.limit] for i in range(min(args.limit, len(test)))]
    model = load_goal_model(args.model, batch=args.batch)
    result = report(model, annotated(args.train), test, repeats=args.resamples, seed=args.seed)
    write_json(args.out.with_suffix(".json"), result)
    with atomic_writer(args.out.with_suffix(".tables.md")) as stream:
        stream.write(as_markdown(result))
    console.print(f"written: {args.out.with_suffix('.json')}")
    return 0


if __name__ == "__main__":
    from usersim.cli import run_main

    sys.exit(run_main(main))
