"""Uncooperative users: impatient, tangential, unclear, withholding. Wrappers over any `User`.

A policy changes the profile that the user gets (goal, facets, style) and when the user leaves. It never edits the text
of a turn: the wrapped user still chooses the words. There is no judge and no state. All decisions follow from the
policy's seed, the profile and the turns so far. So one wrapper serves many conversations at once, and a repeated call
gives the same answer. The conversation's record keeps the true profile.

    user = with_policy(usersim.load(), "withholding")
    user = with_policy(user, "impatient:patience=1,most_turns=3")

The rules (`usersim.text.reply_acts`) are for English. The effect of a policy depends on the wrapped user: a model
that ignores its goal does not become vaguer with a vaguer goal.
"""

from __future__ import annotations

import random
import re
from collections.abc import Sequence

from pydantic import Field, ValidationError

from usersim.errors import ConfigError
from usersim.storage.records import explain
from usersim.text.reply_acts import content_words, questions, stalled
from usersim.text.style import words
from usersim.types import Facet, Goal, Persona, Record, Style, Turn, UserProfile, UserTurn
from usersim.users.plain_functions import PlainUser, as_user
from usersim.users.protocols import User

DETAILS = re.compile(
    r"\s*(?:[,;:(]|\b(?:with|using|that|which|who|so that|including|such as|because|from|within|under|for|by|at)\b).*",
    re.IGNORECASE | re.DOTALL,
)
"""Match from the first detail of a goal's summary to its end."""
EXACT = re.compile(r"\S*\d\S*|\"[^\"]*\"|(?<=\s)[A-Z]\S*")
"""Match of a number, a quotation or a name inside a sentence."""
LEFT = UserTurn(text="", ends=True, end_probability=1.0, finish="end", logprob=0.0, tokens=0)

SUBJECTS = (
    "find out what the weather is usually like on the coast in late spring",
    "hear whether a cat can be left alone over a weekend",
    "get an idea for a birthday present for a colleague",
    "know how to get a coffee stain out of a shirt",
    "find out what to cook from rice, eggs and not much else",
    "settle whether a used bicycle is worth buying",
    "learn how long a passport takes to renew",
    "get a film recommendation for tonight",
)
"""Default goals to drift to."""


class Policy(Record):
    """Base policy, which changes nothing.

    A policy sets the profile before each turn and decides whether the user leaves.
    """

    seed: int = 0

    def visible_profile(self, profile: UserProfile, turns: Sequence[Turn]) -> UserProfile:
        return profile

    def leaves(self, profile: UserProfile, turns: Sequence[Turn]) -> bool:
        return False

    def rng(self, profile: UserProfile, *keys: object) -> random.Random:
        """Returns a random generator that depends only on the policy's seed, the goal and `keys`."""
        goal = profile.goal.summary if profile.goal else ""
        return random.Random(f"{self.seed}|{goal}|{'|'.join(map(str, keys))}")


class Impatient(Policy):
    """User who gives up early: after `most_turns` messages, or when `patience` replies in a row made no progress.

    A reply makes no progress when it refuses, mostly asks back, or says nearly the same again (`stalled`). The user
    leaves without a message. Its profile asks for half the length, no courtesies, and objections.
    """

    patience: int = Field(default=2, ge=1)
    most_turns: int = Field(default=4, ge=1)

    def leaves(self, profile: UserProfile, turns: Sequence[Turn]) -> bool:
        replies = [turn.text for turn in turns if turn.role == "assistant"]
        spoken = sum(turn.role == "user" for turn in turns)
        if not spoken:
            return False
        recent = range(max(0, len(replies) - self.patience), len(replies))
        slow = len(recent) == self.patience and all(stalled(replies[i], replies[:i]) for i in recent)
        return slow or spoken >= self.most_turns

    def visible_profile(self, profile: UserProfile, turns: Sequence[Turn]) -> UserProfile:
        own = _style(profile)
        shorter = {
            "words_per_turn": max(2.0, (own.words_per_turn or 12.0) / 2),
            "politeness": 0.0,
            "pushback": max(own.pushback or 0.0, 0.5),
            "turns": float(self.most_turns),
        }
        return _restyled(profile, shorter, "in a hurry, loses patience quickly")


class Tangential(Policy):
    """User who drifts: each message but the first starts another subject with probability `drift`, for `stays`
    messages."""

    drift: float = Field(default=0.3, ge=0, le=1)
    stays: int = Field(default=1, ge=1)
    subjects: tuple[str, ...] = Field(default=SUBJECTS, min_length=1)
    """Goals to drift to; the user's own goal is excluded."""

    def visible_profile(self, profile: UserProfile, turns: Sequence[Turn]) -> UserProfile:
        subject = self.subject(profile, turns)
        return profile if subject is None else profile.model_copy(update={"goal": Goal(summary=subject)})

    def subject(self, profile: UserProfile, turns: Sequence[Turn]) -> str | None:
        """Returns the other subject of the next message, or None if it keeps to the goal."""
        texts = [turn.text for turn in turns if turn.role == "user"]
        own = profile.goal.summary if profile.goal else None
        others = [subject for subject in self.subjects if subject != own]
        for position in range(len(texts), max(0, len(texts) - self.stays), -1):
            # The opening is part of the key, so that two conversations about one goal drift apart.
            rng = self.rng(profile, texts[0], position)
            if rng.random() < self.drift and others:
                return rng.choice(others)
        return None


class Unclear(Policy):
    """Vague user: gets a blurred goal and a random subset of its facets, fixed per conversation.

    The summary loses what follows its first preposition or comma, and numbers, names and quotations. Facets outside the
    subset are never said, so the assistant's coverage of the facets has a ceiling of about `keep`.
    """

    keep: float = Field(default=0.25, ge=0, le=1)
    """Probability that the user knows a facet at all."""

    def visible_profile(self, profile: UserProfile, turns: Sequence[Turn]) -> UserProfile:
        goal = profile.goal
        if goal is not None:
            facets = [f for f in goal.facets if self.rng(profile, f.text).random() < self.keep]
            profile = _with_facets(
                profile, goal.model_copy(update={"summary": blurred(goal.summary)}), facets
            )
        own = _style(profile)
        vague = {
            "words_per_turn": min(own.words_per_turn or 8.0, 8.0),
            "opening_words": min(own.opening_words or 8.0, 8.0),
        }
        return _restyled(profile, vague, 'says "something" and "stuff", leaves names and numbers out')


class Withholding(Policy):
    """User who only answers: each assistant reply that asks gets one facet, the nearest to the question.

    The nearest facet shares most content words with the questions of the reply; without a shared word it is the next in
    order. With `strict`, a question without a shared word gets none. Offers ("anything else?") are not questions.
    """

    strict: bool = False

    def visible_profile(self, profile: UserProfile, turns: Sequence[Turn]) -> UserProfile:
        if profile.goal is None:
            return profile
        facets = self.revealed(profile.goal.facets, turns)
        return _restyled(_with_facets(profile, profile.goal, facets), {}, "tells only what is asked")

    def revealed(self, facets: Sequence[Facet], turns: Sequence[Turn]) -> list[Facet]:
        hidden, revealed_facets = list(facets), list[Facet]()
        for turn in turns:
            reply_questions = questions(turn.text) if turn.role == "assistant" else []
            if reply_questions and hidden:
                shared = [
                    len(content_words(" ".join(reply_questions)) & content_words(facet.text))
                    for facet in hidden
                ]
                if max(shared) or not self.strict:
                    revealed_facets.append(hidden.pop(shared.index(max(shared))))
        return revealed_facets


POLICIES: dict[str, type[Policy]] = {
    "impatient": Impatient,
    "tangential": Tangential,
    "unclear": Unclear,
    "withholding": Withholding,
}


class PolicyUser:
    """`User` that follows a policy. Closing it closes the wrapped user."""

    def __init__(self, user: User | PlainUser, policy: Policy, name: str) -> None:
        self.user, self.policy = as_user(user), policy
        self.name = f"{getattr(user, 'name', 'user')}+{name}"

    async def __call__(
        self, profile: UserProfile, turns: Sequence[Turn], *, seed: int | None = None
    ) -> UserTurn:
        if self.policy.leaves(profile, turns):
            return LEFT.model_copy(update={"seed": seed})
        return await self.user(self.policy.visible_profile(profile, turns), turns, seed=seed)

    async def aclose(self) -> None:
        close = getattr(self.user, "aclose", None)
        if close is not None:
            await close()


def with_policy(user: User | PlainUser, policy: str | Policy, *, seed: int = 0) -> PolicyUser:
    """Wraps a user in a policy.

    Args:
        user: User to wrap.
        policy: A name, a name with settings ("impatient:patience=1"), or a `Policy`, which has its own seed.
        seed: Seed of a policy given by name.

    Raises:
        ConfigError: `policy` names no policy or has a bad setting.
    """
    if isinstance(policy, Policy):
        return PolicyUser(user, policy, type(policy).__name__.lower())
    return PolicyUser(user, policy_from(policy, seed=seed), policy.partition(":")[0])


def policy_from(text: str, *, seed: int = 0) -> Policy:
    """Parses `NAME` or `NAME:KEY=VALUE,…`; several subjects are separated by `|`. Raises ConfigError."""
    name, _, settings = text.partition(":")
    if name not in POLICIES:
        raise ConfigError(f"--policy {text!r}: no such policy; one of {', '.join(POLICIES)}")
    values: dict[str, object] = {"seed": seed}
    for setting in filter(None, settings.split(",")):
        key, equals, value = setting.partition("=")
        if not equals:
            raise ConfigError(f"--policy {text!r}: write NAME:KEY=VALUE,KEY=VALUE")
        values[key.strip()] = tuple(value.split("|")) if key.strip() == "subjects" else value
    try:
        return POLICIES[name].model_validate(values)
    except ValidationError as error:
        raise ConfigError(f"--policy {text!r}: {explain(error)}") from error


def blurred(summary: str) -> str:
    """Returns the beginning of a goal without its details; its first three words if less than two words are left."""
    short = " ".join(EXACT.sub("", DETAILS.sub("", summary)).split())
    return short if len(words(short)) >= 2 else " ".join(summary.split()[:3])


def _style(profile: UserProfile) -> Style:
    return (profile.persona and profile.persona.style) or Style()


def _with_facets(profile: UserProfile, goal: Goal, facets: Sequence[Facet]) -> UserProfile:
    return profile.model_copy(update={"goal": goal.model_copy(update={"facets": tuple(facets)})})


def _restyled(profile: UserProfile, measured: dict[str, float], trait: str) -> UserProfile:
    persona = profile.persona or Persona()
    style = _style(profile).model_copy(update=measured) if measured else persona.style
    description = "; ".join(filter(None, (persona.description.rstrip(". ;"), trait)))
    return profile.model_copy(
        update={"persona": persona.model_copy(update={"description": description, "style": style})}
    )
