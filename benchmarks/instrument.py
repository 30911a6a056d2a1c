"""Detection rate, false positives, interval coverage and cost of the next-turn metrics.

    python -m benchmarks.instrument [--quick] [--human FILE …] [--train FILE] [--prompted FILE] --json-out FILE

Without files, the human ShareGPT conversations of the installed wheel with a goal are used (dev split, and train split
for training).

Keys of the JSON document:

- `planted_caught`: name -> bool
- `planted_needed_n`: name -> conversations, of those not caught
- `planted_left_out`: name -> reason
- `human_false_positives`: share of `splits` in which any metric is below the same criterion
- `human_false_positives_paired`: the same for pairs of people
- `coverage`: metric -> share of resamples
- `minutes_200`: minutes for all metrics of people and one simulator, without sampling; measured on `minutes_n`
  conversations and scaled to 200
- `memory_gib`: peak of the process
- `minutes_self_test`, `n`, `clusters`, `turns`

`--quick`: 60 conversations, and the planted users and metrics that so few can show.
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
"""Keys copied from the report."""


def conversations(human: Sequence[Path], train: Path | None) -> tuple[list[Conversation], list[Conversation]]:
    """Returns conversations of people under test and for training, from the files or the installed wheel."""
    if human:
        people = [conversation for path in human for conversation in read_conversations(path)]
        return people, read_conversations(train) if train else []
    return annotated("dev"), read_conversations(train) if train else annotated("train")


def peak_gib() -> float:
    """Returns the peak resident memory of this process in GiB; Linux reports KiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def _arguments(argv: list[str] | None) -> Any:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="60 conversations and fewer planted users")
    parser.add_argument(
        "--human", type=Path, nargs="+", default=[], metavar="FILE", help="human conversations"
    )
    parser.add_argument("--train", type=Path, metavar="FILE", help="training conversations")
    parser.add_argument(
        "--prompted", type=Path, metavar="FILE", help="turns sampled from a prompted base model"
    )
    parser.add_argument("--n", type=int, help="conversations (default: 200; --quick 60)")
    parser.add_argument("--seed", type=int, default=0, help="seed (default: 0)")
    parser.add_argument(
        "--scores",
        type=Path,
        metavar="FILE",
        help="journal of language-model scores, to resume the self-test",
    )
    parser.add_argument(
        "--out", type=Path, metavar="FOLDER", help="folder for report.json, .md and .html of the self-test"
    )
    parser.add_argument("--json-out", metavar="FILE", help="write the result to FILE")
    return parser.parse_args(argv)


if __name__ == "__main__":
    main()
