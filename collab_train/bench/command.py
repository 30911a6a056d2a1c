"""`usersim collab bench`: comparison of assistants on tasks and users that they were not trained with.

usersim collab bench configs/collab/bench.toml
usersim collab bench configs/collab/bench.toml --only safety clarify
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from collab_train.bench.benchmark import jobs_of, plan, run_bench
from collab_train.bench.conditions import PARTS, BenchConfig, Part
from collab_train.bench.report.bench_record import lines, with_provenance
from collab_train.bench.report.pages import markdown, page
from collab_train.bench.stage import Speakers
from collab_train.run_lock import exclusive
from usersim.cli import command_line, console
from usersim.errors import ConfigError
from usersim.storage.records import atomic_writer, write_json
from usersim.storage.toml_config import load_config


def run(args: argparse.Namespace) -> dict[str, Any]:
    config = load_config(BenchConfig, args.config, args.overrides)
    parts = selected_parts(config, args.only)
    if args.dry_run:
        planned = plan(config, jobs_of(config, parts))
        if not args.json:
            for key, value in planned.items():
                console.print(f"  {key:26} {value}", markup=False)
        return planned
    words = ["collab", "bench", *([args.config] if args.config else []), *args.overrides]
    command = command_line([*words, *(["--only", *args.only] if args.only else [])])
    report = bench(config, parts, command=command)
    if not args.json:
        for line in lines(report):
            console.print(line, markup=False, soft_wrap=True)
        console.print(f"{config.out}/report.json, table.md, report.html", style="dim")
    return report


def selected_parts(config: BenchConfig, only: list[str] | None) -> tuple[Part, ...]:
    """Returns the parts to run.

    Raises:
        ConfigError: `only` names a part that the config does not have.
    """
    if not only:
        return config.parts
    if unconfigured := [part for part in only if part not in config.parts]:
        raise ConfigError(
            f"--only {unconfigured[0]}: the config has only the parts {', '.join(config.parts)}"
        )
    return tuple(part for part in PARTS if part in only)


def bench(
    config: BenchConfig, parts: tuple[Part, ...], *, command: str = "", speakers: Speakers | None = None
) -> dict[str, Any]:
    """Runs the benchmark, writes report.json, table.md and report.html to `config.out`, and returns the report."""
    jobs = jobs_of(config, parts)
    with exclusive(config.out):
        report = with_provenance(config, jobs, run_bench(config, jobs, speakers=speakers), command)
        out = Path(config.out)
        write_json(out / "report.json", report)
        for name, text in (("table.md", markdown(report)), ("report.html", page(report))):
            with atomic_writer(out / name) as stream:
                stream.write(text)
    return report
