"""How long the battery takes, and how often it calls humans different from humans.

    python benchmarks/fidelity.py [--quick] [--human FILE] --json-out FILE

Without `--human` the conversations are invented, so that anybody can run it; the time is then that of short
turns. With `--quick` the false positives are those of the metrics without classifiers.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from eval.battery import run_battery
from eval.estimates import wilson
from eval.invented import invented
from eval.report import versions
from eval.settings import EvalConfig
from usersim.cli import console, emit_json
from usersim.errors import DataError
from usersim.records import read_conversations
from usersim.types import Conversation

Draw = Callable[[int, int], list[Conversation]]


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--human", type=Path, help="real human conversations; at least 900")
    parser.add_argument("--json-out")
    args = parser.parse_args(argv)
    draw = _from_file(args.human) if args.human else lambda n, seed: invented(n, seed)
    config = EvalConfig(floor_repeats=30, bootstrap=300) if args.quick else EvalConfig()
    seconds = battery_seconds(draw, 300, config)
    console.print(f"battery, 300 x 300: {seconds:.0f} s")
    cheap = EvalConfig(floor_repeats=200, bootstrap=400, metrics=("marginals", "coverage"), examples=0)
    full = EvalConfig(floor_repeats=40, bootstrap=400, examples=0)
    chosen, repeats = (cheap, 60) if args.quick else (full, 200)
    found: dict[str, Any] = {
        "battery_seconds_300": seconds,
        **false_positives(draw, 100, repeats, chosen),
        "config": {
            "battery": config.model_dump(mode="json"),
            "false_positives": chosen.model_dump(mode="json"),
            "source": args.human.name if args.human else "invented",
        },
        "versions": versions(),
    }
    emit_json(found, stdout=not args.json_out, path=args.json_out)


def battery_seconds(draw: Draw, n: int, config: EvalConfig) -> float:
    people = draw(3 * n, 0)
    return run_battery(people[n:], {"humans": _relabelled(people[:n])}, config).seconds


def false_positives(draw: Draw, n: int, repeats: int, config: EvalConfig) -> dict[str, Any]:
    """Shares of human-human comparisons, with 95 % intervals, that the verdicts get wrong."""
    overall, figures, total = 0, 0, 0
    for repeat in range(repeats):
        people = draw(3 * n, repeat + 1)
        seeded = config.model_copy(update={"seed": repeat})
        head = run_battery(people[n:], {"humans": _relabelled(people[:n])}, seeded).simulators[0].headline
        overall += head.different
        figures += head.called_different
        total += head.figures
        if repeat % 10 == 9:
            console.print(f"{repeat + 1} comparisons, {overall} called different overall")
    rate = wilson(overall, repeats)
    return {
        "human_human_false_positive_rate": rate.value,
        "human_human_false_positive_low": rate.low,
        "human_human_false_positive_high": rate.high,
        "human_human_comparisons": repeats,
        "human_human_n": n,
        "figure_false_positive_rate": figures / total,
    }


def _from_file(path: Path) -> Draw:
    people = [c for c in read_conversations(path) if c.turns]

    def draw(n: int, seed: int) -> list[Conversation]:
        if len(people) < n:
            raise DataError(f"{path}: {len(people)} conversations; {n} are needed")
        return [people[i] for i in np.random.default_rng(seed).permutation(len(people))[:n]]

    return draw


def _relabelled(people: list[Conversation]) -> list[Conversation]:
    return [c.model_copy(update={"origin": "simulated", "source": "humans"}) for c in people]


if __name__ == "__main__":
    main()
