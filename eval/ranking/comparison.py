"""Do simulated users rank assistants as people do?"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from eval.ranking.ranking import agreement_rows, regret_rows, resolved_pairs, tau_rows
from eval.ranking.reliability import Ceiling, human_ceiling
from eval.ranking.scores import Score, Side, bias_corrected, mean_estimate
from usersim.errors import DataError
from usersim.stats.estimates import Estimate, Floats, resamples, rng_for
from usersim.types import Record

LEAST_ASSISTANTS = 3
FEW_ASSISTANTS = 12
"""Below this many τ's interval spans most of its range, whatever the number of conversations."""


class Standing(Record):
    assistant: str
    human: Estimate
    """Mean score; its interval is over tasks and people."""
    simulated: Estimate


class RankReport(Record):
    """`tau` and `agreement` are for assistants like these; `regret` is for exactly these."""

    standings: tuple[Standing, ...]
    """Best for people first."""
    tau: Estimate | None
    """Kendall's τ-b of the mean scores, n = assistants; None where one side scores all of them the same."""
    agreement: Estimate | None
    """Share of the pairs that people tell apart in which the simulated order is theirs; n = pairs."""
    over_null: Estimate | None
    """agreement minus that of a user that does not listen, on the same resamples; None without its scores."""
    resolved_agreement: Estimate | None
    """The same over the pairs whose human difference has an interval without 0; None where there is none."""
    regret: Estimate
    """Human score lost by taking the assistant that is best under simulation; 0 is best."""
    regret_of_chance: float
    """The same for an assistant taken at random."""
    ceiling: Ceiling | None
    """How well half of the people rank as the other half does."""
    tau_over_ceiling: float | None
    notes: tuple[str, ...]


def compare_rankings(
    human: Sequence[Score],
    simulated: Sequence[Score],
    *,
    null: Sequence[Score] = (),
    bootstrap: int = 2000,
    splits: int = 500,
    seed: int = 0,
) -> RankReport:
    """Both sides' rankings of the assistants that both have scored.

    Two-level bootstrap for τ and agreement: assistants, and under them tasks (the same draw on both sides,
    so that shared tasks stay paired) and people. Raises DataError for fewer than three shared assistants, and for
    an assistant that the null user was not scored with.
    """
    names, notes = _shared(human, simulated)
    tasks = sorted({score.task for score in (*human, *simulated, *null)})
    people, machine = Side.of(human, names, tasks), Side.of(simulated, names, tasks)
    rng = rng_for(seed, "ranking")
    task_BT = resamples(len(tasks), bootstrap, rng)
    human_BK = people.resampled_means(task_BT, rng)
    simulated_BK = machine.resampled_means(task_BT, rng)
    drawn = rng.integers(0, len(names), size=human_BK.shape)
    h, s = (np.take_along_axis(means, drawn, axis=1) for means in (human_BK, simulated_BK))
    pairs = len(names) * (len(names) - 1) // 2
    tau = _estimate(tau_rows(machine.means_K[None], people.means_K[None]), tau_rows(s, h), len(names))
    own, own_B = agreement_rows(machine.means_K[None], people.means_K[None]), agreement_rows(s, h)
    over_null = None
    if null:
        if lacking := sorted(set(names) - {score.assistant for score in null}):
            raise DataError(f"the null user has no score with {', '.join(lacking)}")
        blind = Side.of(null, names, tasks)
        # A stream of its own, so that adding a null user moves no other number.
        blind_BK = blind.resampled_means(task_BT, rng_for(seed, "ranking null"))
        n_BK = np.take_along_axis(blind_BK, drawn, axis=1)
        blind_value = agreement_rows(blind.means_K[None], people.means_K[None])
        over_null = _estimate(own - blind_value, own_B - agreement_rows(n_BK, h), pairs)
    ceiling = human_ceiling(people, machine, splits=splits, rng=rng_for(seed, "halves"))
    return RankReport(
        standings=_standings(people, machine, human_BK, simulated_BK),
        tau=tau,
        agreement=_estimate(own, own_B, pairs),
        over_null=over_null,
        resolved_agreement=_resolved(machine, people, simulated_BK, human_BK),
        regret=mean_estimate(
            float(regret_rows(machine.means_K[None], people.means_K[None])[0]),
            regret_rows(simulated_BK, human_BK),
            len(people),
        ),
        regret_of_chance=float(people.means_K.max() - people.means_K.mean()),
        ceiling=ceiling,
        tau_over_ceiling=_ratio(tau, ceiling),
        notes=(*notes, *_warnings(human, names, tau, ceiling)),
    )


def _shared(human: Sequence[Score], simulated: Sequence[Score]) -> tuple[list[str], list[str]]:
    ours, theirs = ({score.assistant for score in side} for side in (human, simulated))
    names, notes = sorted(ours & theirs), list[str]()
    if ours ^ theirs:
        notes.append(f"scored on one side only and left out: {', '.join(sorted(ours ^ theirs))}")
    if len(names) < LEAST_ASSISTANTS:
        raise DataError(
            f"{len(names)} assistants are scored on both sides; a ranking needs {LEAST_ASSISTANTS}, "
            f"and below {FEW_ASSISTANTS} its interval is wide"
        )
    return names, notes


def _estimate(value: Floats, replicates: Floats, n: int) -> Estimate | None:
    observed = float(value[0])
    if np.isnan(observed) or np.isnan(replicates).all():
        return None
    low, high = bias_corrected(observed, replicates)
    return Estimate(value=observed, low=low, high=high, n=n)


def _standings(people: Side, machine: Side, human_BK: Floats, simulated_BK: Floats) -> tuple[Standing, ...]:
    def row(k: int) -> Standing:
        one, two = (
            mean_estimate(float(side.means_K[k]), means[:, k], int(side.sizes_K[k]))
            for side, means in ((people, human_BK), (machine, simulated_BK))
        )
        return Standing(assistant=people.assistants[k], human=one, simulated=two)

    return tuple(row(k) for k in np.argsort(-people.means_K, kind="stable"))


def _resolved(machine: Side, people: Side, simulated_BK: Floats, human_BK: Floats) -> Estimate | None:
    i, j = resolved_pairs(human_BK, people.sizes_K)
    if not len(i):
        return None
    true = np.sign(people.means_K[i] - people.means_K[j])

    def share(said: Floats) -> Floats:
        return np.asarray(((np.sign(said[:, i] - said[:, j]) * true + 1) / 2).mean(1))

    return mean_estimate(float(share(machine.means_K[None])[0]), share(simulated_BK), len(i))


def _ratio(tau: Estimate | None, ceiling: Ceiling | None) -> float | None:
    return tau.value / ceiling.human.median if tau and ceiling and ceiling.human.median > 0 else None


def _warnings(
    human: Sequence[Score], names: Sequence[str], tau: Estimate | None, ceiling: Ceiling | None
) -> list[str]:
    notes = []
    if tau is None:
        notes.append("one side scores all assistants the same: there is no ranking to compare")
    if len(names) < FEW_ASSISTANTS:
        notes.append(
            f"only {len(names)} assistants: τ's interval is wide however many conversations there are"
        )
    if any(score.person is None for score in human):
        notes.append("human scores without a person: each counts as a person, so intervals may be too narrow")
    if ceiling is None:
        notes.append("too few people to split in halves: no human ceiling")
    return notes
