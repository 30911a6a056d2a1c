"""`usersim eval userlm`: computes the six metrics of the UserLM paper for finished conversations and live
simulators."""

from __future__ import annotations

import argparse
import asyncio
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from eval.fidelity.report_record import FileFacts
from eval.fidelity.samples.prepare import check_origin
from eval.papers.user_sim_index.command import named_files
from usersim.cli import command_line, console, emit_json, load_conversations
from usersim.errors import ConfigError
from usersim.storage.locks import locked
from usersim.storage.records import atomic_writer, write_json
from usersim.types import Conversation

if TYPE_CHECKING:
    from eval.papers.userlm.metric_rows import MetricTally, UserLMSettings
    from eval.papers.userlm.speakers import Track
    from usersim.chat_models.judge import Judge

LIVE = "needs a live simulator: give --url, --model or --prompted"
FILES = "needs finished conversations: give --simulated NAME=FILE"
NOTES = (
    "Diversity and overlap have no best value: the aim is the human value. Overlap is read only beside relevance.",
    "Naturalness is a classifier's pass rate at a threshold that nine of ten people pass, not Pangram's score.",
    "Role and intent adherence use our own questions, topics and lines, not CommonsenseQA and NaturalQuestions with "
    "GPT-4o: compare simulators within a run, not with the paper. The rules are checked on planted lines that we wrote "
    "too; real users are less clear.",
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--human", type=Path, required=True, help="held-out human conversations (JSONL)")
    parser.add_argument(
        "--dev", type=Path, help="other human conversations (JSONL), to train the voice classifier"
    )
    parser.add_argument("--simulated", action="append", default=[], metavar="NAME=FILE")
    parser.add_argument("--url", help="URL of a running `usersim serve`, measured live")
    parser.add_argument("--model", help="User LM in this process (userlm-135m is the shipped one)")
    parser.add_argument("--prompted", metavar="local|URL", help="chat model prompted to play the user")
    parser.add_argument(
        "--places", type=int, default=100, help="conversation prefixes for each live user (default: 100)"
    )
    parser.add_argument(
        "--max-n", type=int, default=500, help="most finished conversations per side (default: 500)"
    )
    parser.add_argument(
        "--judge", metavar="URL#MODEL", help="also use an LLM judge; its numbers are reported separately"
    )
    parser.add_argument("--out", type=Path, required=True, help="directory for userlm.json and userlm.md")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--bootstrap", type=int, default=1000)
    parser.add_argument("--no-text", action="store_true", help="delete the sampled turns at the end")
    parser.add_argument("--json", action="store_true", help="also print userlm.json on stdout")
    parser.add_argument("--json-out", metavar="FILE")


def run(args: argparse.Namespace) -> int:
    from eval.papers.userlm.metric_table import markdown

    if not (args.simulated or args.url or args.model or args.prompted):
        raise ConfigError("nothing to measure: give --simulated NAME=FILE, --url, --model or --prompted")
    if args.places < 10 or args.max_n < 10 or args.bootstrap < 20:
        raise ConfigError("--places and --max-n must be at least 10, --bootstrap at least 20")
    files = named_files(args.simulated)
    human, dev = _people(args.human), _people(args.dev) if args.dev else []
    simulated = {name: load_conversations(path) for name, path in files.items()}
    for name, conversations in simulated.items():
        check_origin(name, conversations, "simulated")
    with locked(args.out / "drawn"):
        report = _measure(args, human, dev, simulated).model_copy(
            update={
                "human_file": FileFacts.of(args.human),
                "files": {name: FileFacts.of(path) for name, path in files.items()},
                "command": command_line(),
            }
        )
        value = report.model_dump(mode="json")
        write_json(args.out / "userlm.json", value)
        with atomic_writer(args.out / "userlm.md") as stream:
            stream.write(markdown(report))
        if args.no_text:
            _delete_text(args.out)
    console.print(markdown(report), markup=False, soft_wrap=True)
    emit_json(value, stdout=args.json, path=args.json_out)
    return 0


def _people(path: Path) -> list[Conversation]:
    conversations = load_conversations(path)
    check_origin(str(path), conversations, "human")
    return conversations


def _measure(
    args: argparse.Namespace,
    human: list[Conversation],
    dev: list[Conversation],
    simulated: dict[str, list[Conversation]],
) -> Any:
    from eval.fidelity.report_record import versions
    from eval.papers.userlm.finished import measure_finished
    from eval.papers.userlm.metric_rows import MetricTally, UserLMReport, UserLMSettings

    start_time, tally, judge = time.monotonic(), MetricTally(), _judge(args)
    settings = UserLMSettings(
        out=args.out, seed=args.seed, bootstrap=args.bootstrap, max_n=args.max_n, places=args.places
    )
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

        for name, conversations in simulated.items():
            measure_finished(name, conversations, human, settings, tally, track(name, 3))
        _live(args, human, dev, simulated, settings, judge, tally, track)
    return UserLMReport(
        rows=tuple(tally.rows),
        curves=tuple(tally.curves),
        ends=tuple(tally.ends),
        checks=tally.checks,
        missing=tally.missing,
        excluded=tally.excluded,
        notes=NOTES,
        judge_usage=judge.usage.summary() if judge else {},
        seed=args.seed,
        bootstrap=args.bootstrap,
        versions=versions(),
        seconds=round(time.monotonic() - start_time, 1),
    )


def _live(
    args: argparse.Namespace,
    human: list[Conversation],
    dev: list[Conversation],
    simulated: dict[str, list[Conversation]],
    settings: UserLMSettings,
    judge: Judge | None,
    tally: MetricTally,
    track: Track,
) -> None:
    from eval.papers.userlm.live import judge_finished, measure_live
    from eval.papers.userlm.speakers import speakers

    live_speakers = speakers(args)

    async def measure_all() -> None:
        if live_speakers:
            await measure_live(live_speakers, human, dev, settings, judge, tally, track)
        if judge is not None:
            await judge_finished(judge, simulated, human, settings, tally)
            await judge.aclose()

    asyncio.run(measure_all())
    if not live_speakers:
        tally.missing |= dict.fromkeys(("dialogue termination", "role adherence", "intent adherence"), LIVE)
    if not simulated:
        tally.missing |= dict.fromkeys(("first-turn diversity", "intent decomposition", "naturalness"), FILES)


def _judge(args: argparse.Namespace) -> Judge | None:
    if not args.judge:
        return None
    from usersim.chat_models.judge import Judge

    url, _, model = args.judge.partition("#")
    if not model:
        raise ConfigError(f"--judge {args.judge!r}: write URL#MODEL")
    return Judge(url, model, api_key=os.environ.get("OPENAI_API_KEY"), cache=args.out / "judged")


def _delete_text(out: Path) -> None:
    """Deletes the journals of sampled turns and the judge's answers; no other file in `out` holds text."""
    import shutil

    for folder in ("drawn", "judged"):
        shutil.rmtree(out / folder, ignore_errors=True)
