"""Patience model: when users leave after bad replies, fitted to human or simulated conversations."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from eval.ranking.effort import BAD, Trajectory
from usersim.errors import DataError
from usersim.stats.estimates import Estimate, Floats, Ints, bootstrap_share, resamples, rng_for
from usersim.types import Record

MOST = 5


class Patience(Record):
    """Change-point model of leaving. The user leaves at a reply with one probability before `patience` bad replies
    in a row and with another from then on; the change point has the maximum likelihood."""

    patience: int | None
    """None where no change point raises the probability of leaving."""
    before: float
    """Probability of leaving at a reply before the change point; without one, at any reply."""
    after: float | None
    gain: float
    """Log-likelihood above that of one constant probability, nats. Below about 2 it is noise."""
    chosen: dict[str, float]
    """Share of the resamples (of conversations) in which each patience, or "none", fits best."""
    hazard: tuple[Estimate | None, ...]
    """Share leaving at a reply that ends a run of 0, 1, 2, … bad ones (the last: at least as many). n =
    conversations; None where no conversation got there."""
    conversations: int
    left_out: int
    """Conversations with an end by other causes than the user, or with an unknown end."""


def fit_patience(paths: Sequence[Trajectory], *, bootstrap: int = 500, seed: int = 0) -> Patience:
    """Fits the model. Conversations cut by a turn cap count up to the cut; those with an unknown end are left out."""
    complete_paths = [path for path in paths if path.left is not None]
    if not complete_paths:
        raise DataError("no conversation says whether its user left: patience cannot be fitted")
    tables = [_leaving(path) for path in complete_paths]
    at_risk, leaves = (np.array(side) for side in zip(*tables, strict=True))
    counts = resamples(len(complete_paths), bootstrap, rng_for(seed, "patience"))
    patience, before, after, gain = _fit(at_risk.sum(0), leaves.sum(0))
    patiences = [_fit(risk, gone)[0] for risk, gone in zip(counts @ at_risk, counts @ leaves, strict=True)]
    names = [str(n) for n in range(1, MOST + 1)] + ["none"]
    return Patience(
        patience=patience,
        before=before,
        after=after,
        gain=gain,
        chosen={name: patiences.count(None if name == "none" else int(name)) / bootstrap for name in names},
        hazard=tuple(_hazard(leaves[:, run], at_risk[:, run], counts) for run in range(MOST + 1)),
        conversations=len(complete_paths),
        left_out=len(paths) - len(complete_paths),
    )


def bad_runs(ratings: Sequence[int]) -> list[int]:
    """Returns the length of the run of bad ratings that ends at each step."""
    runs = [0]
    for rating in ratings:
        runs.append(runs[-1] + 1 if rating < BAD else 0)
    return runs[1:]


def _leaving(path: Trajectory) -> tuple[Ints, Ints]:
    """Returns, by run length 0 … MOST, the replies at which the user could leave, and at which it left."""
    at_risk, leaves = np.zeros(MOST + 1, dtype=np.int64), np.zeros(MOST + 1, dtype=np.int64)
    runs = [min(run, MOST) for run in bad_runs(path.ratings)]
    # After the last reply of a conversation that was cut, leaving is unknown.
    for run in runs if path.left else runs[:-1]:
        at_risk[run] += 1
    if path.left:
        leaves[runs[-1]] += 1
    return at_risk, leaves


def _fit(at_risk: Floats, leaves: Floats) -> tuple[int | None, float, float | None, float]:
    """Returns (patience, probability before, probability from then on, gain in nats); only increases count."""
    total = max(float(at_risk.sum()), 1.0)
    constant = float(leaves.sum()) / total
    best: tuple[int | None, float, float | None, float] = (None, constant, None, 0.0)
    for patience in range(1, MOST + 1):
        risk = float(at_risk[:patience].sum()), float(at_risk[patience:].sum())
        left_counts = float(leaves[:patience].sum()), float(leaves[patience:].sum())
        if min(risk) <= 0:
            continue
        before, after = left_counts[0] / risk[0], left_counts[1] / risk[1]
        gain = sum(map(_loglik, left_counts, risk)) - _loglik(left_counts[0] + left_counts[1], total)
        if after > before and gain > best[3]:
            best = (patience, before, after, gain)
    return best


def _loglik(left: float, risk: float) -> float:
    return sum(n * math.log(n / risk) for n in (left, risk - left) if n > 0)


def _hazard(leaves_N: Ints, at_risk_N: Ints, counts_BN: Floats) -> Estimate | None:
    if not at_risk_N.any():
        return None
    return bootstrap_share(leaves_N.astype(np.float64), at_risk_N.astype(np.float64), counts_BN)
