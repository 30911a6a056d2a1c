import numpy as np
import pytest

from usersim.stats.estimates import (
    bootstrap_ratio,
    bootstrap_share,
    cluster_resamples,
    floor_of,
    human_splits,
    interval,
    largest_half,
    newcombe,
    resamples,
    wilson,
)


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


def test_a_share_of_nothing_but_misses_is_not_certain():
    counts = resamples(50, 100, np.random.default_rng(0))
    none = bootstrap_share(np.zeros(50), np.full(50, 3.0), counts)
    assert (none.value, none.low, none.n) == (0, 0, 50)
    assert none.high == wilson(0, 50).high
    every = bootstrap_share(np.full(50, 3.0), np.full(50, 3.0), counts)
    assert (every.value, every.low, every.high) == (1, wilson(50, 50).low, 1)
    some = bootstrap_share(np.arange(50) % 2.0, np.ones(50), counts)
    assert some == bootstrap_ratio(np.arange(50) % 2.0, np.ones(50), counts)


def test_bootstrap_of_a_mean_has_the_textbook_width():
    values = np.arange(100.0)
    counts = resamples(100, 4000, np.random.default_rng(0))
    low, high = interval(counts @ values / 100)
    assert counts.sum(1).tolist() == [100] * 4000
    assert high - low == pytest.approx(2 * 1.96 * values.std() / 10, rel=0.06)


def test_splits_are_disjoint_and_keep_groups_together():
    groups = [f"g{i // 3}" for i in range(60)]
    for split in human_splits(groups, 15, 20, np.random.default_rng(0)):
        first, second = set(split.first.tolist()), set(split.second.tolist())
        assert len(first) == len(second) == 15
        assert not first & second
        assert not {groups[i] for i in first} & {groups[i] for i in second}


def test_no_group_is_on_both_sides_up_to_the_largest_half():
    # One group of 7 among 20: it may lie in the middle, so halves of (20 - 7 + 1) / 2 = 7 are safe, and 8 are not.
    groups = ["big"] * 7 + [f"g{i}" for i in range(13)]
    assert largest_half(groups) == 7
    for split in human_splits(groups, 7, 50, np.random.default_rng(0)):
        assert not {groups[i] for i in split.first} & {groups[i] for i in split.second}
    assert largest_half(["one"] * 30) == 0
    assert largest_half([]) == 0


def test_members_of_a_cluster_come_and_go_together():
    counts = cluster_resamples(["a", "b", "a", "c"], 500, np.random.default_rng(0))
    assert (counts[:, 0] == counts[:, 2]).all()
    assert set((counts[:, 0] + counts[:, 1] + counts[:, 3]).tolist()) == {3.0}  # three clusters are drawn
    assert len(set(counts.sum(1).tolist())) > 1


def test_cluster_bootstrap_is_wider_where_people_repeat_themselves():
    # 20 people say the same five times: the standard error is that of 20, not of 100.
    values = np.repeat(np.arange(20.0), 5)
    counts = cluster_resamples([str(v) for v in values], 4000, np.random.default_rng(0))
    low, high = interval(counts @ values / counts.sum(1))
    assert high - low == pytest.approx(2 * 1.96 * np.arange(20.0).std() / np.sqrt(20), rel=0.06)


def test_a_floor_leaves_out_what_could_not_be_measured():
    floor = floor_of(np.array([1.0, np.nan, 2.0, 3.0]))
    assert (floor.median, floor.repeats) == (2.0, 3)
    with pytest.raises(ValueError, match="nothing"):
        floor_of(np.array([np.nan]))
