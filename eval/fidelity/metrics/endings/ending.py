"""End prediction: F1 of the end of conversation, beside its trivial baselines, and calibration.

A position is every point after an answer at which the person has spoken before. It is positive where the person left.
Positions where the corpus or a cap cut the conversation are unknown and left out.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from eval.fidelity.metrics.texts.folds import auc
from usersim.stats.estimates import Estimate, Floats, Ints, interval
from usersim.types import Record

CALIBRATION_DRAWS = 200


@dataclass(frozen=True)
class Positions:
    """End probabilities and outcomes at every position."""

    probability: Floats
    ended: Ints
    """1 where the person left."""
    owner: Ints
    """Index of each position's conversation."""
    conversations: int


class EndScores(Record):
    """F1, precision and recall at one threshold."""

    f1: Estimate
    precision: Estimate
    recall: Estimate
    threshold: float
    threshold_from: str


class EndCalibration(Record):
    brier: Estimate
    """Mean squared error of P(end); lower is better."""
    brier_of_base_rate: float
    expected_error: Estimate
    """Expected calibration error over the tenths, less the part that chance alone produces (see `expected_error`)."""
    auc: float | None
    mean_at_end: float | None
    mean_elsewhere: float | None
    bins: tuple[tuple[float, float, int], ...]
    """(mean P(end), share that ended, positions) in tenths of P(end)."""


class Trivial(Record):
    base_rate: float
    always_f1: float
    coin_f1: float


class EndReport(Record):
    positions: int
    conversations: int
    base_rate: float
    always_f1: float
    """F1 of a predictor that always says "the end"."""
    coin_f1: float
    """Expected F1 of a coin that says "the end" as often as people leave: the base rate."""
    with_openings: Trivial
    """Trivial baselines where openings count as positions too, as K + 1 positions a conversation (Naous et al.
    2025). No person leaves there, so they are easier to beat. A model that predicts only after an answer has the
    same F1 either way."""
    at_half: EndScores
    at_dev_threshold: EndScores | None
    calibration: EndCalibration


def counts_at(positions: Positions, threshold: float) -> Floats:
    """(conversations, 3): true positives, false positives, false negatives."""
    is_predicted_end = positions.probability >= threshold
    ended = positions.ended == 1
    table = np.zeros((positions.conversations, 3))
    for column, hit in enumerate(
        (is_predicted_end & ended, is_predicted_end & ~ended, ~is_predicted_end & ended)
    ):
        np.add.at(table[:, column], positions.owner, hit)
    return table


def f1_precision_recall(counts: Floats) -> Floats:
    """(…, 3) from (…, 3) of true positives, false positives, false negatives; 0 where undefined."""
    hit, false, missed = np.moveaxis(counts, -1, 0)
    parts = ((2 * hit, 2 * hit + false + missed), (hit, hit + false), (hit, hit + missed))
    return np.stack([np.divide(a, b, out=np.zeros_like(a), where=b > 0) for a, b in parts], axis=-1)


def best_threshold(positions: Positions) -> float:
    """Returns the threshold with the highest F1; the smallest one among equals."""
    candidates = np.unique(positions.probability)
    scores = [f1_precision_recall(counts_at(positions, t).sum(0))[0] for t in candidates]
    return float(candidates[int(np.argmax(scores))])


def always_f1(base_rate: float) -> float:
    return 2 * base_rate / (1 + base_rate)


def coin_f1(base_rate: float) -> float:
    """Returns the F1 of a coin that falls on "the end" at the base rate: its precision and recall are both the base
    rate."""
    return base_rate


def trivial(ended: int, positions: int) -> Trivial:
    base = ended / positions
    return Trivial(base_rate=base, always_f1=always_f1(base), coin_f1=coin_f1(base))


def report_ends(
    positions: Positions, counts_BN: Floats, *, dev_threshold: float | None = None
) -> EndReport | None:
    """Returns the end report; None unless there are both positions that ended and positions that did not."""
    if len(set(positions.ended.tolist())) < 2:
        return None
    base = float(positions.ended.mean())
    return EndReport(
        positions=len(positions.ended),
        conversations=len(set(positions.owner.tolist())),
        base_rate=base,
        always_f1=always_f1(base),
        coin_f1=coin_f1(base),
        with_openings=trivial(int(positions.ended.sum()), len(positions.ended) + positions.conversations),
        at_half=_at(positions, 0.5, "fixed", counts_BN),
        at_dev_threshold=None
        if dev_threshold is None
        else _at(positions, dev_threshold, "chosen on the dev file", counts_BN),
        calibration=_calibration(positions, counts_BN, base),
    )


def _at(positions: Positions, threshold: float, source: str, counts_BN: Floats) -> EndScores:
    table = counts_at(positions, threshold)
    values = f1_precision_recall(table.sum(0))
    resampled = f1_precision_recall(counts_BN @ table)
    f1, precision, recall = (
        _estimate(float(values[i]), resampled[:, i], positions.conversations) for i in range(3)
    )
    return EndScores(f1=f1, precision=precision, recall=recall, threshold=threshold, threshold_from=source)


def _calibration(positions: Positions, counts_BN: Floats, base: float) -> EndCalibration:
    p, ended = positions.probability, positions.ended
    error, size = (np.zeros(positions.conversations) for _ in range(2))
    np.add.at(error, positions.owner, (p - ended) ** 2)
    np.add.at(size, positions.owner, 1)
    totals = counts_BN @ size
    replicates = (counts_BN @ error)[totals > 0] / totals[totals > 0]
    at_end, elsewhere = p[ended == 1], p[ended == 0]
    return EndCalibration(
        brier=_estimate(float(error.sum() / size.sum()), replicates, positions.conversations),
        brier_of_base_rate=base * (1 - base),
        expected_error=_estimate(
            expected_error(p, ended),
            np.array([expected_error(*_resampled(positions, row)) for row in counts_BN[:CALIBRATION_DRAWS]]),
            positions.conversations,
        ),
        auc=auc(at_end, elsewhere),
        mean_at_end=float(at_end.mean()),
        mean_elsewhere=float(elsewhere.mean()),
        bins=tuple(reliability(p, ended)),
    )


def _resampled(positions: Positions, counts_N: Floats) -> tuple[Floats, Ints]:
    repeats = counts_N[positions.owner].astype(np.int64)
    return np.repeat(positions.probability, repeats), np.repeat(positions.ended, repeats)


def expected_error(probability: Floats, ended: Ints) -> float:
    """Returns Σ over tenths of n_b / n · sqrt(max(0, gap_b² - variance_b)). The sampling variance is subtracted
    from the squared gaps (as Kumar et al. 2019, §5, debias), so that a perfect model comes near 0 at any n."""
    total = 0.0
    for mean, share, n in reliability(probability, ended):
        noise = share * (1 - share) / max(1, n - 1)
        total += n / max(1, len(probability)) * np.sqrt(max(0.0, (mean - share) ** 2 - noise))
    return float(total)


def reliability(probability: Floats, ended: Ints, tenths: int = 10) -> list[tuple[float, float, int]]:
    """Returns (mean probability, share that ended, count) of every bin that is not empty."""
    which = np.minimum((probability * tenths).astype(np.int64), tenths - 1)
    return [
        (float(probability[which == k].mean()), float(ended[which == k].mean()), int((which == k).sum()))
        for k in range(tenths)
        if (which == k).any()
    ]


def _estimate(value: float, replicates: Floats, n: int) -> Estimate:
    low, high = interval(replicates)
    return Estimate(value=value, low=low, high=high, n=n)


def join(parts: Sequence[tuple[Sequence[float], Sequence[int]]]) -> Positions:
    """Joins (probabilities, ended) of each conversation into positions."""
    sizes = [len(p) for p, _ in parts]
    return Positions(
        probability=np.array([p for ps, _ in parts for p in ps], dtype=np.float64),
        ended=np.array([e for _, es in parts for e in es], dtype=np.int64),
        owner=np.repeat(np.arange(len(parts)), sizes).astype(np.int64),
        conversations=len(parts),
    )
