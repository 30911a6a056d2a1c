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
from functools import cached_property
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy.stats import t as student_t  # type: ignore[import-untyped]
from sklearn.linear_model import LogisticRegression  # type: ignore[import-untyped]

from eval.next_turn.metrics.leaving_regressions import (
    REMAINING,
    TURNS,
    LeavingCalibration,
    blas_threads,
    brier_losses,
    class_index,
    clustered_logistic,
    facets_left,
    fold_of_clusters,
    has_facets,
    log_losses,
    logits_of,
    one_hot,
    reliability_bins,
    source_interactions,
)
from eval.next_turn.metrics.values import (
    ClusterSums,
    MetricSpec,
    Values,
    p_against,
    standard_error,
)
from eval.next_turn.prefixes import Prefix
from eval.next_turn.turns import NextTurn, SimulatedTurns
from usersim.stats.estimates import Floats

Baseline = Literal["constant", "turn", "facets", "both"]
BASELINES: tuple[Baseline, ...] = ("constant", "turn", "facets", "both")
PENALTY = 1.0
"""Inverse strength of the L2 penalty (scikit-learn's C), chosen on dev."""
RECALIBRATION = 100.0
"""The same for recalibration of logits: almost no penalty, for one or two features."""
LEAST_ENDS = 5
"""Minimum number of people known to have left in a source; with fewer there is no hazard to compare with."""
BOUND = 0.02
"""Upper bound of a negligible gain: its 95 % interval must end below."""


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
        self._fold_P = fold_of_clusters(self.clusters, seed)

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
        losses = {"skill": brier_losses, "logloss": log_losses}
        for kind, loss in losses.items():
            own_P = loss(end_P, self.left_P)
            for name, baseline_P in self.baselines.items():
                values[f"{kind}.{name}"] = _saved(own_P, loss(baseline_P, self.left_P))
        for name, baseline_P in self.baselines.items():
            logits_P2 = np.column_stack([logits_of(baseline_P), logits_of(end_P)])
            without_P, with_P = (
                self._cross_fitted(logits, known_P, RECALIBRATION) for logits in (logits_P2[:, :1], logits_P2)
            )
            values[f"gain.{name}"] = _saved(
                log_losses(with_P, self.left_P), log_losses(without_P, self.left_P)
            )
        return {f"leaving.{key}{self._suffix}": value.at(known_P) for key, value in values.items()}

    def sums(self, values: Values) -> ClusterSums:
        return ClusterSums.of(values, self.clusters)

    def counting_gain(self) -> Values:
        """Gain of facets over the turn number, without a simulator: near 0 if goals do not reveal ends."""
        return _saved(
            log_losses(self.baselines["both"], self.left_P), log_losses(self.baselines["turn"], self.left_P)
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
        bins = reliability_bins(end_P, left_P, clusters)
        fit = clustered_logistic(logits_of(end_P), left_P, clusters)
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
        source_PS = one_hot([sources.index(prefix.source) for prefix in self.prefixes], len(sources))
        turn_PT = one_hot([class_index(prefix.position, TURNS) for prefix in self.prefixes], len(TURNS) + 1)
        # A rule that counts facets counts turns where there are none.
        counts_P1 = np.array([[float(has_facets(prefix))] for prefix in self.prefixes]).reshape(-1, 1)
        remaining_PR = one_hot(
            [class_index(facets_left(p), REMAINING) for p in self.prefixes], len(REMAINING) + 1
        )
        facets_PF = np.hstack([counts_P1 * remaining_PR, (1 - counts_P1) * turn_PT])
        turn_PX, facets_PX = (source_interactions(source_PS, features) for features in (turn_PT, facets_PF))
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
            with blas_threads().limit(limits=1):
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


def _saved(own_P: Floats, baseline_P: Floats) -> Values:
    return Values(baseline_P - own_P, baseline_P)


@dataclass(frozen=True)
class LeavingTests:
    """One-sided p-values of a skill or gain."""

    above_zero: float
    """p of "no better than the baseline"."""
    below_bound: float
    """p of "at least `BOUND` better than the baseline"."""


def leaving_tests(sums: ClusterSums, rng: np.random.Generator) -> LeavingTests:
    return LeavingTests(above_zero=p_above(sums, 0.0, rng), below_bound=p_below(sums))
