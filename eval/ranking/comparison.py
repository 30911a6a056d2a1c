"""Comparison of assistant rankings by simulated users and by people."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from eval.ranking.ranking import agreement_rows, regret_rows, resolved_pairs, tau_rows
from eval.ranking.reliability import Ceiling, human_ceiling
from eval.ranking.scores import Score, ScoreTable, bias_corrected, mean_estimate
from usersim.errors import DataError
from usersim.stats.estimates import Estimate, Floats, resamples, rng_for
from usersim.types import Record

LEAST_ASSISTANTS = 3
"""Fewest shared assistants for a ranking."""
FEW_ASSISTANTS = 12
"""Below this number τ's interval spans most of its range, whatever the number of conversations."""


class AssistantScores(Record):
    assistant: str
    human: Estimate
    """Mean score; its interval is over tasks and people."""
    simulated: Estimate


class RankReport(Record):
    """Ranking comparison. `tau` and `agreement` generalise to assistants like these; `regret` is for exactly these."""

    standings: tuple[AssistantScores, ...]
    """Mean scores, best for people first."""
    tau: Estimate | None
    """Kendall's τ-b of the mean scores, n = assistants; None where one side has equal means for all."""
    agreement: Estimate | None
    """Share of the pairs with different human means that the simulation orders in the same way; n = pairs."""
    over_null: Estimate | None
    """agreement minus that of a null user, which ignores answers, on the same resamples; None without its scores."""
    resolved_agreement: Estimate | None
    """agreement over the pairs whose human difference has an interval without 0; None where there is none."""
    regret: Estimate
    """Human score lost by taking the assistant that is best under simulation; 0 is best."""
    regret_of_chance: float
    """Human score lost by taking a random assistant."""
    ceiling: Ceiling | None
    """Agreement of one half of the people with the other half."""
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
    """Compares both sides' rankings of the assistants that both have scored.

    The two-level bootstrap for τ and agreement resamples assistants, and under them tasks and people. Tasks are
    the same draw on both sides, so that shared tasks stay paired.

    Raises:
        DataError: Fewer than three shared assistants, or an assistant without a score by the null user.
    """
    names, notes = _shared(human, simulated)
    tasks = sorted({score.task for score in (*human, *simulated, *null)})
    human_table, simulated_table = ScoreTable.of(human, names, tasks), ScoreTable.of(simulated, names, tasks)
    rng = rng_for(seed, "ranking")
    task_BT = resamples(len(tasks), bootstrap, rng)
    human_BK = human_table.resampled_means(task_BT, rng)
    simulated_BK = simulated_table.resampled_means(task_BT, rng)
    sampled_assistants = rng.integers(0, len(names), size=human_BK.shape)
    human_sample_BK, simulated_sample_BK = (
        np.take_along_axis(means, sampled_assistants, axis=1) for means in (human_BK, simulated_BK)
    )
    pairs = len(names) * (len(names) - 1) // 2
    tau = _estimate(
        tau_rows(simulated_table.means_K[None], human_table.means_K[None]),
        tau_rows(simulated_sample_BK, human_sample_BK),
        len(names),
    )
    agreement, agreement_B = (
        agreement_rows(simulated_table.means_K[None], human_table.means_K[None]),
        agreement_rows(simulated_sample_BK, human_sample_BK),
    )
    over_null = None
    if null:
        if missing_assistants := sorted(set(names) - {score.assistant for score in null}):
            raise DataError(f"the null user has no score with {', '.join(missing_assistants)}")
        null_table = ScoreTable.of(null, names, tasks)
        # A separate random stream, so that adding a null user changes no other number.
        null_means_BK = null_table.resampled_means(task_BT, rng_for(seed, "ranking null"))
        null_sample_BK = np.take_along_axis(null_means_BK, sampled_assistants, axis=1)
        null_agreement = agreement_rows(null_table.means_K[None], human_table.means_K[None])
        over_null = _estimate(
            agreement - null_agreement, agreement_B - agreement_rows(null_sample_BK, human_sample_BK), pairs
        )
    ceiling = human_ceiling(human_table, simulated_table, splits=splits, rng=rng_for(seed, "halves"))
    return RankReport(
        standings=_standings(human_table, simulated_table, human_BK, simulated_BK),
        tau=tau,
        agreement=_estimate(agreement, agreement_B, pairs),
        over_null=over_null,
        resolved_agreement=_resolved(simulated_table, human_table, simulated_BK, human_BK),
        regret=mean_estimate(
            float(regret_rows(simulated_table.means_K[None], human_table.means_K[None])[0]),
            regret_rows(simulated_BK, human_BK),
            len(human_table),
        ),
        regret_of_chance=float(human_table.means_K.max() - human_table.means_K.mean()),
        ceiling=ceiling,
        tau_over_ceiling=_ratio(tau, ceiling),
        notes=(*notes, *_warnings(human, names, tau, ceiling)),
    )


def _shared(human: Sequence[Score], simulated: Sequence[Score]) -> tuple[list[str], list[str]]:
    human_names, simulated_names = ({score.assistant for score in side} for side in (human, simulated))
    names, notes = sorted(human_names & simulated_names), list[str]()
    if human_names ^ simulated_names:
        notes.append(
            f"scored on one side only and left out: {', '.join(sorted(human_names ^ simulated_names))}"
        )
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


def _standings(
    people: ScoreTable, machine: ScoreTable, human_BK: Floats, simulated_BK: Floats
) -> tuple[AssistantScores, ...]:
    def row(k: int) -> AssistantScores:
        human_mean, simulated_mean = (
            mean_estimate(float(side.means_K[k]), means[:, k], int(side.sizes_K[k]))
            for side, means in ((people, human_BK), (machine, simulated_BK))
        )
        return AssistantScores(assistant=people.assistants[k], human=human_mean, simulated=simulated_mean)

    return tuple(row(k) for k in np.argsort(-people.means_K, kind="stable"))


def _resolved(
    machine: ScoreTable, people: ScoreTable, simulated_BK: Floats, human_BK: Floats
) -> Estimate | None:
    i, j = resolved_pairs(human_BK, people.sizes_K)
    if not len(i):
        return None
    true = np.sign(people.means_K[i] - people.means_K[j])

    def share(means: Floats) -> Floats:
        return np.asarray(((np.sign(means[:, i] - means[:, j]) * true + 1) / 2).mean(1))

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
