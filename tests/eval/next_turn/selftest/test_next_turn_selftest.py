import json

import numpy as np
import pytest

from eval.__main__ import main
from eval.next_turn.metrics.values import ClusterSums, Values, estimate, p_unpaired
from eval.next_turn.selftest.detection import self_test
from eval.next_turn.selftest.instruments import Instruments
from eval.next_turn.selftest.people_against_people import (
    cluster_counts,
    coverage,
    halves,
    intervals,
    pairs,
    split_masks,
)
from eval.next_turn.selftest.planted_table import TABLE, row
from eval.next_turn.selftest.selftest_page import headline, html, markdown, write_selftest
from eval.next_turn.selftest.selftest_record import SelfTestConfig
from eval.next_turn.selftest.selftest_sample import sample
from tests.eval.next_turn.selftest.stand_ins import instruments
from tests.eval.next_turn.selftest.test_planted import conversation, people
from usersim.cli import run_main
from usersim.errors import DataError
from usersim.stats.estimates import Estimate, rng_for
from usersim.storage.records import write_records

FAST = SelfTestConfig(permutations=4_000, splits=20, resamples=200, n=80)


def varied(count: int = 80):
    """People of whom half leave after two turns, and who differ in what they ask about."""
    return [c.model_copy(update={"turns": c.turns[: 4 if int(c.id[1:]) % 2 else 8]}) for c in people(count)]


@pytest.fixture(scope="module")
def report():
    chosen = sample(varied(), FAST)
    return self_test(chosen, instruments(chosen.material), FAST)


def test_users_are_caught_by_the_metric_meant_for_them(report) -> None:
    for name in (
        "shuffled_words",
        "gibberish_characters",
        "deaf",
        "thanks_added",
        "drifting",
        "never_leaves",
    ):
        assert report.planted_caught[name], name
    deaf = next(user for user in report.users if user.name == "deaf")
    assert deaf.caught_by == ("coherence.answer.embedding",)
    assert deaf.changed > 0.8


def test_a_user_is_not_judged_where_no_metric_meant_for_it_exists(report) -> None:
    assert "acts.voice" in report.planted_left_out["assistant_voice"]
    assert "no file" in report.planted_left_out["prompted_base"]
    assert not {"assistant_voice", "prompted_base"} & set(report.planted_caught)


def test_the_positive_control_is_above_0_and_the_clock_is_not(report) -> None:
    gains = {
        user.name: next(cell for cell in user.cells if cell.key == "leaving.gain.turn")
        for user in report.users
        if user.name in ("ends_on_content", "leaves_by_turn_number")
    }
    assert gains["leaves_by_turn_number"].value.value < 0.05
    assert gains["leaves_by_turn_number"].is_caught == (gains["leaves_by_turn_number"].value.high < 0.02)


def test_pages_hold_every_cell_and_no_chat_text(report, tmp_path) -> None:
    write_selftest(report, tmp_path)
    stored = json.loads((tmp_path / "report.json").read_text())
    assert stored["planted_caught"]["deaf"] is True
    for text in (html(report), markdown(report), json.dumps(stored)):
        assert "tell me about bread" not in text
        assert "Monday" not in text
    assert html(report).count("m meant") >= sum(report.planted_caught.values())
    assert "80 conversations" in markdown(report)
    assert any("planted users are caught" in line for line in headline(report))


def test_an_effect_too_small_for_the_sample_says_what_sample_it_needs() -> None:
    from eval.next_turn.selftest.selftest_record import PlantedCell
    from eval.next_turn.selftest.verdicts import judge_cell

    one = Estimate(value=0.02, low=-0.02, high=0.06, n=100)
    cell = PlantedCell(
        key="k", value=one, people=0.0, difference=one, error=0.02, z=1.0, p=0.3, p_holm=0.3, is_meant=False,
        is_caught=False,
    )  # fmt: skip
    # z of 0.01 two-sided is 2.5758, of 80 % power 0.8416: 100 * (3.4175 * 0.02 / 0.02)^2 = 1167.9.
    assert judge_cell(cell, "higher", 1.0, 1).needed_n == 1168
    assert judge_cell(cell, "lower", 1.0, 1).needed_n is None
    # (1.96 + 0.8416) * 0.02 / (0.02 - 0.01) = 5.603; 100 * 31.4.
    bounded = cell.model_copy(update={"value": one.model_copy(update={"value": 0.01})})
    assert judge_cell(bounded, "bounded", 1.0, 1).needed_n == 3140


def test_a_halves_split_has_half_of_every_source() -> None:
    masks = split_masks(["a"] * 6 + ["b"] * 4 + ["c"] * 3, 50, rng_for(0, "t"))
    assert set(masks[:, :6].sum(1)) == {3}
    assert set(masks[:, 6:10].sum(1)) == {2}
    assert set(masks[:, 10:].sum(1)) == {1}


def test_p_of_halves_is_that_of_the_unpaired_test_and_seldom_small() -> None:
    rng = rng_for(3, "t")
    sums = {f"m{i}": ClusterSums(rng.exponential(size=60), np.ones(60)) for i in range(5)}
    found = halves(sums, ["s"] * 60, splits=100, permutations=2_000, seed=0)
    assert found.share <= 0.06
    assert found.metrics == 5
    assert found.repeats == 100
    # Two kinds of people, which the sources tell: a split by source would be found at once.
    apart = {"m": ClusterSums(np.repeat([0.0, 9.0], 30), np.ones(60))}
    seen = halves(apart, ["one"] * 30 + ["two"] * 30, splits=100, permutations=2_000, seed=0)
    assert seen.share == 0.0
    mask = np.arange(60) < 30
    parts = [ClusterSums(apart["m"].numerator_C[m], apart["m"].denominator_C[m]) for m in (mask, ~mask)]
    assert p_unpaired(*parts, rng, 2_000) == pytest.approx(1 / 2001)


def test_pairs_of_people_are_seldom_told_apart() -> None:
    rng = rng_for(4, "t")
    clusters = [f"p{i}" for i in range(60) for _ in range(3)]
    values = {f"m{i}": Values(rng.exponential(size=180), np.ones(180)) for i in range(5)}
    found = pairs(values, clusters, ["s"] * 180, [1, 2, 3] * 60, splits=50, permutations=2_000, seed=0)
    assert found.share <= 0.06
    assert found.form == "pairs"


@pytest.mark.parametrize("is_share", [True, False])
def test_intervals_of_all_resamples_at_once_are_those_of_estimate(is_share: bool) -> None:
    rng = rng_for(5, "t")
    denominators = rng.integers(0, 6, 40).astype(float)
    numerators = rng.binomial(denominators.astype(int), 0.2).astype(float)
    sums = ClusterSums(numerators, denominators)
    counts = cluster_counts(40, 25, 0)
    lows, highs = intervals(sums, counts, is_share=is_share)
    for count_C, low, high in zip(counts, lows, highs, strict=True):
        drawn = np.repeat(np.arange(40), count_C.astype(int))
        one = estimate(ClusterSums(numerators[drawn], denominators[drawn]), is_share=is_share)
        assert (one.low, one.high) == (pytest.approx(low), pytest.approx(high))


def test_coverage_is_about_95_percent_also_for_rare_acts_and_talkative_people() -> None:
    rng = rng_for(6, "t")
    turns = np.minimum(rng.pareto(1.2, 200) * 2 + 1, 150).astype(int)
    clusters = [f"p{i}" for i, count in enumerate(turns) for _ in range(count)]
    mean, rare = rng.exponential(size=len(clusters)), (rng.random(len(clusters)) < 0.02).astype(float)
    counts = cluster_counts(200, 1_000, 0)
    for column, is_share in ((mean, False), (rare, True)):
        sums = ClusterSums.of(Values(column, np.ones(len(column))), clusters)
        assert 0.92 <= coverage(sums, counts, is_share=is_share) <= 0.98
    with pytest.raises(ValueError, match="the same for all"):
        coverage(ClusterSums(np.zeros(5), np.ones(5)), cluster_counts(5, 10, 0))


def test_few_conversations_missing_goals_and_other_languages_are_said_and_counted() -> None:
    russian = conversation(70, "расскажи мне про хлеб и про поезда", "сколько стоит хлеб в Москве")
    silent = conversation(71, "hello").model_copy(update={"turns": conversation(71, "hello").turns[:1]})
    no_goal = conversation(72, "tell me about the taxes that I have to pay", ended="unknown")
    chosen = sample([*varied(12), russian, silent, no_goal, varied(12)[0]], FAST)
    assert dict(chosen.excluded) == {
        "not in en": 1,
        "no assistant turn": 1,
        "a second one with the same id": 1,
    }
    notes = " ".join(chosen.notes)
    assert "Fewer than 50 conversations" in notes
    assert "1 of 13 conversations have no goal" in notes
    assert "Of 1 of 13 conversations it is not known who ended them" in notes
    with pytest.raises(DataError, match=r"at least two people; usable: 0 \(left out: 1 no assistant turn\)"):
        sample([silent], FAST)


def test_the_command_writes_the_three_files(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(
        "eval.next_turn.selftest_instruments.instruments",
        lambda chosen, config, journal: instruments(chosen.material),
    )
    file = tmp_path / "people.jsonl"
    write_records(file, varied(60))
    out = tmp_path / "out"
    assert run_main(main, ["next-turn-selftest", "--human", str(file), "--out", str(out), "--quick"]) == 0
    stored = json.loads((out / "report.json").read_text())
    assert stored["conversations"] == 60
    assert stored["config"]["meant_only"]
    assert set(stored["planted_caught"]) <= {user.name for user in TABLE}
    measured = {cell["key"] for user in stored["users"] for cell in user["cells"] if user["name"] == "deaf"}
    assert measured <= {e.key for user in TABLE for e in user.expectations}
    assert {"report.json", "report.md", "report.html"} == {path.name for path in out.iterdir()}


def test_without_instruments_nothing_isjudge_cell() -> None:
    chosen = sample(varied(10), FAST)
    found = self_test(chosen, Instruments([]), FAST)
    assert found.planted_caught == {}
    assert found.human_false_positives is None
    assert row("deaf").label == "deaf"
