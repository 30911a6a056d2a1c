"""The index as the paper computes it: all conversations, a mean over batches of people, six terms of equal weight."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from eval.fidelity.samples.features import Sample
from eval.fidelity.samples.matching import person_of, task_clusters
from eval.fidelity.settings import EvalConfig
from eval.papers.user_sim_index.index import SCORES, matrix, scores, weighted
from eval.papers.user_sim_index.index_record import Label, Published
from eval.papers.user_sim_index.outcomes import OutcomeCalibration
from eval.papers.user_sim_index.survey import SurveyScore
from usersim.stats.estimates import Estimate, Floats, cluster_resamples, interval, rng_for


def published(
    name: str,
    sample: Sample,
    people: Sequence[Sample],
    calibration: OutcomeCalibration | None,
    answers: SurveyScore | None,
    config: EvalConfig,
) -> Published:
    rng = rng_for(config.seed, f"published {name}")
    simulated_rows, score_count = matrix(sample), len(SCORES)
    counts = cluster_resamples(task_clusters(sample.conversations), config.bootstrap, rng)
    resampled_means = weighted(counts, simulated_rows)
    values, replicates = [], []
    for batch in people:
        human_rows = matrix(batch)
        person_counts = cluster_resamples([person_of(c) for c in batch.conversations], config.bootstrap, rng)
        values.append(scores(simulated_rows.mean(0), human_rows.mean(0))[:score_count])
        replicates.append(scores(resampled_means, weighted(person_counts, human_rows))[:, :score_count])
    value, spread = np.mean(values, axis=0), np.mean(replicates, axis=0)
    per_batch = np.array(values)[:, score_count - 1]
    usi, low, high = _combined(float(value[-1]), spread[:, -1], calibration, answers)
    return Published(
        label=_label(calibration, answers),
        usi=Estimate(value=usi, low=low, high=high, n=len(sample)),
        usi_sd=_batch_sd(per_batch, calibration, answers),
        dimensions={
            key: _estimate(float(value[i]), spread[:, i], len(sample)) for i, key in enumerate(SCORES)
        },
        evaluation=answers.score.value if answers else None,
        ece=calibration.ece.value if calibration else None,
    )


def _label(calibration: OutcomeCalibration | None, answers: SurveyScore | None) -> Label:
    if calibration:
        return "D1-D4, Eval and ECE" if answers else "D1-D4 and ECE"
    return "D1-D4 and Eval" if answers else "D1-D4 only"


def _estimate(value: float, replicates: Floats, n: int) -> Estimate:
    """Returns the estimate with centred replicates: resampling pulls two means apart, which moves Dice down."""
    low, high = interval(replicates - np.median(replicates) + value)
    return Estimate(value=value, low=max(0.0, low), high=min(100.0, high), n=n)


def _combined(
    behaviour: float, replicates: Floats, calibration: OutcomeCalibration | None, answers: SurveyScore | None
) -> tuple[float, float, float]:
    """Returns (value, low, high) of the mean of D1 to D4 and the known terms.

    Half-widths of independent parts add in squares; each part counts by its share of the terms.
    """
    behaviour_estimate = _estimate(behaviour, replicates, 1)
    parts = [
        (
            4,
            behaviour_estimate.value,
            behaviour_estimate.value - behaviour_estimate.low,
            behaviour_estimate.high - behaviour_estimate.value,
        )
    ]
    if answers:
        survey = answers.score
        parts.append((1, survey.value, survey.value - survey.low, survey.high - survey.value))
    if calibration:
        ece = calibration.ece
        parts.append((1, 100 * (1 - ece.value), 100 * (ece.high - ece.value), 100 * (ece.value - ece.low)))
    terms = sum(weight for weight, *_ in parts)
    value = sum(weight * middle for weight, middle, _, _ in parts) / terms
    down = sum((weight * below / terms) ** 2 for weight, _, below, _ in parts) ** 0.5
    up = sum((weight * above / terms) ** 2 for weight, _, _, above in parts) ** 0.5
    return value, max(0.0, value - down), min(100.0, value + up)


def _batch_sd(
    behaviour_b: Floats, calibration: OutcomeCalibration | None, answers: SurveyScore | None
) -> float | None:
    """Returns the paper's "±": population SD over batches of the whole index. None with one batch, or where the
    batches of conversations and of outcomes differ in number."""
    if len(behaviour_b) < 2 or (calibration and len(calibration.by_batch) != len(behaviour_b)):
        return None
    total = 4 * behaviour_b
    terms = 4
    if answers:
        total, terms = total + answers.score.value, terms + 1
    if calibration:
        total, terms = total + 100 * (1 - np.array(calibration.by_batch)), terms + 1
    return float((total / terms).std())
