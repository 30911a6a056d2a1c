"""`usersim data goals` command: writes hidden goals of prepared conversations."""

from __future__ import annotations

import argparse
import asyncio
import gzip
import os
import time
from itertools import chain, islice
from pathlib import Path
from typing import Any

from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, Task, TextColumn
from rich.progress import TimeRemainingColumn as Remaining
from rich.text import Text

from data_prep.goals.annotations import overlap_figures
from data_prep.goals.batch import GoalRun
from data_prep.goals.journal import GoalJournal, JournalSummary
from data_prep.goals.overlap import MAX_OVERLAP, N
from data_prep.goals.providers import GoalProvider
from data_prep.goals.teacher import CHAT_CHARS, Teacher
from usersim.chat_models.client import ChatSampling, EndpointDown
from usersim.chat_models.judge import Judge
from usersim.cli import console, emit_json
from usersim.errors import BackendError, ConfigError, DataError
from usersim.storage.records import read_records
from usersim.types import Conversation

EPILOG = """\
After an interruption, run the same command again: finished goals are in GOALS.jsonl.partial.
The goals are joined to conversations by `usersim prep … --goals GOALS.jsonl`.
"""


def main(argv: list[str]) -> int:
    args = _parser().parse_args(argv)
    _check(args)
    # The local model batches concurrent requests.
    args.concurrency = args.concurrency or (8 if args.local is None else 64)
    total = _count(args.files, args.limit)
    started = time.monotonic()
    provider, run = _provider(args), GoalRun()
    with GoalJournal(args.out, _journal_settings(provider, args)) as journal:
        if len(journal):
            print_line(f"resuming: {len(journal):,} conversations are in {journal.path}")
        try:
            asyncio.run(_write(args, provider, run, journal, total))
        except (EndpointDown, KeyboardInterrupt) as error:
            progress_note = (
                f"{len(journal):,} of {total:,} done are kept in {journal.path}; run again to go on"
            )
            if isinstance(error, EndpointDown):
                raise BackendError(f"{error}; {progress_note}") from error
            print_line(progress_note)
            raise
        failed = run.failed.total()
        if failed and not len(journal):
            raise BackendError(f"all {failed:,} conversations failed; the first: {run.first_error}")
        written = journal.finish(run.order, keep=bool(failed))
    summary = _summary(args, provider, run, written, time.monotonic() - started)
    emit_json(summary, stdout=args.json, path=args.json_out)
    if not args.json:
        _show(summary, args.out)
    return 0


async def _write(
    args: argparse.Namespace, provider: GoalProvider, run: GoalRun, journal: GoalJournal, total: int
) -> None:
    records = chain.from_iterable(read_records(path, Conversation) for path in args.files)
    columns = (TextColumn("goals"), BarColumn(), MofNCompleteColumn(), GoalSpeedColumn(), Remaining())
    with Progress(*columns, console=console) as progress:
        task = progress.add_task("", total=total)
        try:
            await run.write(
                provider,
                islice(records, args.limit),
                journal,
                concurrency=args.concurrency,
                max_overlap=args.max_overlap,
                done=lambda: progress.advance(task),
            )
        finally:
            if isinstance(provider, Teacher):
                await provider.judge.aclose()


class GoalSpeedColumn(ProgressColumn):
    def render(self, task: Task) -> Text:
        speed = task.finished_speed or task.speed
        return Text("" if speed is None else f"{speed:,.1f}/s")


def _provider(args: argparse.Namespace) -> GoalProvider:
    if args.local is not None:
        from data_prep.goals.local_model import load_goal_model

        folder = None if args.local == "default" else Path(args.local)
        return load_goal_model(folder, max_overlap=args.max_overlap)
    key = None
    if args.api_key_env is not None and not (key := os.environ.get(args.api_key_env, "").strip()):
        raise ConfigError(f"--api-key-env {args.api_key_env}: that variable is not set")
    judge = Judge(
        args.teacher_url,
        args.teacher_model,
        api_key=key,
        cache=args.cache or args.out.with_name(f"{args.out.name}.cache"),
        concurrency=args.concurrency,
        timeout_s=args.timeout,
        max_retries=args.max_retries,
        sampling=ChatSampling(max_tokens=args.max_tokens),
        price_in=args.price_in,
        price_out=args.price_out,
    )
    return Teacher(judge, max_overlap=args.max_overlap, chat_chars=args.chat_chars)


def _journal_settings(provider: GoalProvider, args: argparse.Namespace) -> dict[str, object]:
    """Settings that a resumed journal must share with the run."""
    teacher_settings = provider.journal_settings if isinstance(provider, Teacher) else {}
    return {"provider": provider.name, "max_overlap": args.max_overlap, **teacher_settings}


def _check(args: argparse.Namespace) -> None:
    if args.teacher_url is not None and not args.teacher_model:
        raise ConfigError("--teacher-url needs --teacher-model: the model name at the endpoint")
    for name, least in (
        ("concurrency", 1),
        ("limit", 1),
        ("max_tokens", 1),
        ("chat_chars", 1),
        ("max_retries", 0),
    ):
        value = getattr(args, name)
        if value is not None and value < least:
            raise ConfigError(f"--{name.replace('_', '-')} {value}: at least {least}")
    if not 0 <= args.max_overlap <= 1:
        raise ConfigError(f"--max-overlap {args.max_overlap}: a share from 0 to 1")
    if args.timeout <= 0:
        raise ConfigError(f"--timeout {args.timeout}: more than 0 seconds")


def _count(files: list[Path], limit: int | None) -> int:
    """Counts non-blank lines for the progress bar."""
    total = 0
    for path in files:
        if not path.is_file():
            raise DataError(f"{path}: no such file")
        opener = gzip.open if path.suffix == ".gz" else open
        try:
            with opener(path, "rb") as lines:
                total += sum(1 for line in lines if line.strip())
        except (OSError, EOFError) as error:
            raise DataError(f"{path}: cannot be read ({error})") from error
    if not total:
        raise DataError(f"{', '.join(map(str, files))}: no conversation in it")
    return total if limit is None else min(total, limit)


def _summary(
    args: argparse.Namespace, provider: GoalProvider, run: GoalRun, written: JournalSummary, seconds: float
) -> dict[str, Any]:
    return {
        "out": str(args.out),
        "provider": provider.name,
        "conversations": len(run.order),
        "repeated_ids": run.repeated_ids,
        "resumed": run.resumed,
        "written": written.goals,
        "rejected": dict(written.rejected.most_common()),
        "failed": dict(run.failed.most_common()),
        "first_error": run.first_error,
        "wording_shared_with_user": overlap_figures(written.overlaps, args.max_overlap),
        "usage": provider.judge.usage.summary() if isinstance(provider, Teacher) else None,
        "seconds": round(seconds, 1),
    }


def _show(summary: dict[str, Any], out: Path) -> None:
    def listed(counts: dict[str, int]) -> str:
        return ", ".join(f"{reason} {count:,}" for reason, count in counts.items()) or "0"

    print_line(f"{summary['written']:,} goals of {summary['conversations']:,} conversations in {out}")
    print_line(f"rejected: {listed(summary['rejected'])}; failed: {listed(summary['failed'])}")
    if summary["repeated_ids"]:
        print_line(f"{summary['repeated_ids']:,} conversations had an id seen before and were left out")
    if usage := summary["usage"]:
        cost = "" if usage["cost"] is None else f", cost {usage['cost']:,.4f}"
        print_line(
            f"{usage['requests']:,} requests, {usage['cache_hits']:,} answers from the cache, "
            f"{usage['retries']:,} retries; "
            f"{usage['prompt_tokens']:,} + {usage['completion_tokens']:,} tokens{cost}"
        )
    if summary["failed"]:
        print_line(f"the first failure: {summary['first_error']}\nrun again to try the failed ones again")


def print_line(line: str) -> None:
    """Prints a line without markup or wrapping; a path may hold brackets."""
    console.print(line, markup=False, soft_wrap=True)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="usersim data goals",
        description="Writes what the person of each conversation wanted: a summary and its facets.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add(
        "files",
        type=Path,
        nargs="+",
        metavar="FILE",
        help="conversations, such as train.jsonl of `usersim prep`",
    )
    add("--out", type=Path, required=True, metavar="GOALS.jsonl", help="file for the goals")
    provider = parser.add_mutually_exclusive_group(required=True)
    provider.add_argument(
        "--teacher-url", metavar="URL", help="base URL of an OpenAI-compatible chat endpoint"
    )
    provider.add_argument(
        "--local",
        metavar="DIR|default",
        help="goal model in this process: an adapter folder, or the packaged one",
    )
    add("--teacher-model", metavar="NAME", help="model name at the endpoint")
    add("--api-key-env", metavar="NAME", help="environment variable that holds the endpoint's key")
    add("--max-overlap", type=float, default=MAX_OVERLAP, metavar="SHARE", help=_OVERLAP_HELP)
    add("--limit", type=int, metavar="N", help="write goals of at most N conversations (default: all)")
    add("--concurrency", type=int, metavar="N", help="conversations at a time (default: teacher 8, local 64)")
    add(
        "--cache",
        type=Path,
        metavar="DIR",
        help="cache folder of teacher answers (default: GOALS.jsonl.cache)",
    )
    add(
        "--chat-chars",
        type=int,
        default=CHAT_CHARS,
        metavar="N",
        help=f"characters of a chat shown to the teacher (default: {CHAT_CHARS})",
    )
    add("--max-tokens", type=int, default=1024, metavar="N", help="most tokens of an answer (default: 1024)")
    add("--timeout", type=float, default=120.0, metavar="SECONDS", help="timeout of a request (default: 120)")
    add("--max-retries", type=int, default=5, metavar="N", help="retries of a request (default: 5)")
    add("--price-in", type=float, metavar="PRICE", help="price per million prompt tokens, for the cost shown")
    add("--price-out", type=float, metavar="PRICE", help="price per million completion tokens")
    add("--json", action="store_true", help="print the counts as one JSON document on stdout")
    add("--json-out", metavar="FILE", help="write the same JSON to FILE")
    return parser


_OVERLAP_HELP = f"largest share of a goal's word {N}-grams that the person wrote (default: {MAX_OVERLAP})"
