"""What a report shows for the eye: shapes of attributes, conversations, pairs for a quiz."""

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
"""Shown of each side in the quiz: two turns of the user, each with its answer."""


def drawn(sample: Sample, name: str, config: EvalConfig) -> tuple[Conversation, ...]:
    order = rng_for(config.seed, f"examples {name}").permutation(len(sample))
    return tuple(sample.conversations[i] for i in order[: config.examples])


def nearest_and_farthest(
    simulated: Sample, human: Sample, pool: Sample, config: EvalConfig
) -> tuple[tuple[Conversation, ...], tuple[Conversation, ...]]:
    """Simulated conversations that two out-of-fold classifiers (text, behaviour) took most for human, and least,
    the surest first; none of a text that occurs twice."""
    if not config.examples:
        return (), ()
    order = np.argsort(_strangeness(simulated, human, pool, config))
    return _distinct(simulated, order, config.examples), _distinct(simulated, order[::-1], config.examples)


def quiz_items(simulated: Sample, human: Sample, name: str, most: int, seed: int) -> list[QuizItem]:
    """Openings of one human and one simulated conversation each, in random order: of the same goal where both
    sides have one, otherwise by chance. No conversation is used twice."""
    rng = rng_for(seed, f"quiz {name}")
    by_goal = {c.profile.goal.summary: c for c in human.conversations if c.profile.goal}
    others = [human.conversations[i] for i in rng.permutation(len(human))]
    used: set[str] = set()
    items: list[QuizItem] = []
    for index in rng.permutation(len(simulated)):
        theirs = simulated.conversations[index]
        goal = theirs.profile.goal
        partners = [by_goal[goal.summary]] if goal and goal.summary in by_goal else []
        partner = next((c for c in [*partners, *others] if c.id not in used), None)
        if partner is None or len(items) == most:
            break
        used.add(partner.id)
        items.append(_item(partner, theirs, name, human_first=bool(rng.random() < 0.5)))
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


def _distinct(sample: Sample, order: Ints, most: int) -> tuple[Conversation, ...]:
    found: dict[tuple[str, ...], Conversation] = {}
    for index in order:
        conversation = sample.conversations[index]
        found.setdefault(tuple(user_texts(conversation)), conversation)
        if len(found) == most:
            break
    return tuple(found.values())


def _strangeness(simulated: Sample, human: Sample, pool: Sample, config: EvalConfig) -> Floats:
    """Mean rank of each simulated conversation in two views of "how simulated does this look", 0 to 1. One that a
    view could not score counts as its middle."""
    from eval.fidelity.metrics.texts.classifier import Classifier

    views = (
        Classifier("text", config.folds, config.seed, config.text_characters),
        Classifier("behaviour", config.folds, config.seed),
    )
    found = [view.scores(simulated, human, pool)[0] for view in views]
    ranks = [np.argsort(np.argsort(np.where(np.isnan(s), np.nanmedian(s), s))) for s in found]
    mean: Floats = np.mean(ranks, axis=0) / len(simulated)
    return mean


def share_of(items: Sequence[Sequence[QuizItem]], most: int) -> tuple[QuizItem, ...]:
    """`most` items in all, the simulators in turn."""
    turns = [item for row in zip(*items, strict=False) for item in row]
    return tuple(turns[:most])


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
