import json

import numpy as np
import pytest

from eval.fidelity.battery import run_battery
from eval.fidelity.confounds import answers_in_words
from eval.fidelity.metrics.texts.folds import matters
from eval.fidelity.report_record import Report
from eval.fidelity.samples.invented import invented
from eval.fidelity.samples.prepare import cut, draws_of, inferred_cap, prepare
from eval.fidelity.settings import EvalConfig
from usersim.errors import DataError
from usersim.types import Conversation, Turn, UserProfile

FAST = ("marginals", "text", "behaviour", "coverage")
QUICK = EvalConfig(bootstrap=100, floor_repeats=20, metrics=FAST, processes=1)
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
    assert not head.is_different
    assert head.different == ()
    assert 0.3 < found["auc_text"].value.value < 0.7


def test_longer_turns_are_seen_where_they_are(report):
    found = figures(report, "wordy")
    assert found["words_per_turn.w1"].verdict == "different"
    assert found["auc_behaviour"].verdict == "different"
    assert found["lowercase_starts.w1"].verdict != "different"
    assert report.simulators[1].headline.is_different


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
            assert figure.floor.repeats == 20


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


def reworded(conversation: Conversation, **change) -> Conversation:
    turns = tuple(t.model_copy(update={"text": t.text + " now"}) for t in conversation.turns)
    return conversation.model_copy(update={"origin": "simulated", "turns": turns, **change})


def test_same_goals_keeps_only_shared_matters():
    human = invented(120, 1)
    twins = [reworded(c) for c in human[:105]]
    config = CHEAP.model_copy(update={"same_goals": True})
    prepared = prepare(human, {"twins": twins}, config)
    assert prepared.human_side.excluded == {"goal not simulated": 15}
    assert prepared.n == 52
    aimless = [c.model_copy(update={"profile": UserProfile()}) for c in twins]
    with pytest.raises(DataError, match="no goal is stated"):
        prepare(human, {"twins": aimless}, config)


def test_sets_that_cannot_be_compared_are_refused_in_one_line():
    human, simulated = invented(120, 1), invented(60, 2, origin="simulated")
    copies = [c.model_copy(update={"origin": "simulated"}) for c in human[:60]]
    with pytest.raises(DataError, match="60 of 60 conversations equal a human one"):
        prepare(human, {"s": copies}, CHEAP)
    with pytest.raises(DataError, match="s: no conversation is left"):
        prepare(human, {"s": []}, CHEAP)
    with pytest.raises(DataError, match="from one user"):
        prepare([c.model_copy(update={"user": "u"}) for c in human], {"s": simulated}, CHEAP)
    few = [c.model_copy(update={"user": f"u{i % 3}"}) for i, c in enumerate(human)]
    with pytest.raises(DataError, match="halves of different people hold 40 at most"):
        prepare(few, {"s": simulated}, CHEAP)


def spoken(text: str, index: int, origin="human", **more) -> Conversation:
    turns = (Turn(role="user", text=f"{text} {index}"), Turn(role="assistant", text="Yes, and more of it."))
    return Conversation(id=f"{origin}{text[:3]}{index}", origin=origin, source="t", turns=turns, **more)


def test_languages_are_told_kept_apart_and_never_mixed_in_silence():
    english = [spoken("what is the best of the trains in this town", i) for i in range(110)]
    german = [spoken("wie ist das und nicht mit dem Zug für mich", i) for i in range(20)]
    simulated = [spoken("how can you do that with the trains", i, "simulated") for i in range(60)]
    prepared = prepare(english + german, {"s": simulated}, CHEAP)
    assert any("human: mixed languages (en 85%, de 15%)" in note for note in prepared.notes)
    kept = prepare(english + german, {"s": simulated}, CHEAP.model_copy(update={"language": "en"}))
    assert kept.human_side.excluded == {"not in en": 20}
    with pytest.raises(DataError, match="s is mostly in 'de', the human conversations in 'en'"):
        prepare(english, {"s": [c.model_copy(update={"origin": "simulated"}) for c in german]}, CHEAP)


def test_differences_of_the_conditions_are_said():
    human = invented(120, 1)
    other = [
        c.model_copy(
            update={"system": "Be brief.", "turns": (c.turns[0], Turn(role="assistant", text="Yes."))}
        )
        for c in invented(60, 2, origin="simulated")
    ]
    broken = [c.model_copy(update={"id": f"{c.id}b", "flags": ("failed",)}) for c in other[:4]]
    prepared = prepare(human, {"s": other + broken}, CHEAP.model_copy(update={"text_characters": 100}))
    notes = " ".join(prepared.notes)
    assert prepared.simulated_sides["s"].excluded == {"failed": 4}
    assert "60 of 60 goals do not occur" in notes
    assert "system prompt is not that of the human side" in notes
    answers = answers_in_words(prepared.simulated_sides["s"], prepared.human_side)
    assert "have 1 words in the median, those to people 12: not the same assistant" in answers
    assert "first 100 characters" in notes
    assert "lower bound" in notes


def test_people_who_are_known_stay_on_one_side_and_are_resampled_whole():
    human = invented(120, 1, per_person=2)
    prepared = prepare(human, {"s": invented(60, 2, origin="simulated", per_person=3)}, CHEAP)
    assert prepared.n == 59
    for split in prepared.splits(CHEAP):
        first, second = ({human[i].user for i in half} for half in (split.first, split.second))
        assert not first & second
    assert any("60 people" in note for note in prepared.notes)
    simulated, people = prepared.compared("s", 0), prepared.compared_human(0)
    draws = draws_of(simulated, people, CHEAP)
    owners = [c.user for c in people.conversations]
    twins = [(i, owners.index(o)) for i, o in enumerate(owners) if owners.index(o) != i]
    assert len(twins) >= 28
    assert all((draws.human_BN[:, i] == draws.human_BN[:, j]).all() for i, j in twins)
    assert len(set(map(tuple, draws.simulated_BN.T.tolist()))) <= 20


def test_figures_that_cannot_be_measured_are_named_with_a_reason():
    config = CHEAP.model_copy(update={"metrics": ("marginals", "disclosure")})
    bare = [c.model_copy(update={"profile": UserProfile()}) for c in invented(110, 1)]
    report = run_battery(bare, {"s": invented(55, 2, origin="simulated")}, config)
    found = report.simulators[0]
    assert "nothing to measure" in found.missing["disclosure.curve"]
    assert "disclosure.curve" not in {figure.key for figure in found.figures}
    named = found.headline
    assert len((*named.different, *named.equivalent, *named.not_told)) == 11


def test_the_number_of_processes_moves_no_number():
    human, simulated = invented(110, 1), {"s": invented(55, 2, origin="simulated")}
    one, two = (
        run_battery(human, simulated, CHEAP.model_copy(update={"processes": processes}))
        for processes in (1, 2)
    )
    assert one.simulators == two.simulators


def test_quiz_nearest_and_farthest_are_there_and_blind(report):
    wordy = report.simulators[1]
    assert len(wordy.nearest) == len(wordy.farthest) == QUICK.examples
    words = [sum(len(t.text.split()) for t in c.turns if t.role == "user") for c in wordy.farthest]
    assert min(words) > np.median([len(t.text.split()) for c in report.human_examples for t in c.turns])
    assert len(report.quiz) == QUICK.quiz
    assert {item.simulator for item in report.quiz} == {"same", "wordy", "few"}
    for item in report.quiz:
        sides = {"first": item.first, "second": item.second}
        assert sides.pop(item.human).origin == "human"
        assert sides.popitem()[1].origin == "simulated"
        assert max(len(item.first.turns), len(item.second.turns)) <= 4
    assert {item.human for item in report.quiz} == {"first", "second"}


def test_the_report_survives_its_file(report):
    assert Report.model_validate(json.loads(json.dumps(report.model_dump(mode="json")))) == report


def test_chat_text_can_be_left_out():
    secret = [
        c.model_copy(update={"turns": (Turn(role="user", text="secret words"), *c.turns[1:])})
        for c in invented(60, 2, origin="simulated")
    ]
    shown = run_battery(invented(110, 1), {"s": secret}, CHEAP)
    hidden = run_battery(invented(110, 1), {"s": secret}, CHEAP.model_copy(update={"examples": 0}))
    assert "secret" in shown.model_dump_json()
    assert "secret" not in hidden.model_dump_json()


def moved(conversation: Conversation, number: int) -> Conversation:
    """The same person with a word of each turn said twice in place of another."""
    turns = []
    for turn in conversation.turns:
        words = turn.text.split(" ")
        if turn.role == "user" and len(words) > 3:
            words[number % len(words)] = words[(number + 1) % len(words)]
        turns.append(Turn(role=turn.role, text=" ".join(words)))
    return conversation.model_copy(
        update={
            "id": f"{conversation.id}-s",
            "origin": "simulated",
            "source": "parrot",
            "turns": tuple(turns),
        }
    )


def test_a_simulator_that_repeats_people_is_reported_and_never_equivalent():
    human = invented(120, 1)
    report = run_battery(human, {"parrot": [moved(c, n) for n, c in enumerate(human)]}, QUICK)
    (parrot,) = report.simulators
    copies = next(gate for gate in parrot.gates if gate.key == "near_copy")
    assert copies.verdict == "different"
    assert copies.simulated.value > 0.8
    assert not any(figure.verdict == "equivalent" for figure in parrot.figures)
    assert any("near-copies" in note for note in report.notes)


def test_near_copies_share_a_matter_and_others_do_not():
    said = "please find me a quiet hotel near the old harbour for two nights in march"
    near = said.replace("quiet", "harbour")
    other = "how long does a loaf of rye bread keep when it is wrapped in paper at home"

    def of(text, name):
        return Conversation(id=name, origin="human", source="s", turns=(Turn(role="user", text=text),))

    one, copy, apart = matters([of(said, "a"), of(near, "b"), of(other, "c")])
    assert one == copy != apart
