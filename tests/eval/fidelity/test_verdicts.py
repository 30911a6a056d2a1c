import math

import numpy as np
import pytest

from eval.fidelity.catalogue import specs
from eval.fidelity.margins import MARGINS, margin_of
from eval.fidelity.settings import EvalConfig
from eval.fidelity.verdicts import accelerated, holm, influence, judge, p_of_excess, together, why_missing
from usersim.stats.estimates import Draws, FigureSpec, Measured, resamples

SPEC = FigureSpec(key="d", metric="M", label="distance", unit="SD")
FLOOR = np.linspace(0, 1, 101)  # median 0.5, far end 0.975: one width is 0.475


CONFIG = EvalConfig(margins={"d": 0.95})


def at(value: float, spread: float = 0.0, **change):
    replicates = value + spread * np.linspace(-1, 1, 51)
    return judge(SPEC.model_copy(update=change), Measured(value, replicates), FLOOR, 100, CONFIG)


def test_value_within_the_floor_is_not_different_even_with_a_tight_interval():
    figure = judge(SPEC, Measured(0.9, np.full(50, 0.9)), FLOOR, 100, CONFIG)
    assert figure.excess.low > 0
    assert figure.inside_floor
    assert figure.p == pytest.approx(12 / 102)  # 0.90 to 1.00 are eleven of 101, and the value itself
    assert figure.verdict == "equivalent"  # 0.4 beyond the median, and δ is 0.95


def test_beyond_the_floor_is_different_and_excess_is_value_minus_median():
    figure = judge(SPEC, Measured(2.0, np.linspace(2.5, 2.7, 51)), FLOOR, 100)
    assert figure.verdict == "different"
    assert figure.excess.value == pytest.approx(1.5)
    # Replicates are centred on the value: resampling had moved them up by 0.6.
    assert (figure.value.low, figure.value.high) == pytest.approx((1.905, 2.095))
    assert (figure.excess.low, figure.excess.high) == pytest.approx((1.405, 1.595))


def test_lower_is_worse_turns_the_sign():
    spec = SPEC.model_copy(update={"worse": "lower"})
    figure = judge(spec, Measured(0.2, np.linspace(0.1, 0.4, 51)), np.linspace(0.9, 1, 101), 100)
    assert figure.excess.value == pytest.approx(0.75)
    assert figure.excess.low < 0.75 < figure.excess.high
    assert figure.verdict == "different"


def test_no_verdict_below_fifty():
    assert judge(SPEC, Measured(9.0, np.full(50, 9.0)), np.zeros(20), 49).verdict == "too few"


def test_equivalence_needs_the_whole_interval_below_the_margin():
    wide = Measured(0.9, np.linspace(0.2, 1.6, 51))  # upper end 1.565: 1.065 beyond the median
    assert judge(SPEC, wide, FLOOR, 100, CONFIG).verdict == "inconclusive"
    assert judge(SPEC, wide, FLOOR, 100, EvalConfig(margins={"d": 1.1})).verdict == "equivalent"
    narrow = Measured(0.9, np.full(50, 0.9))
    assert judge(SPEC, narrow, FLOOR, 100, EvalConfig(margins={"d": 0.38})).verdict == "inconclusive"
    # A figure of which no margin was fixed beforehand is never equivalent, not even one below the floor's median.
    below = judge(SPEC, Measured(0.1, np.full(50, 0.1)), FLOOR, 100)
    assert (below.margin, below.verdict) == (0.0, "inconclusive")


def test_margins_are_fixed_for_every_figure_and_do_not_move_with_the_floor():
    assert set(specs(EvalConfig())) == set(MARGINS)
    assert margin_of("auc_text", EvalConfig(margins={"auc_text": 0.1})) == 0.1
    spec = SPEC.model_copy(update={"key": "words_per_turn.w1"})
    few, many = (judge(spec, Measured(0.5, np.full(50, 0.5)), floor, 100) for floor in (FLOOR, FLOOR / 4))
    assert few.margin == many.margin == 0.2


def test_p_is_the_share_of_splits_until_none_is_as_far_out():
    beyond = np.array([-1.0, -0.5, 0.0, 0.2])
    assert p_of_excess(beyond, 1.0, 0.5) == pytest.approx(3 / 5)
    # None of 99 is: at most 1/100. The normal tail at three standard deviations is 0.00135.
    assert p_of_excess(np.full(99, -1.0), 1.5, 0.5) == pytest.approx(0.00135, abs=1e-5)
    assert p_of_excess(np.full(99, -1.0), 0.5, 0.5) == pytest.approx(0.01)


def test_holm_by_hand():
    # Sorted .01 .02 .03 .5, times 4 3 2 1: .04 .06 .06 .5
    assert holm([0.5, 0.01, 0.03, 0.02]) == pytest.approx([0.5, 0.04, 0.06, 0.06])
    assert holm([0.6, 0.6]) == [1.0, 1.0]


def test_a_figure_that_is_different_alone_may_not_be_in_company():
    # 1.00 is equalled by one of 101 splits: p 2/102 = .0196, above .05 / 5.
    alone = at(1.0, 0.01)
    assert alone.verdict == "different"
    company = together([at(1.0, 0.01, key=key) for key in "abcde"])
    assert [figure.p_holm for figure in company] == pytest.approx([10 / 102] * 5)
    assert "different" not in {figure.verdict for figure in company}
    # Second views are a family of their own.
    assert together([alone, at(9.0, key="x", headline=False)])[0].verdict == "different"


def test_splits_without_anything_to_measure_are_left_out_and_too_many_leave_no_floor():
    floor = np.append(FLOOR, np.full(50, np.nan))
    assert judge(SPEC, Measured(2.0, np.full(50, 2.0)), floor, 100).floor.repeats == 101
    assert why_missing(Measured(2.0, np.zeros(9)), floor) is None
    assert "no human baseline" in str(
        why_missing(Measured(2.0, np.zeros(9)), np.append(FLOOR, np.full(102, np.nan)))
    )
    assert "no interval" in str(why_missing(Measured(2.0, np.full(9, np.nan)), FLOOR))
    assert "nothing to measure" in str(why_missing(None, FLOOR))


def test_acceleration_reaches_further_where_the_spread_grows():
    replicates = np.linspace(-1, 1, 2001)
    assert accelerated(replicates, np.zeros(3)) == pytest.approx((-0.95, 0.95), abs=1e-3)
    # Influences 3, -1, -1, -1: Σu³ = 24, Σu² = 12, a = 24 / (6 · 12^1.5) = .0962
    low, high = accelerated(replicates, np.array([3.0, -1, -1, -1]))
    a = 24 / (6 * 12**1.5)
    upper = 0.5 * (1 + math.erf(1.959964 / (1 - 1.959964 * a) / math.sqrt(2)))
    assert high == pytest.approx(2 * upper - 1, abs=2e-3)
    assert low > -0.95


def test_influence_of_a_mean_is_the_distance_from_it():
    values = np.array([0.0, 0.0, 0.0, 8.0])
    counts = resamples(4, 20_000, np.random.default_rng(0))
    found = influence(Draws(counts, np.ones((20_000, 1))), counts @ values / 4)
    # cov(count_i, mean) = (x_i - mean) / n
    assert sorted(found) == pytest.approx([-0.5, -0.5, -0.5, 0.0, 1.5], abs=0.05)


def test_two_sided_far_below_the_floor_is_different_too():
    assert at(-1.0, 0.1).verdict == "equivalent"  # a distance can only be too large
    below = at(-1.0, 0.1, two_sided=True, least=None)
    assert below.verdict == "different"
    assert not below.inside_floor
    assert at(0.5, 0.1, two_sided=True).verdict == "equivalent"
