"""Goal and persona in words: the system message of the User LM, and how training thins it out.

Every part may be missing, so that every subset works at inference. `describe` is the whole rendering:

    You are a person typing to an AI assistant.
    You want to plan a cheap weekend trip.
    What matters to you: by train only; two people.
    About you: student, impatient.
    How you write: around 6 words a message, all lower case, no full stops, no questions, no pleases.
"""

from __future__ import annotations

import random

from usersim.types import Facet, Goal, Persona, Style, UserProfile

PREFACE = "You are a person typing to an AI assistant."
LENGTHS = (2, 4, 6, 8, 11, 15, 20, 30, 45, 70, 110, 180)
"""Words per message are named by the nearest of these (ratio), so that a request meets numbers seen in training."""


def describe(profile: UserProfile) -> str:
    """The fixed rendering of a profile, one line a part; the preface alone when nothing is known."""
    lines = [PREFACE]
    if profile.goal:
        lines.append(f"You want to {_lower_first(profile.goal.summary.rstrip('. '))}.")
        if profile.goal.facets:
            details = "; ".join(facet.text.rstrip(".; ") for facet in profile.goal.facets)
            lines.append(f"What matters to you: {details}.")
    if profile.persona:
        if profile.persona.description.strip():
            lines.append(f"About you: {profile.persona.description.strip().rstrip('.')}.")
        traits = style_words(profile.persona.style) if profile.persona.style else []
        if traits:
            lines.append(f"How you write: {', '.join(traits)}.")
    return "\n".join(lines)


def style_words(style: Style) -> list[str]:
    """The stated attributes in plain English, in a fixed order."""
    traits = []
    if style.words_per_turn is not None:
        traits.append(f"around {nearest_length(style.words_per_turn)} words a message")
    if style.opening_words is not None:
        traits.append(f"opens with {nearest_length(style.opening_words)} words")
    if style.lowercase_starts is not None:
        traits.append(_level(style.lowercase_starts, "capital letters", "some capitals", "all lower case"))
    if style.end_punctuation is not None:
        traits.append(_level(style.end_punctuation, "no full stops", "some full stops", "full stops"))
    if style.questions is not None:
        traits.append(_level(style.questions, "no questions", "some questions", "asks questions"))
    if style.politeness is not None:
        traits.append(_level(style.politeness, "no pleases", "polite now and then", "polite"))
    if style.turns is not None:
        traits.append(f"leaves after about {max(1, round(style.turns))} messages")
    return traits


def nearest_length(words: float) -> int:
    return min(LENGTHS, key=lambda length: abs(_log_ratio(words, length)))


def _log_ratio(words: float, length: int) -> float:
    larger, smaller = max(words, 1.0), float(length)
    return larger / smaller - 1 if larger > smaller else smaller / larger - 1


def _level(value: float, low: str, middle: str, high: str) -> str:
    return low if value < 0.25 else high if value > 0.75 else middle


def _lower_first(text: str) -> str:
    # "Plan a trip" reads on as "You want to plan a trip"; "NASA…" and "I…" keep their capitals.
    return text[0].lower() + text[1:] if len(text) > 1 and text[1].islower() else text


def thin(profile: UserProfile, rng: random.Random) -> UserProfile:
    """`profile` with parts dropped at random, for training.

    Goal kept 85 %; each facet 60 % (none at all for a third of the goals); description 50 %; style 70 %,
    each attribute then 60 %. Draws happen in a fixed order, so one seed gives one result.
    """
    return UserProfile(goal=_thin_goal(profile.goal, rng), persona=_thin_persona(profile.persona, rng))


def _thin_goal(goal: Goal | None, rng: random.Random) -> Goal | None:
    keep, bare = rng.random() < 0.85, rng.random() < 1 / 3
    if goal is None or not keep:
        return None
    facets: tuple[Facet, ...] = () if bare else tuple(f for f in goal.facets if rng.random() < 0.6)
    return goal.model_copy(update={"facets": facets})


def _thin_persona(persona: Persona | None, rng: random.Random) -> Persona | None:
    keep_description, keep_style = rng.random() < 0.5, rng.random() < 0.7
    if persona is None:
        return None
    style = persona.style
    if style is not None:
        kept = {n: v for n, v in style.model_dump().items() if rng.random() < (0.6 if keep_style else 0.0)}
        style = Style(**kept) if any(value is not None for value in kept.values()) else None
    description = persona.description if keep_description else ""
    return persona.model_copy(update={"description": description, "style": style})
