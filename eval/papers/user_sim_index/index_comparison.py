"""Comparison of simulators with people by the User-Sim Index: as published, and with additions.

Beside the published number stand four additions. The human ceiling at the same n compares halves of the people,
disjoint in persons where they are known. Intervals resample people and goals, not conversations. The calibration
error is corrected by its null. And coverage detects mode collapse, which a comparison of means cannot.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from eval.fidelity.metrics.metric_protocol import MetricFamily
from eval.fidelity.metrics.texts.coverage import Coverage
from eval.fidelity.report_record import versions
from eval.fidelity.samples.features import Sample, user_texts
from eval.fidelity.samples.matching import person_of, task_clusters
from eval.fidelity.samples.prepare import check_origin
from eval.fidelity.settings import EvalConfig
from eval.fidelity.verdicts import judge, together
from eval.papers.user_sim_index.features import FEATURES
from eval.papers.user_sim_index.index import SCORES, UserSimIndex, matrix
from eval.papers.user_sim_index.index_record import FeatureMeans, IndexReport, SimulatorIndex
from eval.papers.user_sim_index.outcomes import OutcomeCalibration, SessionOutcome, calibrate
from eval.papers.user_sim_index.published import published
from eval.papers.user_sim_index.survey import Answers, SurveyScore, agreement
from usersim.errors import DataError
from usersim.stats.estimates import (
    Draws,
    Figure,
    Floats,
    cluster_resamples,
    human_splits,
    largest_half,
    rng_for,
)
from usersim.types import Conversation

MARGINS = {**dict.fromkeys(SCORES, 5.0), **dict.fromkeys((*FEATURES, "coverage"), 0.05)}
"""Margin δ of "equivalent": five points of a hundred. A margin in widths of the baseline would be most of the scale
for rare features, whose Dice between people is anything from 0 to 1."""
CEILING = (
    "The human ceiling is the score of one half of the people against another at the same n. It rises with n, so "
    "index values at different n cannot be compared."
)
BLIND = (
    "The index compares means. It hardly detects a simulator that repeats itself or shuffled turns: read coverage "
    "beside it."
)
WORDS = (
    "Phrases are matched with our own English lists, so rates are not those of the paper; both sides are read "
    "by the same lists."
)
NO_PERSON_IDS = (
    "Conversations have no user ids: people may be on both sides of the ceiling, which is then too "
    "high, and the intervals too narrow."
)


@dataclass(frozen=True)
class OptionalTerms:
    """Data of the last two terms of the index; an empty field leaves its term out."""

    outcomes: Sequence[SessionOutcome] = ()
    difficulty: Mapping[str, float] | None = None
    survey: Sequence[Answers] = ()


def compare(
    batches: Sequence[Sequence[Conversation]],
    simulated: Mapping[str, Sequence[Conversation]],
    terms: OptionalTerms | None = None,
    config: EvalConfig | None = None,
) -> IndexReport:
    """Compares simulators with people. `batches` are independent sets of people, as the paper has three; one is
    enough.

    Raises:
        DataError: Records of the wrong origin, too few conversations, or an outcome file without a matching name.
    """
    terms, config, start_time = terms or OptionalTerms(), config or EvalConfig(), time.monotonic()
    config = config.model_copy(update={"margins": {**MARGINS, **config.margins}})
    for index, batch in enumerate(batches, start=1):
        check_origin(f"people {index}", batch, "human")
    for name, conversations in simulated.items():
        check_origin(name, conversations, "simulated")
    people = [Sample.of(_spoken(batch)) for batch in batches]
    pool = Sample.of([c for batch in people for c in batch.conversations])
    samples = {name: Sample.of(_spoken(conversations)) for name, conversations in simulated.items()}
    n = _size(pool, samples, config)
    floors = _floors(pool, n, config)
    reports = [
        _simulator(name, len(simulated[name]), sample, people, pool, n, floors, terms, config)
        for name, sample in samples.items()
    ]
    has_users = any(c.user for c in pool.conversations)
    return IndexReport(
        n=n,
        human=len(pool),
        batches=tuple(map(len, people)),
        clusters=len(set(map(person_of, pool.conversations))),
        simulators=tuple(reports),
        notes=(CEILING, BLIND, WORDS) if has_users else (CEILING, BLIND, WORDS, NO_PERSON_IDS),
        seed=config.seed,
        bootstrap=config.bootstrap,
        floor_repeats=config.floor_repeats,
        versions=versions(("usersim-lm", "numpy", "scikit-learn", "pydantic")),
        seconds=round(time.monotonic() - start_time, 2),
    )


def _spoken(conversations: Sequence[Conversation]) -> list[Conversation]:
    return [c for c in conversations if user_texts(c)]


def _size(pool: Sample, samples: Mapping[str, Sample], config: EvalConfig) -> int:
    n = min([largest_half([person_of(c) for c in pool.conversations]), *map(len, samples.values())])
    if n < config.min_n:
        counts_text = ", ".join(f"{name} {len(sample)}" for name, sample in samples.items())
        raise DataError(
            f"too few conversations with a user turn: people {len(pool)}, {counts_text}; {config.min_n} of every "
            f"simulator and {2 * config.min_n} of people are needed (--min-n lowers this, without verdicts)"
        )
    return n


def _families() -> list[MetricFamily]:
    return [UserSimIndex(), Coverage()]


def _floors(pool: Sample, n: int, config: EvalConfig) -> dict[str, Floats]:
    groups = [person_of(c) for c in pool.conversations]
    splits = human_splits(groups, n, config.floor_repeats, rng_for(config.seed, "ceiling"))
    floors: dict[str, Floats] = {}
    for family in _families():
        floors |= family.floor(pool, splits)
    return floors


def _simulator(
    name: str,
    read_count: int,
    sample: Sample,
    people: Sequence[Sample],
    pool: Sample,
    n: int,
    floors: Mapping[str, Floats],
    terms: OptionalTerms,
    config: EvalConfig,
) -> SimulatorIndex:
    calibration, answers = _terms_of(name, terms, config)
    simulated_means, human_means = matrix(sample).mean(0), matrix(pool).mean(0)
    return SimulatorIndex(
        name=name,
        given=read_count,
        empty=read_count - len(sample),
        published=published(name, sample, people, calibration, answers, config),
        figures=tuple(_judged_metrics(name, sample, pool, n, floors, config)),
        features=tuple(
            FeatureMeans(key=key, human=float(human_means[i]), simulated=float(simulated_means[i]))
            for i, key in enumerate(FEATURES)
        ),
        calibration=calibration,
        agreement=answers,
    )


def _terms_of(
    name: str, terms: OptionalTerms, config: EvalConfig
) -> tuple[OutcomeCalibration | None, SurveyScore | None]:
    calibration = answers = None
    if terms.outcomes:
        if terms.difficulty is None:
            raise DataError("outcomes need the frozen difficulty of their tasks: give --difficulty FILE")
        calibration = calibrate(
            terms.outcomes, name, terms.difficulty, bootstrap=config.bootstrap, seed=config.seed
        )
    if terms.survey:
        answers = agreement(terms.survey, name, bootstrap=config.bootstrap, seed=config.seed)
    return calibration, answers


def _judged_metrics(
    name: str, sample: Sample, pool: Sample, n: int, floors: Mapping[str, Floats], config: EvalConfig
) -> list[Figure]:
    """Returns the metrics at n per side; both sides are resampled in whole clusters: persons, and goals of the
    simulated."""
    simulated = sample.take(rng_for(config.seed, f"subsample {name}").permutation(len(sample))[:n])
    human = pool.take(rng_for(config.seed, "human subsample").permutation(len(pool))[:n])
    rng = rng_for(config.seed, "bootstrap")
    draws = Draws(
        simulated_BN=cluster_resamples(task_clusters(simulated.conversations), config.bootstrap, rng),
        human_BN=cluster_resamples([person_of(c) for c in human.conversations], config.bootstrap, rng),
    )
    metrics = []
    for family in _families():
        measured = family.measure(simulated, human, pool=pool, draws=draws)
        metrics += [judge(s, measured[s.key], floors[s.key], n, config) for s in family.specs]
    return together(metrics)
