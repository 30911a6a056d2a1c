"""`usersim data styles` command: distribution of writing styles in a corpus, and the cut points of style bins."""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from math import ceil
from pathlib import Path
from statistics import median
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

from usersim.cli import console, emit_json, run_main
from usersim.errors import DataError
from usersim.storage.records import read_records, write_json
from usersim.text.style import measure
from usersim.text.style_bins import LEVELS, Bin, StyleBins
from usersim.types import Conversation, Style


def parser() -> argparse.ArgumentParser:
    arguments = argparse.ArgumentParser(prog="usersim data styles", description=__doc__)
    arguments.add_argument(
        "files", type=Path, nargs="+", metavar="FILE", help="JSON Lines of conversations, or .gz"
    )
    arguments.add_argument("--out", type=Path, metavar="BINS.json", help="write the cut points to this file")
    arguments.add_argument("--json", action="store_true", help="print one JSON document on stdout")
    return arguments


def main(argv: list[str]) -> int:
    args = parser().parse_args(argv)
    counts: Counter[str] = Counter()
    values = collect(read_all(args.files, counts))
    bins = StyleBins(
        attributes={name: cut(of) for name, of in values.items() if of},
        conversations=dict(sorted(counts.items())),
    )
    if args.out:
        write_json(args.out, bins.model_dump(mode="json"))
    rows = {name: spread(values[name], limits) for name, limits in bins.attributes.items()}
    emit_json({"bins": bins.model_dump(mode="json"), "spread": rows}, stdout=args.json, path=None)
    if not args.json:
        Console(file=sys.stdout, highlight=False).print(table(rows, bins))
    if args.out:
        console.print(f"cut points in {args.out}")
    return 0


def read_all(files: Sequence[Path], counts: Counter[str]) -> Iterable[Conversation]:
    """Yields the human conversations of all files and counts them by source.

    Raises:
        DataError: a simulated conversation, or no conversation at all.
    """
    for path in files:
        for conversation in read_records(path, Conversation):
            if conversation.origin != "human":
                raise DataError(
                    f"{path}: {conversation.id} is simulated; styles are measured over people only"
                )
            counts[conversation.source] += 1
            yield conversation
    if not counts:
        raise DataError(f"no conversations in {', '.join(map(str, files))}")


def collect(conversations: Iterable[Conversation]) -> dict[str, list[float]]:
    """Returns the sorted values of each style attribute, measured from the turns.

    The number of turns is left out where the person did not end the conversation.
    """
    values: dict[str, list[float]] = {name: [] for name in Style.model_fields}
    for conversation in conversations:
        for name, value in measure(conversation.turns).model_dump().items():
            if value is not None and (name != "turns" or conversation.ended_by == "user"):
                values[name].append(value)
    return {name: sorted(of) for name, of in values.items()}


def quantile(ordered: Sequence[float], share: float) -> float:
    """Returns the smallest value with at least `share` of the values at or below it."""
    return ordered[max(0, ceil(share * len(ordered)) - 1)]


def cut(ordered: Sequence[float]) -> Bin:
    """Returns cut points at the thirds. If two thirds share the lowest value, high is above the median of the rest."""
    low, high = quantile(ordered, 1 / 3), quantile(ordered, 2 / 3)
    above = [value for value in ordered if value > low]
    if high == low and above:
        high = float(median(above))
    return Bin(low=low, high=high, n=len(ordered))


def spread(ordered: Sequence[float], limits: Bin) -> dict[str, Any]:
    levels = Counter(limits.level(value) for value in ordered)
    return {
        "n": len(ordered),
        "quartiles": [round(quantile(ordered, share), 3) for share in (0.25, 0.5, 0.75)],
        "levels": {level: round(levels[level] / len(ordered), 3) for level in LEVELS},
    }


def table(rows: Mapping[str, Mapping[str, Any]], bins: StyleBins) -> Table:
    corpora = ", ".join(f"{name} {count:,}" for name, count in bins.conversations.items())
    grid = Table(
        title=f"Styles of {corpora} conversations",
        title_justify="left",
        box=box.SIMPLE_HEAD,
        pad_edge=False,
        collapse_padding=True,
    )
    for heading in ("attribute", "n", "quartiles", "low", "middle", "high"):
        grid.add_column(heading, justify="left" if heading == "attribute" else "right", no_wrap=True)
    for name, row in rows.items():
        limits, levels = bins.attributes[name], row["levels"]
        grid.add_row(
            name,
            f"{row['n']:,}",
            "  ".join(f"{number:.2g}" for number in row["quartiles"]),
            f"{levels['low']:.0%} ≤ {limits.low:.2g}",
            f"{levels['middle']:.0%}",
            f"{levels['high']:.0%} > {limits.high:.2g}",
        )
    return grid


if __name__ == "__main__":
    sys.exit(run_main(main))
