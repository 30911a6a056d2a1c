import json
import math
import os
import sys

import numpy as np
import pytest

from eval.__main__ import main
from eval.fidelity.battery import run_battery
from eval.fidelity.comparison.comparison_record import gap_of, with_winners
from eval.fidelity.comparison.finished_reports import (
    FinishedReport,
    compare_reports,
    differences,
    gap_of_reports,
)
from eval.fidelity.comparison.paired import SimulatorFile, compare_paired, paired_gap, pairs_of
from eval.fidelity.pages.report_page import write_report
from eval.fidelity.report_record import FileFacts
from eval.fidelity.samples.invented import invented
from eval.fidelity.settings import EvalConfig
from usersim.cli import run_main
from usersim.errors import DataError
from usersim.stats.estimates import Estimate, Figure, Floor, Measured
from usersim.storage.records import write_records
from usersim.types import UserProfile

CHEAP = EvalConfig(bootstrap=100, floor_repeats=20, metrics=("marginals",), examples=0)
FILE = FileFacts(path="people.jsonl", sha256="a" * 64)


def people(n=120):
    return invented(n, 1)


def simulated(seed=5, n=60, **habits):
    """One seed, one set of goals and ids, whatever the habits."""
    return invented(n, seed, origin="simulated", **habits)


def compared(first, second, config=CHEAP, humans=120):
    return compare_paired(
        people(humans), FILE, SimulatorFile("a", first, FILE), SimulatorFile("b", second, FILE), config
    )


def figure(value=0.5, low=0.4, high=0.6, *, excess=(0.3, 0.2, 0.4), worse="higher", **more):
    return Figure(
        **{"key": "f", "metric": "M1", "label": "a figure", "unit": "SD", "worse": worse, **more},
        value=Estimate(value=value, low=low, high=high, n=60),
        floor=Floor(median=0.2, low=0.1, high=0.3, repeats=20),
        excess=Estimate(value=excess[0], low=excess[1], high=excess[2], n=60),
        inside_floor=False,
        margin=0.2,
        p=0.01,
        p_holm=0.01,
        verdict="different",
    )


def test_pairs_share_a_goal_and_the_rest_waits():
    a, b, c = simulated(n=3)
    assert pairs_of([a, b, a, c], [c, a, a, a]) == [
        (a.profile.goal.summary, (0, 1)),
        (a.profile.goal.summary, (2, 2)),
        (c.profile.goal.summary, (3, 0)),
    ]


def test_without_a_goal_the_case_pairs():
    a, b = (c.model_copy(update={"profile": UserProfile()}) for c in simulated(n=2))
    assert pairs_of([a, b], [b]) == [(f"case {b.id}", (1, 0))]


def test_a_gap_keeps_what_both_have_in_common_out():
    noise = np.linspace(-5, 5, 9)
    found, p = paired_gap(Measured(3.0, noise + 1), Measured(2.0, noise), 1.0, 60)
    assert (found.value, found.low, found.high, p) == (1.0, 1.0, 1.0, 1e-12)
    found, p = paired_gap(Measured(3.0, noise), Measured(3.0, noise), 1.0, 60)
    assert (found.value, p) == (0.0, 1.0)


def test_the_sign_turns_where_lower_is_worse():
    found, _ = paired_gap(Measured(0.9, np.full(9, 0.9)), Measured(0.6, np.full(9, 0.6)), -1.0, 60)
    assert found.value == pytest.approx(-0.3)


def test_p_counts_replicates_beyond_zero_on_both_sides():
    # Median 1 is already the gap, so centring moves nothing; one of nine is below zero.
    replicates = np.array([-1.0, 0.5, 0.6, 0.7, 1.0, 1.1, 1.2, 1.3, 1.4])
    _, p = paired_gap(Measured(1.0, replicates), Measured(0.0, np.zeros(9)), 1.0, 60)
    assert p == pytest.approx(2 * (1 + 1) / (9 + 1))


def test_where_no_replicate_is_beyond_zero_the_normal_tail_says_how_far():
    # Four deviations of 0.5 among five: by counting p = 2 / 6, by the tail less.
    replicates = np.array([0.5, 0.5, 1.0, 1.5, 1.5])
    z = 1 / math.sqrt(4 * 0.25 / 5)
    _, p = paired_gap(Measured(1.0, replicates), Measured(0.0, np.zeros(5)), 1.0, 60)
    assert p == pytest.approx(math.erfc(z / math.sqrt(2)))


def test_resamples_with_nothing_to_measure_are_left_out_until_they_are_most():
    replicates = np.array([1.0, 1.0, np.nan, 1.0])
    found, p = paired_gap(Measured(1.0, replicates), Measured(0.0, np.zeros(4)), 1.0, 60)
    assert (found.low, p) == (1.0, 1e-12)
    assert paired_gap(Measured(1.0, np.full(4, np.nan)), Measured(0.0, np.zeros(4)), 1.0, 60) is None


def test_winners_are_adjusted_within_headline_figures_and_apart_within_second_views():
    far, near, side = (
        gap_of(figure(), figure(), Estimate(value=v, low=v - 0.1, high=v + 0.1, n=n), p).model_copy(
            update={"key": key, "headline": headline}
        )
        for key, v, n, p, headline in (
            ("far", 0.5, 60, 0.02, True),
            ("near", -0.5, 60, 0.03, True),
            ("side", -0.5, 60, 0.03, False),
        )
    )
    found = {gap.key: gap for gap in with_winners([far, near, side])}
    assert [found[key].p_holm for key in ("far", "near", "side")] == [0.04, 0.04, 0.03]
    assert [found[key].winner for key in ("far", "near", "side")] == ["second", "first", "first"]
    few = with_winners([far.model_copy(update={"gap": far.gap.model_copy(update={"n": 49})})])
    assert few[0].winner == "too few"
    assert with_winners([far.model_copy(update={"p": 0.06})])[0].winner == "inconclusive"


def test_the_wordier_simulator_is_further_from_human_whatever_the_order():
    close, wordy = simulated(n=120), simulated(n=120, words=3)
    found = compared(close, wordy, humans=240)
    assert (found.n, found.goals, found.paired) == (120, 120, True)
    words = next(f for f in found.figures if f.key == "words_per_turn.w1")
    assert words.winner == "first"
    assert words.gap.high < 0
    swapped = next(f for f in compared(wordy, close, humans=240).figures if f.key == "words_per_turn.w1")
    assert (swapped.winner, swapped.gap.value) == ("second", pytest.approx(-words.gap.value))


def test_a_simulator_does_not_win_against_itself():
    found = compared(simulated(), simulated())
    assert {f.p_holm for f in found.figures} == {1.0}
    assert {f.winner for f in found.figures} == {"inconclusive"}
    assert {f.gap.value for f in found.figures} == {0.0}


def test_conversations_of_one_goal_are_one_unit():
    twice = [c.model_copy(update={"id": f"{c.id}-{k}"}) for c in simulated(n=40) for k in (0, 1)]
    found = compared(twice, twice[:60], CHEAP.model_copy(update={"min_n": 20}))
    assert (found.n, found.goals) == (60, 30)
    assert (found.first.left_out, found.second.left_out) == (20, 0)


def test_other_goals_cannot_be_paired():
    with pytest.raises(DataError, match=r"too few pairs: 0 .* one file of goals"):
        compared(simulated(seed=5), simulated(seed=6))


def test_finished_reports_are_taken_as_independent():
    gap = gap_of_reports(figure(excess=(3, 2, 4)), figure(excess=(0, -1, 1)))
    half = math.sqrt(2)
    assert (gap.gap.value, gap.gap.low, gap.gap.high) == pytest.approx((3, 3 - half, 3 + half))
    assert gap.p == pytest.approx(math.erfc(3 / (half / 1.959963984540054) / math.sqrt(2)))
    assert gap_of_reports(figure(), figure()).p == 1.0


@pytest.fixture(scope="module")
def report():
    made = run_battery(people(), {"a": simulated(), "b": simulated(words=2.5)}, CHEAP)
    return made.model_copy(update={"human_file": FILE})


def test_only_reports_of_the_same_people_and_settings_are_compared(report, tmp_path):
    run = FinishedReport(tmp_path, report, report.simulators[0])
    assert differences(report, report) == []
    other = report.model_copy(
        update={
            "human_file": FileFacts(path="others.jsonl", sha256="b" * 64),
            "config": report.config.model_copy(update={"seed": 4, "quiz": 0}),
            "n": 59,
        }
    )
    assert differences(report, other) == [
        "the human file (people.jsonl, others.jsonl: other contents)",
        "n (60, 59)",
        "settings (seed: 0, 4)",
    ]
    with pytest.raises(DataError, match="cannot be compared, they differ in the human file"):
        compare_reports(run, FinishedReport(tmp_path, other, other.simulators[0]))
    nameless = report.model_copy(update={"human_file": None})
    with pytest.raises(DataError, match="one of them does not name"):
        compare_reports(run, FinishedReport(tmp_path, nameless, run.simulator))


def test_a_report_against_itself_has_no_winner(report, tmp_path):
    run = FinishedReport(tmp_path, report, report.simulators[0])
    found = compare_reports(run, run)
    assert not found.paired
    assert {f.winner for f in found.figures} == {"inconclusive"}


def arguments(folder, *sides):
    return ["compare", *sides, "--out", str(folder / "out")]


def test_the_command_writes_three_files_without_text(tmp_path, capsys):
    write_records(tmp_path / "human.jsonl", people())
    write_records(tmp_path / "a.jsonl", simulated())
    write_records(tmp_path / "b.jsonl", simulated(words=2.5))
    (tmp_path / "fast.toml").write_text(
        'metrics = ["marginals"]\nexamples = 0\nfloor_repeats = 20\nbootstrap = 50\n'
    )
    more = ("--human", str(tmp_path / "human.jsonl"), "--config", str(tmp_path / "fast.toml"), "--json")
    sides = (f"<A|_>={tmp_path / 'a.jsonl'}", f"B={tmp_path / 'b.jsonl'}")
    assert run_main(main, [*arguments(tmp_path, *sides), *more]) == 0
    out, err = capsys.readouterr()
    assert json.loads(out) == json.loads((tmp_path / "out" / "compare.json").read_text(encoding="utf-8"))
    assert json.loads(out)["human_file"]["path"].endswith("human.jsonl")
    shown = " ".join(err.split())
    assert (
        "Closer to people, <A|_>: words of the opening; words per turn. Closer to people, B: none." in shown
    )
    assert "Not told: user turns per conversation;" in shown
    page = (tmp_path / "out" / "compare.html").read_text(encoding="utf-8")
    assert page.count('<b class="c0 own">&lt;A|_&gt;</b>') >= 2
    assert not any(word in page for word in ("<A|", "<script", "http", "settle matter"))
    table = (tmp_path / "out" / "compare.md").read_text(encoding="utf-8")
    assert "| metric | \\<A\\|\\_\\> | B | difference | p | closer |" in table


def test_paths_that_are_no_text_are_compared(tmp_path, capsys, monkeypatch):
    human, ours, theirs = (
        tmp_path / os.fsdecode(name) for name in (b"h\xff.jsonl", b"a\xff.jsonl", b"b.jsonl")
    )
    write_records(human, people())
    write_records(ours, simulated())
    write_records(theirs, simulated(words=2.5))
    fast = tmp_path / "fast.toml"
    fast.write_text(
        'metrics = ["marginals"]\nexamples = 0\nfloor_repeats = 20\nbootstrap = 50\n', encoding="utf-8"
    )
    words = [
        *arguments(tmp_path, str(ours), str(theirs)),
        "--human",
        str(human),
        "--config",
        str(fast),
        "--json",
    ]
    monkeypatch.setattr(sys, "argv", ["usersim", "eval", *words])
    assert run_main(main, words) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["human_file"]["path"], found["first"]["name"]) == (
        f"{tmp_path}/h\ufffd.jsonl",
        "a\ufffd",
    )
    assert f"{tmp_path}/h\ufffd.jsonl" in found["command"]


def test_two_finished_folders_can_be_compared_by_name(report, tmp_path, capsys):
    write_report(report, tmp_path / "run")
    sides = (f"a={tmp_path / 'run'}", f"b={tmp_path / 'run'}")
    assert run_main(main, arguments(tmp_path, *sides)) == 0
    found = json.loads((tmp_path / "out" / "compare.json").read_text(encoding="utf-8"))
    assert (found["paired"], found["goals"]) == (False, None)
    assert next(f for f in found["figures"] if f["key"] == "words_per_turn.w1")["gap"]["value"] < 0


@pytest.mark.parametrize(
    ("sides", "more", "message"),
    [
        (("{}/run", "a={}/run"), (), "holds a, b: write NAME="),
        (("c={}/run", "a={}/run"), (), "holds a, b: write NAME="),
        (("{}/nowhere", "a={}/run"), (), "no such file"),
        (("a={}/run", "b={}/run"), ("--seed", "3"), "need --human"),
        (("a={}/run/report.json", "b={}/run"), (), "add --human"),
        (("x={}/f.jsonl", "x={}/f.jsonl"), ("--human", "h"), "both simulators are called x"),
        (("=nothing", "x=y"), (), "write NAME=PATH"),
    ],
)
def test_what_the_operator_can_fix_is_one_line_and_two(report, tmp_path, capsys, sides, more, message):
    write_report(report, tmp_path / "run")
    assert run_main(main, [*arguments(tmp_path, *(s.format(tmp_path) for s in sides)), *more]) == 2
    err = capsys.readouterr().err
    assert message in err
    assert "Traceback" not in err
    assert not (tmp_path / "out").exists()
