"""Goal and persona in words: the system message of the User LM, and how training thins it out.

Every part may be missing, so that every subset works at inference. `describe` is the whole rendering:

    You are a person typing to an AI assistant.
    You want to plan a cheap weekend trip.
    What matters to you: by train only; two people.
    About you: student, impatient.
    How you write: short messages of around 6 words, all lower case, bare endings, statements only, matter-of-fact.

Seven attributes go by fixed thresholds (a quarter, three quarters). The others are low, middle or high by the shipped
bins (`usersim.text.style_bins`), and a level that most people share is left unsaid.
"""

from __future__ import annotations

import random
from collections.abc import Sequence

from usersim.rendering import phrases
from usersim.rendering.phrases import Phrases
from usersim.text.style_bins import Level, shipped_bins
from usersim.types import Facet, Goal, Persona, Style, UserProfile

PREFACE = phrases.PREFACES[0]
FIRST_SEVEN = (
    "words_per_turn",
    "opening_words",
    "lowercase_starts",
    "questions",
    "politeness",
    "end_punctuation",
    "turns",
)
"""Their levels go by fixed thresholds."""
SAID = (
    "words_per_turn",
    "opening_words",
    "lowercase_starts",
    "end_punctuation",
    "questions",
    "politeness",
    "turns",
    "typos",
    "imperatives",
    "pushback",
    "chat_speak",
    "first_person",
    "expressive_marks",
    "line_breaks",
    "length_spread",
    "code_share",
)
"""The order in which they are said."""
LENGTHS = tuple(phrases.LENGTH_WORDS)
"""Words per message are named by the nearest of these (ratio), so that a request meets numbers seen in training."""


def describe(profile: UserProfile, rng: random.Random | None = None) -> str:
    """A profile in words, one line a part; the preface alone when nothing is known.

    Without `rng` the one canonical rendering; with it a paraphrase of each line and attribute, drawn in a fixed
    order, the attributes shuffled.
    """
    lines = [_pick(phrases.PREFACES, rng)]
    if profile.goal:
        lines.append(_pick(phrases.GOALS, rng).format(_lower_first(profile.goal.summary.rstrip(". "))))
        if profile.goal.facets:
            details = "; ".join(facet.text.rstrip(".; ") for facet in profile.goal.facets)
            lines.append(_pick(phrases.FACETS, rng).format(details))
    if profile.persona:
        if description := profile.persona.description.strip():
            lines.append(_pick(phrases.DESCRIPTIONS, rng).format(description.rstrip(".")))
        traits = style_words(profile.persona.style, rng) if profile.persona.style else []
        if traits:
            lines.append(_pick(phrases.STYLES, rng).format(", ".join(traits)))
    return "\n".join(lines)


def style_words(style: Style, rng: random.Random | None = None) -> list[str]:
    """The stated attributes in plain English; in a fixed order and fixed words without `rng`."""
    said = [(name, value) for name in SAID if (value := getattr(style, name)) is not None]
    if rng is not None:
        rng.shuffle(said)
    return [words for name, value in said if (words := _words(name, value, rng))]


def _words(name: str, value: float, rng: random.Random | None) -> str:
    if name in phrases.COUNTED:
        number = max(1, round(value)) if name == "turns" else nearest_length(value)
        form = _pick(phrases.COUNTED[name], rng)
        words = phrases.LENGTH_WORDS.get(number, "")
        return form.format(n=number, s="" if number == 1 else "s", words=words, size=size_word(number))
    options = phrases.LEVELLED[name][style_level(name, value)]
    return _pick(options, rng) if options else ""


def style_level(name: str, value: float) -> Level:
    """What the words for a share or rate go by: fixed thresholds for the first seven, the shipped bins else."""
    if name in FIRST_SEVEN:
        return "low" if value < 0.25 else "high" if value > 0.75 else "middle"
    return shipped_bins().attributes[name].level(value)


def _pick(options: Phrases, rng: random.Random | None) -> str:
    return options[0] if rng is None else rng.choice(options)


def size_word(words: int) -> str:
    return next((name for most, name in phrases.SIZES.items() if words <= most), phrases.LONGEST)


def nearest_length(words: float) -> int:
    return min(LENGTHS, key=lambda length: abs(_log_ratio(words, length)))


def _log_ratio(words: float, length: int) -> float:
    larger, smaller = max(words, 1.0), float(length)
    return larger / smaller - 1 if larger > smaller else smaller / larger - 1


def _lower_first(text: str) -> str:
    # "Plan a trip" reads on as "You want to plan a trip"; "NASA…" and "I…" keep their capitals.
    return text[0].lower() + text[1:] if len(text) > 1 and text[1].islower() else text


KEPT = {"goal": 0.85, "facets": 0.5, "facet": 0.6, "description": 0.5, "style": 0.85}
"""Chance that training keeps a part; `facets`: that a goal keeps any, `facet`: each of them then."""
MOST_UNSAID = 3
"""To the facets of a goal that keeps any come 0 to so many that the person never said, each number as likely: else a
model counts facets to know when to leave."""
KEPT_ATTRIBUTES = (0.1, 0.3, 0.6, 1.0)
"""Each attribute's chance, drawn once a conversation: a lone request and a full description both occur."""


def thin(profile: UserProfile, rng: random.Random, *, unsaid: Sequence[str] = ()) -> UserProfile:
    """`profile` with parts dropped at random, for training: each on its own, so that every subset occurs.

    `unsaid`: what may be added to the facets, see `Conversation.unsaid`. Draws happen in a fixed order, whatever the
    persona holds, so one seed gives one result.
    """
    return UserProfile(
        goal=_thin_goal(profile.goal, rng, unsaid), persona=_thin_persona(profile.persona, rng)
    )


def _thin_goal(goal: Goal | None, rng: random.Random, unsaid: Sequence[str]) -> Goal | None:
    keep, with_facets = rng.random() < KEPT["goal"], rng.random() < KEPT["facets"]
    if goal is None or not keep:
        return None
    facets: list[Facet] = []
    if with_facets:
        facets = [facet for facet in goal.facets if rng.random() < KEPT["facet"]]
        for text in rng.sample(unsaid, min(len(unsaid), rng.randint(0, MOST_UNSAID))):
            facets.insert(rng.randint(0, len(facets)), Facet(text=text))  # the last ones would be told apart
    return goal.model_copy(update={"facets": tuple(facets)})


def _thin_persona(persona: Persona | None, rng: random.Random) -> Persona | None:
    keep_description, keep_style = rng.random() < KEPT["description"], rng.random() < KEPT["style"]
    rate = rng.choice(KEPT_ATTRIBUTES)
    draws = {name: rng.random() < rate for name in SAID}
    if persona is None:
        return None
    style = None
    if persona.style is not None and keep_style:
        said = {name: getattr(persona.style, name) for name, keep in draws.items() if keep}
        style = Style(**said) if any(value is not None for value in said.values()) else None
    description = persona.description if keep_description else ""
    return persona.model_copy(update={"description": description, "style": style})
