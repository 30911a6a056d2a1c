import json

import pytest

from eval.battery import run_battery
from eval.invented import invented
from eval.page import render_page, write_report
from eval.prepare import cut, inferred_cap, prepare
from eval.report import Report
from eval.settings import EvalConfig
from usersim.errors import DataError
from usersim.types import Conversation, Turn

QUICK = EvalConfig(bootstrap=200, floor_repeats=40)
CHEAP = QUICK.model_copy(update={"metrics": ("marginals", "coverage")})


def figures(report: Report, name: str) -> dict:
    return {f.key: f for s in report.simulators if s.name == name for f in s.figures}


@pytest.fixture(scope="module")
def report() -> Report:
    """Same people, people who write two and a half times as much, and eight people over and over."""
    same = invented(60, 2, origin="simulated")
    wordy = invented(60, 3, origin="simulated", words=2.5)
    few = [
        c.model_copy(update={"id": f"{c.id}-{i}", "profile": c.profile}) for i in range(8) for c in same[:8]
    ]
    return run_battery(invented(140, 1), {"same": same, "wordy": wordy, "few": few}, QUICK)


def test_the_same_kind_of_people_is_not_called_different(report):
    found = figures(report, "same")
    head = report.simulators[0].headline
    assert not head.different
    assert head.inside_floor >= head.figures - 1
    assert 0.3 < found["auc_text"].value.value < 0.7


def test_longer_turns_are_seen_where_they_are(report):
    found = figures(report, "wordy")
    assert found["words_per_turn.w1"].verdict == "different"
    assert found["auc_behaviour"].verdict == "different"
    assert found["lowercase_starts.w1"].verdict == "inconclusive"
    assert report.simulators[1].headline.different


def test_mode_collapse_is_seen_by_coverage(report):
    found = figures(report, "few")
    assert found["coverage"].verdict == "different"
    assert found["coverage"].value.value < 0.75 < found["coverage"].floor.low


def test_every_figure_has_an_interval_a_floor_and_an_n(report):
    for simulator in report.simulators:
        for figure in simulator.figures:
            assert figure.value.low <= figure.value.value <= figure.value.high
            assert figure.floor.low <= figure.floor.median <= figure.floor.high
            assert figure.value.n == report.n == 60
            assert figure.floor.repeats == 40


def test_the_same_seed_gives_the_same_report_and_company_changes_nothing():
    human, one, two = (
        invented(110, 1),
        invented(50, 2, origin="simulated"),
        invented(50, 3, origin="simulated"),
    )
    alone = run_battery(human, {"one": one}, CHEAP)
    together = run_battery(human, {"two": two, "one": one}, CHEAP)
    assert alone.simulators[0].figures == run_battery(human, {"one": one}, CHEAP).simulators[0].figures
    assert alone.simulators[0].figures == together.simulators[1].figures


def test_too_few_are_refused_unless_asked_for_and_then_carry_no_verdict():
    human, simulated = invented(98, 1), {"s": invented(60, 2, origin="simulated")}
    with pytest.raises(DataError, match=r"human 98, s 60.*100 of|human 98, s 60.*100 human"):
        run_battery(human, simulated, CHEAP)
    low = run_battery(human, simulated, CHEAP.model_copy(update={"min_n": 20}))
    assert low.n == 49
    assert {f.verdict for f in low.simulators[0].figures} == {"too few"}
    assert any("Too few" in note for note in low.notes)
    assert "Too few" in render_page(low)


@pytest.mark.parametrize(("human", "simulated"), [("simulated", "simulated"), ("human", "human")])
def test_wrong_origin_is_refused(human, simulated):
    with pytest.raises(DataError, match="has origin"):
        run_battery(invented(110, 1, origin=human), {"s": invented(60, 2, origin=simulated)}, CHEAP)


def test_conversations_without_a_user_turn_are_left_out_and_counted():
    silent = Conversation(
        id="s", origin="simulated", source="t", turns=(Turn(role="assistant", text="Hi"),), ended_by="user"
    )
    prepared = prepare(invented(120, 1), {"s": [silent, *invented(55, 2, origin="simulated")]}, CHEAP)
    assert prepared.simulated_sides["s"].excluded == {"no user turn": 1}
    assert prepared.n == 55


def test_humans_are_cut_where_the_simulation_was():
    long = next(c for c in invented(50, 1, leave=0.05) if len(c.turns) > 6)
    short = cut(long, 2)
    assert [t.role for t in short.turns] == ["user", "assistant"] * 2
    assert short.ended_by == "turn_cap"
    assert cut(long, 99) is long
    assert inferred_cap({"s": invented(40, 2, origin="simulated", leave=0.1, cap=3)}) == 3
    assert inferred_cap({"s": [c for c in invented(40, 2) if c.ended_by == "user"]}) is None


def test_same_goals_keeps_only_shared_matters():
    human = invented(120, 1)
    twins = [c.model_copy(update={"origin": "simulated"}) for c in human[:105]]
    prepared = prepare(human, {"twins": twins}, CHEAP.model_copy(update={"same_goals": True}))
    assert prepared.human_side.excluded == {"goal not simulated": 15}
    assert prepared.n == 52
    assert any("word for word" in note for note in prepared.notes)


def test_report_files_are_complete_and_self_contained(report, tmp_path):
    json_file, page = write_report(report, tmp_path / "new")
    assert Report.model_validate(json.loads(json_file.read_text(encoding="utf-8"))) == report
    html = page.read_text(encoding="utf-8")
    assert sorted(p.name for p in (tmp_path / "new").iterdir()) == ["report.html", "report.json"]
    assert "<script" not in html
    assert "http" not in html
    assert html.count('class="row"') == len(report.simulators[0].figures)


def test_chat_text_is_escaped_and_can_be_left_out():
    evil = [
        c.model_copy(update={"turns": (Turn(role="user", text="<b>secret words</b>"), *c.turns[1:])})
        for c in invented(60, 2, origin="simulated")
    ]
    shown = render_page(run_battery(invented(110, 1), {"s": evil}, CHEAP))
    hidden = run_battery(invented(110, 1), {"s": evil}, CHEAP.model_copy(update={"examples": 0}))
    assert "&lt;b&gt;secret words" in shown
    assert "<b>secret" not in shown
    assert "secret" not in render_page(hidden)
    assert "secret" not in hidden.model_dump_json()
