import json
import os
import sys

import numpy as np
import pytest

from eval.__main__ import main
from eval.fidelity.samples.invented import invented
from eval.fidelity.settings import EvalConfig
from eval.papers.user_sim_index.features import DIMENSIONS, FEATURES, features
from eval.papers.user_sim_index.index import dice, scores
from eval.papers.user_sim_index.index_comparison import OptionalTerms, compare
from eval.papers.user_sim_index.outcomes import SessionOutcome, bin_rows, calibrate, null_ece, read_difficulty
from eval.papers.user_sim_index.survey import Answers, agreement
from usersim.cli import run_main
from usersim.errors import DataError
from usersim.storage.records import write_records
from usersim.types import Conversation, Turn

SHOP = (
    "Please cancel order #W12345 for me",  # 6 words; polite; identifiers: please, cancel, w12345
    "ok!",  # short, an acknowledgement
    "Are you sure? That's wrong — I think",  # 7 words; a dash; pushback, uncertainty, accusation
    "what do you mean by account",  # 6 words; clarification; account (seven letters)
    "how much is it instead",  # 5 words; question, pivot; instead (seven letters)
)
QUIET = ("blue bike",)
AGENT = ("How may I assist you?", "i am so angry, this is definitely useless")


@pytest.mark.parametrize(
    ("feature", "value"),
    [
        ("politeness_rate", 1 / 5),
        ("short_msg_rate", 1 / 5),
        ("formality_rate", 1 / 5),
        ("ack_only_rate", 1 / 5),
        # 6, 1, 8, 6, 5 words (the dash stands alone): mean 5.2, variance (0.64+17.64+7.84+0.64+0.04)/5 = 5.36
        ("verbosity_cv", 5.36**0.5 / 5.2),
        ("repeat_rate", 0.0),
        ("id_confuse_rate", 0.0),
        ("info_frontload", 7 / 26),
        ("id_density", (3 + 0 + 0 + 1 + 1) / 5),
        ("user_words_per_turn", 26 / 5),
        ("opening_words", 6.0),
        ("uncertainty_rate", 1 / 5),
        ("certainty_rate", 0.0),
        ("pushback_q_rate", 1 / 5),
        ("clarify_q_rate", 1 / 5),
        ("info_q_rate", 1 / 5),
        ("emotion_rate", 0.0),
        ("accusation_rate", 1 / 5),
        ("pivot_rate", 1 / 5),
    ],
)
def test_every_feature_of_a_conversation_worked_out_by_hand(feature, value):
    assert features(SHOP)[feature] == pytest.approx(value)


def test_features_that_the_first_conversation_leaves_at_zero():
    found = features(AGENT)
    assert found["id_confuse_rate"] == 1.0  # of the conversation, not of its turns
    assert (found["emotion_rate"], found["certainty_rate"], found["accusation_rate"]) == (0.5, 0.5, 0.5)


def test_nineteen_features_in_the_published_grouping():
    assert [len(keys) for keys in DIMENSIONS.values()] == [7, 4, 5, 3]
    assert tuple(features(QUIET)) == FEATURES


def test_a_trigram_repeats_only_from_the_eleventh_time():
    assert features(("go on please",) * 10)["repeat_rate"] == 0.0
    assert features(("go on please",) * 11)["repeat_rate"] == 1.0


def test_a_turn_is_one_kind_of_question_and_pushback_comes_first():
    found = features(("are you sure? what do you mean, how much is it",))
    assert [found[k] for k in ("pushback_q_rate", "clarify_q_rate", "info_q_rate")] == [1.0, 0.0, 0.0]


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("mail bob@shop.com", 1),  # an address counts once
        ("code ab_cd_123 and 12345", 2),
        ("gift_card_9 or paypal_1", 2),
        ("i will wait here", 0),
        ("the reservation", 1),  # as published: any word of six letters
    ],
)
def test_what_counts_as_an_identifier(text, count):
    assert features((text,))["id_density"] == count


@pytest.mark.parametrize("text", ["I don’t know", "i dont know", "I don't know"])  # noqa: RUF001
def test_apostrophes_may_be_curly_or_missing(text):
    assert features((text,))["uncertainty_rate"] == 1.0


def test_marks_between_words_part_a_phrase():
    assert features(("not, sure",))["uncertainty_rate"] == 0.0


def test_phrases_are_whole_words():
    assert features(("the thinker displeased me",))["politeness_rate"] == 0.0


def test_conversations_without_words_have_finite_features():
    assert features(("  ", ""))["info_frontload"] == 0.0
    assert features(("  ", ""))["verbosity_cv"] == 0.0


def test_dice_of_two_means():
    assert dice(np.array([1.0, 0.0, 0.0, 2.0]), np.array([3.0, 0.0, 2.0, 2.0])) == pytest.approx(
        [0.5, 1.0, 0.0, 1.0]
    )


def test_dimensions_are_means_over_their_features():
    human, simulated = np.ones(19), np.ones(19)
    simulated[FEATURES.index("pivot_rate")] = 3.0  # Dice 0.5, one of three of D4: 100 (1 + 1 + 0.5) / 3
    found = scores(simulated, human)
    assert found[:4] == pytest.approx([100, 100, 100, 250 / 3])
    assert found[4] == pytest.approx((300 + 250 / 3) / 4)


# -- outcomes --------------------------------------------------------------------------------------

DIFFICULTY = {"a": 0.1, "b": 0.1, "c": 0.9, "d": 0.2}


def outcomes():
    """Bin 0 (a, b): the simulator wins one, people none. Bin 1 (d): both win. Bin 4 (c): only people."""
    ours, theirs = {"a": 1, "b": 0, "c": 0, "d": 1}, {"a": 0, "b": 0, "c": 1, "d": 1}
    rows = [SessionOutcome(by="s", task=task, reward=won) for task, won in ours.items()]
    return rows + [SessionOutcome(by="human", task=task, reward=won) for task, won in theirs.items()]


def test_calibration_error_by_hand():
    found = calibrate(outcomes(), "s", DIFFICULTY, bootstrap=50, seed=0, draws=50)
    # bin 0: 2/4 · |1/2 - 0|, bin 1: 1/4 · 0, bin 4: 1/4 · |0 - 1|
    assert found.ece.value == pytest.approx(0.5)
    assert [b.tasks for b in found.bins] == [2, 1, 1]
    assert found.excess.value == pytest.approx(0.5 - found.null_mean)


def test_a_calibration_error_of_runs_is_the_mean_over_pairs():
    again = [
        SessionOutcome(by="s", task=o.task, reward=o.reward, run=2) for o in outcomes() if o.by == "human"
    ]
    found = calibrate([*outcomes(), *again], "s", DIFFICULTY, bootstrap=50, seed=0, draws=50)
    assert found.ece.value == pytest.approx((0.5 + 0.0) / 2)


def test_the_null_of_one_coin_is_a_half():
    """One task of p = 1/2: two runs differ half of the time, and then by 1."""
    null = null_ece(np.zeros((1, 1)), np.zeros((1, 1)), np.array([0.5]), draws=4000, seed=0)
    assert set(np.unique(null)) == {0.0, 1.0}
    assert null.mean() == pytest.approx(0.5, abs=0.03)


def test_the_null_at_the_size_of_the_paper():
    """Bins of 4, 17, 37, 66, 41 tasks as in the frozen map: about 0.075 for one pair (fidelity of the paper: 0.069)."""
    p = np.repeat([0.1, 0.3, 0.5, 0.7, 0.9], [4, 17, 37, 66, 41])
    null = null_ece(np.zeros((165, 1)), np.zeros((165, 1)), p, draws=1000, seed=0)
    assert null.mean() == pytest.approx(0.075, abs=0.006)
    assert np.quantile(null, [0.025, 0.975]) == pytest.approx([0.024, 0.139], abs=0.015)


def test_a_difficulty_on_a_cut_off_belongs_to_the_bin_above():
    assert bin_rows([0.19, 0.2, 1.0]).argmax(1).tolist() == [0, 1, 4]


def test_missing_outcomes_are_an_error_and_not_a_zero():
    with pytest.raises(DataError, match="no task with an outcome"):
        calibrate(outcomes(), "somebody", DIFFICULTY, bootstrap=50, seed=0)


def test_a_difficulty_file_may_be_wrapped_and_must_hold_shares(tmp_path):
    path = tmp_path / "d.json"
    path.write_text(json.dumps({"source": "x", "difficulty": {"a": 0.25}}))
    assert read_difficulty(path) == {"a": 0.25}
    path.write_text(json.dumps({"a": 25}))
    with pytest.raises(DataError, match="not a share"):
        read_difficulty(path)


def test_survey_agreement_by_hand():
    human = Answers(by="human", task="a", levels={"overall": 5, "human_like": 1})
    ours = Answers(by="s", task="a", levels={"overall": 3, "human_like": 1})
    found = agreement([human, ours], "s", bootstrap=50, seed=0)
    assert found.score.value == pytest.approx(100 * (1 - (2 / 4 + 0) / 2))
    assert found.invented == 0
    silent = agreement([human, Answers(by="s", task="a", levels={})], "s", bootstrap=50, seed=0)
    assert silent.invented == 2


# -- the whole -------------------------------------------------------------------------------------

FAST = EvalConfig(bootstrap=40, floor_repeats=20)


def test_other_people_reach_the_ceiling_and_a_repeated_few_do_not_cover_them():
    human, others = invented(160, 1), invented(80, 2, origin="simulated")
    few = [c.model_copy(update={"id": f"{c.id}-{i}"}) for i in range(20) for c in others[:4]]
    report = compare([human], {"others": others, "few": few}, config=FAST)
    by_name = {s.name: {f.key: f for f in s.figures} for s in report.simulators}
    assert report.n == 80
    assert by_name["others"]["D1-D4"].inside_floor
    assert by_name["few"]["coverage"].verdict == "different"
    assert by_name["others"]["coverage"].verdict != "different"
    assert [s.published.label for s in report.simulators] == ["D1-D4 only"] * 2


def test_identical_conversations_score_a_hundred():
    human = invented(100, 1)
    copies = [c.model_copy(update={"origin": "simulated"}) for c in human]
    published = compare([human], {"copy": copies}, config=FAST).simulators[0].published
    assert published.usi.value == pytest.approx(100.0)
    assert published.usi_sd is None


def test_the_published_formula_weighs_six_terms_alike():
    human = invented(100, 1)
    copies = [c.model_copy(update={"origin": "simulated"}) for c in human]
    survey = [
        Answers(by="human", task="a", levels={"overall": 5}),
        Answers(by="s", task="a", levels={"overall": 3}),
    ]
    beyond = OptionalTerms(outcomes(), DIFFICULTY, survey)
    published = compare([human], {"s": copies}, beyond, FAST).simulators[0].published
    assert published.label == "D1-D4, Eval and ECE"
    assert published.usi.value == pytest.approx((4 * 100 + 50 + 100 * (1 - 0.5)) / 6)
    assert published.usi.low < published.usi.value < published.usi.high


def test_batches_of_people_give_the_spread_of_the_paper():
    simulated = {"s": invented(60, 3, origin="simulated")}
    both = compare([invented(60, 1), invented(60, 2)], simulated, config=FAST).simulators[0].published
    alone = [
        compare([invented(60, k), invented(60, 9)], simulated, config=FAST).simulators[0].published
        for k in (1, 2)
    ]
    assert both.usi_sd is not None
    assert both.usi_sd > 0
    assert alone[0].usi.value != alone[1].usi.value


def test_too_few_and_conversations_without_a_user_turn():
    silent = Conversation(
        id="x", origin="simulated", source="s", turns=(Turn(role="assistant", text="Hello?"),)
    )
    simulated = [*invented(60, 2, origin="simulated"), silent]
    found = compare([invented(120, 1)], {"s": simulated}, config=FAST).simulators[0]
    assert (found.given, found.empty, found.published.usi.n) == (61, 1, 60)
    with pytest.raises(DataError, match="too few conversations"):
        compare([invented(80, 1)], {"s": simulated}, config=FAST)


def test_command_writes_json_and_markdown(tmp_path, capsys, monkeypatch):
    human = tmp_path / os.fsdecode(b"h\xff.jsonl")  # a path that is no text
    write_records(human, invented(110, 1))
    write_records(tmp_path / "s.jsonl", invented(55, 2, origin="simulated"))
    write_records(tmp_path / "o.jsonl", outcomes())
    (tmp_path / "d.json").write_text(json.dumps(DIFFICULTY))
    common = ["usi", "--human", str(human), "--simulated", f"s={tmp_path / 's.jsonl'}"]
    fast = ["--bootstrap", "40", "--floor-repeats", "20", "--out", str(tmp_path / "out"), "--json"]
    files = ["--outcomes", str(tmp_path / "o.jsonl"), "--difficulty", str(tmp_path / "d.json")]
    monkeypatch.setattr(sys, "argv", ["usersim", "eval", *common])
    assert run_main(main, [*common, *fast, *files]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report == json.loads((tmp_path / "out" / "usi.json").read_text())
    assert report["human_files"][0]["path"] == f"{tmp_path}/h\ufffd.jsonl"
    assert f"{tmp_path}/h\ufffd.jsonl" in report["command"]
    assert report["simulators"][0]["published"]["label"] == "D1-D4 and ECE"
    text = (tmp_path / "out" / "usi.md").read_text()
    assert "| D4 | pivot_rate |" in text
    assert "two draws from the same probabilities" in text
    assert run_main(main, [*common, *fast, *files[:2]]) == 2
    assert "given together" in capsys.readouterr().err
