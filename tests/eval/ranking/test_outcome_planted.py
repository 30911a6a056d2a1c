import asyncio
import json

import pytest

from eval.__main__ import main
from eval.ranking.assistants import DECOYS, Evasive, OffTopic, Truncated, planted_assistants
from eval.ranking.planted import judge_users, rank_planted, score_conversation
from eval.ranking.runs import ReferenceUser, Replay, null_users
from eval.ranking.scores import Score
from eval.ranking.simulatorarena import centre, read_sessions
from usersim.cli import run_main
from usersim.errors import DataError
from usersim.storage.records import write_records
from usersim.testing import ScriptedAssistant, ScriptedUser
from usersim.text.facet_matching import by_words
from usersim.types import Conversation, Facet, Goal, Turn, UserProfile

WISHES = (("goes by train", "costs 350 euros", "leaves on friday"), ("has a desk", "stays quiet at night"))
SAID = [
    Turn(role="user", text="plan a trip"),
    Turn(role="assistant", text="Sure."),
    Turn(role="user", text="go"),
]


def ask(assistant, turns):
    return asyncio.run(assistant(turns, seed=0))


class Parrot:
    """Serves what the user has said so far, a sentence a wish, within its budget of words."""

    def __init__(self, words):
        self.words, self.calls = words, 0

    async def __call__(self, turns, *, system=None, seed=None):
        self.calls += 1
        said = " ".join(turn.text for turn in turns if turn.role == "user")
        plan = ". ".join(f"This {part.strip()} indeed" for part in said.split(".") if part.strip())
        return " ".join(plan.split()[: self.words]) + "."


def test_truncated_breaks_off_in_mid_sentence():
    base = ScriptedAssistant("One two. Three four five six seven eight nine ten eleven twelve.", "Go.")
    assert [ask(Truncated(base), SAID) for _ in range(2)] == ["One two. Three", "Go"]


def test_off_topic_never_hears_the_user():
    base = ScriptedAssistant("Bees.")
    assert ask(OffTopic(base), SAID) == "Bees."
    heard = [turn.text for turn in base.heard[0]]
    assert heard[0] in DECOYS
    assert "go" not in heard
    assert heard[1] == "Sure."
    bees = [Turn(role="user", text=" ".join(DECOYS[1:]))]
    ask(OffTopic(base), bees)
    assert base.heard[1][0].text == DECOYS[0]


def test_evasive_varies_and_never_helps():
    first, second = ask(Evasive(), SAID[:1]), ask(Evasive(), SAID)
    assert first != second


def test_budgets_of_the_planted():
    budgets = []
    assert len(planted_assistants(lambda tokens: budgets.append(tokens) or ScriptedAssistant("x"), 100)) == 6
    assert sorted(budgets) == [50, 100, 200]


def conversation(*texts, ended_by="user"):
    turns = tuple(Turn(role=("user", "assistant")[i % 2], text=text) for i, text in enumerate(texts))
    return Conversation(id="c", origin="simulated", source="s", turns=turns, ended_by=ended_by)


def test_scores_without_a_judge():
    content = score_conversation(conversation("plan a trip", "Ok.", "thanks a lot", "Bye."), None)
    assert content == {"contentment": 1.0, "brevity": pytest.approx(-2.807, abs=1e-3), "smoothness": 1.0}
    objecting = score_conversation(conversation("plan a trip", "Ok.", "no, that's wrong", "Hm."), None)
    assert (objecting["contentment"], objecting["smoothness"]) == (0.0, 0.0)
    assert score_conversation(conversation("plan", "Ok.", ended_by="turn_cap"), None)["contentment"] == 0.0


def scores(**values):
    return [
        Score(assistant=name, task=f"t{i}", score=value)
        for name, row in values.items()
        for i, value in enumerate(row)
    ]


def test_a_planted_ranking_by_hand():
    found = rank_planted(scores(larger=[3, 4], normal=[2, 3], evasive=[2.5, 3.5]), "coverage", bootstrap=100)
    # larger > normal right, larger > evasive right, normal > evasive reversed, on both goals.
    assert found.tau.value == pytest.approx(1 / 3)
    assert found.largest_tau == 1.0
    assert (found.agreement.value, found.agreement.n) == (pytest.approx(2 / 3), 2)
    assert [pair.seen for pair in found.pairs] == ["as planted", "as planted", "reversed"]
    assert found.pairs[2].gap.value == -0.5


def test_equal_levels_are_not_compared():
    found = rank_planted(scores(normal=[1, 1], off_topic=[0, 1], evasive=[0, 0]), "coverage", bootstrap=50)
    assert len(found.pairs) == 2
    assert found.largest_tau == pytest.approx(2 / 6**0.5)
    assert found.pairs[0].seen == "unclear"  # one goal of two is tied


def test_planted_scores_that_cannot_be_ranked():
    with pytest.raises(DataError, match="planted assistants are"):
        rank_planted(scores(normal=[1], mine=[2]), "coverage")
    with pytest.raises(DataError, match="no goal is scored"):
        rank_planted(
            [Score(assistant="normal", task="a", score=1), Score(assistant="evasive", task="b", score=0)],
            "coverage",
        )


@pytest.fixture
def rig(tmp_path, monkeypatch):
    """Six goals, a parrot as base model, two users: a frank one and one who keeps everything back."""
    rows = [
        {"id": f"g{i}", "goal": {"summary": "plan it", "facets": [{"text": wish} for wish in WISHES[i % 2]]}}
        for i in range(6)
    ]
    goals = tmp_path / "goals.jsonl"
    goals.write_text("".join(json.dumps(row) + "\n" for row in [*rows, {"goal": "no facets"}]))
    made = []

    def base(where, *, max_tokens):
        made.append(Parrot(max_tokens))
        return made[-1]

    monkeypatch.setattr("usersim.commands.options.assistant_from", base)
    users = {"reference": (ReferenceUser(), {}), "mute": (ScriptedUser("hm", "hm ok"), {})}
    monkeypatch.setattr("eval.ranking.runs.users_from", lambda args: users)
    arguments = [
        *("outcome", "planted", "--goals", str(goals), "--assistant", "local", "--assistant-tokens", "12"),
        *("--matcher", "words", "--bootstrap", "100", "--out", str(tmp_path / "out")),
    ]
    return tmp_path / "out", arguments, made


def test_planted_ranks_under_a_frank_user_and_not_under_a_mute_one(rig):
    out, arguments, _ = rig
    assert run_main(main, arguments) == 0
    report = json.loads((out / "report.json").read_text(encoding="utf-8"))
    frank, mute, null = report["users"]
    assert (mute["user"], null["user"]) == ("mute", "mute-null")
    coverage = next(r for r in frank["rankings"] if r["score"] == "coverage")
    means = [coverage["means"][name]["value"] for name in ("larger", "normal", "truncated", "evasive")]
    assert means[0] == 1.0
    assert means == sorted(means, reverse=True)
    assert (means[2], coverage["means"]["off_topic"]["value"]) == (0.0, 0.0)
    assert not any(pair["seen"] == "reversed" for pair in coverage["pairs"])
    assert coverage["agreement"]["value"] > 0.8
    silent = next(r for r in mute["rankings"] if r["score"] == "coverage")
    assert silent["tau"] is None
    assert (silent["agreement"]["value"], silent["agreement"]["n"]) == (0.5, 6)
    assert report["notes"] == ["1 goals have no facets and are left out."]
    # Six words or fewer of the parrot serve no facet, so these are left out like the two that never help.
    assert set(frank["serve_nothing"]) == {"smaller", "truncated", "off_topic", "evasive"}
    assert [(pair["better"], pair["worse"]) for pair in coverage["pairs"]] == [("larger", "normal")]
    # A user who says the same to all serves as its own null: the difference is 0 with a tight interval.
    over = silent["over_null"]
    assert (over["difference"]["value"], over["difference"]["low"], over["difference"]["high"]) == (0, 0, 0)
    assert coverage["over_null"] is None
    assert "4 of 6 assistants serve nothing" in (out / "report.md").read_text(encoding="utf-8")
    assert "as planted" in (out / "report.md").read_text(encoding="utf-8")
    assert "<svg" in (out / "report.html").read_text(encoding="utf-8")
    assert len((out / "scores" / "mute.brevity.jsonl").read_text(encoding="utf-8").splitlines()) == 36


def test_planted_goes_on_where_it_stopped(rig):
    out, arguments, made = rig
    assert run_main(main, arguments) == 0
    before = sum(base.calls for base in made)
    file = out / "conversations" / "mute" / "normal.jsonl"
    lines = file.read_text(encoding="utf-8").splitlines(keepends=True)
    file.write_text("".join(lines[:-1]), encoding="utf-8")
    assert run_main(main, arguments) == 0
    assert sum(base.calls for base in made) == before + 2  # one conversation of two turns
    assert file.read_text(encoding="utf-8").splitlines(keepends=True) == lines


def test_scores_of_a_run_can_be_ranked_against_each_other(rig, capsys):
    out, arguments, _ = rig
    assert run_main(main, arguments) == 0
    files = [str(out / "scores" / f"{who}.brevity.jsonl") for who in ("reference", "mute")]
    command = ["outcome", "rank", "--human", files[0], "--simulated", files[1], "--out", str(out / "rank")]
    assert run_main(main, [*command, "--bootstrap", "50", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["ranking"]["tau"] is None  # both talk alike to all


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--only", "normal,good"], "at least two levels"),
        (["--only", "off_topic,evasive"], "at least two levels"),
        (["--goals", "/nowhere.jsonl"], "no such file"),
    ],
)
def test_what_the_operator_can_fix_is_one_line_and_two(rig, capsys, more, message):
    _, arguments, _ = rig
    assert run_main(main, [*arguments, *more]) == 2
    assert message in capsys.readouterr().err


def test_effort_of_files(tmp_path, capsys):
    goal = Goal(summary="plan a trip", facets=(Facet(text="goes by train"),))
    made = conversation("trip", "Take the train, it goes daily.").model_copy(
        update={"profile": UserProfile(goal=goal)}
    )
    write_records(tmp_path / "a.jsonl", [made, conversation("hi", "Hello.")])
    command = ["outcome", "effort", "--conversations", f"people={tmp_path / 'a.jsonl'}", "--matcher", "words"]
    assert run_main(main, [*command, "--out", str(tmp_path / "out"), "--bootstrap", "20", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["effort"]["people"]["final"]["value"] == 1.0
    assert found["notes"] == ["people: 1 of 2 without facets or reply, left out"]


def arena(folder, *, drop=None):
    common = {"user_queries": ["write it", "shorter"], "ai_responses": ["Dear friend, sorry.", "Sorry."]}
    documents = [
        {
            **common,
            **{"model": f"m{i % 3}", "workerId": f"w{i}", "intent": "Apology: say it", "why_stop": ""},
            **{"overall_interaction_rating": str(4 + i % 3), "bullet_points_responses": ["dear friend", " "]},
        }
        for i in range(12)
    ]
    maths = [
        {**common, "model": "mistral-large-latest", "workerId": "w1", "problem_id": "7", "overall_rating": 9},
        {
            **common,
            "model": "m0",
            "workerId": "w2",
            "problem_id": "8",
            "overall_rating": 5,
            "user_queries": [["x.png"]],
        },
    ] * 3
    for row in documents:
        row.pop(drop, None)
    (folder / "document_creation_annotations_for_benchmarking.json").write_text(json.dumps(documents))
    (folder / "math_tutoring_annotations_redacted_for_benchmarking.json").write_text(json.dumps(maths))


def test_simulatorarena_as_published(tmp_path, capsys):
    arena(tmp_path)
    sessions = read_sessions(tmp_path)
    assert len(sessions) == 18
    first, last = sessions[0], sessions[-1]
    assert (first.score.assistant, first.score.task, first.score.score) == ("m0", "documents: Apology", 4.0)
    assert [facet.text for facet in first.conversation.profile.goal.facets] == ["dear friend"]
    assert sessions[12].score.assistant == "mistral-large"
    assert last.conversation.turns[0].text == "[file]"
    assert [s.score for s in centre([sessions[12].score, last.score])] == [2.0, -2.0]
    command = ["outcome", "simulatorarena", "--folder", str(tmp_path), "--out", str(tmp_path / "out")]
    options = ["--matcher", "words", "--bootstrap", "50", "--splits", "20", "--json"]
    assert run_main(main, [*command, *options]) == 0
    report = json.loads(capsys.readouterr().out)["simulatorarena"]
    documents = report["groups"][0]
    assert (documents["sessions"], documents["people"], documents["pairs"]) == (12, 12, 3)
    assert documents["ceiling"]["human"]["median"] == 1.0  # every person gives an assistant the same
    assert documents["apart"] == 0  # nothing is known of how much a person's rating varies
    arena(tmp_path, drop="model")
    assert run_main(main, [*command, *options]) == 2
    assert "session 0 is not as published" in capsys.readouterr().err
    assert run_main(main, [*command[:3], str(tmp_path / "no"), *command[4:]]) == 2


def test_a_user_who_never_meets_two_assistants_is_an_error():
    with pytest.raises(DataError, match="nothing to rank"):
        judge_users({"u": {"normal": [conversation("a", "b")]}}, by_words, bootstrap=20)


def test_agreement_minus_a_null_by_hand():
    own = scores(larger=[3, 4], normal=[2, 3], smaller=[1, 2], evasive=[9, 9])
    null = scores(larger=[1, 1], normal=[1, 1], smaller=[1, 0])
    serving = ("larger", "normal", "smaller")
    found = rank_planted(own, "coverage", serving=serving, null=null, bootstrap=200)
    # Own: 3 of 3 pairs right. Null: larger ties normal (1/2), both are above smaller (1 + 1): 2.5 of 3.
    assert found.over_null.agreement.value == 1.0
    assert found.over_null.null.value == pytest.approx(2.5 / 3)
    assert found.over_null.difference.value == pytest.approx(0.5 / 3)
    # The first goal alone: the null ties all three (1/2); the difference is 1/2. The second alone: 1/6.
    assert found.over_null.difference.low == pytest.approx(0.5 / 3)
    assert found.over_null.difference.high == pytest.approx(0.5)
    assert len(found.pairs) == 3
    assert found.means["evasive"].value == 9


def test_a_null_user_says_the_same_whatever_it_is_told():
    goal = UserProfile(goal=Goal(summary="plan a trip"))
    one = conversation("trip", "Where?", "to Rome", "Fine.").model_copy(update={"profile": goal})
    other = conversation("trip!", "No.", "forget it").model_copy(update={"profile": goal})
    nulls = null_users({"mute": {"larger": [one], "evasive": [other]}, "reference": {"larger": [one]}})
    assert list(nulls) == ["mute-null"]
    user, identity = nulls["mute-null"]
    assert identity["replay_of"] == "mute"
    lines = [[turn.text for turn in made.turns if turn.role == "user"] for made in (one, other)]
    (script,) = user.scripts.values()
    assert script in lines
    for reply in ("Sure.", "I cannot help."):
        turns = [Turn(role="user", text=script[0]), Turn(role="assistant", text=reply)]
        assert asyncio.run(user(goal, turns)).text == script[1]
        turns += [Turn(role="user", text=script[1]), Turn(role="assistant", text=reply)]
        assert asyncio.run(user(goal, turns)).ends
    with pytest.raises(DataError, match="no conversation at this goal"):
        asyncio.run(Replay("x", {})(goal, []))
