"""Baseline goal writers: first words of the person, random and nearest training goals, and the prompted base."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

import numpy as np

from data_prep.goals.annotations import phrase
from data_prep.goals.format import GoalRenderer, one_line, parse_answer
from data_prep.goals.local_model import GoalModel
from data_prep.goals.overlap import user_texts
from data_prep.goals.scores import user_text
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
    """Returns the first sentence of the first turn as goal, and the first sentences of all turns as facets."""
    return [
        _verbatim(conversation, lambda text: SENTENCE.split(text.strip())[0])
        for conversation in conversations
    ]


def first_words(conversations: Sequence[Conversation]) -> list[Goal | None]:
    """Returns the first twelve words of the first turn as goal, and those of all turns as facets."""
    return [
        _verbatim(conversation, lambda text: " ".join(text.split()[:FIRST_WORDS]))
        for conversation in conversations
    ]


def _verbatim(conversation: Conversation, cut: Callable[[str], str]) -> Goal | None:
    texts = [one_line(cut(text)) for text in user_texts(conversation)]
    facets = tuple(Facet(text=text, turn=turn) for turn, text in enumerate(texts, start=1) if text)
    return Goal(summary=texts[0], facets=facets) if texts and texts[0] else None


def random_goal(train: Sequence[Conversation], seed: int) -> Write:
    """Returns a writer of random training goals, with turns brought into range."""

    def write(conversations: Sequence[Conversation]) -> list[Goal | None]:
        rows = np.random.default_rng(seed).integers(len(train), size=len(conversations))
        return [
            _borrowed(train[int(index)], conversation)
            for index, conversation in zip(rows, conversations, strict=True)
        ]

    return write


def nearest_goal(train: Sequence[Conversation]) -> Write:
    """Returns a writer of the goal of the training conversation whose user turns are most similar."""

    def write(conversations: Sequence[Conversation]) -> list[Goal | None]:
        train_vectors = embed([user_text(conversation) for conversation in train])
        nearest = (
            embed([user_text(conversation) for conversation in conversations]) @ train_vectors.T
        ).argmax(1)
        return [
            _borrowed(train[int(index)], conversation)
            for index, conversation in zip(nearest, conversations, strict=True)
        ]

    return write


def _borrowed(lender: Conversation, conversation: Conversation) -> Goal | None:
    if (goal := lender.profile.goal) is None:
        return None
    turns = len(user_texts(conversation))
    facets = tuple(facet.model_copy(update={"turn": min(facet.turn or 1, turns)}) for facet in goal.facets)
    return goal.model_copy(update={"facets": facets})


def prompted_base(like: GoalModel) -> Write:
    """Returns a writer that prompts the untuned base model with an instruction and the beginning of its answer.

    It writes no facets: in the format of the goal model, with or without examples, the base only writes numbers.
    """
    base = load_user_base(build_base())
    format_ = like.renderer.format.model_copy(update={"answer_tokens": PROMPTED_TOKENS})
    renderer = GoalRenderer(base.renderer, base.tokenizer_json, format_, instruction=PROMPTED)
    model = GoalModel(base.model.eval(), renderer, name=BASE_NAME, batch=like.batch)
    prefill_ids = base.renderer.encode(PREFILL)

    def write(conversations: Sequence[Conversation]) -> list[Goal | None]:
        prompts = [[*renderer.prompt(conversation), *prefill_ids] for conversation in conversations]
        texts = model.write(prompts, whole_lines=False)
        firsts = [SENTENCE.split(text.strip())[0] for text in texts]
        return [Goal(summary=phrase(first)) if first else None for first in firsts]

    return write


def model_goals(
    model: GoalModel, conversations: Sequence[Conversation], prompts: Sequence[list[int]]
) -> list[Goal | None]:
    """Returns the goals of a model before the overlap check; None where the answer is not readable."""
    goals: list[Goal | None] = []
    for text, conversation in zip(model.write(prompts), conversations, strict=True):
        annotation = parse_answer(text, conversation.id, user_turns=len(user_texts(conversation)))
        goals.append(None if annotation is None else Goal(summary=annotation.goal, facets=annotation.facets))
    return goals
