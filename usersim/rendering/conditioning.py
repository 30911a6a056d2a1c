"""System message of the User LM from goal and persona, and condition dropout for training.

Every part may be missing, so that every subset works at inference. `describe` renders the whole message:

    You are a person typing to an AI assistant.
    You want to plan a cheap weekend trip.
    What matters to you: by train only; two people.
    About you: student, impatient.
    How you write: short messages of around 6 words, all lower case, bare endings, statements only, matter-of-fact.

Seven attributes have fixed thresholds (a quarter, three quarters). The levels of the others (low, middle, high) follow
the shipped bins (`usersim.text.style_bins`), and a level that most people share is left out.
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
"""Attributes with fixed thresholds."""
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
"""Attributes in the order of the rendering."""
LENGTHS = tuple(phrases.LENGTH_WORDS)
"""Lengths in words used in the rendering. A value is rounded to the nearest (by ratio), so that it occurs in
training."""


def describe(profile: UserProfile, rng: random.Random | None = None) -> str:
    """Renders a profile as text, one line per part; an empty profile gives the preface alone.

    Args:
        profile: Profile to render.
        rng: Samples a paraphrase of each line and attribute and shuffles the attributes. None: the canonical rendering.
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
    """Returns a phrase per stated attribute; canonical order and phrases without `rng`."""
    attributes = [(name, value) for name in SAID if (value := getattr(style, name)) is not None]
    if rng is not None:
        rng.shuffle(attributes)
    return [words for name, value in attributes if (words := _words(name, value, rng))]


def _words(name: str, value: float, rng: random.Random | None) -> str:
    if name in phrases.COUNTED:
        number = max(1, round(value)) if name == "turns" else nearest_length(value)
        form = _pick(phrases.COUNTED[name], rng)
        words = phrases.LENGTH_WORDS.get(number, "")
        return form.format(n=number, s="" if number == 1 else "s", words=words, size=size_word(number))
    options = phrases.LEVELLED[name][style_level(name, value)]
    return _pick(options, rng) if options else ""


def style_level(name: str, value: float) -> Level:
    """Returns the level of a share or rate, by fixed thresholds for the first seven attributes, else by the shipped
    bins."""
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


KEEP_PROBABILITY = {"goal": 0.85, "facets": 0.5, "facet": 0.6, "description": 0.5, "style": 0.85}
"""Probability that training keeps a part. `facets`: the goal keeps any facets; `facet`: each facet, given that."""
MAX_UNSAID = 3
"""Maximum number of unsaid facets added to a goal that keeps facets; 0 to this number, uniformly. Without them a model
learns to count facets to know when to leave."""
ATTRIBUTE_KEEP_PROBABILITIES = (0.1, 0.3, 0.6, 1.0)
"""Probabilities that each attribute is kept, one sampled per conversation: sparse and full descriptions both occur."""


def drop_conditions(profile: UserProfile, rng: random.Random, *, unsaid: Sequence[str] = ()) -> UserProfile:
    """Condition dropout for training: drops each part of `profile` independently at random.

    `unsaid`: candidates for additional facets (`Conversation.unsaid`). Random numbers are drawn in a fixed order
    whatever
    the persona holds, so one seed gives one result.
    """
    return UserProfile(
        goal=_drop_from_goal(profile.goal, rng, unsaid), persona=_drop_from_persona(profile.persona, rng)
    )


def _drop_from_goal(goal: Goal | None, rng: random.Random, unsaid: Sequence[str]) -> Goal | None:
    keep, with_facets = rng.random() < KEEP_PROBABILITY["goal"], rng.random() < KEEP_PROBABILITY["facets"]
    if goal is None or not keep:
        return None
    facets: list[Facet] = []
    if with_facets:
        facets = [facet for facet in goal.facets if rng.random() < KEEP_PROBABILITY["facet"]]
        for text in rng.sample(unsaid, min(len(unsaid), rng.randint(0, MAX_UNSAID))):
            facets.insert(
                rng.randint(0, len(facets)), Facet(text=text)
            )  # appended facets would be recognisable
    return goal.model_copy(update={"facets": tuple(facets)})


def _drop_from_persona(persona: Persona | None, rng: random.Random) -> Persona | None:
    keep_description, keep_style = (
        rng.random() < KEEP_PROBABILITY["description"],
        rng.random() < KEEP_PROBABILITY["style"],
    )
    rate = rng.choice(ATTRIBUTE_KEEP_PROBABILITIES)
    draws = {name: rng.random() < rate for name in SAID}
    if persona is None:
        return None
    style = None
    if persona.style is not None and keep_style:
        attributes = {name: getattr(persona.style, name) for name, keep in draws.items() if keep}
        style = Style(**attributes) if any(value is not None for value in attributes.values()) else None
    description = persona.description if keep_description else ""
    return persona.model_copy(update={"description": description, "style": style})
