"""`usersim population`: fits a population of users to chat logs, compares it with held-out people, samples users.

usersim population fit data/mine/train.jsonl --out runs/mine
usersim population compare data/mine/dev.jsonl --model runs/mine --svg population.svg
usersim population sample --model runs/mine -n 3 --seed 1
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from rich import box
from rich.console import Console
from rich.table import Table

from usersim.cli import console, emit_json, show
from usersim.populations.people import LoggedPerson, people_of
from usersim.populations.record import TRAIT, population_file, read_population, write_population
from usersim.populations.sample import Population
from usersim.storage.records import atomic_writer, read_records
from usersim.types import Conversation

if TYPE_CHECKING:
    from usersim.populations.compare import PopulationComparison


def main(argv: list[str]) -> int:
    args = _parser().parse_args(argv)
    actions = {"fit": _fit, "compare": _compare, "sample": _sample}
    return actions[args.action](args)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="usersim population", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    actions = parser.add_subparsers(dest="action", required=True)
    fit = actions.add_parser("fit", help="fit a population to conversations and write population.json")
    fit.add_argument("conversations", nargs="+", help="JSON Lines of human conversations, or .gz")
    fit.add_argument(
        "--out", required=True, metavar="MODEL", help="run, adapter or model folder, or a .json file"
    )
    compare = actions.add_parser("compare", help="compare sampled users with held-out people")
    compare.add_argument(
        "conversations", nargs="+", help="conversations of people that the population was not fitted to"
    )
    compare.add_argument(
        "--users", type=int, default=5000, metavar="N", help="number of sampled users (default: 5000)"
    )
    compare.add_argument("--svg", metavar="FILE", help="write the plot to FILE")
    sample = actions.add_parser("sample", help="sample users; one profile per line on stdout")
    sample.add_argument("-n", type=int, default=1, help="number of users (default: 1)")
    for action in (compare, sample):
        action.add_argument("--model", help="as --out of fit (default: the shipped model)")
        action.add_argument("--seed", type=int, default=0, help="seed of the sample (default: 0)")
    for action in (fit, compare):
        action.add_argument("--json", action="store_true", help="one JSON document on stdout")
        action.add_argument("--json-out", metavar="FILE", help="write the JSON document to FILE")
    return parser


def _fit(args: argparse.Namespace) -> int:
    from usersim.populations.fit import FEWEST_PEOPLE, fit_population

    record = fit_population(_people(args.conversations))
    file = population_file(args.out)
    write_population(record, file)
    strata = [f"{s.first_turns} to {s.last_turns or 'any'} turns: {s.share:.1%}" for s in record.strata]
    facts = {
        "population": str(file),
        "people": record.people,
        "described": record.described,
        "ends": record.ends,
        "states_patience": record.states_patience,
        "strata": strata,
        "distance": record.distance,
        "bytes": file.stat().st_size,
    }
    emit_json(facts, stdout=args.json, path=args.json_out)
    if not args.json:
        show({**facts, "strata": ", ".join(strata)})
    if not record.states_patience:
        console.print(
            f"patience is not stated: fewer than {FEWEST_PEOPLE} people left by themselves (ended_by: user)"
        )
    if not record.described:
        console.print("personas have no description: none is in the conversations")
    return 0


def _compare(args: argparse.Namespace) -> int:
    from usersim.populations.compare import compare_population
    from usersim.populations.plot import comparison_svg

    population = Population(read_population(population_file(args.model)))
    comparison = compare_population(population, _people(args.conversations), users=args.users, seed=args.seed)
    emit_json(comparison.model_dump(mode="json"), stdout=args.json, path=args.json_out)
    if args.svg:
        with atomic_writer(args.svg) as stream:
            stream.write(comparison_svg(comparison))
    if not args.json:
        _print(comparison)
    return 0


def _sample(args: argparse.Namespace) -> int:
    population = Population(read_population(population_file(args.model)))
    for profile in population.sample(args.n, args.seed):
        sys.stdout.write(profile.model_dump_json(exclude_none=True) + "\n")
    return 0


def _people(paths: list[str]) -> list[LoggedPerson]:
    return people_of(each for path in paths for each in read_records(Path(path), Conversation))


def _print(comparison: PopulationComparison) -> None:
    table = Table(
        title=f"{comparison.users:,} drawn users and {comparison.people:,} held-out people",
        title_justify="left",
        box=box.SIMPLE_HEAD,
        pad_edge=False,
    )
    for heading in ("attribute", "n", "people", "users", "KS distance", "by chance"):
        table.add_column(heading, justify="left" if heading == "attribute" else "right", no_wrap=True)
    for row in comparison.marginals:
        table.add_row(
            row.name.removeprefix(TRAIT).replace("_", " "),
            f"{row.people:,}",
            f"{row.middle_people:.3g}",
            f"{row.middle_users:.3g}",
            f"{row.ks:.3f} [{row.low:.3f}, {row.high:.3f}]",
            f"{row.by_chance:.3f}",
        )
    width = None if sys.stdout.isatty() else 110
    out = Console(file=sys.stdout, highlight=False, markup=False, width=width, soft_wrap=True)
    out.print(table)
    out.print(f"style: mean KS {comparison.mean_ks:.3f} (by chance {comparison.mean_ks_by_chance:.3f})")
    kinds = {"style": comparison.style_pairs, "persona and style": comparison.persona_pairs}
    for kind, pairs in kinds.items():
        if pairs is not None:
            out.print(
                f"{kind}: {pairs.pairs} pairs, mean Spearman difference {pairs.mean_difference:.3f} (by chance "
                f"{pairs.by_chance:.3f}; independent {pairs.mean_spearman_people:.3f})"
            )
    gaps = comparison.distances
    out.print(
        f"nearest person of the fit: users median {gaps.median_users:.3f}, least {gaps.least_users:.3f} (stated "
        f"{gaps.stated}); held-out people median {gaps.median_people:.3f}, {gaps.people_within_stated:.0%} within it"
    )
