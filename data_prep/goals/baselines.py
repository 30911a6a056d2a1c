"""What else could write a goal: the person's own first words, another's goal, the nearest one, the untuned base."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

import numpy as np

from data_prep.goals.annotations import phrase
from data_prep.goals.format import GoalRenderer, one_line, parse_answer
from data_prep.goals.local_model import GoalModel
from data_prep.goals.overlap import user_texts
from data_prep.goals.scores import said
from usersim.text.embeddings import embed
from usersim.types import Conversation, Facet, Goal
from usersim.weights.base_model import load_user_base
from usersim.weights.default_model import BASE_NAME, build_base

FIRST_WORDS = 12
SENTENCE = re.compile(r"(?<=[.!?])\s+|\n")
PROMPTED = (
    "You read what a person wrote to an assistant, turn by turn. "
    "Say in one sentence, in your own words, what this person wanted overall."
)
PREFILL = "This person wants to"
PROMPTED_TOKENS = 40
Write = Callable[[Sequence[Conversation]], list[Goal | None]]


def opening_sentence(conversations: Sequence[Conversation]) -> list[Goal | None]:
    """The first sentence of the first turn; the facets are the first sentences of all turns."""
    return [_verbatim(one, lambda text: SENTENCE.split(text.strip())[0]) for one in conversations]


def first_words(conversations: Sequence[Conversation]) -> list[Goal | None]:
    """The first twelve words of the first turn; the facets are those of all turns."""
    return [_verbatim(one, lambda text: " ".join(text.split()[:FIRST_WORDS])) for one in conversations]


def _verbatim(conversation: Conversation, cut: Callable[[str], str]) -> Goal | None:
    texts = [one_line(cut(text)) for text in user_texts(conversation)]
    facets = tuple(Facet(text=text, turn=turn) for turn, text in enumerate(texts, start=1) if text)
    return Goal(summary=texts[0], facets=facets) if texts and texts[0] else None


def random_goal(train: Sequence[Conversation], seed: int) -> Write:
    """Some training conversation's goal, turns brought into range."""

    def write(conversations: Sequence[Conversation]) -> list[Goal | None]:
        drawn = np.random.default_rng(seed).integers(len(train), size=len(conversations))
        return [_borrowed(train[int(index)], one) for index, one in zip(drawn, conversations, strict=True)]

    return write


def nearest_goal(train: Sequence[Conversation]) -> Write:
    """The goal of the training conversation whose user turns are most alike."""

    def write(conversations: Sequence[Conversation]) -> list[Goal | None]:
        known = embed([said(one) for one in train])
        nearest = (embed([said(one) for one in conversations]) @ known.T).argmax(1)
        return [_borrowed(train[int(index)], one) for index, one in zip(nearest, conversations, strict=True)]

    return write


def _borrowed(lender: Conversation, conversation: Conversation) -> Goal | None:
    if (goal := lender.profile.goal) is None:
        return None
    turns = len(user_texts(conversation))
    facets = tuple(facet.model_copy(update={"turn": min(facet.turn or 1, turns)}) for facet in goal.facets)
    return goal.model_copy(update={"facets": facets})


def prompted_base(like: GoalModel) -> Write:
    """The untuned base with an instruction and the beginning of its answer; it is not asked for facets.

    Asked for them in the format of the goal model, with examples or without, it only writes numbers.
    """
    base = load_user_base(build_base())
    format_ = like.renderer.format.model_copy(update={"answer_tokens": PROMPTED_TOKENS})
    renderer = GoalRenderer(base.renderer, base.tokenizer_json, format_, instruction=PROMPTED)
    model = GoalModel(base.model.eval(), renderer, name=BASE_NAME, batch=like.batch)
    begun = base.renderer.encode(PREFILL)

    def write(conversations: Sequence[Conversation]) -> list[Goal | None]:
        prompts = [[*renderer.prompt(one), *begun] for one in conversations]
        texts = model.write(prompts, whole_lines=False)
        firsts = [SENTENCE.split(text.strip())[0] for text in texts]
        return [Goal(summary=phrase(first)) if first else None for first in firsts]

    return write


def written(
    model: GoalModel, conversations: Sequence[Conversation], prompts: Sequence[list[int]]
) -> list[Goal | None]:
    """Before the guard against the person's own words; None where the answer cannot be read."""
    made: list[Goal | None] = []
    for text, one in zip(model.write(prompts), conversations, strict=True):
        read = parse_answer(text, one.id, user_turns=len(user_texts(one)))
        made.append(None if read is None else Goal(summary=read.goal, facets=read.facets))
    return made
