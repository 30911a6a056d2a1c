"""Drawing of next turns from any simulator at prefixes of human conversations, with a journal.

All simulators have the same sampling and the same guards. If a simulator has a P(end), its text and its decision to
leave are drawn separately. P(end) is read at the first token (temperature 1, before top_p). The text is drawn with the
end banned. The decision is a Bernoulli draw from P(end) with its own seed. This factors the sampled distribution:
every prefix has a text, and leaving can be scored by P(end). Other simulators leave on their own, and then have no
text there.
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import logging
import sys
import zlib
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

from eval.likelihood.drawing import Ask, Batch, DrawJournal, draw
from eval.next_turn.metrics.goal_conditions import CONDITIONS, read_unsaid, under_condition
from eval.next_turn.prefixes import Prefix, prefixes_of, stratified, usable
from eval.next_turn.simulators.specifications import (
    BEST_OF_HELP,
    DrawSettings,
    Simulator,
    checked_best_of,
    simulator_from,
)
from eval.next_turn.simulators.specifications import __doc__ as SPECIFICATIONS
from eval.next_turn.turns import NextTurn, SimulatedTurns, write_turns
from usersim.cli import console, load_conversations, run_main
from usersim.errors import BackendError, ContextOverflowError, EmptyReplyError, GuardError
from usersim.stats.estimates import rng_for
from usersim.types import Turn, UserProfile, UserTurn
from usersim.users.guards import Guards, rejection
from usersim.users.protocols import User

SHORTENED = "history_shortened"
"""Rejection reason recorded for a turn if the oldest exchanges did not fit into the context window."""
FAILURES_IN_A_ROW = 50
"""Consecutive failures after which a simulator is considered down and no more requests are sent."""
Track = Callable[[str, int], Callable[[], None]]

log = logging.getLogger(__name__)


def draw_turns(
    simulator: Simulator | SimulatedTurns,
    prefixes: Sequence[Prefix],
    out: Path,
    *,
    concurrency: int = 48,
    track: Track | None = None,
) -> SimulatedTurns:
    """Draws a next turn at every prefix, once; an interrupted run resumes from the journal.

    The goal shown is the prefix's own (`eval.next_turn.metrics.goal_conditions` changes it). A turn depends only on its
    prefix and the seed. The prefixes of one conversation follow each other, so that they hit an engine's prefix cache.

    Args:
        simulator: Result of `simulator_from`; precomputed turns are returned as they are.
        prefixes: Prefixes, closing ones included.
        out: Directory of the journals.

        concurrency: Maximum number of concurrent requests.
        track: `track(description, total)` returns a function that is called after every prefix.

    Returns:
        The turns. A prefix at which the simulator failed has none. Failures are counted by error, and retried by the
        next run.

    Raises:
        BackendError: Every prefix failed, or so many in a row that the simulator must be down.
        DataError: The journal in `out` belongs to other weights, settings or seed.
    """
    if isinstance(simulator, SimulatedTurns):
        return simulator
    asks = {prefix.id: _ask(prefix, simulator.settings.seed) for prefix in _in_order(prefixes)}
    journal = DrawJournal(_journal_path(out, simulator.name), simulator.identity)
    user = _PrefixUser(simulator)
    done = track(simulator.name, len(asks)) if track else None
    batch = asyncio.run(_draw_all(user, list(asks.values()), journal, concurrency, done))
    if batch.failed and (user.is_down or not batch.turns):
        state = "stopped answering" if batch.turns else "failed at every prefix"
        raise BackendError(f"{simulator.name}: {state} ({user.first_error}); run again to go on")
    return _simulated(simulator, prefixes, asks, batch)


async def _draw_all(
    user: _PrefixUser,
    asks: Sequence[Ask],
    journal: DrawJournal,
    concurrency: int,
    done: Callable[[], None] | None,
) -> Batch:
    try:
        return await draw(user, asks, journal, seed=0, concurrency=concurrency, done=done)
    finally:
        await user.aclose()


def _simulated(
    simulator: Simulator, prefixes: Sequence[Prefix], asks: dict[str, Ask], batch: Batch
) -> SimulatedTurns:
    turns = {
        prefix.id: next_turn(prefix, batch.turns[asks[prefix.id].key], simulator)
        for prefix in prefixes
        if asks[prefix.id].key in batch.turns
    }
    redrawn = Counter(reason for turn in batch.turns.values() for reason in turn.rejected)
    parts = [f"{simulator.kind}:{simulator.source}", simulator.settings.described()]
    if "best_of" in simulator.identity:
        parts.append(f"best of {simulator.identity['best_of']}")
    parts.append("P(end) read, words drawn with the end banned" if simulator.tells_end else "leaves as drawn")
    parts += [f"{reason.replace('_', ' ')}: {count}" for reason, count in sorted(redrawn.items())]
    tokens = {
        prefix.id: batch.turns[asks[prefix.id].key].cost_tokens for prefix in prefixes if prefix.id in turns
    }
    return SimulatedTurns(simulator.name, turns, dict(batch.failed), "; ".join(parts), tokens)


def next_turn(prefix: Prefix, turn: UserTurn, simulator: Simulator) -> NextTurn:
    """Returns a drawn turn as evaluated, with the decision to leave drawn from P(end) if it is known.

    A user cannot leave before the first turn.
    """
    probability = turn.end_probability if simulator.tells_end else None
    ends = turn.ends
    if probability is not None and not turn.ends and prefix.position > 1:
        ends = bool(rng_for(simulator.settings.seed, f"end {prefix.id}").random() < probability)
    return NextTurn(prefix=prefix.id, text=turn.text or None, ends=ends, end_probability=probability)


# -- asks ------------------------------------------------------------------------------------------


def _ask(prefix: Prefix, seed: int) -> Ask:
    """Request with a key that hashes all that the simulator sees, so that a journal survives changed goals or texts."""
    profile = UserProfile(goal=prefix.goal)
    context = profile.model_dump_json() + "".join(turn.model_dump_json() for turn in prefix.history)
    key = f"{prefix.id} {hashlib.sha256(context.encode()).hexdigest()[:16]}"
    return Ask(key, profile, prefix.history, seed=zlib.crc32(f"{seed} {prefix.id}".encode()))


def _in_order(prefixes: Sequence[Prefix]) -> list[Prefix]:
    """Prefixes grouped by conversation, in order of first occurrence, and sorted by position."""
    place: dict[str, int] = {}
    for prefix in prefixes:
        place.setdefault(prefix.conversation, len(place))
    return sorted(prefixes, key=lambda prefix: (place[prefix.conversation], prefix.position))


def _journal_path(out: Path, name: str) -> Path:
    slug = "".join(character if character.isalnum() or character in "-_." else "-" for character in name)
    return out / "drawn" / f"{slug}.jsonl"


class _PrefixUser:
    """`User` that resamples rejected turns, drops old turns of long histories, and stops if the simulator is down."""

    def __init__(self, simulator: Simulator) -> None:
        self._simulator = simulator
        self._user: User | None = None
        guards = simulator.settings.guard_rules
        # A User LM applies its guards itself, without another prefill.
        own = simulator.kind == "userlm"
        self._guards = Guards.off() if own else guards
        self._failures = 0
        self.first_error: str | None = None

    @property
    def is_down(self) -> bool:
        return self._failures >= FAILURES_IN_A_ROW

    async def __call__(
        self, profile: UserProfile, turns: Sequence[Turn], *, seed: int | None = None
    ) -> UserTurn:
        if self.is_down:
            raise BackendError("not asked: the simulator is down")
        try:
            turn = await self._shortening(profile, turns, seed)
        except (BackendError, GuardError, ContextOverflowError) as error:
            if self.first_error is None:
                log.warning("%s: %s", self._simulator.name, error)
                self.first_error = str(error)
            # Only an engine that does not answer says something about the next prefix.
            self._failures += isinstance(error, BackendError) and not isinstance(error, EmptyReplyError)
            raise
        self._failures = 0
        return turn

    async def _shortening(self, profile: UserProfile, turns: Sequence[Turn], seed: int | None) -> UserTurn:
        history = list(turns)
        while True:
            try:
                turn = await self._guarded(profile, history, seed)
            except (ContextOverflowError, BackendError) as error:
                if len(history) < 4 or not _is_overflow(error):
                    raise
                history = history[2:]
                continue
            if len(history) < len(turns):
                turn = turn.model_copy(update={"rejected": (*turn.rejected, SHORTENED)})
            return turn

    async def _guarded(self, profile: UserProfile, turns: Sequence[Turn], seed: int | None) -> UserTurn:
        reasons: list[str] = []
        user = self._opened()
        for attempt in range(self._guards.attempts):
            own = None if seed is None else seed + attempt * 1_000_003
            try:
                turn = await user(profile, turns, seed=own)
            except EmptyReplyError:
                if self._guards.attempts == 1:
                    raise
                reasons.append("empty")
                continue
            why = None if turn.ends else rejection(turn.text, profile.goal, turns, self._guards)
            if why is None:
                return turn.model_copy(update={"rejected": (*turn.rejected, *reasons)})
            reasons.append(why)
        counted = Counter(reasons)
        raise GuardError(f"no acceptable turn in {self._guards.attempts} attempts", reasons=dict(counted))

    def _opened(self) -> User:
        if self._user is None:
            self._user = self._simulator.open()
        return self._user

    async def aclose(self) -> None:
        close = getattr(self._user, "aclose", None)
        if close is not None:
            await close()


def _is_overflow(error: Exception) -> bool:
    words = str(error).lower()
    return isinstance(error, ContextOverflowError) or ("http 400" in words and "context length" in words)


# -- command ---------------------------------------------------------------------------------------


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("human", type=Path, help="held-out human conversations (JSON Lines)")
    parser.add_argument(
        "--simulator",
        action="append",
        required=True,
        metavar="NAME=KIND:ARGUMENT",
        help="see above; repeatable",
    )
    parser.add_argument("--out", type=Path, required=True, help="directory for journals and turns")
    parser.add_argument(
        "--goals", choices=CONDITIONS, default="own", help="goal that simulators are shown (own)"
    )
    parser.add_argument(
        "--unsaid",
        type=Path,
        metavar="FILE",
        help="annotations (JSON Lines) with facets that people never said",
    )
    parser.add_argument("--limit", type=int, default=200, help="conversations, sources in equal parts (200)")
    parser.add_argument("--language", default="en", help="language of the user turns; `any` for all (en)")
    parser.add_argument("--temperature", type=float, default=1.0)
    parser.add_argument("--top-p", type=float, default=0.95)
    parser.add_argument("--max-tokens", type=int, default=192, help="tokens of a turn (192)")
    parser.add_argument("--best-of", type=int, default=1, help=BEST_OF_HELP)
    parser.add_argument("--guards", choices=["off", "on"], default="off")
    parser.add_argument("--concurrency", type=int, default=48, help="requests under way at a time (48)")
    parser.add_argument("--seed", type=int, default=0)


def run(args: argparse.Namespace) -> int:
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    settings = DrawSettings(
        temperature=args.temperature,
        top_p=args.top_p,
        max_tokens=args.max_tokens,
        guards=args.guards,
        seed=args.seed,
        best_of=checked_best_of(args.best_of),
    )
    simulators = [simulator_from(specification, settings) for specification in args.simulator]
    conversations, excluded = usable(
        load_conversations(args.human), None if args.language == "any" else args.language
    )
    sample = stratified(conversations, args.limit, args.seed)
    prefixes = [prefix for conversation in sample for prefix in prefixes_of(conversation)]
    unsaid = read_unsaid(args.unsaid) if args.unsaid else None
    prefixes = under_condition(prefixes, args.goals, unsaid=unsaid, seed=args.seed)
    left_out = "".join(f"; left out: {count} {reason}" for reason, count in excluded.items())
    console.print(f"{len(sample)} conversations, {len(prefixes)} prefixes{left_out}")
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

        turn_sets = [
            draw_turns(simulator, prefixes, args.out, concurrency=args.concurrency, track=track)
            for simulator in simulators
        ]
    condition = "" if args.goals == "own" else f".{args.goals}"
    for turns in turn_sets:
        stem = _journal_path(args.out, turns.name).stem
        write_turns(args.out / f"{stem}{condition}.turns.jsonl", turns.turns.values())
        failed = "".join(f"; {count} failed ({error})" for error, count in turns.failed.items())
        console.print(f"{turns.name}: {len(turns.turns)} turns{failed}; {turns.note}")
    return 0


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m eval.next_turn.simulators.draw",
        description=SPECIFICATIONS,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_arguments(parser)
    return run(parser.parse_args(argv))


if __name__ == "__main__":
    sys.exit(run_main(main))
