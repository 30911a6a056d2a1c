"""Command `usersim eval model`: five tables on held-out people, for a User LM with accessible weights."""

from __future__ import annotations

import argparse
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from eval.fidelity.report_record import FileFacts, versions
from eval.fidelity.samples.features import user_texts
from eval.fidelity.samples.prepare import check_origin
from usersim.cli import console, emit_json, load_conversations
from usersim.errors import ConfigError, DataError
from usersim.stats.estimates import rng_for
from usersim.storage.locks import locked
from usersim.types import Conversation

if TYPE_CHECKING:
    from eval.likelihood.figures import ModelReport

LEAK = (
    "Goals and personas were written from the same conversations, so they contain information about later turns: "
    "rows with the own goal or persona are upper bounds, rows with another person's are the control."
)
ORACLE = (
    "Style as a condition is measured on other turns of the person (even turns for odd ones and vice versa); "
    "only own_goal_persona_oracle has the style of the turns that it predicts."
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", help="run directory, adapter or User LM folder; or userlm-135m")
    parser.add_argument("--human", type=Path, required=True, help="held-out human conversations (JSONL)")
    parser.add_argument(
        "--dev", type=Path, help="other human conversations (JSONL), to choose thresholds and prompts"
    )
    parser.add_argument(
        "--train", type=Path, help="training conversations of the model (JSONL), to check memorisation"
    )
    parser.add_argument(
        "--simulated",
        type=Path,
        action="append",
        default=[],
        metavar="NAME=FILE",
        help="simulated conversations (JSONL) for the disclosure curves; may be repeated",
    )
    parser.add_argument(
        "--limit", type=int, default=100, help="scored conversations, chosen at random (default: 100)"
    )
    parser.add_argument(
        "--dev-limit", type=int, default=60, help="scored conversations of --dev (default: 60)"
    )
    parser.add_argument(
        "--draws", type=int, default=0, help="conversations for which turns are drawn (default: 0, none)"
    )
    parser.add_argument(
        "--control", type=int, default=0, help="conversations for persona control (default: 0, none)"
    )
    parser.add_argument(
        "--engine", metavar="URL", help="vLLM server of the same model (default: load it in this process)"
    )
    parser.add_argument("--out", type=Path, required=True, help="directory for report.json and report.html")
    parser.add_argument("--baseline", help="chat model prompted as user: a folder, or smollm2-135m-instruct")
    parser.add_argument("--baseline-engine", metavar="URL", help="vLLM server of the baseline")
    parser.add_argument("--seed", type=int, default=0, help="seed of all random choices (default: 0)")
    parser.add_argument(
        "--bootstrap", type=int, default=1000, help="bootstrap replicates per interval (default: 1000)"
    )
    parser.add_argument("--dry-run", action="store_true", help="print the plan and stop")
    parser.add_argument("--json", action="store_true", help="print report.json on stdout")
    parser.add_argument("--json-out", metavar="FILE", help="write report.json to FILE as well")


@dataclass(frozen=True)
class HumanSplits:
    """Human conversations of a run.

    Attributes:
        test: Scored conversations.
        speaking: Conversations at whose prefixes turns are drawn; a subset or a superset of `test`.
        dev: Scored conversations that choose thresholds and prompts.
        all_dev: All of --dev. Speaker classifier and disclosure threshold, which need no model, are fitted on it.
        excluded: Number of excluded conversations of --human by reason.
    """

    test: list[Conversation]
    speaking: list[Conversation]
    dev: list[Conversation]
    all_dev: list[Conversation]
    excluded: dict[str, int]


def run(args: argparse.Namespace) -> int:
    if args.limit < 1 or args.bootstrap < 20:
        raise ConfigError("--limit must be at least 1 and --bootstrap at least 20")
    human = load_conversations(args.human)
    test, excluded = choose_people(args.human, human, args.limit, args.seed)
    all_dev = load_conversations(args.dev) if args.dev else []
    dev = choose_people(args.dev, all_dev, args.dev_limit, args.seed)[0] if args.dev else []
    most = max(args.draws, args.control)
    speaking = choose_people(args.human, human, most, args.seed)[0] if most else []
    people = HumanSplits(test, speaking, dev, all_dev, dict(excluded))
    _announce(args, people)
    if args.dry_run:
        return 0
    from eval.likelihood.figures_page import summary, write_report

    with locked(args.out / "drawn"):
        report = _measure(args, people)
        page = write_report(report, args.out)
    console.print(summary(report))
    console.print(f"{report.seconds:.0f} s · {page}")
    emit_json(report.model_dump(mode="json"), stdout=args.json, path=args.json_out)
    return 0


def _announce(args: argparse.Namespace, people: HumanSplits) -> None:
    from eval.likelihood.conditions import usable

    turns = sum(len(user_texts(c)) for c in people.test)
    console.print(
        f"{len(people.test)} conversations ({turns} user turns), conditions {', '.join(usable(people.test))}; "
        f"{args.model}{f' and {args.baseline}, prompted and unprompted' if args.baseline else ''}; "
        f"turns drawn for {args.draws}, persona control on {args.control} conversations",
        markup=False,
    )


def choose_people(
    path: Path, conversations: Sequence[Conversation], limit: int, seed: int
) -> tuple[list[Conversation], Counter[str]]:
    """Chooses scorable conversations at random; if any has a goal, only those with a goal.

    Args:
        path: File of the conversations, for error messages.
        conversations: Human conversations.
        limit: Maximum number of chosen conversations.
        seed: Seed of the choice.

    Returns:
        (chosen conversations, number of excluded ones by reason).

    Raises:
        DataError: No conversation has a user turn.
    """
    check_origin(str(path), conversations, "human")
    excluded: Counter[str] = Counter()
    with_turns = [c for c in conversations if any(text.strip() for text in user_texts(c))]
    excluded["no user turn"] = len(conversations) - len(with_turns)
    candidates = [c for c in with_turns if c.profile.goal] or with_turns
    excluded["no goal"] = len(with_turns) - len(candidates)
    if not candidates:
        raise DataError(f"{path}: no conversation with a user turn")
    order = rng_for(seed, "conversations").permutation(len(candidates))[:limit]
    excluded["beyond --limit"] = len(candidates) - len(order)
    return [candidates[i] for i in sorted(order)], +excluded


def _measure(args: argparse.Namespace, people: HumanSplits) -> ModelReport:
    from eval.likelihood.drawn import draw_tables
    from eval.likelihood.figures import ModelReport
    from eval.likelihood.scored import score_models

    started = time.monotonic()
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, transient=True) as bar:

        def track(name: str, total: int) -> Callable[[], None]:
            task = bar.add_task(name, total=total)
            return lambda: bar.advance(task)

        scored = score_models(args, people, track)
        tables = draw_tables(args, people, scored, track)
    return ModelReport(
        models=tuple(scored.models),
        contrasts=tuple(scored.contrasts()),
        **tables,
        conversations=len(people.test),
        user_turns=sum(len(user_texts(c)) for c in people.test),
        excluded=people.excluded,
        notes=(LEAK, ORACLE) if people.test[0].profile.goal else (),
        human_file=FileFacts.of(args.human),
        dev_file=FileFacts.of(args.dev) if args.dev else None,
        weights=scored.weights,
        seed=args.seed,
        bootstrap=args.bootstrap,
        versions=versions(),
        seconds=round(time.monotonic() - started, 1),
    )
