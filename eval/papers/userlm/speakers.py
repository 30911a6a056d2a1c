"""Live simulated users, and turns drawn from them at chosen places, kept in a journal."""

from __future__ import annotations

import argparse
import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from eval.likelihood.drawing import Ask, Batch, DrawJournal, draw
from usersim.users.protocols import User

MAX_TOKENS = 96
"""Of a drawn turn in this process: far above the median of people."""
Track = Callable[[str, int], Callable[[], None]]


@dataclass(frozen=True)
class Speaker:
    name: str
    user: User
    identity: str
    """What its turns depend on: the hash of its weights, or the address it answers at."""
    concurrency: int = 48


def speakers(args: argparse.Namespace) -> list[Speaker]:
    """`--url` (our endpoint, as it is configured there), `--model` (in this process, without guards), `--prompted`."""
    found = []
    if args.url:
        from usersim.api import connect

        found.append(Speaker("endpoint", connect(args.url), args.url))
    if args.model:
        found.append(_local(args.model))
    if args.prompted:
        found.append(_prompted(args.prompted))
    return found


def _local(model: str) -> Speaker:
    from eval.likelihood.scored import weights_hash
    from usersim.api import load
    from usersim.users.guards import Guards
    from usersim.users.protocols import Sampling
    from usersim.weights.default_model import resolve

    path = resolve(model)
    # Without guards but for nothing said: what they would catch is to be seen here.
    guards = Guards.off().model_copy(update={"empty": True, "attempts": 4})
    user = load(path, sampling=Sampling(max_tokens=MAX_TOKENS), guards=guards)
    name = Path(model).name or model
    return Speaker(name, user, weights_hash(path))


def _prompted(where: str) -> Speaker:
    from usersim.commands.options import assistant_from
    from usersim.users.prompted import PromptedUser

    chat = assistant_from(where, max_tokens=MAX_TOKENS)
    return Speaker(f"prompted {where}", PromptedUser(chat), where)  # type: ignore[arg-type]


async def ask(speaker: Speaker, kind: str, asks: Sequence[Ask], out: Path, seed: int, track: Track) -> Batch:
    """An interrupted run goes on from the journal; places that failed are asked again."""
    digest = hashlib.sha256(speaker.identity.encode()).hexdigest()[:16]
    slug = "".join(c if c.isalnum() else "-" for c in f"{kind} {speaker.name}")
    journal = DrawJournal(
        out / "drawn" / f"{slug}.jsonl",
        {"name": speaker.name, "identity": digest, "seed": str(seed), "asks": kind},
    )
    done = track(f"{speaker.name}: {kind}", len(asks))
    return await draw(speaker.user, asks, journal, seed=seed, concurrency=speaker.concurrency, done=done)
