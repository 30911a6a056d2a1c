"""Preparation of a fair comparison: origins checked, the same turn cap and the same n on both sides.

`eval.fidelity.samples.matching` describes the differences that remain.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Literal

from eval.fidelity.samples.features import Sample, user_texts
from eval.fidelity.samples.language import language_of
from eval.fidelity.samples.matching import check_sets, matching_notes, person_of, task_clusters
from eval.fidelity.settings import EvalConfig
from usersim.errors import DataError
from usersim.stats.estimates import (
    Draws,
    Split,
    cluster_resamples,
    human_splits,
    largest_half,
    person_order,
    rng_for,
)
from usersim.types import Conversation, Record

FAILED = frozenset({"failed", "error"})
"""Flags of a simulated conversation that broke off; it is counted and left out."""


class SideFacts(Record):
    """Counts of one file's conversations: read, left out, cut and kept."""

    name: str
    given: int
    excluded: dict[str, int]
    """Left out, by reason; never scored as zero."""
    truncated: int
    """Cut at the turn cap."""
    kept: int
    ended_by: dict[str, int]
    """Endings of the kept conversations, before any cut."""
    answer_words: float | None = None
    """Median words of the assistant's answers. Records do not name the assistant; another length indicates another one.
    """
    longest_turn: int = 0
    """Words of the longest user turn."""


@dataclass(frozen=True)
class Prepared:
    human: Sample
    """All human conversations that were kept; the human baseline is sampled from them."""
    simulated: dict[str, Sample]
    human_side: SideFacts
    simulated_sides: dict[str, SideFacts]
    n: int
    """Conversations per side in every comparison."""
    turn_cap: int | None
    turn_cap_from: Literal["given", "inferred", "none"]
    notes: tuple[str, ...]

    def compared_human(self, seed: int) -> Sample:
        """Returns the `n` human conversations that every simulator is compared with, sampled like a half of the human
        baseline."""
        clusters = [person_of(c) for c in self.human.conversations]
        return self.human.take(person_order(clusters, rng_for(seed, "human subsample"))[: self.n])

    def compared(self, name: str, seed: int) -> Sample:
        sample = self.simulated[name]
        clusters = task_clusters(sample.conversations)
        return sample.take(person_order(clusters, rng_for(seed, f"subsample {name}"))[: self.n])

    def splits(self, config: EvalConfig) -> list[Split]:
        groups = [person_of(c) for c in self.human.conversations]
        return human_splits(groups, self.n, config.floor_repeats, rng_for(config.seed, "floor"))


def draws_of(simulated: Sample, human: Sample, config: EvalConfig) -> Draws:
    """Returns resamples of whole tasks on the simulated side and of whole people on the human side."""
    rng = rng_for(config.seed, "bootstrap")
    tasks = task_clusters(simulated.conversations)
    people = [person_of(c) for c in human.conversations]
    return Draws(
        simulated_BN=cluster_resamples(tasks, config.bootstrap, rng),
        human_BN=cluster_resamples(people, config.bootstrap, rng),
    )


def prepare(
    human: Sequence[Conversation],
    simulated: Mapping[str, Sequence[Conversation]],
    config: EvalConfig,
) -> Prepared:
    """Checks and cuts all conversations and fixes n.

    Raises:
        DataError: Records of the wrong origin, too few conversations, or sets that cannot be compared
            (`eval.fidelity.samples.matching.check_sets`).
    """
    check_origin("human", human, "human")
    for name, conversations in simulated.items():
        check_origin(name, conversations, "simulated")
    cap = config.turn_cap or inferred_cap(simulated)
    goals = _shared_goals(simulated) if config.same_goals else None
    human_kept, human_side = _keep("human", human, cap, goals, config.language)
    kept_simulated, sides = dict[str, list[Conversation]](), dict[str, SideFacts]()
    for name, conversations in simulated.items():
        kept_simulated[name], sides[name] = _keep(name, conversations, cap, None, config.language)
    check_sets(human_kept, kept_simulated, config)
    half_size = largest_half([person_of(c) for c in human_kept])
    n = min([half_size, config.max_n, *map(len, kept_simulated.values())])
    if n < config.min_n:
        raise DataError(
            _too_few(len(human_kept), half_size, {k: len(s) for k, s in kept_simulated.items()}, config)
        )
    return Prepared(
        human=Sample.of(human_kept),
        simulated={name: Sample.of(conversations) for name, conversations in kept_simulated.items()},
        human_side=human_side,
        simulated_sides=sides,
        n=n,
        turn_cap=cap,
        turn_cap_from="given" if config.turn_cap else "inferred" if cap else "none",
        notes=tuple(matching_notes(human_kept, kept_simulated, n, config)),
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
    """Returns the smallest turn cap that any simulator ran under: the user turns of its longest conversation. A
    simulator whose conversations were all ended by the user shows no cap."""
    caps = [
        max(len(user_texts(c)) for c in conversations)
        for conversations in simulated.values()
        if any(c.ended_by != "user" for c in conversations)
    ]
    return max(1, min(caps)) if caps else None


def cut(conversation: Conversation, cap: int | None) -> Conversation:
    """Returns the conversation with at most `cap` user turns, the last with its answer, as `converse` would stop it."""
    if cap is None or len(user_texts(conversation)) <= cap:
        return conversation
    user_turns = 0
    for index, turn in enumerate(conversation.turns):
        user_turns += turn.role == "user"
        if user_turns > cap:
            return conversation.model_copy(
                update={"turns": conversation.turns[:index], "ended_by": "turn_cap"}
            )
    return conversation


def _keep(
    name: str,
    conversations: Sequence[Conversation],
    cap: int | None,
    goals: set[str] | None,
    language: str | None,
) -> tuple[list[Conversation], SideFacts]:
    reasons = [_reason(conversation, goals, language) for conversation in conversations]
    kept_conversations = [c for c, reason in zip(conversations, reasons, strict=True) if reason is None]
    cut_conversations = [cut(conversation, cap) for conversation in kept_conversations]
    return cut_conversations, SideFacts(
        name=name,
        given=len(conversations),
        excluded=dict(Counter(reason for reason in reasons if reason)),
        truncated=sum(a is not b for a, b in zip(kept_conversations, cut_conversations, strict=True)),
        kept=len(kept_conversations),
        ended_by=dict(Counter(c.ended_by for c in kept_conversations)),
        answer_words=median(answers) if (answers := _turn_words(cut_conversations, "assistant")) else None,
        longest_turn=max(_turn_words(cut_conversations, "user"), default=0),
    )


def _turn_words(conversations: Sequence[Conversation], role: Literal["user", "assistant"]) -> list[int]:
    return [len(turn.text.split()) for c in conversations for turn in c.turns if turn.role == role]


def longer_share(human: Sequence[Conversation], words: int) -> float:
    """Returns the share of people's turns with more words."""
    counts = _turn_words(human, "user")
    return sum(count > words for count in counts) / len(counts)


def _reason(conversation: Conversation, goals: set[str] | None, language: str | None) -> str | None:
    """Returns the reason why a conversation is left out; None keeps it."""
    texts, goal = user_texts(conversation), conversation.profile.goal
    if FAILED & set(conversation.flags):
        return "failed"
    if not texts:
        return "no user turn"
    if goals is not None and (goal is None or goal.summary not in goals):
        return "goal not simulated"
    if language is not None and language_of(texts) not in (language, None):
        return f"not in {language}"
    return None


def _shared_goals(simulated: Mapping[str, Sequence[Conversation]]) -> set[str]:
    per_simulator = [
        {c.profile.goal.summary for c in conversations if c.profile.goal}
        for conversations in simulated.values()
    ]
    shared = set.intersection(*per_simulator) if per_simulator else set()
    if not shared:
        raise DataError("--same-goals: no goal is stated by conversations of every simulator")
    return shared


def _too_few(human: int, half: int, simulated: Mapping[str, int], config: EvalConfig) -> str:
    counts_text = ", ".join(f"{name} {count}" for name, count in simulated.items())
    half_text = "" if half == human // 2 else f" (halves of different people hold {half} at most)"
    return (
        f"too few conversations: human {human}{half_text}, {counts_text}; {config.min_n} per side need {config.min_n} "
        f"of every simulator and {2 * config.min_n} human ones (one half to compare with, another for the human "
        "baseline); --min-n lowers this, but there is no verdict below 50"
    )
