"""Leaving metrics: skill and information gain of P(end) beyond baselines such as the turn number.

Measured at prefixes from the second user turn on at which the person's decision (going on or leaving) is known. A
simulator's P(end) is scored; without one, its drawn decision as 0 or 1, which proper scores penalise.

Skill is 1 - loss / loss of a baseline, by Brier score and by log-loss. The four baselines are logistic regressions
with an L2 penalty, cross-fitted by cluster on people at the same prefixes, each with an intercept per source:

    constant    intercept only
    turn        number of the next user turn
    facets      facets of the goal minus user turns so far (turn number for goals without facets)
    both        turn and facets

Gain separates an informative but badly calibrated simulator from an uninformative one. Two logistic regressions are
cross-fitted: one on the baseline's logit, one on that and the logit of P(end). The gain is the share of the first
one's log-loss that the second one saves. A baseline has a gain of 0 over itself.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy.stats import t as student_t  # type: ignore[import-untyped]
from sklearn.linear_model import LogisticRegression  # type: ignore[import-untyped]
from threadpoolctl import ThreadpoolController  # type: ignore[import-untyped]

from eval.next_turn.metrics.values import (
    ClusterSums,
    MetricSpec,
    Values,
    estimate,
    p_against,
    standard_error,
)
from eval.next_turn.prefixes import Prefix
from eval.next_turn.turns import NextTurn, SimulatedTurns
from usersim.stats.estimates import Estimate, Floats, Ints, rng_for
from usersim.types import Record

Baseline = Literal["constant", "turn", "facets", "both"]
BASELINES: tuple[Baseline, ...] = ("constant", "turn", "facets", "both")
CLIP = 0.001
"""P(end) is clipped to [0.001, 0.999] before logarithms, for baselines too."""
TURNS = (2, 3, 4, 5, 6, 8, 11)
"""First user turn of each class of the hazard by turn number."""
REMAINING = (-3, -2, -1, 0, 1, 2, 3, 5)
"""First value of each class of facets minus user turns so far; values below the first form one more class."""
PENALTY = 1.0
"""Inverse strength of the L2 penalty (scikit-learn's C), chosen on dev."""
RECALIBRATION = 100.0
"""The same for recalibration of logits: almost no penalty, for one or two features."""
FOLDS = 10
LEAST_ENDS = 5
"""Minimum number of people known to have left in a source; with fewer there is no hazard to compare with."""
BOUND = 0.02
"""Upper bound of a negligible gain: its 95 % interval must end below."""
BINS = 10


def known_ends(prefixes: Sequence[Prefix]) -> tuple[list[Prefix], dict[str, str]]:
    """Selects prefixes from the second user turn on, of sources in which it is known that people left.

    Returns:
        The prefixes in order, and the reason for each excluded source.
    """
    later = [prefix for prefix in prefixes if prefix.position >= 2]
    ends = Counter(prefix.source for prefix in later if prefix.has_left)
    reasons = {}
    for source in sorted({prefix.source for prefix in prefixes}):
        if ends[source] < LEAST_ENDS:
            reasons[source] = f"undefined: {ends[source]} known ends, {LEAST_ENDS} are the least"
    return [prefix for prefix in later if prefix.source not in reasons], reasons


def decision(turn: NextTurn | None) -> float | None:
    """Returns P(end) if available, else the decision as 0 or 1; None without a turn."""
    if turn is None:
        return None
    return float(turn.ends) if turn.end_probability is None else turn.end_probability


def tells_probability(simulator: SimulatedTurns) -> bool:
    """Returns True if every turn has a P(end)."""
    return all(turn.end_probability is not None for turn in simulator.turns.values())


class CalibrationBin(Record):
    predicted: float
    """Mean P(end)."""
    observed: Estimate
    """Share of people who left."""
    prefixes: int


class LeavingCalibration(Record):
    """Calibration regression: logit P(person leaves) = intercept + slope · logit P(end); the ideal is 0 and 1."""

    slope: Estimate | None
    intercept: Estimate | None
    bins: tuple[CalibrationBin, ...]
    """Deciles of the prefixes by P(end); equal probabilities stay together."""
    undefined: str | None = None
    """Reason why slope and intercept are missing."""


class LeavingMetrics:
    """Leaving metrics over prefixes. Not a `TurnMetric`, because leaving is not a text.

    Args:
        prefixes: Prefixes of `prefixes_of`, closing ones included. Only `known_ends` are measured.
        seed: Seed of the folds.

        condition: Goal condition of the simulators (`eval.next_turn.metrics.goal_conditions`). Any but `own` is a
            part of the keys. The prefixes carry that goal, so that the baselines count its facets.
    """

    def __init__(self, prefixes: Sequence[Prefix], *, seed: int = 0, condition: str = "own") -> None:
        self.prefixes, self.undefined = known_ends(prefixes)
        self._suffix = "" if condition == "own" else f".{condition}"
        self.clusters = [prefix.cluster for prefix in self.prefixes]
        self.left_P = np.array([prefix.has_left for prefix in self.prefixes], dtype=np.float64)
        self._fold_P = _folds(self.clusters, seed)

    @cached_property
    def specs(self) -> tuple[MetricSpec, ...]:
        descriptions = [("rate", "share of user turns at which the user leaves", "share")]
        for name in BASELINES:
            descriptions.append((f"skill.{name}", f"Brier skill against {_LABEL[name]}", "skill"))
        for name in BASELINES:
            descriptions.append((f"logloss.{name}", f"log-loss skill against {_LABEL[name]}", "skill"))
        for name in BASELINES:
            descriptions.append(
                (f"gain.{name}", f"log-loss saved beside {_LABEL[name]}", "share of the loss")
            )
        return tuple(
            MetricSpec(
                key=f"leaving.{key}{self._suffix}",
                group="leaving",
                label=label,
                unit=unit,
                is_share=key == "rate",
                positions="2+",
            )
            for key, label, unit in descriptions
        )

    @cached_property
    def baselines(self) -> dict[Baseline, Floats]:
        """Returns cross-fitted P(end) of each baseline at the prefixes."""
        return {name: self._cross_fitted(features) for name, features in self._features.items()}

    def people(self) -> dict[str, Values]:
        """Returns people's value of the metrics that they have: the rate of leaving."""
        return {f"leaving.rate{self._suffix}": Values(self.left_P, np.ones(len(self.left_P)))}

    def values(self, simulator: SimulatedTurns) -> dict[str, Values]:
        """Returns values by key, at `self.prefixes`. Skills are Σ(baseline's loss - loss) / Σ baseline's loss.

        Undefined (denominator 0) where the simulator has no turn; empty if no source has known ends.
        """
        if not self.prefixes:
            return {}
        known_P, end_P = self._decisions(simulator)
        values = {"rate": Values(end_P, np.ones(len(end_P)))}
        losses = {"skill": _brier, "logloss": _log_loss}
        for kind, loss in losses.items():
            own_P = loss(end_P, self.left_P)
            for name, baseline_P in self.baselines.items():
                values[f"{kind}.{name}"] = _saved(own_P, loss(baseline_P, self.left_P))
        for name, baseline_P in self.baselines.items():
            logits_P2 = np.column_stack([_logit(baseline_P), _logit(end_P)])
            without_P, with_P = (
                self._cross_fitted(logits, known_P, RECALIBRATION) for logits in (logits_P2[:, :1], logits_P2)
            )
            values[f"gain.{name}"] = _saved(_log_loss(with_P, self.left_P), _log_loss(without_P, self.left_P))
        return {f"leaving.{key}{self._suffix}": value.at(known_P) for key, value in values.items()}

    def sums(self, values: Values) -> ClusterSums:
        return ClusterSums.of(values, self.clusters)

    def counting_gain(self) -> Values:
        """Gain of facets over the turn number, without a simulator: near 0 if goals do not reveal ends."""
        return _saved(
            _log_loss(self.baselines["both"], self.left_P), _log_loss(self.baselines["turn"], self.left_P)
        )

    def calibration(self, simulator: SimulatedTurns) -> LeavingCalibration:
        """Returns slope, intercept and reliability of P(end), with cluster-robust intervals."""
        known_P, end_P = self._decisions(simulator)
        if not tells_probability(simulator):
            return LeavingCalibration(
                slope=None, intercept=None, bins=(), undefined="undefined: no P(end) was told"
            )
        if not known_P.any():
            return LeavingCalibration(
                slope=None, intercept=None, bins=(), undefined="undefined: no known ends"
            )
        end_P, left_P = end_P[known_P], self.left_P[known_P]
        clusters = [cluster for cluster, is_known in zip(self.clusters, known_P, strict=True) if is_known]
        bins = _bins(end_P, left_P, clusters)
        fit = _cluster_logistic(_logit(end_P), left_P, clusters)
        if fit is None:
            reason = "undefined: P(end) is the same everywhere, or separates those who left"
            return LeavingCalibration(slope=None, intercept=None, bins=bins, undefined=reason)
        return LeavingCalibration(intercept=fit[0], slope=fit[1], bins=bins)

    def _decisions(self, simulator: SimulatedTurns) -> tuple[NDArray[np.bool_], Floats]:
        decisions = [decision(simulator.turns.get(prefix.id)) for prefix in self.prefixes]
        known_P = np.array([value is not None for value in decisions], dtype=bool)
        return known_P, np.array([value or 0.0 for value in decisions], dtype=np.float64)

    @cached_property
    def _features(self) -> dict[Baseline, Floats]:
        sources = sorted({prefix.source for prefix in self.prefixes})
        source_PS = _one_hot([sources.index(prefix.source) for prefix in self.prefixes], len(sources))
        turn_PT = _one_hot([_class_of(prefix.position, TURNS) for prefix in self.prefixes], len(TURNS) + 1)
        # A rule that counts facets counts turns where there are none.
        counts_P1 = np.array([[float(_has_facets(prefix))] for prefix in self.prefixes]).reshape(-1, 1)
        remaining_PR = _one_hot(
            [_class_of(_remaining(p), REMAINING) for p in self.prefixes], len(REMAINING) + 1
        )
        facets_PF = np.hstack([counts_P1 * remaining_PR, (1 - counts_P1) * turn_PT])
        turn_PX, facets_PX = (_by_source(source_PS, features) for features in (turn_PT, facets_PF))
        return {
            "constant": source_PS,
            "turn": np.hstack([source_PS, turn_PX]),
            "facets": np.hstack([source_PS, facets_PX]),
            "both": np.hstack([source_PS, turn_PX, facets_PX]),
        }

    def _cross_fitted(
        self, features_PF: Floats, known_P: NDArray[np.bool_] | None = None, strength: float = PENALTY
    ) -> Floats:
        """P(end) at each prefix by a regression fitted on the other folds. Every cluster is in one fold."""
        known_P = np.ones(len(self.left_P), dtype=bool) if known_P is None else known_P
        fitted_P = np.full(len(self.left_P), 0.5)
        for fold in np.unique(self._fold_P):
            train_P, test_P = known_P & (self._fold_P != fold), self._fold_P == fold
            left = self.left_P[train_P]
            if len(np.unique(left)) < 2:  # nothing to learn but the share, smoothed
                fitted_P[test_P] = (left.sum() + 0.5) / (len(left) + 1)
                continue
            model = LogisticRegression(C=strength, max_iter=500)
            with _threads().limit(limits=1):
                model.fit(features_PF[train_P], left)
            fitted_P[test_P] = model.predict_proba(features_PF[test_P])[:, 1]
        return fitted_P


_LABEL: dict[Baseline, str] = {
    "constant": "a constant",
    "turn": "the hazard by turn number",
    "facets": "facets counted",
    "both": "turn number and facets counted",
}


def p_above(sums: ClusterSums, null: float, rng: np.random.Generator) -> float:
    """One-sided p of "the ratio is at most `null`", by flipping the signs of whole clusters around it.

    The flips are symmetric, so it is half of the two-sided p.
    """
    half = p_against(sums, null, rng) / 2
    return half if sums.ratio > null else 1 - half


def p_below(sums: ClusterSums, bound: float = BOUND) -> float:
    """One-sided p of "the ratio is at least `bound`": t of the linearised ratio over clusters."""
    error = standard_error(sums.residuals_C, sums.n_clusters)
    if error == 0:
        return float(sums.ratio >= bound)
    return float(student_t.cdf((sums.ratio - bound) / error, max(sums.n_clusters - 1, 1)))


@cache
def _threads() -> ThreadpoolController:
    """Context that limits BLAS to one thread: more threads slow down such small matrix products."""
    return ThreadpoolController()


# -- losses ----------------------------------------------------------------------------------------


def _brier(end_P: Floats, left_P: Floats) -> Floats:
    loss: Floats = (end_P - left_P) ** 2
    return loss


def _log_loss(end_P: Floats, left_P: Floats) -> Floats:
    clipped = np.clip(end_P, CLIP, 1 - CLIP)
    loss: Floats = -np.where(left_P > 0, np.log(clipped), np.log1p(-clipped))
    return loss


def _saved(own_P: Floats, baseline_P: Floats) -> Values:
    return Values(baseline_P - own_P, baseline_P)


def _logit(end_P: Floats) -> Floats:
    clipped = np.clip(end_P, CLIP, 1 - CLIP)
    logit: Floats = np.log(clipped) - np.log1p(-clipped)
    return logit


# -- features --------------------------------------------------------------------------------------


def _by_source(source_PS: Floats, features_PF: Floats) -> Floats:
    """Features shared by all sources, then those of each source; the penalty shrinks a source to the shared ones."""
    own = [features_PF * source_PS[:, [index]] for index in range(source_PS.shape[1])]
    return np.hstack([features_PF, *own])


def _has_facets(prefix: Prefix) -> bool:
    return prefix.goal is not None and bool(prefix.goal.facets)


def _remaining(prefix: Prefix) -> int:
    facets = prefix.goal.facets if prefix.goal else ()
    return len(facets) - (prefix.position - 1)


def _class_of(value: int, starts: Sequence[int]) -> int:
    return int(np.searchsorted(starts, value, side="right"))


def _one_hot(classes: Sequence[int], count: int) -> Floats:
    return np.eye(count)[np.asarray(classes, dtype=np.int64)]


def _folds(clusters: Sequence[str], seed: int) -> Ints:
    """Fold of each prefix; the folds have equally many clusters."""
    names, owner = np.unique(np.asarray(clusters, dtype=object).astype(str), return_inverse=True)
    order = rng_for(seed, "leaving folds").permutation(len(names))
    return np.asarray(order[owner] % min(FOLDS, max(len(names), 2)), dtype=np.int64)


# -- calibration -----------------------------------------------------------------------------------


def _cluster_logistic(
    x_P: Floats, left_P: Floats, clusters: Sequence[str]
) -> tuple[Estimate, Estimate] | None:
    """(intercept, slope) by maximum likelihood, with cluster-robust (sandwich) intervals; None without a maximum."""
    if len(np.unique(left_P)) < 2 or np.ptp(x_P) < 1e-6:
        return None
    design_P2, beta_2 = np.column_stack([np.ones_like(x_P), x_P]), np.zeros(2)
    for _ in range(50):
        fitted_P = 1 / (1 + np.exp(-np.clip(design_P2 @ beta_2, -30, 30)))
        gradient_2 = design_P2.T @ (left_P - fitted_P)
        hessian_22 = (design_P2 * (fitted_P * (1 - fitted_P))[:, None]).T @ design_P2
        if np.linalg.cond(hessian_22) > 1e10:
            return None
        step_2 = np.linalg.solve(hessian_22, gradient_2)
        beta_2 = beta_2 + np.clip(step_2, -2, 2)
        if np.abs(step_2).max() < 1e-9:
            break
    else:
        return None
    _, owner = np.unique(np.asarray(clusters), return_inverse=True)
    scores_C2 = np.zeros((int(owner.max()) + 1, 2))
    np.add.at(scores_C2, owner, design_P2 * (left_P - fitted_P)[:, None])
    influence_C2 = scores_C2 @ np.linalg.inv(hessian_22)
    count = len(scores_C2)
    quantile = float(student_t.ppf(0.975, max(count - 1, 1)))
    halves = [quantile * standard_error(influence_C2[:, i], count) for i in (0, 1)]
    intercept, slope = (
        Estimate(value=float(b), low=float(b - h), high=float(b + h), n=count)
        for b, h in zip(beta_2, halves, strict=True)
    )
    return intercept, slope


def _bins(end_P: Floats, left_P: Floats, clusters: Sequence[str]) -> tuple[CalibrationBin, ...]:
    edges = np.unique(np.quantile(end_P, np.linspace(0, 1, BINS + 1)[1:-1]))
    number_P = np.searchsorted(edges, end_P, side="left")
    bins = []
    for number in np.unique(number_P):
        mask_P = number_P == number
        values = Values(left_P, np.ones(len(left_P))).at(mask_P)
        observed = estimate(ClusterSums.of(values, clusters), is_share=True)
        predicted = float(end_P[mask_P].mean())
        bins.append(CalibrationBin(predicted=predicted, observed=observed, prefixes=int(mask_P.sum())))
    return tuple(bins)


@dataclass(frozen=True)
class LeavingTests:
    """One-sided p-values of a skill or gain."""

    above_zero: float
    """p of "no better than the baseline"."""
    below_bound: float
    """p of "at least `BOUND` better than the baseline"."""


def leaving_tests(sums: ClusterSums, rng: np.random.Generator) -> LeavingTests:
    return LeavingTests(above_zero=p_above(sums, 0.0, rng), below_bound=p_below(sums))
