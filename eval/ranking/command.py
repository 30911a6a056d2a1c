"""`usersim eval outcome COMMAND`: planted rankings, given scores, effort, SimulatorArena."""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from eval.ranking.assistants import LEVELS, plant
from eval.ranking.calibration import calibrate
from eval.ranking.comparison import compare_rankings
from eval.ranking.effort import Trajectory, measure_effort, read_judged, trajectories
from eval.ranking.pages import Section, write_pages
from eval.ranking.patience import fit_patience
from eval.ranking.planted import judge_users
from eval.ranking.scores import read_scores
from eval.ranking.sections import calibration_sections, effort_sections, planted_sections, rank_sections
from usersim.cli import console, emit_json, load_conversations
from usersim.errors import ConfigError
from usersim.storage.locks import locked
from usersim.storage.records import write_records
from usersim.text.facet_matching import MATCHERS
from usersim.weights.default_model import file_hash


def add_arguments(parser: argparse.ArgumentParser) -> None:
    commands = parser.add_subparsers(dest="outcome", required=True)
    planted = commands.add_parser(
        "planted",
        help="assistants of known order: does the simulator rank them better than one that does not listen?",
    )
    planted.add_argument("--goals", required=True, metavar="FILE", help="JSONL, goals with facets")
    planted.add_argument("--assistant", required=True, help="the base model: `local`, or URL[#model]")
    planted.add_argument("--url", default=os.environ.get("USERSIM_URL"), help="a running `usersim serve`")
    planted.add_argument("--model", help="a User LM in this process: a folder, or `shipped`")
    planted.add_argument("--prompted", action="append", default=[], metavar="local|URL[#MODEL]")
    planted.add_argument("--prompt", default="plain", help="words for --prompted, by name (plain)")
    planted.add_argument("--no-reference", action="store_true", help="without the user who says all at once")
    planted.add_argument("--only", help=f"some of {','.join(LEVELS)}")
    planted.add_argument("--limit", type=int, help="so many goals")
    planted.add_argument("--turns", type=int, default=6, help="most user turns (6)")
    planted.add_argument("--assistant-tokens", type=int, default=160, help="of the normal assistant (160)")
    planted.add_argument("--concurrency", type=int, default=16)
    planted.add_argument("--dry-run", action="store_true")
    rank = commands.add_parser("rank", help="given scores: simulated against human")
    rank.add_argument(
        "--human", type=Path, required=True, metavar="FILE", help="JSONL: assistant, task, score, person"
    )
    rank.add_argument("--simulated", type=Path, required=True, metavar="FILE")
    rank.add_argument("--null", type=Path, metavar="FILE", help="scores of a user that does not listen")
    rank.add_argument("--splits", type=int, default=500, help="halves of the people (500)")
    effort = commands.add_parser("effort", help="what users put in against what they get")
    effort.add_argument("--conversations", action="append", required=True, metavar="NAME=FILE")
    effort.add_argument("--ratings", type=Path, metavar="FILE", help="JSONL: id, ratings, utility by a judge")
    arena = commands.add_parser("simulatorarena", help="how far 101 rated sessions carry")
    arena.add_argument("--folder", type=Path, required=True, help="of SimulatorArena's annotation files")
    arena.add_argument("--splits", type=int, default=1000, help="halves of the people (1000)")
    for command in (planted, rank, effort, arena):
        command.add_argument("--out", type=Path, required=True, help="directory for report.json, .md, .html")
        command.add_argument("--bootstrap", type=int, default=2000, help="resamples (2000)")
        command.add_argument("--seed", type=int, default=0)
        command.add_argument("--json", action="store_true")
        command.add_argument("--json-out", metavar="FILE")
    for command in (planted, effort, arena):
        command.add_argument(
            "--matcher", choices=list(MATCHERS), default="embedding", help="is a facet served?"
        )


def run(args: argparse.Namespace) -> int:
    code: int = {"planted": _planted, "rank": _rank, "effort": _effort, "simulatorarena": _arena}[
        args.outcome
    ](args)
    return code


def _finish(
    args: argparse.Namespace, title: str, results: dict[str, Any], sections: Sequence[Section]
) -> int:
    own = {key: value for key, value in vars(args).items() if key not in ("command", "json", "json_out")}
    document = {**results, "settings": {k: str(v) if isinstance(v, Path) else v for k, v in own.items()}}
    write_pages(args.out, title, document, sections)
    console.print(f"{args.out / 'report.md'} · {args.out / 'report.html'} · {args.out / 'report.json'}")
    emit_json(document, stdout=args.json, path=args.json_out)
    return 0


def _rank(args: argparse.Namespace) -> int:
    human, simulated = read_scores(args.human), read_scores(args.simulated)
    null = read_scores(args.null) if args.null else ()
    report = compare_rankings(
        human, simulated, null=null, bootstrap=args.bootstrap, splits=args.splits, seed=args.seed
    )
    sections = rank_sections(report)
    results = {"ranking": report.model_dump(mode="json"), "calibration": None}
    if all(score.score in (0, 1) for score in (*human, *simulated)):
        calibration = calibrate(human, simulated, bootstrap=args.bootstrap, seed=args.seed)
        sections += calibration_sections(calibration)
        results["calibration"] = calibration.model_dump(mode="json")
    results["files"] = {
        str(path): file_hash(path) for path in (args.human, args.simulated, args.null) if path
    }
    return _finish(args, "Assistants ranked by simulated users and by people", results, sections)


def _effort(args: argparse.Namespace) -> int:
    judged = read_judged(args.ratings) if args.ratings else None
    found: dict[str, list[Trajectory]] = {}
    notes = []
    for entry in args.conversations:
        name, equals, path = entry.partition("=")
        if not equals or not name or name in found:
            raise ConfigError(f"--conversations {entry!r}: write NAME=FILE, every name once")
        read = load_conversations(path)
        found[name] = trajectories(read, MATCHERS[args.matcher], judged)
        if len(found[name]) < len(read):
            notes.append(
                f"{name}: {len(read) - len(found[name])} of {len(read)} without facets or reply, left out"
            )
    efforts = {n: measure_effort(t, bootstrap=args.bootstrap, seed=args.seed) for n, t in found.items()}
    patience = {
        name: fit_patience(paths, bootstrap=args.bootstrap, seed=args.seed)
        for name, paths in found.items()
        if any(path.left is not None for path in paths)
    }
    sections = effort_sections(efforts, patience)
    if notes:
        sections.append(Section("Left out", notes))
    results = {
        "effort": {name: one.model_dump(mode="json") for name, one in efforts.items()},
        "patience": {name: one.model_dump(mode="json") for name, one in patience.items()},
        "notes": notes,
    }
    return _finish(args, "User effort against assistant utility", results, sections)


def _arena(args: argparse.Namespace) -> int:
    from eval.ranking.arena_sections import arena_sections
    from eval.ranking.simulatorarena import arena_report, read_sessions

    sessions = read_sessions(args.folder)
    report = arena_report(
        sessions, MATCHERS[args.matcher], bootstrap=args.bootstrap, splits=args.splits, seed=args.seed
    )
    write_records(args.out / "scores.jsonl", (session.score for session in sessions))
    title = f"SimulatorArena: what {len(sessions)} rated sessions can show"
    return _finish(args, title, {"simulatorarena": report.model_dump(mode="json")}, arena_sections(report))


def _planted(args: argparse.Namespace) -> int:
    from eval.ranking.runs import REFERENCE, faceted_cases, null_name, null_users, play, users_from
    from usersim.commands.options import assistant_from

    cases, bare = faceted_cases(args.goals, args.limit)
    wanted = args.only.split(",") if args.only else list(LEVELS)
    if not set(wanted) <= LEVELS.keys() or len({LEVELS[name] for name in wanted}) < 2:
        raise ConfigError(f"--only {args.only!r}: two of unlike level or more of {', '.join(LEVELS)}")
    if args.dry_run:
        plan = {"goals": len(cases), "without_facets": bare, "assistants": wanted}
        emit_json(plan, stdout=True, path=args.json_out)
        return 0
    users = users_from(args)
    every = plant(lambda tokens: assistant_from(args.assistant, max_tokens=tokens), args.assistant_tokens)
    assistants = {name: every[name] for name in LEVELS if name in wanted}
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
    )
    nulls = {user: null_name(user) for user in users if user != REFERENCE}
    total = (len(users) + len(nulls)) * len(assistants) * len(cases)
    with locked(args.out / "conversations"), Progress(*columns, console=console) as bar:
        task = bar.add_task("conversations", total=total)

        def advance(label: str, n: int) -> None:
            bar.update(task, description=label, advance=n)

        played, failed = play(users, assistants, cases, args, advance)
        replayed, not_replayed = play(null_users(played), assistants, cases, args, advance)
    notes = [f"{bare} goals have no facets and are left out."] if bare else []
    notes += [
        f"{label}: {count} conversations failed and are left out."
        for label, count in (failed | not_replayed).items()
    ]
    judged = judge_users(
        played | replayed, MATCHERS[args.matcher], nulls=nulls, bootstrap=args.bootstrap, seed=args.seed
    )
    reports = [report for report, _ in judged]
    for report, scores in judged:
        for name, rows in scores.items():
            write_records(args.out / "scores" / f"{report.user}.{name}.jsonl", rows)
    results = {"users": [report.model_dump(mode="json") for report in reports], "notes": notes}
    return _finish(
        args, "Assistants of known order under simulated users", results, planted_sections(reports, notes)
    )
