"""`usersim eval model`: likelihood of held-out human turns and of their end, under weights we hold."""

from __future__ import annotations

import argparse
import hashlib
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn
from rich.table import Table

from eval.estimates import rng_for
from eval.features import user_texts
from eval.prepare import check_origin
from eval.report import FileFacts, versions
from usersim.cli import console, emit_json
from usersim.errors import ConfigError, DataError
from usersim.model import file_hash, resolve
from usersim.records import read_conversations, write_json
from usersim.types import Conversation

if TYPE_CHECKING:
    from eval.likelihood import Scorer
    from eval.model_report import Condition, ModelReport

LEAK = (
    "Goals were written from the same conversations, so a goal tells what is still to come: own_goal is an "
    "upper bound. other_goal is the control."
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", help="a run directory, an adapter or a User LM folder; or userlm-135m")
    parser.add_argument("--human", type=Path, required=True, help="held-out human conversations (JSONL)")
    parser.add_argument("--dev", type=Path, help="other human conversations, to choose the end threshold on")
    parser.add_argument("--limit", type=int, default=100, help="conversations scored, drawn by --seed (100)")
    parser.add_argument("--out", type=Path, required=True, help="directory for report.json")
    parser.add_argument("--baseline", help="a chat model to prompt: a folder, or smollm2-135m-instruct")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--bootstrap", type=int, default=1000)
    parser.add_argument("--dry-run", action="store_true", help="print the plan and stop")
    parser.add_argument("--json", action="store_true", help="report.json on stdout as well")
    parser.add_argument("--json-out", metavar="FILE")


def run(args: argparse.Namespace) -> int:
    if args.limit < 1 or args.bootstrap < 20:
        raise ConfigError("--limit must be at least 1 and --bootstrap at least 20")
    human, excluded = _read(args.human, args.limit, args.seed)
    dev, _ = _read(args.dev, args.limit, args.seed) if args.dev else ([], Counter[str]())
    conditions = _conditions(human)
    console.print(
        f"{len(human)} conversations ({sum(len(user_texts(c)) for c in human)} user turns), conditions "
        f"{', '.join(conditions)}, models {args.model}{f', {args.baseline} prompted' if args.baseline else ''}"
    )
    if args.dry_run:
        return 0
    report = _measure(args, human, dev, excluded, conditions)
    write_json(args.out / "report.json", report.model_dump(mode="json"))
    console.print(_table(report))
    console.print(_end_table(report))
    for note in report.notes:
        console.print(f"[dim]- {note}[/]")
    console.print(f"{report.seconds:.0f} s · {args.out / 'report.json'}")
    emit_json(report.model_dump(mode="json"), stdout=args.json, path=args.json_out)
    return 0


def _read(path: Path, limit: int, seed: int) -> tuple[list[Conversation], Counter[str]]:
    """Those that can be scored, a seeded draw of `limit`; where any has a goal, only those that have one."""
    given = read_conversations(path)
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


def _conditions(human: Sequence[Conversation]) -> list[Condition]:
    from eval.model_report import CONDITIONS

    return list(CONDITIONS) if human[0].profile.goal and len(human) > 1 else ["no_goal"]


def _measure(
    args: argparse.Namespace,
    human: list[Conversation],
    dev: list[Conversation],
    excluded: Counter[str],
    conditions: list[Condition],
) -> ModelReport:
    from eval.likelihood import PromptedScorer, UserScorer
    from eval.model_report import ModelReport, contrasts, draws, model_scores, score_all

    started, path = time.monotonic(), resolve(args.model)
    user = UserScorer.from_pretrained(path)
    scorers: dict[str, Scorer] = {path.name: user}
    weights = {path.name: _weights_hash(path)}
    if args.baseline:
        base = resolve(args.baseline)
        name = f"{base.name} (prompted)"
        scorers[name] = PromptedScorer.from_pretrained(base, user.renderer)
        weights[name] = _weights_hash(base)
    counts, scores, models = draws(len(human), args.bootstrap, args.seed), {}, []
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True) as bar:
        for name, scorer in scorers.items():
            task = bar.add_task(name, total=len(human) * len(conditions) + len(dev))
            step = _stepper(bar, task)
            scores[name] = score_all(scorer, human, conditions, args.seed, step)
            chosen_on = score_all(scorer, dev, conditions[-1:], args.seed, step)
            models.append(
                model_scores(name, scores[name], counts, chosen_on[conditions[-1]] if dev else None)
            )
    return ModelReport(
        models=tuple(models),
        contrasts=tuple(contrasts(scores, counts)),
        conversations=len(human),
        user_turns=sum(len(user_texts(c)) for c in human),
        excluded=dict(excluded),
        notes=(LEAK,) if len(conditions) > 1 else (),
        human_file=FileFacts(path=str(args.human), sha256=file_hash(args.human)),
        dev_file=FileFacts(path=str(args.dev), sha256=file_hash(args.dev)) if args.dev else None,
        weights=weights,
        seed=args.seed,
        bootstrap=args.bootstrap,
        versions=versions(),
        seconds=round(time.monotonic() - started, 1),
    )


def _stepper(bar: Progress, task: TaskID) -> Callable[[], None]:
    return lambda: bar.advance(task)


def _weights_hash(folder: Path) -> str:
    """One hash over all weight files, in the order of their names."""
    files = sorted(folder.glob("*.safetensors"))
    return hashlib.sha256("".join(map(file_hash, files)).encode()).hexdigest()


def _table(report: ModelReport) -> Table:
    table = Table(title=f"human user turns, {report.conversations} conversations", title_justify="left")
    for name in ("model", "condition", "nats/token", "first turn", "later turns", "bits/character"):
        table.add_column(name, justify="left" if name in ("model", "condition") else "right")
    for model in report.models:
        for condition, found in model.likelihood.items():
            token = found.nats_per_token
            cells = [
                token.get("all"),
                token.get("first"),
                token.get("later"),
                found.bits_per_character.get("all"),
            ]
            table.add_row(
                model.name,
                condition,
                *(f"{c.value:.3f} \\[{c.low:.3f}, {c.high:.3f}]" if c else "-" for c in cells),
            )
    return table


def _end_table(report: ModelReport) -> Table:
    table = Table(title="end of conversation", title_justify="left")
    for name in ("model", "condition", "threshold", "F1", "precision", "recall", "always", "coin", "AUC"):
        table.add_column(name, justify="left" if name in ("model", "condition") else "right")
    for model in report.models:
        for condition in dict.fromkeys((next(iter(model.ends)), [*model.ends][-1])):
            ends = model.ends[condition]
            if ends is None:
                continue
            for at in (ends.at_half, ends.at_dev_threshold):
                if at is not None:
                    three = (at.f1, at.precision, at.recall)
                    table.add_row(
                        model.name,
                        condition,
                        f"{at.threshold:.2g}",
                        *(f"{e.value:.2f} \\[{e.low:.2f}, {e.high:.2f}]" for e in three),
                        f"{ends.always_f1:.2f}",
                        f"{ends.coin_f1:.2f}",
                        "-" if ends.calibration.auc is None else f"{ends.calibration.auc:.2f}",
                    )
    return table
