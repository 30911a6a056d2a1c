"""From files to a fair comparison: origins checked, the same turn cap, the same n on both sides."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from eval.estimates import Split, human_splits, rng_for
from eval.features import Sample, user_texts
from eval.settings import TRUSTED_N, EvalConfig
from usersim.errors import DataError
from usersim.types import Conversation, Record


class Side(Record):
    """What became of one file's conversations."""

    name: str
    given: int
    excluded: dict[str, int]
    """Left out, by reason; never scored as zero."""
    truncated: int
    """Cut at the turn cap."""
    kept: int
    ended_by: dict[str, int]
    """How the kept ones ended, before any cut."""


@dataclass(frozen=True)
class Prepared:
    human: Sample
    """All human conversations that were kept; the floor is drawn from them."""
    simulated: dict[str, Sample]
    human_side: Side
    simulated_sides: dict[str, Side]
    n: int
    """Conversations per side in every comparison."""
    turn_cap: int | None
    turn_cap_from: Literal["given", "inferred", "none"]
    notes: tuple[str, ...]

    def compared_human(self, seed: int) -> Sample:
        """The `n` human conversations that every simulator is compared with."""
        order = rng_for(seed, "human subsample").permutation(len(self.human))
        return self.human.take(order[: self.n])

    def compared(self, name: str, seed: int) -> Sample:
        sample = self.simulated[name]
        order = rng_for(seed, f"subsample {name}").permutation(len(sample))
        return sample.take(order[: self.n])

    def splits(self, config: EvalConfig) -> list[Split]:
        groups = [c.group or c.id for c in self.human.conversations]
        return human_splits(groups, self.n, config.floor_repeats, rng_for(config.seed, "floor"))


def prepare(
    human: Sequence[Conversation],
    simulated: Mapping[str, Sequence[Conversation]],
    config: EvalConfig,
) -> Prepared:
    """Raises DataError for records of the wrong origin and for too few conversations."""
    check_origin("human", human, "human")
    for name, conversations in simulated.items():
        check_origin(name, conversations, "simulated")
    cap = config.turn_cap or inferred_cap(simulated)
    goals = _shared_goals(simulated) if config.same_goals else None
    human_kept, human_side = _keep("human", human, cap, goals)
    kept = {name: _keep(name, given, cap, None) for name, given in simulated.items()}
    n = min([len(human_kept) // 2, config.max_n, *(len(sample) for sample, _ in kept.values())])
    if n < config.min_n:
        raise DataError(_too_few(len(human_kept), {k: len(s) for k, (s, _) in kept.items()}, config))
    sides = {name: side for name, (_, side) in kept.items()}
    return Prepared(
        human=Sample.of(human_kept),
        simulated={name: Sample.of(sample) for name, (sample, _) in kept.items()},
        human_side=human_side,
        simulated_sides=sides,
        n=n,
        turn_cap=cap,
        turn_cap_from="given" if config.turn_cap else "inferred" if cap else "none",
        notes=tuple(_notes(human_kept, {k: s for k, (s, _) in kept.items()}, n)),
    )


def check_origin(
    name: str, conversations: Sequence[Conversation], origin: Literal["human", "simulated"]
) -> None:
    for number, conversation in enumerate(conversations, start=1):
        if conversation.origin != origin:
            raise DataError(
                f"{name}: record {number} (id {conversation.id!r}) has origin {conversation.origin!r}, "
                f"but these are taken as {origin} conversations"
            )


def inferred_cap(simulated: Mapping[str, Sequence[Conversation]]) -> int | None:
    """The smallest cap that any simulator ran under: the user turns of its longest conversation, unless
    every one of its conversations was ended by the user, which shows no cap at all."""
    caps = [
        max(len(user_texts(c)) for c in conversations)
        for conversations in simulated.values()
        if any(c.ended_by != "user" for c in conversations)
    ]
    return max(1, min(caps)) if caps else None


def cut(conversation: Conversation, cap: int | None) -> Conversation:
    """At most `cap` user turns, the last with its answer, as `converse` would have stopped it."""
    if cap is None or len(user_texts(conversation)) <= cap:
        return conversation
    seen = 0
    for index, turn in enumerate(conversation.turns):
        seen += turn.role == "user"
        if seen > cap:
            return conversation.model_copy(
                update={"turns": conversation.turns[:index], "ended_by": "turn_cap"}
            )
    return conversation


def _keep(
    name: str, given: Sequence[Conversation], cap: int | None, goals: set[str] | None
) -> tuple[list[Conversation], Side]:
    excluded: Counter[str] = Counter()
    kept: list[Conversation] = []
    for conversation in given:
        goal = conversation.profile.goal
        if not user_texts(conversation):
            excluded["no user turn"] += 1
        elif goals is not None and (goal is None or goal.summary not in goals):
            excluded["goal not simulated"] += 1
        else:
            kept.append(conversation)
    short = [cut(conversation, cap) for conversation in kept]
    return short, Side(
        name=name,
        given=len(given),
        excluded=dict(excluded),
        truncated=sum(a is not b for a, b in zip(kept, short, strict=True)),
        kept=len(kept),
        ended_by=dict(Counter(c.ended_by for c in kept)),
    )


def _shared_goals(simulated: Mapping[str, Sequence[Conversation]]) -> set[str]:
    per_simulator = [
        {c.profile.goal.summary for c in conversations if c.profile.goal}
        for conversations in simulated.values()
    ]
    return set.intersection(*per_simulator) if per_simulator else set()


def _too_few(human: int, simulated: Mapping[str, int], config: EvalConfig) -> str:
    listed = ", ".join(f"{name} {count}" for name, count in simulated.items())
    return (
        f"too few conversations: human {human}, {listed}; {config.min_n} per side need {config.min_n} of "
        f"every simulator and {2 * config.min_n} human ones (one half to compare with, another for the "
        "floor); --min-n lowers this, without any verdict below 50"
    )


def _notes(
    human: Sequence[Conversation], simulated: Mapping[str, Sequence[Conversation]], n: int
) -> list[str]:
    """What a reader must know before believing a number."""
    notes = [
        "The human floor comes from random halves of the human conversations. Without user ids the same "
        "person may be on both sides, so it is a lower bound: people differ more than it shows."
    ]
    if n < TRUSTED_N:
        notes.append(f"Too few: {n} conversations per side. No verdicts; {TRUSTED_N} are the least.")
    goals = {c.profile.goal.summary for c in human if c.profile.goal}
    texts = {tuple(user_texts(c)) for c in human}
    for name, conversations in simulated.items():
        given = [c.profile.goal.summary for c in conversations if c.profile.goal]
        alien = sum(goal not in goals for goal in given)
        if alien:
            notes.append(f"{name}: {alien} of {len(given)} goals do not occur among the human conversations.")
        bare = sum(c.profile.goal is None for c in human)
        if 2 * len(given) > len(conversations) and bare > 0.1 * len(human):
            notes.append(
                f"{name} was given goals; {bare} of {len(human)} human conversations have none, so topics may "
                "differ. --same-goals keeps only human conversations with a simulated goal."
            )
        copied = sum(tuple(user_texts(c)) in texts for c in conversations)
        if copied:
            notes.append(f"{name}: {copied} conversations equal a human one word for word.")
    return notes
