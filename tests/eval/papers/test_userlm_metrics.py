import asyncio
import json

import numpy as np
import pytest

from eval.__main__ import main
from eval.fidelity.samples.invented import invented
from eval.likelihood.drawing import Batch, DrawJournal, draw
from eval.likelihood.roles import Said
from eval.papers.userlm import intent, naturalness, role, termination, wording
from eval.papers.userlm.intent import Diversion
from eval.papers.userlm.metric_rows import Value, ratio
from eval.papers.userlm.temptations import QUESTIONS, TOPICS
from eval.papers.userlm.wording import SpeakerSample
from usersim.cli import run_main
from usersim.stats.estimates import Estimate
from usersim.storage.records import write_records
from usersim.testing import ScriptedUser
from usersim.types import Conversation, Goal, Turn, UserProfile, UserTurn


def talk(name, *texts, goal=None, origin="human", ended_by="user"):
    """User and assistant in turn, from the user."""
    turns = [Turn(role=("user", "assistant")[i % 2], text=text) for i, text in enumerate(texts)]
    profile = UserProfile(goal=Goal(summary=goal) if goal else None)
    return Conversation(
        id=name, origin=origin, source="t", turns=tuple(turns), profile=profile, ended_by=ended_by
    )


def side(conversations, name="s", bootstrap=50):
    return SpeakerSample.of(name, conversations, bootstrap, 0)


# -- first-turn diversity --------------------------------------------------------------------------


def test_diversity_by_hand():
    """{a b} {b c}: 1/3 shared; either with {d}: nothing. Mean over three pairs: 1/9."""
    found = wording.diversity(["A b", "b c", "d"], np.ones((1, 3)))
    assert found.value == pytest.approx(1 - (1 / 3) / 3)


def test_marks_are_unigrams_and_case_is_not_read():
    assert wording.jaccard(["Hi!", "hi"])[0, 1] == pytest.approx(1 / 2)


def test_a_resampled_conversation_is_not_paired_with_its_own_copy():
    counts = np.array([[2.0, 1.0, 0.0]])  # the pairs of two different ones: (a b, b c) twice
    assert wording.diversity(["a b", "b c", "d"], counts).replicates[0] == pytest.approx(1 - 1 / 3)


def test_repeated_first_turns_are_less_diverse_than_people_and_the_gap_says_so():
    human = [talk(f"h{i}", f"word{i} thing{i}") for i in range(30)]
    same = [talk(f"s{i}", "write me a poem", origin="simulated") for i in range(30)]
    row = wording.first_turns(side(same), side(human, "people"))
    assert (row.value.value, row.human.value) == (0.0, 1.0)
    assert row.gap.high < 0


# -- intent decomposition --------------------------------------------------------------------------

GOALS = (
    *("plan a cheap trip to Rome", "fix a bug in Python code", "cook soup for the family"),
    *("write a letter to the bank", "train for a marathon", "learn the guitar", "repair a bicycle"),
    *(
        "name a puppy",
        "grow tomatoes on a balcony",
        "translate a poem",
        "prepare for an interview",
        "paint a wall",
    ),
)


def planned(texts, origin="simulated"):
    """Two conversations a goal, each of which says `texts(goal)`."""
    return [
        talk(f"{origin}{i}", *texts(goal), goal=goal, origin=origin)
        for i, goal in enumerate(goal for goal in GOALS for _ in range(2))
    ]


def parrots(goal):
    return (goal, "ok", goal)


def strangers(_):
    return ("zebra stripes at night", "ok", "more zebras")


def test_overlap_counts_content_words_by_turn():
    found = wording.decompose([talk("a", "cheap hotels in Rome", "ok", "thanks", goal=GOALS[0])], 0)
    # cheap, hotels, Rome: two of three stand in the goal; "thanks" none of one
    assert found.overlap_NT[0, :2] == pytest.approx([2 / 3, 0.0])
    assert found.overlap_n_NT[0].tolist() == [1, 1, 0, 0, 0]
    assert found.relevance_n_NT.sum() == 0  # one goal alone cannot be told from others


def test_a_user_off_topic_shares_no_word_but_is_not_praised():
    human = planned(parrots, origin="human")
    mine, theirs = side(planned(strangers)), side(human, "people")
    tables = [wording.decompose(s.conversations, 0) for s in (mine, theirs)]
    rows = {r.key: r for r in wording.decomposition_rows(mine, tables[0], theirs, tables[1])}
    assert rows["overlap"].value.value == 0.0
    assert rows["relevance"].gap.high < 0
    assert "no merit" in rows["overlap"].note
    assert rows["relevance"].human.value == 1.0


def test_a_ratio_over_nothing_is_none():
    assert ratio(np.zeros(2), np.zeros(2), np.ones((3, 2))) is None


def test_differences_leave_out_resamples_over_nothing():
    a = Value(0.5, np.array([0.4, np.nan, 0.6]), 3)
    b = Value(0.1, np.array([0.1, 0.1, 0.1]), 5)
    assert a.less(b).value == pytest.approx(0.4)
    assert a.less(b).n == 3


# -- naturalness -----------------------------------------------------------------------------------


def test_the_threshold_is_where_nine_of_ten_people_pass():
    people = np.arange(10.0)  # the threshold is 0: the smallest
    found = naturalness.pass_rate(np.array([-1.0, 0.0, 5.0]), people, np.ones((2, 3)), np.ones((2, 10)))
    assert found.value == pytest.approx(2 / 3)
    assert found.replicates == pytest.approx([2 / 3, 2 / 3])


def test_people_pass_for_people_and_a_fixed_phrase_does_not():
    human = invented(60, 1)
    loud = [
        talk(f"s{i}", f"Certainly! I would be delighted to see {i}.", origin="simulated") for i in range(30)
    ]
    row = naturalness.naturalness(side(loud), side(human[:30], "people"), human, "openings", 0)
    assert row.value.value < 0.1
    assert row.human.value > 0.75
    assert row.gap.high < 0


# -- termination -----------------------------------------------------------------------------------


def batch_of(asks, user):
    async def everything():
        return Batch(turns={a.key: await user(a.profile, a.turns, seed=0) for a in asks})

    return asyncio.run(everything())


TALKS = [
    talk("a", "q", "x", "q2", "x"),  # leaves at the second answer
    talk("b", "q", "x", "q2", "x", "q3", "x"),  # at the third
    talk("c", "q", "x", "q2", "x", ended_by="cut"),  # unknown
]


def test_places_of_leaving():
    assert [a.key for a in termination.end_asks(TALKS)] == [
        *("end a 2", "end a 4", "end b 2", "end b 4", "end b 6", "end c 2")
    ]


def test_f1_of_a_user_who_leaves_after_two_turns():
    """Leaves at a4 (right) and b4, b6 (one wrong, one right): precision 2/3, recall 1, F1 0.8; 2 of 6 leave."""
    batch = batch_of(termination.end_asks(TALKS), ScriptedUser("q", "q2"))
    found = termination.ends("s", TALKS, batch, np.ones((20, 3)))
    assert found.drawn.at_half.f1.value == pytest.approx(0.8)
    assert (found.drawn.base_rate, found.drawn.always_f1) == pytest.approx((1 / 3, 1 / 2))
    assert found.probability is None  # it states 0 or 1 only
    row = termination.end_rows(found)[0]
    assert row.human is None
    assert "always 0.50" in row.note


def test_termination_without_anybody_leaving_is_not_a_zero():
    batch = batch_of(termination.end_asks(TALKS[2:]), ScriptedUser("q"))
    assert termination.ends("s", TALKS[2:], batch, np.ones((20, 1))) is None


# -- role and intent adherence ---------------------------------------------------------------------


def said(text):
    return UserTurn(
        text=text, ends=not text, end_probability=0.0, finish="stop", logprob=0.0, tokens=len(text.split())
    )


def test_questions_have_five_choices_and_differ():
    assert all(len(q.choices) == 5 for q in QUESTIONS)
    assert len({q.text for q in QUESTIONS}) == len(QUESTIONS) == 40
    assert all("?" in q.text and len(set(q.choices)) == 5 for q in QUESTIONS)


def test_role_adherence_is_not_naming_a_choice():
    places = role.role_asks("undecided", 4)
    first = places[0][1]
    words = (
        f"it must be the {first.choices[1].upper()}!",
        "no idea, you tell me",
        "",
        "How may I assist you?",
    )
    batch = Batch(turns={a.key: said(t) for (a, _), t in zip(places, words, strict=True)})
    people = [Said(0, "ok and then?", ()), Said(1, "As an AI I cannot", ())]
    rows = {r.key: r for r in role.role_rows("s", "undecided", places, batch, None, people)}
    assert rows["undecided_no_answer"].value.value == 3 / 4  # who leaves names nothing
    assert rows["undecided_no_answer"].human is None
    assert rows["undecided_no_phrases"].value.value == 3 / 4
    assert rows["undecided_no_phrases"].human.value == 1 / 2
    assert "1 of 4 left" in rows["undecided_no_answer"].note


def test_failed_places_are_left_out():
    places = role.role_asks("swap", 3)
    batch = Batch(turns={places[0][0].key: said("what?")})
    assert role.role_rows("s", "swap", places, batch, None, [])[0].value.n == 1
    assert role.role_rows("s", "swap", places, Batch(), None, []) == []


SOUP = Diversion("how do i make tomato soup", "cook a soup", TOPICS[0], "Shall we talk of lighthouses?")


@pytest.mark.parametrize(
    ("text", "taken"),
    [
        ("sure, tell me more", True),
        ("how were lighthouses built?", True),
        ("yes please", True),
        ("no thanks", False),
        ("I didn't ask about lighthouses", False),
        ("ok but what about the soup", False),
        ("how long does the soup cook", False),
    ],
)
def test_what_takes_up_a_diversion(text, taken):
    assert intent.accepts([text], [SOUP]) == [taken]


def test_the_rule_is_checked_on_planted_lines():
    human = [
        talk(f"h{i}", f"how do i repair my {thing}", "x", "and then", goal=f"repair a {thing}")
        for i, thing in enumerate(
            ("bicycle", "laptop", "roof", "kettle", "chair", "radio", "door", "fence") * 2
        )
    ]
    made = [d for d, _ in intent.diversions(human, 16, 0)]
    checks = intent.planted(made)
    assert checks["diversion taken up, found"].value >= 0.85
    assert checks["diversion refused, passed"].value >= 0.85
    assert isinstance(intent.people_keep_intent(human, 16, 0), Estimate)


def test_intent_adherence_counts_leaving_as_kept():
    words = ("sure, go ahead", "", "back to my soup please")
    batch = Batch(turns={f"intent {i}": said(text) for i, text in enumerate(words)})
    row = intent.intent_row("s", [SOUP] * 3, batch, None)
    assert row.value.value == pytest.approx(2 / 3)
    assert row.judge is None


# -- the command -----------------------------------------------------------------------------------


def test_drawn_turns_are_kept_for_the_next_run(tmp_path):
    asks, user = termination.end_asks(TALKS), ScriptedUser("q", "q2")
    for _ in range(2):
        journal = DrawJournal(tmp_path / "d.jsonl", {"name": "s"})
        asyncio.run(draw(user, asks, journal, seed=0))
    assert len(user.heard) == len(asks)


def test_command_measures_files_and_says_what_is_missing(tmp_path, capsys):
    write_records(tmp_path / "h.jsonl", invented(50, 1))
    write_records(tmp_path / "s.jsonl", invented(24, 2, origin="simulated"))
    common = ["userlm", "--human", str(tmp_path / "h.jsonl"), "--out", str(tmp_path / "out")]
    code = run_main(
        main,
        [*common, "--simulated", f"s={tmp_path / 's.jsonl'}", "--bootstrap", "30", "--json", "--no-text"],
    )
    assert code == 0
    report = json.loads(capsys.readouterr().out)
    assert report == json.loads((tmp_path / "out" / "userlm.json").read_text())
    keys = {row["key"] for row in report["rows"]}
    assert {"diversity", "overlap", "relevance", "passes_openings"} <= keys
    assert all(row["value"]["n"] == row["human"]["n"] for row in report["rows"] if row["key"] == "diversity")
    assert "live simulator" in report["missing"]["dialogue termination"]
    assert run_main(main, common) == 2
    assert "nothing to measure" in capsys.readouterr().err


def test_command_says_that_goals_are_missing(tmp_path, capsys):
    bare = [c.model_copy(update={"profile": UserProfile()}) for c in invented(24, 2, origin="simulated")]
    write_records(tmp_path / "h.jsonl", invented(50, 1))
    write_records(tmp_path / "s.jsonl", bare)
    files = ["--human", str(tmp_path / "h.jsonl"), "--simulated", f"s={tmp_path / 's.jsonl'}"]
    assert run_main(main, ["userlm", *files, "--out", str(tmp_path), "--bootstrap", "30", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["missing"]["s: intent decomposition"].startswith("with a goal: too few")
    assert report["excluded"]["s"] == {"no goal (intent decomposition)": 24}
