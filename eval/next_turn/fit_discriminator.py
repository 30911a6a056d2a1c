"""`usersim eval fit-discriminator`: what chooses the best of n turns of a User LM, fitted on train conversations.

At prefixes of train conversations one turn is drawn; a logistic model learns to tell it from the person's own. With
`best_of` above 1 the User LM then gives out the drawn turn that is likeliest a person's. Whether that helps is for dev
to say: `usersim eval choose-decoding --best-of 1,4`.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import Field

from eval.fidelity.report_record import FileFacts, versions
from eval.next_turn.choose_decoding import dev_prefixes
from eval.next_turn.prefixes import Prefix
from eval.next_turn.simulators.draw import draw_turns
from eval.next_turn.simulators.specifications import (
    DrawSettings,
    Simulator,
    at_engine,
    simulator_from,
)
from eval.next_turn.turns import SimulatedTurns, shared_prefixes
from usersim.cli import command_line, console, emit_json
from usersim.decoding.parameters import Sampling
from usersim.errors import DataError
from usersim.rendering.renderer import Renderer
from usersim.stats.estimates import Estimate
from usersim.storage.locks import locked
from usersim.types import Record
from usersim.weights.default_model import DISCRIMINATOR_FILE, home, own_folder, resolve

if TYPE_CHECKING:
    from usersim.users.discriminator import Fit, TurnPair


class DiscriminatorFit(Record):
    """Result of a fit; `discriminator.npz` holds the main facts as well."""

    found: Estimate
    """Share of pairs in which a cross-fitted discriminator found the person's turn; 0.5: none."""
    found_at: dict[str, Estimate] = Field(default={})
    """Share at user turn 1, 2, 3 and later."""
    ridge: float
    pairs: int
    people: int
    conversations: int
    model: str
    drawn: str
    """Settings that the model's turns were drawn with."""
    seed: int
    files: tuple[FileFacts, ...] = ()
    command: str = ""
    versions: dict[str, str] = Field(default={})
    seconds: float = 0.0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--model", required=True, metavar="MODEL[@ENGINE]", help="User LM folder or run; a running vLLM"
    )
    parser.add_argument(
        "--human",
        type=Path,
        action="append",
        required=True,
        metavar="FILE",
        help="train conversations (JSONL); repeat for more",
    )
    parser.add_argument(
        "--out", type=Path, metavar="FILE", help=f"(default: {DISCRIMINATOR_FILE} in the model)"
    )
    parser.add_argument(
        "--drawn", type=Path, metavar="DIR", help="journal of drawn turns (default: in the user's cache)"
    )
    parser.add_argument(
        "--limit", type=int, default=1000, help="conversations, sources in equal parts (1000)"
    )
    parser.add_argument("--temperature", type=float, help="of the drawn turns (the model's own)")
    parser.add_argument("--top-p", type=float, help="of the drawn turns (the model's own)")
    parser.add_argument("--max-tokens", type=int, help="tokens of a turn (the model's own)")
    parser.add_argument("--language", default="en", help="of the user turns; `any` keeps all (en)")
    parser.add_argument("--concurrency", type=int, default=48, help="requests at a time (48)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--dry-run", action="store_true", help="print what would be drawn, and stop")
    parser.add_argument("--json", action="store_true", help="facts of the fit on stdout")
    parser.add_argument("--json-out", metavar="FILE")


def run(args: argparse.Namespace) -> int:
    from usersim.users.discriminator import fit, weights_fingerprint

    started = time.monotonic()
    model, _ = at_engine(args.model)
    folder = resolve(model)
    renderer = Renderer.from_pretrained(folder)
    prefixes = dev_prefixes(args)
    out = args.out or own_folder(model) / DISCRIMINATOR_FILE
    if not out.parent.is_dir():
        raise DataError(f"{out.parent}: no such folder for {out.name}; make it, or choose another --out")
    console.print(f"{len({p.conversation for p in prefixes})} conversations, {len(prefixes)} turns to draw")
    if args.dry_run:
        return 0
    settings = _settings(args, renderer.settings.decoding or Sampling())
    simulator = simulator_from(f"discriminator=userlm:{args.model}", settings)
    assert isinstance(simulator, Simulator), "a User LM is drawn from"
    journals = args.drawn or home() / "drawn" / _digest(simulator.identity)
    with locked(out):
        turns = _draw(simulator, prefixes, journals, args.concurrency)
        shared = shared_prefixes(prefixes, [turns])
        console.print(f"{len(shared)} pairs, drawn into {journals}; fitting")
        fitted = fit(
            pairs_of(shared, turns),
            render=renderer.fingerprint,
            model=weights_fingerprint(folder),
            seed=args.seed,
        )
        overall, by_position = accuracy(fitted, shared)
        facts = DiscriminatorFit(
            found=overall,
            found_at=by_position,
            ridge=fitted.ridge,
            pairs=len(shared),
            people=len({prefix.cluster for prefix in shared}),
            conversations=len({prefix.conversation for prefix in shared}),
            model=args.model,
            drawn=settings.described(),
            seed=args.seed,
            files=tuple(FileFacts.of(path) for path in args.human),
            command=command_line(),
            versions=versions(),
            seconds=round(time.monotonic() - started, 1),
        )
        summary = facts.model_dump(
            mode="json", include={"found", "found_at", "ridge", "pairs", "people", "drawn"}
        )
        fitted.discriminator.facts.update(summary)
        fitted.discriminator.save(out)
    for at, value in {"all": overall, **by_position}.items():
        console.print(f"person found, user turn {at}: {value.value:.3f} [{value.low:.3f}, {value.high:.3f}]")
    console.print(f"{out}: penalty {fitted.ridge:g}")
    emit_json(facts.model_dump(mode="json"), stdout=args.json, path=args.json_out)
    return 0


def pairs_of(prefixes: Sequence[Prefix], turns: SimulatedTurns) -> list[TurnPair]:
    """The person's and the model's turn at each prefix."""
    from usersim.users.discriminator import TurnPair

    return [
        TurnPair(prefix.goal, prefix.history, prefix.text or "", turns.text(prefix) or "", prefix.cluster)
        for prefix in prefixes
    ]


def accuracy(fitted: Fit, prefixes: Sequence[Prefix]) -> tuple[Estimate, dict[str, Estimate]]:
    """Share of pairs in which the person's turn was found, over all and by user turn, with intervals over people."""
    import numpy as np

    from eval.next_turn.metrics.values import ClusterSums, Positions, Values, at_positions, estimate

    choices = np.asarray(fitted.choices, dtype=np.float64)
    everywhere = Values(choices, np.ones(len(choices)))
    clusters = [prefix.cluster for prefix in prefixes]
    by_position: dict[str, Estimate] = {}
    positions: tuple[Positions, ...] = ("1", "2", "3+")
    for at in positions:
        sums = ClusterSums.of(everywhere.at(at_positions(prefixes, at)), clusters)
        if sums.n_clusters >= 2:
            by_position[at] = estimate(sums, is_share=True)
    return estimate(ClusterSums.of(everywhere, clusters), is_share=True), by_position


def _settings(args: argparse.Namespace, own: Sampling) -> DrawSettings:
    """As the model's turns are drawn, unless the arguments say otherwise."""
    return DrawSettings(
        temperature=own.temperature if args.temperature is None else args.temperature,
        top_p=own.top_p if args.top_p is None else args.top_p,
        max_tokens=own.max_tokens if args.max_tokens is None else args.max_tokens,
        seed=args.seed,
    )


def _digest(identity: dict[str, str]) -> str:
    return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:16]


def _draw(simulator: Simulator, prefixes: Sequence[Prefix], out: Path, concurrency: int) -> SimulatedTurns:
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("drawing"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True) as bar:

        def track(name: str, total: int) -> Callable[[], None]:
            task = bar.add_task(name, total=total)
            return lambda: bar.advance(task)

        return draw_turns(simulator, prefixes, out, concurrency=concurrency, track=track)
