"""Live simulated users, and turns sampled from them at given prefixes, kept in a journal."""

from __future__ import annotations

import argparse
import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from eval.likelihood.drawing import Ask, Batch, DrawJournal, draw
from usersim.users.protocols import User

MAX_TOKENS = 96
"""Tokens of a turn sampled in this process: far above the median of people."""
Track = Callable[[str, int], Callable[[], None]]


@dataclass(frozen=True)
class Speaker:
    """Simulated user with its name."""

    name: str
    user: User
    cache_key: str
    """Hash of the weights, or the endpoint's address; turns are resumed only under the same one."""
    concurrency: int = 48


def speakers(args: argparse.Namespace) -> list[Speaker]:
    """Returns the speakers of `--url` (as configured at the endpoint), `--model` (in this process, without guards)
    and `--prompted`."""
    speaker_list = []
    if args.url:
        from usersim.api import connect

        speaker_list.append(Speaker("endpoint", connect(args.url), args.url))
    if args.model:
        speaker_list.append(_local(args.model))
    if args.prompted:
        speaker_list.append(_prompted(args.prompted))
    return speaker_list


def _local(model: str) -> Speaker:
    from eval.likelihood.scored import weights_hash
    from usersim.api import load
    from usersim.users.guards import Guards
    from usersim.users.protocols import Sampling
    from usersim.weights.default_model import resolve

    path = resolve(model)
    # Only the guard against empty turns is on: the metrics must see all other faults.
    guards = Guards.off().model_copy(update={"empty": True, "attempts": 4})
    user = load(path, sampling=Sampling(max_tokens=MAX_TOKENS), guards=guards)
    name = Path(model).name or model
    return Speaker(name, user, weights_hash(path))


def _prompted(spec: str) -> Speaker:
    from usersim.commands.options import assistant_from
    from usersim.users.prompted import PromptedUser

    chat = assistant_from(spec, max_tokens=MAX_TOKENS)
    return Speaker(f"prompted {spec}", PromptedUser(chat), spec)  # type: ignore[arg-type]


async def ask(speaker: Speaker, kind: str, asks: Sequence[Ask], out: Path, seed: int, track: Track) -> Batch:
    """Samples the speaker's turns. An interrupted run continues from the journal; failed prefixes are sampled again."""
    digest = hashlib.sha256(speaker.cache_key.encode()).hexdigest()[:16]
    slug = "".join(c if c.isalnum() else "-" for c in f"{kind} {speaker.name}")
    journal = DrawJournal(
        out / "drawn" / f"{slug}.jsonl",
        {"name": speaker.name, "identity": digest, "seed": str(seed), "asks": kind},
    )
    done = track(f"{speaker.name}: {kind}", len(asks))
    return await draw(speaker.user, asks, journal, seed=seed, concurrency=speaker.concurrency, done=done)
