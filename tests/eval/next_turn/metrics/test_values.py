import numpy as np
import pytest

from eval.next_turn.metrics.values import (
    ClusterSums,
    Values,
    difference,
    estimate,
    p_against,
    p_paired,
    p_unpaired,
    unpaired_difference,
)
from usersim.stats.estimates import rng_for


def sums(numerators: list[float], denominators: list[float] | None = None) -> ClusterSums:
    below = denominators or [1.0] * len(numerators)
    return ClusterSums(np.array(numerators), np.array(below))


def test_a_metric_is_a_ratio_of_sums_and_undefined_prefixes_do_not_count() -> None:
    values = Values.of([1.0, None, 3.0, 5.0])
    found = ClusterSums.of(values, ["a", "a", "a", "b"])
    assert found.numerator_C.tolist() == [4.0, 5.0]
    assert found.denominator_C.tolist() == [2.0, 1.0]
    assert found.ratio == 3.0


def test_interval_of_a_mean_of_independent_conversations_is_students() -> None:
    # Mean 3, standard deviation 1.5811, standard error 0.7071, t(4) = 2.7764.
    found = estimate(sums([1, 2, 3, 4, 5]))
    assert (found.value, found.n) == (3.0, 5)
    assert found.low == pytest.approx(3 - 1.9633, abs=1e-3)


def test_a_share_of_nothing_seen_has_an_interval_above_zero() -> None:
    found = estimate(sums([0.0] * 50), is_share=True)
    assert (found.value, found.low) == (0.0, 0.0)
    assert 0.06 < found.high < 0.09


def test_a_paired_difference_of_equal_sides_is_nothing_without_an_interval() -> None:
    side = sums([1.0, 4.0, 2.0])
    found = difference(side, side)
    assert (found.value, found.low, found.high) == (0.0, 0.0, 0.0)


def test_swapping_labels_of_equal_sides_finds_nothing() -> None:
    side = sums([1.0, 4.0, 2.0])
    assert p_paired(side, side, rng_for(0, "t"), 200) == 1.0


def test_p_of_ten_pairs_on_one_side_is_two_in_1024() -> None:
    ours, theirs = sums([2.0] * 10), sums([1.0] * 10)
    p = p_paired(ours, theirs, rng_for(0, "t"), 50_000)
    assert p == pytest.approx(2 / 1024, rel=0.35)
    assert p_against(ours, 1.0, rng_for(0, "t"), 50_000) == pytest.approx(2 / 1024, rel=0.35)


def test_p_of_separated_sides_counts_the_deals_that_are_as_separated() -> None:
    # 2 of the C(8, 4) = 70 deals.
    ours, theirs = sums([5.0, 6.0, 7.0, 8.0]), sums([1.0, 2.0, 3.0, 4.0])
    assert p_unpaired(ours, theirs, rng_for(0, "t"), 20_000) == pytest.approx(2 / 70, rel=0.15)
    assert unpaired_difference(ours, theirs).value == 4.0


@pytest.mark.parametrize("paired", [True, False])
def test_under_no_difference_p_is_below_5_percent_about_5_percent_of_the_time(paired: bool) -> None:
    rng = rng_for(1, "null")
    hits = 0
    for _ in range(400):
        ours, theirs = (
            ClusterSums(rng.exponential(size=40) * (size := rng.integers(1, 5, 40).astype(float)), size)
            for _ in range(2)
        )
        hits += (p_paired if paired else p_unpaired)(ours, theirs, rng, 199) <= 0.05
    assert 6 <= hits <= 36


@pytest.mark.parametrize("kind", ["mean", "share", "rare"])
def test_intervals_cover_in_about_95_percent(kind: str) -> None:
    rng = rng_for(2, kind)
    truth = {"mean": 1.0, "share": 0.3, "rare": 0.03}[kind]
    covered = 0
    for _ in range(1000):
        sizes = rng.integers(1, 6, 200)
        if kind == "mean":
            numerators = np.array([rng.exponential(size=n).sum() for n in sizes])
        else:
            numerators = np.array([float(rng.binomial(n, truth)) for n in sizes])
        found = estimate(ClusterSums(numerators, sizes.astype(float)), is_share=kind != "mean")
        covered += found.low <= truth <= found.high
    assert 920 <= covered <= 980


def test_a_metric_defined_nowhere_is_not_zero() -> None:
    with pytest.raises(ValueError, match="at no prefix"):
        estimate(sums([0.0], [0.0]))
