import math

import numpy as np
import pytest
from scipy.stats import kendalltau

from eval.ranking.comparison import compare_rankings
from eval.ranking.ranking import agreement_rows, regret_rows, tau_b, tau_rows
from eval.ranking.reliability import (
    components,
    expected_tau,
    least_significant_tau,
    pairs_apart,
    power,
    scores_needed,
    spearman_interval,
    tau_interval,
)
from eval.ranking.scores import Score, ScoreTable, read_scores
from usersim.errors import DataError


def rows(*values):
    return np.array(values, dtype=np.float64)


def scored(means, tasks=30, *, sd=0.0, seed=0, people=True):
    """One score per assistant and task, around its mean; every score by a person of its own."""
    rng = np.random.default_rng(seed)
    return [
        Score(
            assistant=f"a{k}",
            task=f"t{t}",
            score=float(mean + sd * rng.normal()),
            person=f"p{k}-{t}" if people else None,
        )
        for k, mean in enumerate(means)
        for t in range(tasks)
    ]


def test_tau_of_small_permutations_by_hand():
    # 1 2 4 3: one of six pairs is turned: (5 - 1) / 6. With a tie in one of them, 5 pairs remain there: 5 / √(5·6).
    assert tau_b(rows(1, 2, 3, 4), rows(1, 2, 4, 3)) == pytest.approx(4 / 6)
    assert tau_b(rows(1, 1, 3, 4), rows(1, 2, 3, 4)) == pytest.approx(5 / math.sqrt(30))
    assert math.isnan(tau_b(rows(1, 1, 1), rows(1, 2, 3)))


def test_many_rows_at_once_agree_with_scipy():
    rng = np.random.default_rng(0)
    first, second = rng.integers(0, 5, (2, 40, 7)).astype(np.float64)
    expected = [kendalltau(a, b).statistic for a, b in zip(first, second, strict=True)]
    assert tau_rows(first, second) == pytest.approx(expected, nan_ok=True)


def test_an_assistant_without_scores_is_in_no_pair():
    assert tau_rows(rows([1, 2, np.nan, 3]), rows([1, 3, 0, 2])) == pytest.approx([1 / 3])


def test_agreement_counts_a_simulated_tie_as_half_and_leaves_human_ties_out():
    # Human pairs: a<b, a<c, (b=c left out). Simulated: a<b, a=c.
    assert agreement_rows(rows([1, 2, 1]), rows([1, 2, 2])) == pytest.approx([0.75])


def test_regret_is_what_the_simulated_choice_costs_people():
    human = rows([0.5, 0.9, 0.7])
    assert regret_rows(rows([0, 2, 1]), human) == pytest.approx([0.0])
    assert regret_rows(rows([0, 1, 2]), human) == pytest.approx([0.2])
    assert regret_rows(rows([2, 1, 2]), human) == pytest.approx([0.3])  # tied for best: mean of .4 and .2


def test_means_weigh_scores_and_are_unknown_without_any():
    scores = [Score(assistant="a", task="t", score=1), Score(assistant="a", task="u", score=4)]
    side = ScoreTable.of([*scores, Score(assistant="b", task="t", score=2)], ["a", "b"], ["t", "u"])
    assert side.means_K == pytest.approx([2.5, 2.0])
    assert side.means_under(rows([1, 2, 0])) == pytest.approx(rows([3.0, np.nan]), nan_ok=True)


def test_people_within_tasks_are_not_drawn_again():
    """All people of a task score alike, so only which tasks come changes a mean: 3 tasks, means in thirds."""
    scores = [
        Score(assistant="a", task=f"t{t}", score=t, person=f"{t}{p}") for t in range(3) for p in range(4)
    ]
    side = ScoreTable.of(scores, ["a"], ["t0", "t1", "t2"])
    rng = np.random.default_rng(0)
    means = side.resampled_means(rng.multinomial(3, [1 / 3] * 3, size=200).astype(np.float64), rng)
    assert 3 * means[:, 0] == pytest.approx(np.round(3 * means[:, 0]))


def test_the_same_ranking_and_the_opposite_one():
    human = scored([1, 2, 3, 4, 5], sd=0.1)
    same = compare_rankings(human, scored([10, 20, 30, 40, 50]), bootstrap=100, splits=20)
    assert (same.tau.value, same.agreement.value, same.regret.value) == (1.0, 1.0, 0.0)
    assert same.ceiling.human.median == same.ceiling.simulated.median == 1.0
    assert (same.ceiling.people, same.ceiling.scores_per_half, same.tau_over_ceiling) == (150, 75, 1.0)
    assert [s.assistant for s in same.standings] == ["a4", "a3", "a2", "a1", "a0"]
    turned = compare_rankings(human, scored([5, 4, 3, 2, 1]), bootstrap=100, splits=20)
    assert (turned.tau.value, turned.resolved_agreement.value) == (-1.0, 0.0)
    assert turned.regret.value == pytest.approx(4, abs=0.2)
    assert turned.regret_of_chance == pytest.approx(2, abs=0.1)


def test_agreement_minus_that_of_a_user_who_does_not_listen():
    human, simulated = scored([1, 2, 3, 4]), scored([1, 2, 3, 4])
    # The null puts a0 above a1 and is right in the other 5 of 6 pairs.
    beside = compare_rankings(human, simulated, null=scored([2, 1, 3, 4]), bootstrap=200, splits=10)
    assert beside.over_null.value == pytest.approx(1 / 6)
    assert beside.over_null.low >= 0
    assert compare_rankings(human, simulated, null=simulated, bootstrap=50, splits=10).over_null.value == 0
    alone = compare_rankings(human, simulated, bootstrap=200, splits=10)
    assert alone.over_null is None
    assert alone.agreement == beside.agreement
    with pytest.raises(DataError, match="no score with a3"):
        compare_rankings(human, simulated, null=scored([1, 2, 3]), bootstrap=20)


def test_what_cannot_be_said_is_said_to_be_so():
    flat = compare_rankings(scored([1, 2, 3], people=False), scored([1, 1, 1]), bootstrap=50, splits=10)
    assert flat.tau is None
    assert flat.regret.value == pytest.approx(1.0)  # tied for best: the mean of 0, 1, 2
    assert any("the same" in note for note in flat.notes)
    assert any("without a person" in note for note in flat.notes)
    with pytest.raises(DataError, match="2 assistants"):
        compare_rankings(scored([1, 2]), scored([1, 2]))


def test_a_file_of_scores(tmp_path):
    path = tmp_path / "scores.jsonl"
    path.write_text('{"assistant":"a","task":"t","score":1}\n')
    assert read_scores(path) == [Score(assistant="a", task="t", score=1)]
    path.write_text('{"assistant":"a","task":"t"}\n')
    with pytest.raises(DataError, match=r"scores\.jsonl:1: score"):
        read_scores(path)
    path.write_text("")
    with pytest.raises(DataError, match="no scores"):
        read_scores(path)


def test_two_level_intervals_cover_the_tau_of_the_population():
    """Assistants are drawn from a population with rank correlation 2/π·asin(.7), then scored with noise."""
    truth, covered, rng = 2 / math.pi * math.asin(0.7), 0, np.random.default_rng(1)
    for repeat in range(40):
        quality = rng.multivariate_normal([0, 0], [[1, 0.7], [0.7, 1]], size=12)
        sides = [scored(quality[:, s], 20, sd=1.0, seed=repeat * 2 + s, people=False) for s in (0, 1)]
        tau = compare_rankings(*sides, bootstrap=150, splits=1, seed=repeat).tau
        covered += tau.low <= truth <= tau.high
    assert 35 <= covered <= 40  # 38 expected; P(< 35) is 1.4 % at 95 % coverage


def test_intervals_for_few_assistants_as_published():
    assert spearman_interval(0.77, 9) == pytest.approx((0.11, 0.96), abs=0.005)
    low, high = tau_interval(0.0, 9)
    assert (low, high) == pytest.approx((-high, math.tanh(1.96 * math.sqrt(0.437 / 5))), abs=1e-4)


def test_least_significant_tau_from_exact_tables():
    # n = 9: S = 20 of 36 is the first with two-sided p ≤ .05; n = 5: only the perfect order (2 / 120); n = 4: none.
    assert least_significant_tau(9) == pytest.approx(20 / 36)
    assert least_significant_tau(5) == pytest.approx(1)
    assert least_significant_tau(4) is None


def test_variance_components_by_hand():
    groups = [rows(6, 8, 4, 5, 3, 4), rows(8, 12, 9, 11, 6, 8), rows(13, 9, 11, 8, 7, 12)]
    found = components(groups)  # mean squares 42 between, 68 / 15 within
    assert found.between_sd**2 == pytest.approx((42 - 68 / 15) / 6)
    assert found.within_sd**2 == pytest.approx(68 / 15)
    assert found.icc == pytest.approx((42 - 68 / 15) / (42 + 5 * 68 / 15))
    assert found.reliability == pytest.approx(1 - 68 / 15 / 42)
    assert found.p == pytest.approx(0.0024, abs=5e-5)
    assert found.icc_low < found.icc < found.icc_high


def test_pairs_told_apart_by_hand():
    # Differences 4, 5, 1 of groups of six, SD √(68/15): t = 3.25, 4.07, .81 with 15 degrees; p = .005, .001, .43.
    groups = [rows(6, 8, 4, 5, 3, 4), rows(8, 12, 9, 11, 6, 8), rows(13, 9, 11, 8, 7, 12)]
    assert pairs_apart(groups, math.sqrt(68 / 15)) == 2
    assert pairs_apart(groups, 10.0) == 0


def test_scores_needed_by_hand():
    # τ = 2/3 needs a reliability of sin 60°, here of variance shares 1 : 4.
    r = math.sqrt(3) / 2
    assert scores_needed(0.2, 2 / 3) == pytest.approx(4 * r / (1 - r))
    assert scores_needed(-0.02) is None


def test_people_agree_with_people_as_often_as_measured_elsewhere():
    """Measured elsewhere: success SD 8 points, 9 assistants: .42, .63, .76 for 50, 165, 500 conversations each."""
    found = power(9, 0.08, 0.48, rng=np.random.default_rng(0), sizes=(50, 165, 500), repeats=1000)
    assert [one.median for one in found] == pytest.approx([0.42, 0.63, 0.76], abs=0.05)
    assert found[0].low < 0 < found[2].low
    assert expected_tau(1.0) == pytest.approx(1.0)
    assert expected_tau(0.5) == pytest.approx(1 / 3)
