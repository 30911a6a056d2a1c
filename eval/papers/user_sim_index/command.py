"""`usersim eval usi`: computes the User-Sim Index as published, with a human ceiling, intervals and coverage."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from eval.fidelity.report_record import FileFacts
from usersim.cli import command_line, console, emit_json, load_conversations
from usersim.errors import ConfigError
from usersim.storage.records import atomic_writer, write_json

if TYPE_CHECKING:
    from eval.papers.user_sim_index.index_comparison import OptionalTerms


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--human",
        type=Path,
        action="append",
        required=True,
        help="human conversations (JSONL); repeat for more batches",
    )
    parser.add_argument("--simulated", action="append", default=[], metavar="NAME=FILE")
    parser.add_argument(
        "--outcomes", type=Path, metavar="FILE", help="outcomes of sessions (JSONL): {by, task, reward, run?}"
    )
    parser.add_argument("--difficulty", type=Path, metavar="FILE", help="share of successes by task (JSON)")
    parser.add_argument(
        "--survey", type=Path, metavar="FILE", help="survey answers (JSONL): {by, task, run?, levels}"
    )
    parser.add_argument("--out", type=Path, help="directory for usi.json and usi.md")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--bootstrap", type=int, default=1000)
    parser.add_argument(
        "--floor-repeats", type=int, default=200, help="random halves of the people (default: 200)"
    )
    parser.add_argument(
        "--min-n", type=int, default=50, help="smallest number of conversations per side (default: 50)"
    )
    parser.add_argument("--no-text", action="store_true", help="no effect: the report never holds chat text")
    parser.add_argument("--json", action="store_true", help="also print usi.json on stdout")
    parser.add_argument("--json-out", metavar="FILE")


def run(args: argparse.Namespace) -> int:
    from eval.fidelity.settings import EvalConfig
    from eval.papers.user_sim_index.index_comparison import compare
    from eval.papers.user_sim_index.index_table import markdown

    _check(args)
    files = named_files(args.simulated)
    batches = [load_conversations(path) for path in args.human]
    simulated = {name: load_conversations(path) for name, path in files.items()}
    names = ("seed", "bootstrap", "floor_repeats", "min_n")
    config = EvalConfig.model_validate({name: getattr(args, name) for name in names})
    with console.status("people against people, then each simulator"):
        report = compare(batches, simulated, _optional_terms(args), config)
    report = report.model_copy(
        update={
            "human_files": tuple(map(FileFacts.of, args.human)),
            "simulators": tuple(
                s.model_copy(update={"file": FileFacts.of(files[s.name])}) for s in report.simulators
            ),
            "command": command_line(),
        }
    )
    value = report.model_dump(mode="json")
    if args.out:
        write_json(args.out / "usi.json", value)
        with atomic_writer(args.out / "usi.md") as stream:
            stream.write(markdown(report))
    console.print(markdown(report, by_feature=False), markup=False, soft_wrap=True)
    emit_json(value, stdout=args.json, path=args.json_out)
    return 0


def _check(args: argparse.Namespace) -> None:
    if not args.simulated:
        raise ConfigError("nothing to compare: give --simulated NAME=FILE at least once")
    if (args.outcomes is None) != (args.difficulty is None):
        raise ConfigError(
            "--outcomes and --difficulty must be given together: bins use frozen task difficulty"
        )


def _optional_terms(args: argparse.Namespace) -> OptionalTerms:
    from eval.papers.user_sim_index.index_comparison import OptionalTerms
    from eval.papers.user_sim_index.outcomes import read_difficulty, read_outcomes
    from eval.papers.user_sim_index.survey import read_survey

    return OptionalTerms(
        outcomes=read_outcomes(args.outcomes) if args.outcomes else (),
        difficulty=read_difficulty(args.difficulty) if args.difficulty else None,
        survey=read_survey(args.survey) if args.survey else (),
    )


def named_files(options: list[str]) -> dict[str, Path]:
    files: dict[str, Path] = {}
    for entry in options:
        name, equals, path = entry.partition("=")
        if not (equals and name and path):
            raise ConfigError(f"--simulated {entry!r}: write NAME=FILE")
        if name in files or name == "human":
            raise ConfigError(f"--simulated {entry!r}: every simulator needs a name of its own, not `human`")
        files[name] = Path(path)
    return files
