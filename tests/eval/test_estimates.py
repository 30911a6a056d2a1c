import numpy as np
import pytest

from eval.estimates import (
    FigureSpec,
    Measured,
    bootstrap_ratio,
    floor_of,
    human_splits,
    interval,
    judge,
    newcombe,
    resamples,
    wilson,
)

SPEC = FigureSpec(key="d", metric="M", label="distance", unit="SD")


def test_wilson_share_worked_by_hand():
    # 5 of 10, z = 1.96: centre .5, half width z/2 * sqrt(1/10 + z²/400)/(1 + z²/10) * … = .2634
    found = wilson(5, 10)
    assert (found.value, found.low, found.high) == pytest.approx((0.5, 0.2366, 0.7634), abs=1e-4)


def test_nothing_in_n_still_has_an_upper_bound():
    found = wilson(0, 50)
    assert found.low == 0
    assert found.high == pytest.approx(3.8416 / 53.8416, abs=1e-4)  # z² / (n + z²)


def test_difference_of_equal_shares_straddles_zero():
    found = newcombe(wilson(5, 10), wilson(5, 10))
    assert found.value == 0
    assert found.low == pytest.approx(-found.high)
    assert found.high == pytest.approx(np.hypot(0.2634, 0.2634), abs=1e-3)


def test_ratio_is_a_ratio_of_sums():
    found = bootstrap_ratio(np.array([1.0, 3.0]), np.array([1.0, 1.0]), np.array([[2.0, 0.0], [0.0, 2.0]]))
    assert found.value == 2
    assert (found.low, found.high) == pytest.approx((1.05, 2.95))  # percentiles of {1, 3}


def test_ratio_over_nothing_is_refused():
    with pytest.raises(ValueError, match="nothing"):
        bootstrap_ratio(np.zeros(2), np.zeros(2), np.ones((2, 2)))


def test_bootstrap_of_a_mean_has_the_textbook_width():
    values = np.arange(100.0)
    counts = resamples(100, 4000, np.random.default_rng(0))
    low, high = interval(counts @ values / 100)
    assert counts.sum(1).tolist() == [100] * 4000
    assert high - low == pytest.approx(2 * 1.96 * values.std() / 10, rel=0.06)


def test_value_within_the_floor_is_inconclusive_even_with_a_tight_interval():
    floor = floor_of(np.linspace(0, 1, 101))
    figure = judge(SPEC, Measured(0.9, np.full(50, 0.9)), floor, 100)
    assert figure.excess.low > 0
    assert figure.inside_floor
    assert figure.verdict == "inconclusive"


def test_beyond_the_floor_is_different_and_excess_is_value_minus_median():
    figure = judge(SPEC, Measured(2.0, np.linspace(2.5, 2.7, 51)), floor_of(np.linspace(0, 1, 101)), 100)
    assert figure.verdict == "different"
    assert figure.excess.value == pytest.approx(1.5)
    # Replicates are centred on the value: resampling had moved them up by 0.6.
    assert (figure.value.low, figure.value.high) == pytest.approx((1.905, 2.095))


def test_lower_is_worse_turns_the_sign():
    spec = SPEC.model_copy(update={"worse": "lower"})
    figure = judge(spec, Measured(0.2, np.full(50, 0.2)), floor_of(np.linspace(0.9, 1, 101)), 100)
    assert figure.excess.value == pytest.approx(0.75)
    assert figure.verdict == "different"


def test_no_verdict_below_fifty():
    assert judge(SPEC, Measured(9.0, np.full(50, 9.0)), floor_of(np.zeros(20)), 49).verdict == "too few"


def test_splits_are_disjoint_and_keep_groups_together():
    groups = [f"g{i // 3}" for i in range(60)]
    for split in human_splits(groups, 15, 20, np.random.default_rng(0)):
        first, second = set(split.first.tolist()), set(split.second.tolist())
        assert len(first) == len(second) == 15
        assert not first & second
        assert not {groups[i] for i in first} & {groups[i] for i in second}
