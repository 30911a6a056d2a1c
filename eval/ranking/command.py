"""`usersim eval outcome COMMAND`: planted rankings, score files, effort, SimulatorArena."""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from eval.ranking.assistants import LEVELS, planted_assistants
from eval.ranking.calibration import calibrate
from eval.ranking.comparison import compare_rankings
from eval.ranking.effort import Trajectory, measure_effort, read_judgements, trajectories
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
        help="rank assistants of known order under a simulator and under a null user that ignores answers",
    )
    planted.add_argument("--goals", required=True, metavar="FILE", help="goals with facets (JSONL)")
    planted.add_argument(
        "--assistant", required=True, help="base model of the assistants: `local`, or URL[#model]"
    )
    planted.add_argument(
        "--url", default=os.environ.get("USERSIM_URL"), help="URL of a running `usersim serve`"
    )
    planted.add_argument("--model", help="User LM in this process: a folder, or `shipped`")
    planted.add_argument("--prompted", action="append", default=[], metavar="local|URL[#MODEL]")
    planted.add_argument(
        "--prompt", default="plain", help="name of the prompt for --prompted (default: plain)"
    )
    planted.add_argument(
        "--no-reference",
        action="store_true",
        help="leave out the reference user, which says the whole goal at once",
    )
    planted.add_argument("--only", help=f"assistants to use, out of {','.join(LEVELS)} (default: all)")
    planted.add_argument("--limit", type=int, help="use at most N goals (default: all)")
    planted.add_argument("--turns", type=int, default=6, help="most user turns (default: 6)")
    planted.add_argument(
        "--assistant-tokens",
        type=int,
        default=160,
        help="tokens per reply of the normal assistant (default: 160)",
    )
    planted.add_argument("--concurrency", type=int, default=16)
    planted.add_argument("--dry-run", action="store_true")
    rank = commands.add_parser("rank", help="compare rankings from two score files")
    rank.add_argument(
        "--human", type=Path, required=True, metavar="FILE", help="JSONL: assistant, task, score, person"
    )
    rank.add_argument("--simulated", type=Path, required=True, metavar="FILE")
    rank.add_argument(
        "--null", type=Path, metavar="FILE", help="scores of a null user, which ignores answers (JSONL)"
    )
    rank.add_argument("--splits", type=int, default=500, help="random halves of the people (default: 500)")
    effort = commands.add_parser("effort", help="measure user effort against utility")
    effort.add_argument("--conversations", action="append", required=True, metavar="NAME=FILE")
    effort.add_argument("--ratings", type=Path, metavar="FILE", help="a judge's id, ratings, utility (JSONL)")
    arena = commands.add_parser("simulatorarena", help="analyse SimulatorArena's 101 rated sessions")
    arena.add_argument(
        "--folder", type=Path, required=True, help="folder of SimulatorArena's annotation files"
    )
    arena.add_argument("--splits", type=int, default=1000, help="random halves of the people (default: 1000)")
    for command in (planted, rank, effort, arena):
        command.add_argument(
            "--out", type=Path, required=True, help="directory for report.json, report.md and report.html"
        )
        command.add_argument(
            "--bootstrap", type=int, default=2000, help="bootstrap resamples (default: 2000)"
        )
        command.add_argument("--seed", type=int, default=0)
        command.add_argument("--json", action="store_true")
        command.add_argument("--json-out", metavar="FILE")
    for command in (planted, effort, arena):
        command.add_argument(
            "--matcher",
            choices=list(MATCHERS),
            default="embedding",
            help="facet matcher (default: embedding)",
        )


def run(args: argparse.Namespace) -> int:
    code: int = {"planted": _planted, "rank": _rank, "effort": _effort, "simulatorarena": _arena}[
        args.outcome
    ](args)
    return code


def _finish(
    args: argparse.Namespace, title: str, results: dict[str, Any], sections: Sequence[Section]
) -> int:
    settings = {key: value for key, value in vars(args).items() if key not in ("command", "json", "json_out")}
    document = {**results, "settings": {k: str(v) if isinstance(v, Path) else v for k, v in settings.items()}}
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
    judgements = read_judgements(args.ratings) if args.ratings else None
    trajectories_by_name: dict[str, list[Trajectory]] = {}
    notes = []
    for entry in args.conversations:
        name, equals, path = entry.partition("=")
        if not equals or not name or name in trajectories_by_name:
            raise ConfigError(f"--conversations {entry!r}: write NAME=FILE, every name once")
        conversations = load_conversations(path)
        trajectories_by_name[name] = trajectories(conversations, MATCHERS[args.matcher], judgements)
        if len(trajectories_by_name[name]) < len(conversations):
            notes.append(
                f"{name}: {len(conversations) - len(trajectories_by_name[name])} of {len(conversations)} "
                "without facets or reply, left out"
            )
    efforts = {
        n: measure_effort(t, bootstrap=args.bootstrap, seed=args.seed)
        for n, t in trajectories_by_name.items()
    }
    patience = {
        name: fit_patience(paths, bootstrap=args.bootstrap, seed=args.seed)
        for name, paths in trajectories_by_name.items()
        if any(path.left is not None for path in paths)
    }
    sections = effort_sections(efforts, patience)
    if notes:
        sections.append(Section("Left out", notes))
    results = {
        "effort": {name: record.model_dump(mode="json") for name, record in efforts.items()},
        "patience": {name: record.model_dump(mode="json") for name, record in patience.items()},
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

    cases, without_facets = faceted_cases(args.goals, args.limit)
    names = args.only.split(",") if args.only else list(LEVELS)
    if not set(names) <= LEVELS.keys() or len({LEVELS[name] for name in names}) < 2:
        raise ConfigError(
            f"--only {args.only!r}: name assistants of at least two levels out of {', '.join(LEVELS)}"
        )
    if args.dry_run:
        plan = {"goals": len(cases), "without_facets": without_facets, "assistants": names}
        emit_json(plan, stdout=True, path=args.json_out)
        return 0
    users = users_from(args)
    assistant_by_name = planted_assistants(
        lambda tokens: assistant_from(args.assistant, max_tokens=tokens), args.assistant_tokens
    )
    assistants = {name: assistant_by_name[name] for name in LEVELS if name in names}
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

        conversations, failed = play(users, assistants, cases, args, advance)
        replayed, not_replayed = play(null_users(conversations), assistants, cases, args, advance)
    notes = [f"{without_facets} goals have no facets and are left out."] if without_facets else []
    notes += [
        f"{label}: {count} conversations failed and are left out."
        for label, count in (failed | not_replayed).items()
    ]
    judged_users = judge_users(
        conversations | replayed,
        MATCHERS[args.matcher],
        nulls=nulls,
        bootstrap=args.bootstrap,
        seed=args.seed,
    )
    reports = [report for report, _ in judged_users]
    for report, scores in judged_users:
        for name, rows in scores.items():
            write_records(args.out / "scores" / f"{report.user}.{name}.jsonl", rows)
    results = {"users": [report.model_dump(mode="json") for report in reports], "notes": notes}
    return _finish(
        args, "Assistants of known order under simulated users", results, planted_sections(reports, notes)
    )
