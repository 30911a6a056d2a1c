"""`usersim eval probe`: tests whether a base model reacts to an answer when it continues under the user's role."""

from __future__ import annotations

import argparse
import asyncio
import shutil
from collections.abc import Callable
from pathlib import Path

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from eval.fidelity.report_record import FileFacts
from eval.fidelity.samples.prepare import check_origin
from usersim.cli import command_line, console, emit_json, load_conversations
from usersim.errors import ConfigError
from usersim.storage.locks import locked
from usersim.storage.records import atomic_writer, write_json


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--human", type=Path, required=True, help="human conversations (JSONL)")
    parser.add_argument(
        "--model", default="smollm2-135m-instruct", help="chat model: a folder, or a known name"
    )
    parser.add_argument("--scorer", help="model that computes the likelihoods (default: the probed model)")
    parser.add_argument("--n", type=int, default=40, help="number of contexts (default: 40)")
    parser.add_argument("--temperatures", type=float, nargs="+", default=[0.0, 0.7, 1.0], metavar="T")
    parser.add_argument(
        "--wrong", type=int, default=9, help="wrong answers beside the right one (default: 9)"
    )
    parser.add_argument(
        "--out", type=Path, required=True, help="directory for probe.json, probe.md and the sampled turns"
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--no-text", action="store_true", help="delete the sampled turns at the end")
    parser.add_argument("--json", action="store_true", help="also print probe.json on stdout")
    parser.add_argument("--json-out", metavar="FILE")


def run(args: argparse.Namespace) -> int:
    if args.n < 12 or args.wrong < 2 or any(not 0 <= t <= 2 for t in args.temperatures):
        raise ConfigError("--n must be at least 12, --wrong at least 2, temperatures from 0 to 2")
    human = load_conversations(args.human)
    check_origin(str(args.human), human, "human")
    from eval.likelihood.scored import weights_hash
    from eval.papers.interaction_probe.contexts import contexts
    from eval.papers.interaction_probe.followup_table import markdown
    from eval.papers.interaction_probe.measure import probe
    from eval.papers.interaction_probe.model import TextLikelihood
    from usersim.weights.default_model import resolve

    path = resolve(args.model)
    likelihood = TextLikelihood.from_pretrained(path)
    scorer_path = resolve(args.scorer) if args.scorer else path
    scorer = TextLikelihood.from_pretrained(scorer_path) if args.scorer else likelihood
    forbidden = likelihood.header.control_tokens()
    # One answer more than is compared: the null condition reads it, and it is no candidate.
    probe_contexts, excluded = contexts(human, args.n, args.wrong + 1, args.seed, forbidden)
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
    )
    with locked(args.out / "drawn"):
        with Progress(*columns, console=console, transient=True) as bar:

            def track(name: str, total: int) -> Callable[[], None]:
                task = bar.add_task(name, total=total)
                return lambda: bar.advance(task)

            report = asyncio.run(
                probe(
                    likelihood,
                    scorer,
                    probe_contexts,
                    human,
                    name=Path(args.model).name,
                    weights=weights_hash(path),
                    scorer_name=Path(args.scorer or args.model).name,
                    scorer_weights=weights_hash(scorer_path),
                    temperatures=list(dict.fromkeys(args.temperatures)),
                    excluded=excluded,
                    out=args.out,
                    seed=args.seed,
                    track=track,
                )
            )
        report = report.model_copy(update={"human_file": FileFacts.of(args.human), "command": command_line()})
        value = report.model_dump(mode="json")
        write_json(args.out / "probe.json", value)
        with atomic_writer(args.out / "probe.md") as stream:
            stream.write(markdown(report))
        if args.no_text:
            shutil.rmtree(args.out / "drawn", ignore_errors=True)
    console.print(markdown(report), markup=False, soft_wrap=True)
    emit_json(value, stdout=args.json, path=args.json_out)
    return 0
