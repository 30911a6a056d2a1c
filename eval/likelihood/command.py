"""`usersim eval model`: five tables on held-out people, for a User LM whose weights we hold."""

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
    "Goals and personas were written from the same conversations, so they tell what is still to come: rows with "
    "their own are upper bounds, rows with another's are the control."
)
ORACLE = (
    "Style as a condition is measured on other turns of the person (even turns for odd ones and the other way "
    "round); own_goal_persona_oracle alone has the style of the very turns that it predicts."
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", help="a run directory, an adapter or a User LM folder; or userlm-135m")
    parser.add_argument("--human", type=Path, required=True, help="held-out human conversations (JSONL)")
    parser.add_argument(
        "--dev", type=Path, help="other human conversations: thresholds and prompts are chosen there"
    )
    parser.add_argument(
        "--train", type=Path, help="what the model was trained on, for the check of memorisation"
    )
    parser.add_argument("--simulated", type=Path, action="append", default=[], metavar="NAME=FILE")
    parser.add_argument("--limit", type=int, default=100, help="conversations scored, drawn by --seed (100)")
    parser.add_argument("--dev-limit", type=int, default=60, help="conversations of --dev (60)")
    parser.add_argument(
        "--draws", type=int, default=0, help="conversations that turns are drawn for; 0: none (0)"
    )
    parser.add_argument(
        "--control", type=int, default=0, help="conversations for persona control; 0: none (0)"
    )
    parser.add_argument(
        "--engine", metavar="URL", help="a vLLM server of the same model; else in this process"
    )
    parser.add_argument("--out", type=Path, required=True, help="directory for report.json and report.html")
    parser.add_argument("--baseline", help="a chat model to prompt: a folder, or smollm2-135m-instruct")
    parser.add_argument("--baseline-engine", metavar="URL", help="a vLLM server of the baseline")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--bootstrap", type=int, default=1000)
    parser.add_argument("--dry-run", action="store_true", help="print the plan and stop")
    parser.add_argument("--json", action="store_true", help="report.json on stdout as well")
    parser.add_argument("--json-out", metavar="FILE")


@dataclass(frozen=True)
class People:
    """The human conversations of a run."""

    test: list[Conversation]
    """Scored."""
    speaking: list[Conversation]
    """Turns are drawn at their places; the scored ones are among them or the other way round."""
    dev: list[Conversation]
    """Scored, to choose thresholds and prompts."""
    heard: list[Conversation]
    """All of --dev: what needs no model (who speaks how, when a facet is revealed) is learnt from it."""
    excluded: dict[str, int]


def run(args: argparse.Namespace) -> int:
    if args.limit < 1 or args.bootstrap < 20:
        raise ConfigError("--limit must be at least 1 and --bootstrap at least 20")
    human = load_conversations(args.human)
    test, excluded = choose_people(args.human, human, args.limit, args.seed)
    heard = load_conversations(args.dev) if args.dev else []
    dev = choose_people(args.dev, heard, args.dev_limit, args.seed)[0] if args.dev else []
    most = max(args.draws, args.control)
    speaking = choose_people(args.human, human, most, args.seed)[0] if most else []
    people = People(test, speaking, dev, heard, dict(excluded))
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


def _announce(args: argparse.Namespace, people: People) -> None:
    from eval.likelihood.conditions import usable

    turns = sum(len(user_texts(c)) for c in people.test)
    console.print(
        f"{len(people.test)} conversations ({turns} user turns), conditions {', '.join(usable(people.test))}; "
        f"{args.model}{f' and {args.baseline}, prompted and unprompted' if args.baseline else ''}; "
        f"turns drawn for {args.draws}, persona control on {args.control} conversations",
        markup=False,
    )


def choose_people(
    path: Path, given: Sequence[Conversation], limit: int, seed: int
) -> tuple[list[Conversation], Counter[str]]:
    """Those that can be scored, a seeded draw of `limit`; where any has a goal, only those that have one."""
    check_origin(str(path), given, "human")
    excluded: Counter[str] = Counter()
    with_turns = [c for c in given if any(text.strip() for text in user_texts(c))]
    excluded["no user turn"] = len(given) - len(with_turns)
    kept = [c for c in with_turns if c.profile.goal] or with_turns
    excluded["no goal"] = len(with_turns) - len(kept)
    if not kept:
        raise DataError(f"{path}: no conversation with a user turn")
    order = rng_for(seed, "conversations").permutation(len(kept))[:limit]
    excluded["beyond --limit"] = len(kept) - len(order)
    return [kept[i] for i in sorted(order)], +excluded


def _measure(args: argparse.Namespace, people: People) -> ModelReport:
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
        drawn = draw_tables(args, people, scored, track)
    return ModelReport(
        models=tuple(scored.models),
        contrasts=tuple(scored.contrasts()),
        **drawn,
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
