import numpy as np
import pytest

from eval.ranking.calibration import calibrate, ece_rows, null_ece, strata_of
from eval.ranking.scores import Score
from usersim.errors import DataError

COUNTS, RATES = [4, 17, 37, 66, 41], [0.1, 0.3, 0.5, 0.7, 0.9]
STRATA = np.repeat(np.arange(5), COUNTS)
P = np.repeat(RATES, COUNTS)


def null(**runs):
    found = null_ece(P, STRATA, repeats=3000, rng=np.random.default_rng(0), **runs)
    return [found.mean(), *np.quantile(found, [0.025, 0.975])]


def test_null_of_one_run_each_on_the_165_tasks():
    """Measured elsewhere: .075, 95 % .024 to .139. The paper's human reference is .069."""
    assert null() == pytest.approx([0.075, 0.024, 0.139], abs=0.008)


def test_null_of_the_mean_over_pairs_and_of_pooled_runs():
    """Measured elsewhere: .076 [.051, .103] for three runs by three, .044 [.016, .083] when rates are pooled first."""
    three = {"simulated_runs": 3, "human_runs": 3}
    assert null(**three, pairs=True) == pytest.approx([0.076, 0.051, 0.103], abs=0.004)
    assert null(**three) == pytest.approx([0.044, 0.016, 0.083], abs=0.006)


def test_ece_by_hand():
    # Stratum 0 (two tasks): 0.5 against 1.0; stratum 1 (one task): 1 against 0.  (2·0.5 + 1·1) / 3
    found = ece_rows(np.array([[0, 1, 1.0]]), np.array([[1, 1, 0.0]]), np.array([0, 0, 1]))
    assert found == pytest.approx([2 / 3])


def test_strata_are_closed_below():
    assert list(strata_of(np.array([0.0, 0.19, 0.2, 0.79, 0.8, 1.0]))) == [0, 0, 1, 3, 4, 4]


def outcomes(values, *, difficulty=0.5):
    return [
        Score(assistant="a", task=f"t{i}", score=value, difficulty=difficulty)
        for i, task in enumerate(values)
        for value in task
    ]


def test_bias_and_brier_by_hand():
    human, simulated = outcomes([[0, 1], [1, 1]]), outcomes([[1], [1]])
    found = calibrate(human, simulated, bootstrap=200)
    assert found.bias.value == pytest.approx(0.25)
    assert found.brier == pytest.approx(1 / 4)  # predicts 1 always; one of four fails
    assert found.brier_of_base_rate == pytest.approx(3 / 16)
    assert found.ece.value == pytest.approx(0.25)
    (stratum,) = found.strata
    assert (stratum.label, stratum.tasks, stratum.human, stratum.simulated) == (".4 to .6", 2, 0.75, 1.0)


def test_a_perfect_simulator_is_not_called_wrong_and_a_lenient_one_is():
    rng = np.random.default_rng(3)
    draws = {name: rng.random((165, 1)) < np.clip(P + shift, 0, 1)[:, None] for name, shift in
             (("human", 0), ("same", 0), ("lenient", 0.2))}  # fmt: skip
    sides = {
        name: [
            Score(assistant="a", task=str(i), score=float(hit), difficulty=float(p))
            for i, ((hit,), p) in enumerate(zip(rows, P, strict=True))
        ]
        for name, rows in draws.items()
    }
    same, lenient = (calibrate(sides["human"], sides[name], bootstrap=300) for name in ("same", "lenient"))
    assert [s.tasks for s in same.strata] == COUNTS
    assert same.ece.p > 0.05
    assert lenient.ece.p < 0.01
    assert lenient.ece.excess > 0.05
    assert lenient.bias.low > 0
    assert same.ece.null_median == pytest.approx(0.075, abs=0.02)


def test_what_cannot_be_calibrated():
    with pytest.raises(DataError, match="0 or 1; a has 7"):
        calibrate(outcomes([[7]]), outcomes([[1]]))
    with pytest.raises(DataError, match="both sides"):
        calibrate(outcomes([[1]]), [Score(assistant="b", task="t0", score=1)])
    bare = calibrate(outcomes([[1], [0]], difficulty=None), outcomes([[1]], difficulty=None), bootstrap=50)
    assert (bare.ece, bare.strata, bare.tasks) == (None, (), 1)
    assert len(bare.notes) == 2
