"""Examples for a report: shapes of attributes, conversations, and pairs for a quiz."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from eval.fidelity.report_record import FeatureShape, QuizItem
from eval.fidelity.samples.features import Feature, Sample, user_texts
from eval.fidelity.samples.prepare import Prepared
from eval.fidelity.settings import EvalConfig
from usersim.stats.estimates import Floats, Ints, rng_for
from usersim.types import Conversation

OPENING_TURNS = 4
"""Turns of each side shown in the quiz: two user turns, each with its answer."""


def sampled_conversations(sample: Sample, name: str, config: EvalConfig) -> tuple[Conversation, ...]:
    order = rng_for(config.seed, f"examples {name}").permutation(len(sample))
    return tuple(sample.conversations[i] for i in order[: config.examples])


def nearest_and_farthest(
    simulated: Sample, human: Sample, pool: Sample, config: EvalConfig
) -> tuple[tuple[Conversation, ...], tuple[Conversation, ...]]:
    """Returns the simulated conversations that two out-of-fold classifiers (text, behaviour) took most, and least, for
    human. The surest come first; of conversations with equal text only one is shown."""
    if not config.examples:
        return (), ()
    order = np.argsort(_strangeness(simulated, human, pool, config))
    return _distinct(simulated, order, config.examples), _distinct(simulated, order[::-1], config.examples)


def quiz_items(simulated: Sample, human: Sample, name: str, limit: int, seed: int) -> list[QuizItem]:
    """Returns pairs of one human and one simulated opening, in random order within the pair. Pairs share a goal where
    both sides have it, otherwise they are random. No conversation is used twice."""
    rng = rng_for(seed, f"quiz {name}")
    by_goal = {c.profile.goal.summary: c for c in human.conversations if c.profile.goal}
    others = [human.conversations[i] for i in rng.permutation(len(human))]
    used_ids: set[str] = set()
    items: list[QuizItem] = []
    for index in rng.permutation(len(simulated)):
        simulated_conversation = simulated.conversations[index]
        goal = simulated_conversation.profile.goal
        partners = [by_goal[goal.summary]] if goal and goal.summary in by_goal else []
        partner = next((c for c in [*partners, *others] if c.id not in used_ids), None)
        if partner is None or len(items) == limit:
            break
        used_ids.add(partner.id)
        items.append(_item(partner, simulated_conversation, name, human_first=bool(rng.random() < 0.5)))
    return items


def _item(human: Conversation, simulated: Conversation, name: str, *, human_first: bool) -> QuizItem:
    first, second = (human, simulated) if human_first else (simulated, human)
    return QuizItem(
        first=_opening(first),
        second=_opening(second),
        human="first" if human_first else "second",
        simulator=name,
    )


def _opening(conversation: Conversation) -> Conversation:
    return conversation.model_copy(update={"turns": conversation.turns[:OPENING_TURNS]})


def _distinct(sample: Sample, order: Ints, limit: int) -> tuple[Conversation, ...]:
    by_texts: dict[tuple[str, ...], Conversation] = {}
    for index in order:
        conversation = sample.conversations[index]
        by_texts.setdefault(tuple(user_texts(conversation)), conversation)
        if len(by_texts) == limit:
            break
    return tuple(by_texts.values())


def _strangeness(simulated: Sample, human: Sample, pool: Sample, config: EvalConfig) -> Floats:
    """Returns each simulated conversation's mean rank in two classifiers' scores, 0 (human) to 1 (simulated). A
    conversation that a classifier could not score gets the median score."""
    from eval.fidelity.metrics.texts.classifier import Classifier

    views = (
        Classifier("text", config.folds, config.seed, config.text_characters),
        Classifier("behaviour", config.folds, config.seed),
    )
    scores = [view.scores(simulated, human, pool)[0] for view in views]
    ranks = [
        np.argsort(np.argsort(np.where(np.isnan(view_scores), np.nanmedian(view_scores), view_scores)))
        for view_scores in scores
    ]
    mean: Floats = np.mean(ranks, axis=0) / len(simulated)
    return mean


def share_of(items: Sequence[Sequence[QuizItem]], limit: int) -> tuple[QuizItem, ...]:
    """Returns at most `limit` items, taken from the simulators in turn."""
    turns = [item for row in zip(*items, strict=False) for item in row]
    return tuple(turns[:limit])


def shape_of(feature: Feature, prepared: Prepared) -> FeatureShape:
    from eval.fidelity.metrics.texts.marginals import average, histogram

    samples = prepared.simulated
    return FeatureShape(
        key=feature.key,
        label=feature.label,
        bins=tuple(feature.bin_labels()),
        is_share=not feature.log,
        human=tuple(histogram(feature, prepared.human)),
        human_average=average(feature, prepared.human),
        simulated={name: tuple(histogram(feature, sample)) for name, sample in samples.items()},
        simulated_average={name: average(feature, sample) for name, sample in samples.items()},
    )
