"""Does the instrument see? Planted users caught, people left alone, intervals that hold, and what it costs.

    python -m benchmarks.instrument [--quick] [--human FILE …] [--train FILE] [--prompted FILE] --json-out FILE

Without files: people's ShareGPT conversations of the installed wheel that have a goal (dev split; train as training).
Keys of the JSON document:

    planted_caught                 name -> bool
    planted_needed_n               name -> conversations, of those not caught
    planted_left_out               name -> reason
    human_false_positives          share of `splits` in which any metric is below the same criterion
    human_false_positives_paired   the same for pairs of people
    coverage                       metric -> share of resamples
    minutes_200                    minutes scaled to 200 conversations, measured on `minutes_n`: all metrics for people
                                   and one simulator, without drawing
    memory_gib                     peak of the process
    minutes_self_test, n, clusters, turns

`--quick`: 60 conversations, the planted users that so few can show, the metrics meant for them.
"""

from __future__ import annotations

import argparse
import resource
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from data_prep.pipeline.annotated import annotated
from eval.next_turn.selftest.detection import one_simulator, self_test
from eval.next_turn.selftest.selftest_page import headline, terminal, write_selftest
from eval.next_turn.selftest.selftest_sample import sample
from eval.next_turn.selftest_command import config_of
from eval.next_turn.selftest_instruments import instruments
from usersim.cli import console, emit_json
from usersim.storage.records import read_conversations
from usersim.types import Conversation

FULL_N = 200


def main(argv: list[str] | None = None) -> None:
    args = _arguments(argv)
    human, training = conversations(args.human, args.train)
    config = config_of(args.quick, n=args.n, seed=args.seed, language="en")
    people_sample = sample(human, config, training=training, prompted=args.prompted)
    n = len({prefix.conversation for prefix in people_sample.prefixes})
    console.print(f"{n} conversations: all metrics of people and one simulator")
    start = time.monotonic()
    metrics = instruments(people_sample, config)
    one_simulator(people_sample, metrics, config)
    seconds = time.monotonic() - start
    if args.scores:
        metrics = instruments(people_sample, config, journal=args.scores)
    report = self_test(people_sample, metrics, config, progress=console.print)
    if args.out:
        write_selftest(report, args.out)
    console.print(terminal(report))
    for line in headline(report):
        console.print(f"- {line}")
    result = {
        **report.model_dump(mode="json", include=FLAT),
        "n": report.conversations,
        "splits": config.splits,
        "resamples": config.resamples,
        "permutations": config.permutations,
        "minutes_200": seconds / 60 * FULL_N / n,
        "minutes_n": n,
        "minutes_self_test": report.seconds / 60,
        "memory_gib": peak_gib(),
        "quick": args.quick,
        "seed": config.seed,
        "human": [path.name for path in args.human] or ["sharegpt dev, installed"],
        "train": args.train.name if args.train else None,
    }
    emit_json(result, stdout=not args.json_out, path=args.json_out)


FLAT = {
    "planted_caught",
    "planted_needed_n",
    "planted_left_out",
    "human_false_positives",
    "human_false_positives_paired",
    "coverage",
    "coverage_outside",
    "coverage_undefined",
    "clusters",
    "turns",
    "with_goal",
    "with_known_end",
    "sources",
    "excluded",
    "notes",
    "versions",
}
"""Keys taken over from the report."""


def conversations(human: Sequence[Path], train: Path | None) -> tuple[list[Conversation], list[Conversation]]:
    """People under test and training conversations: of the files, else those of the installed wheel."""
    if human:
        people = [conversation for path in human for conversation in read_conversations(path)]
        return people, read_conversations(train) if train else []
    return annotated("dev"), read_conversations(train) if train else annotated("train")


def peak_gib() -> float:
    """Peak resident memory of this process. Linux gives KiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def _arguments(argv: list[str] | None) -> Any:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true")
    parser.add_argument(
        "--human", type=Path, nargs="+", default=[], metavar="FILE", help="human conversations"
    )
    parser.add_argument("--train", type=Path, metavar="FILE", help="training conversations")
    parser.add_argument("--prompted", type=Path, metavar="FILE", help="turns drawn from a prompted base")
    parser.add_argument("--n", type=int, help="conversations (200; --quick 60)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--scores",
        type=Path,
        metavar="FILE",
        help="keep the self-test's language-model scores, to go on after a kill",
    )
    parser.add_argument(
        "--out", type=Path, metavar="FOLDER", help="report.json, .md and .html of the self-test"
    )
    parser.add_argument("--json-out", metavar="FILE")
    return parser.parse_args(argv)


if __name__ == "__main__":
    main()
