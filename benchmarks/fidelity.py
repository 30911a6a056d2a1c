"""Cost, false positive rate, power and interval coverage of the fidelity battery.

    python -m benchmarks.fidelity [--quick] [--human FILE] [--base NAME=FILE] [--work DIR] [--parts …] --json-out FILE

Without `--human` the conversations are invented, so no data is needed. Keys: `battery_seconds_300`,
`human_human_false_positive_rate` (people of the baseline and people under test differ; n per side in
`human_human_n`), `planted_shifts_detected` (n in `planted_shifts_n`), `interval_coverage`, `controls_detected`.
`--work` saves finished repetitions, and a later run continues. `--quick` runs two cheap metrics with fewer
repetitions.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks._coverage import interval_coverage
from benchmarks._draws import PeopleSource
from benchmarks._repetitions import RepetitionLog, Row, repeat
from benchmarks._shifts import SHIFTS
from eval.fidelity.battery import run_battery
from eval.fidelity.catalogue import METRIC_FAMILIES
from eval.fidelity.command import name_and_file
from eval.fidelity.metrics.texts.embedded import unavailable
from eval.fidelity.report_record import versions
from eval.fidelity.selftest.planted_battery import self_test
from eval.fidelity.settings import EVERY, SLOW, EvalConfig, Name
from usersim.cli import console, emit_json
from usersim.stats.estimates import wilson
from usersim.storage.records import read_conversations

PARTS = ("seconds", "humans", "shifts", "coverage", "controls")
COVERAGE_N = 150
CHEAP: tuple[Name, ...] = tuple(name for name in EVERY if name not in SLOW)
TWO: tuple[Name, ...] = ("marginals", "coverage")


def main(argv: list[str] | None = None) -> None:
    args = _arguments(argv)
    source, results = PeopleSource(args.human, args.people), dict[str, Any]()
    every, few = (TWO, TWO) if args.quick else (EVERY, CHEAP)
    configs = {
        "seconds": EvalConfig(processes=args.processes, metrics=every),
        "humans": _config(args, every, args.floor_repeats, 200),
        "shifts": _config(args, few, args.floor_repeats, 200),
        "coverage": _config(args, few, 60, 400),
        "controls": EvalConfig(processes=args.processes, metrics=every, bootstrap=400),
    }
    for part in args.parts:
        results |= _part(part, args, source, configs[part])
    results["config"] = {part: configs[part].model_dump(mode="json") for part in args.parts}
    results["source"] = args.human.name if args.human else "invented"
    results["versions"] = versions()
    emit_json(results, stdout=not args.json_out, path=args.json_out)


def _part(part: str, args: argparse.Namespace, source: PeopleSource, config: EvalConfig) -> dict[str, Any]:
    if part == "seconds":
        return battery_seconds(source, 300, config)
    if part == "humans":
        return humans(
            source, args.n, args.repeats, config, _journal(args, part, args.n, config), args.processes
        )
    if part == "shifts":
        journal = _journal(args, part, args.shift_n, config)
        return shifts(source, args.shift_n, args.shift_repeats, config, journal, args.processes)
    if part == "coverage":
        repeats = args.coverage_repeats or (100 if args.quick else 500)
        truths = args.coverage_truths or 2 * repeats
        journal = _journal(args, part, COVERAGE_N, config)
        return interval_coverage(source, COVERAGE_N, repeats, truths, config, journal, args.processes)
    base = {name: read_conversations(path) for name, path in (name_and_file(b, "--base") for b in args.base)}
    people = read_conversations(args.human) if args.human else source.draw(620, 0)
    test = self_test(people, base=base, config=config)
    return {"controls_detected": {c.key: list(c.caught_by) for c in test.controls}, "controls_n": test.n}


def _config(
    args: argparse.Namespace, names: tuple[Name, ...], floor_repeats: int, bootstrap: int
) -> EvalConfig:
    chosen = tuple(args.metrics.split(",")) if args.metrics else names
    return EvalConfig(
        floor_repeats=floor_repeats,
        bootstrap=bootstrap,
        metrics=chosen,
        examples=0,
        processes=1,
        max_n=10_000,
    )


def _arguments(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="two cheap metrics, fewer repetitions")
    parser.add_argument(
        "--human", type=Path, help="human conversations of at least 3 n different people (default: invented)"
    )
    parser.add_argument(
        "--base",
        action="append",
        default=[],
        metavar="NAME=FILE",
        help="conversations of a base model, for the controls",
    )
    parser.add_argument(
        "--parts",
        type=lambda text: text.split(","),
        default=list(PARTS),
        help=f"parts to run (default: {','.join(PARTS)})",
    )
    parser.add_argument(
        "--metrics", help=f"metrics of humans, shifts and coverage: {','.join(METRIC_FAMILIES)}"
    )
    parser.add_argument(
        "--people", type=int, help="draw from N people of the file, embedded once (default: all)"
    )
    parser.add_argument(
        "--n", type=int, default=200, help="conversations per side, humans against humans (default: 200)"
    )
    parser.add_argument(
        "--repeats", type=int, default=200, help="comparisons of humans with humans (default: 200)"
    )
    parser.add_argument(
        "--shift-n", type=int, default=1500, help="conversations per side, planted shifts (default: 1500)"
    )
    parser.add_argument(
        "--shift-repeats", type=int, default=100, help="repetitions of the planted shifts (default: 100)"
    )
    parser.add_argument(
        "--floor-repeats", type=int, default=100, help="splits of each human baseline (default: 100)"
    )
    parser.add_argument(
        "--coverage-repeats", type=int, help="repetitions of the coverage (default: 500; --quick 100)"
    )
    parser.add_argument(
        "--coverage-truths", type=int, help="pairs that the truth averages (default: twice the repetitions)"
    )
    parser.add_argument("--processes", type=int, help="parallel processes (default: one per core)")
    parser.add_argument("--work", type=Path, help="folder for finished repetitions; run again to continue")
    parser.add_argument("--json-out", metavar="FILE", help="write the result to FILE")
    args = parser.parse_args(argv)
    if unknown := set(args.parts) - set(PARTS):
        parser.error(f"--parts {', '.join(sorted(unknown))}: choose from {', '.join(PARTS)}")
    return args


def _journal(args: argparse.Namespace, part: str, n: int, config: EvalConfig) -> RepetitionLog:
    settings = {
        "config": config.model_dump(mode="json", exclude={"processes"}),
        "human": args.human.name if args.human else None,
        "people": args.people,
        "n": n,
    }
    return RepetitionLog(args.work / f"{part}.jsonl" if args.work else None, settings)


def battery_seconds(source: PeopleSource, n: int, config: EvalConfig) -> dict[str, Any]:
    people = source.draw(3 * n, 0)
    seconds = run_battery(people[n:], {"humans": source.relabelled(people[:n])}, config).seconds
    console.print(f"battery, {n} x {n}: {seconds:.0f} s")
    return {"battery_seconds_300": seconds}


def humans(
    source: PeopleSource,
    n: int,
    repeats: int,
    config: EvalConfig,
    journal: RepetitionLog,
    processes: int | None,
) -> dict[str, Any]:
    """Compares humans with humans. The headline "different" is the max statistic at 5 %."""
    if "embeddings" in config.metrics and not unavailable():
        source = source.embedded(config.seed)
    rows = repeat("humans", journal, repeats, partial(_compare, source, n, config, ()), processes)
    called = wilson(sum(row["humans"]["different"] for row in rows), len(rows))
    return {
        "human_human_false_positive_rate": called.value,
        "human_human_false_positive_interval": [called.low, called.high],
        "human_human_any_figure_different": sum(bool(row["humans"]["figures"]) for row in rows) / len(rows),
        "human_human_comparisons": len(rows),
        "human_human_n": n,
    }


def shifts(
    source: PeopleSource,
    n: int,
    repeats: int,
    config: EvalConfig,
    journal: RepetitionLog,
    processes: int | None,
) -> dict[str, Any]:
    """Compares people with and without each shift, so that one call has both an error rate and a power."""
    rows = repeat("shifts", journal, repeats, partial(_compare, source, n, config, tuple(SHIFTS)), processes)
    calls = {
        name: wilson(sum(row[name]["different"] for row in rows), len(rows)) for name in ("humans", *SHIFTS)
    }
    hits_by_shift = {
        name: sum(key in row[name]["figures"] for row in rows) for name, (_, key) in SHIFTS.items()
    }
    return {
        "planted_shifts_detected": {name: calls[name].value for name in SHIFTS},
        "planted_shifts_interval": {name: [calls[name].low, calls[name].high] for name in SHIFTS},
        "planted_shifts_named": {name: hits / len(rows) for name, hits in hits_by_shift.items()},
        "planted_shifts_false_positive_rate": calls["humans"].value,
        "planted_shifts_repetitions": len(rows),
        "planted_shifts_n": n,
    }


def _compare(source: PeopleSource, n: int, config: EvalConfig, planted: Sequence[str], index: int) -> Row:
    people = source.draw(3 * n, index + 1)
    test, pool = people[:n], people[n:]
    simulated = {"humans": test, **{name: SHIFTS[name][0](test, index) for name in planted}}
    # One seed for all: people differ each time, and cached embeddings of a person are reused.
    report = run_battery(pool, {name: source.relabelled(rows) for name, rows in simulated.items()}, config)
    return {
        s.name: {
            "different": s.headline.is_different,
            "p": s.headline.p,
            "figures": [f.key for f in s.figures if f.verdict == "different"],
        }
        for s in report.simulators
    }


if __name__ == "__main__":
    main()
