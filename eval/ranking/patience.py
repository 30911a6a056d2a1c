"""When do users leave after bad replies? A patience fitted to conversations, human or simulated."""

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
    """Leaving is a coin at every reply, with one chance before `patience` bad replies in a row and another from
    then on: the maximum-likelihood change point of that hazard."""

    patience: int | None
    """None where no change point raises the chance of leaving."""
    before: float
    """Chance of leaving at a reply before the change point; without one, at any reply."""
    after: float | None
    gain: float
    """Log-likelihood over that of one constant chance, nats. Below about 2 it is noise."""
    chosen: dict[str, float]
    """Share of the resamples (of conversations) in which each patience, or "none", fits best."""
    hazard: tuple[Estimate | None, ...]
    """Share leaving at a reply that ends a run of 0, 1, 2, … bad ones (the last: so many or more); n =
    conversations; None where nobody was there."""
    conversations: int
    left_out: int
    """Ended by something else than the user, or nobody knows by what."""


def fit_patience(found: Sequence[Trajectory], *, bootstrap: int = 500, seed: int = 0) -> Patience:
    """Conversations cut by a turn cap count as long as they lasted; those without a known end do not."""
    known = [one for one in found if one.left is not None]
    if not known:
        raise DataError("no conversation says whether its user left: patience cannot be fitted")
    tables = [_leaving(one) for one in known]
    at_risk, leaves = (np.array(side) for side in zip(*tables, strict=True))
    counts = resamples(len(known), bootstrap, rng_for(seed, "patience"))
    patience, before, after, gain = _fit(at_risk.sum(0), leaves.sum(0))
    drawn = [_fit(risk, gone)[0] for risk, gone in zip(counts @ at_risk, counts @ leaves, strict=True)]
    names = [str(n) for n in range(1, MOST + 1)] + ["none"]
    return Patience(
        patience=patience,
        before=before,
        after=after,
        gain=gain,
        chosen={name: drawn.count(None if name == "none" else int(name)) / bootstrap for name in names},
        hazard=tuple(_hazard(leaves[:, run], at_risk[:, run], counts) for run in range(MOST + 1)),
        conversations=len(known),
        left_out=len(found) - len(known),
    )


def bad_runs(ratings: Sequence[int]) -> list[int]:
    """Length of the run of bad ratings that ends at each step."""
    runs = [0]
    for rating in ratings:
        runs.append(runs[-1] + 1 if rating < BAD else 0)
    return runs[1:]


def _leaving(one: Trajectory) -> tuple[Ints, Ints]:
    """By run length 0 … MOST: replies at which the user could leave, and at which it left."""
    at_risk, leaves = np.zeros(MOST + 1, dtype=np.int64), np.zeros(MOST + 1, dtype=np.int64)
    runs = [min(run, MOST) for run in bad_runs(one.ratings)]
    # After the last reply of a conversation that was cut, nobody was asked whether they leave.
    for run in runs if one.left else runs[:-1]:
        at_risk[run] += 1
    if one.left:
        leaves[runs[-1]] += 1
    return at_risk, leaves


def _fit(at_risk: Floats, leaves: Floats) -> tuple[int | None, float, float | None, float]:
    """(patience, chance before, chance from then on, gain in nats); only changes upwards count."""
    total = max(float(at_risk.sum()), 1.0)
    constant = float(leaves.sum()) / total
    best: tuple[int | None, float, float | None, float] = (None, constant, None, 0.0)
    for patience in range(1, MOST + 1):
        risk = float(at_risk[:patience].sum()), float(at_risk[patience:].sum())
        gone = float(leaves[:patience].sum()), float(leaves[patience:].sum())
        if min(risk) <= 0:
            continue
        before, after = gone[0] / risk[0], gone[1] / risk[1]
        gain = sum(map(_loglik, gone, risk)) - _loglik(gone[0] + gone[1], total)
        if after > before and gain > best[3]:
            best = (patience, before, after, gain)
    return best


def _loglik(gone: float, risk: float) -> float:
    return sum(n * math.log(n / risk) for n in (gone, risk - gone) if n > 0)


def _hazard(leaves_N: Ints, at_risk_N: Ints, counts_BN: Floats) -> Estimate | None:
    if not at_risk_N.any():
        return None
    return bootstrap_share(leaves_N.astype(np.float64), at_risk_N.astype(np.float64), counts_BN)
