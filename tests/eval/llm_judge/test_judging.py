"""Judges that are told what to answer by the test: rates, controls, blindness, agreement, going on."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from eval.__main__ import main
from eval.llm_judge.agreement import Label, agreement, between_raters, consensus, corrected_rate
from eval.llm_judge.plan import pairs
from eval.llm_judge.questions import chat_text
from eval.llm_judge.scores import share
from tests.fake_endpoint import Reply, endpoint
from usersim.cli import run_main
from usersim.stats.estimates import cluster_resamples, rng_for
from usersim.storage.records import write_records
from usersim.types import Conversation, Goal, Persona, Turn, UserProfile

N = 14


def talk(name: str, origin: str, *texts: str, goal: str = "", group: str | None = None) -> Conversation:
    turns = []
    for text in texts:
        turns += [Turn(role="user", text=text), Turn(role="assistant", text=f"a reply to {name}")]
    return Conversation(
        id=name,
        origin=origin,  # type: ignore[arg-type]
        source=f"secret {origin} source",
        system=f"secret system of {name}",
        turns=tuple(turns),
        profile=UserProfile(
            goal=Goal(summary=goal) if goal else None, persona=Persona(description=f"secret {name}")
        ),
        group=group,
    )


HUMAN = [
    talk(f"h{i}", "human", f"man {i}", f"please more about {i}", goal=f"goal {i}", group=f"p{i // 2}")
    for i in range(N)
]
SIMULATED = [talk(f"s{i}", "simulated", f"bot {i}", "thanks", "ok", goal=f"goal {i}") for i in range(N)]


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """The report of a truthful judge, and what he was asked."""
    return judged(written(tmp_path_factory.mktemp("told")), truthful, "--price-in", "100")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return written(tmp_path)


def written(tmp_path: Path) -> Path:
    write_records(tmp_path / "human.jsonl", HUMAN)
    write_records(tmp_path / "sim.jsonl", SIMULATED)
    return tmp_path


def command(folder: Path, *more: str) -> list[str]:
    return [
        *("judge", "--human", str(folder / "human.jsonl"), "--simulated", f"s={folder / 'sim.jsonl'}"),
        *("--out", str(folder / "out"), "--pairs", "6", "--chats", "5", "--messages", "8", *more),
    ]


def judged(folder: Path, answer: Any, *more: str) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    with endpoint(answer) as fake:
        argv = command(folder, "--judge-url", fake.url, "--judge-model", "m", *more)
        assert run_main(main, argv) == 0
        return dict(json.loads((folder / "out" / "judge.json").read_text())), fake.bodies


def truthful(body: dict[str, Any], number: int) -> Reply:
    """Knows people by "man", likes them, and calls every message of thanks an acknowledgement."""
    text = body["messages"][-1]["content"]
    if text.startswith("CHAT 1"):
        second = text.partition("CHAT 2")[2]
        return Reply(json.dumps({"human": "second" if "man" in second else "first"}))
    if text.startswith("The user said"):
        act = "followup" if "please more" in text.rpartition("The user's message:")[2] else "acknowledgement"
        return Reply(json.dumps({"act": act}))
    return Reply(json.dumps({"score": 5 if "man" in text else 2}))


def by_kind(report: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {row["kind"]: row for row in report["pairs"]}


def test_a_judge_who_knows_people_never_takes_the_simulated_one_for_a_person(told: Any) -> None:
    report, bodies = told
    rows = by_kind(report)
    found = rows["simulated"]
    assert (found["pairs"], found["same_goal"], found["unanswered"]) == (6, 6, 0)
    assert (found["called_human"]["value"], found["consistent"]["value"]) == (0, 1)
    assert 0.3 < found["called_human"]["high"] < 0.6  # six pairs cannot show that it is never
    # People against people: "man" is in both, so the second is always named.
    control = rows["human control"]
    assert (control["called_human"]["value"], control["consistent"]["value"]) == (0.5, 0)
    assert control["first_place"]["value"] == 0
    assert [(row["source"], row["mean"]["value"]) for row in report["naturalness"]] == [
        *(("human", 5), ("s", 2)),
    ]
    rates = {(row["source"], row["act"]): row["rate"]["value"] for row in report["acts"]}
    assert (rates["human", "followup"], rates["s", "acknowledgement"]) == (1, 1)
    assert sum(rate for (source, _), rate in rates.items() if source == "s") == 1
    assert all(row["corrected"] is None for row in report["acts"])
    # Three sets of six pairs in two orders, five chats and eight messages of each side; equal texts are asked once.
    assert len(bodies) == report["usage"]["requests"] == report["usage"]["questions"] <= 36 + 10 + 16
    assert report["usage"]["cost"] == pytest.approx(10 * len(bodies) * 100 / 1e6)
    assert any("No labels of people" in note for note in report["notes"])


def test_nothing_that_is_asked_names_the_source_and_the_order_mixes_the_sides(told: Any) -> None:
    _, bodies = told
    asked = [message["content"] for body in bodies for message in body["messages"]]
    for secret in ("secret", "simulated", "h1", "s1", "a reply to", "goal 1"):
        leaks = [text for text in asked if secret in text and not text.startswith("The user said")]
        assert not leaks, secret
    assert not [text for text in asked if "secret" in text]
    pairs_asked = [text for text in asked if text.startswith("CHAT 1")]
    # Both orders of each: as many begin with a person as with a program, in mixed order.
    of_both = [
        "man" in text.partition("CHAT 2")[0] for text in pairs_asked if "man" in text and "bot" in text
    ]
    assert sum(of_both) * 2 == len(of_both) == 12
    assert of_both not in (sorted(of_both), sorted(of_both, reverse=True))


def test_a_judge_who_always_says_first_is_seen_through(folder: Path) -> None:
    first = json.dumps({"human": "first"})
    report, _ = judged(folder, lambda body, number: Reply(first), "--tasks", "which")
    found = by_kind(report)["simulated"]
    assert (found["called_human"]["value"], found["consistent"]["value"]) == (0.5, 0)
    assert found["first_place"]["value"] == 1
    assert found["called_human"]["low"] < 0.4  # all pairs score alike, yet the interval has a width
    assert (report["naturalness"], report["acts"]) == ([], [])


def test_what_has_no_answer_is_left_out_and_counted_and_asked_for_again_later(folder: Path) -> None:
    def silent(body: dict[str, Any], number: int) -> Reply:
        text = body["messages"][-1]["content"]
        return Reply("no idea") if "bot" in text and "CHAT 1" not in text else truthful(body, number)

    report, bodies = judged(folder, silent, "--tasks", "natural")
    assert [row["source"] for row in report["naturalness"]] == ["human"]
    assert report["unanswered"] == {"natural": 5}
    assert report["usage"]["failures"] == {"not JSON": 5}
    assert len(bodies) == 5 + 10  # an answer that does not fit is asked for once more
    report, bodies = judged(folder, truthful, "--tasks", "natural")
    assert (len(bodies), report["usage"]["cache_hits"]) == (5, 5)
    assert [row["mean"]["value"] for row in report["naturalness"]] == [5, 2]


def test_labels_of_people_measure_the_judge(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = folder / "label.jsonl"
    assert run_main(main, command(folder, "--export", str(out), "--tasks", "natural,act")) == 0
    rows = [json.loads(line) for line in out.read_text().splitlines()]
    assert all(row["shown"] and row["asked"] and "secret" not in row["shown"] for row in rows)
    for row in rows:
        right = truthful({"messages": [{"content": row["shown"]}]}, 0)
        row["label"] = str(*json.loads(right.text).values())
        row["rater"] = "a"
    wrong = next(r for r in rows[2:] if r["item"].startswith("natural") and r["label"] == "5")
    labels = [
        *rows,
        {**rows[0], "rater": "b"},
        {**wrong, "rater": "b", "label": "4"},
        {**rows[1], "label": ""},
    ]
    out.write_text("\n".join(map(json.dumps, labels)))
    report, _ = judged(folder, truthful, "--tasks", "natural,act", "--labels", str(out))
    found = {(row["task"], row["between"]): row for row in report["agreement"]}
    assert found["act", "people and judge"]["kappa"]["value"] == 1
    # One rater said 5 and one 4: no majority, so that item is left out.
    assert (found["natural", "people and judge"]["n"], found["natural", "two people"]["n"]) == (9, 2)
    corrected = {(row["source"], row["act"]): row["corrected"] for row in report["acts"]}
    assert corrected["human", "followup"]["value"] == 1
    assert corrected["human", "repair"] is None  # no rater labelled one
    assert "9 labels of people; 200 are needed" in " ".join(capsys.readouterr().err.split())


@pytest.mark.parametrize(
    ("more", "why"),
    [
        ([], "give --judge-url and --judge-model"),
        (["--tasks", "which,taste"], "--tasks taste"),
        (["--simulated", "s=x"], "every name once"),
        (["--simulated", "human=x"], "none `human`"),
        (["--judge-url", "nowhere", "--judge-model", "m"], "starts with http"),
        (["--judge-url", "http://x", "--judge-model", "m", "--api-key-env", "NO_SUCH_KEY_"], "is not set"),
    ],
)
def test_what_the_operator_can_fix_is_one_readable_line(
    folder: Path, capsys: pytest.CaptureFixture[str], more: list[str], why: str
) -> None:
    assert run_main(main, command(folder, *more)) == 2
    *counts, complaint = capsys.readouterr().err.splitlines()
    assert why in complaint
    assert all(line.endswith(" with a goal") for line in counts)


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ('{"item": "act:1", "label": "follow up"}', "is none of followup, clarification"),
        ('{"item": "x", "label": "1"}', "is none of --export"),
        ('{"item": "act:1"}', "no labels in it"),
        ('{"item": "act:1", "label": "repair"}', "none of its items is asked here"),
        ("[1]", "needs {item, label"),
    ],
)
def test_bad_labels_are_refused(
    folder: Path, capsys: pytest.CaptureFixture[str], line: str, why: str
) -> None:
    (folder / "labels.jsonl").write_text(line)
    with endpoint(truthful) as fake:
        argv = command(folder, "--judge-url", fake.url, "--judge-model", "m", "--tasks", "natural")
        assert run_main(main, [*argv, "--labels", str(folder / "labels.jsonl")]) == 2
    assert why in " ".join(capsys.readouterr().err.split())


def test_a_dry_run_counts_the_questions(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_main(main, command(folder, "--dry-run", "--tasks", "which")) == 0
    assert json.loads(capsys.readouterr().out) == {"questions": 36, "which": 36}


# -- what is shown -----------------------------------------------------------------------------------


def test_a_chat_is_shown_up_to_so_many_turns_and_replies_only_on_request() -> None:
    made = talk("x", "human", "one", "two", "three")
    assert chat_text(made, user_turns=2) == "User: one\n\n(reply)\n\nUser: two"
    assert chat_text(made, user_turns=2, replies=True) == "User: one\n\nAssistant: a reply to x\n\nUser: two"
    assert chat_text(talk("x", "human", "y" * 2000)) == "User: " + "y" * 1000 + " […]"


def test_chats_of_a_pair_have_the_same_number_of_turns_and_partners_share_the_goal_and_language() -> None:
    found = pairs(HUMAN, {"s": SIMULATED}, 10, seed=0, user_turns=6, replies=False)
    for pair in found:
        first, second = (part.count("User: ") for part in pair.forward.text.split("CHAT 2"))
        assert first == second
        assert pair.same_goal == (pair.kind == "simulated")
    german = [
        c.model_copy(update={"profile": UserProfile(persona=Persona(language="de"))}) for c in SIMULATED
    ]
    kinds = {pair.kind for pair in pairs(HUMAN, {"s": german}, 10, seed=0, user_turns=6, replies=False)}
    assert kinds == {"simulated control", "human control"}


# -- agreement, by hand ------------------------------------------------------------------------------


def test_cohens_kappa_of_a_table_worked_out_by_hand() -> None:
    # yes/yes 20, yes/no 5, no/yes 10, no/no 15: seen .70, chance .5 * .6 + .5 * .4 = .5, kappa .4
    cells = [("yes", "yes")] * 20 + [("yes", "no")] * 5 + [("no", "yes")] * 10 + [("no", "no")] * 15
    first = {str(i): a for i, (a, _) in enumerate(cells)}
    second = {str(i): b for i, (_, b) in enumerate(cells)}
    found = agreement("act", "x", first, second, {}, seed=0)
    assert found is not None
    assert found.kappa is not None
    assert (found.n, found.observed, round(found.kappa.value, 12)) == (50, 0.7, 0.4)
    assert found.confusion == {"no": {"no": 15, "yes": 10}, "yes": {"no": 5, "yes": 20}}
    # Large-sample standard error: sqrt(po (1 - po) / n) / (1 - pe) = 0.13
    assert found.kappa.low == pytest.approx(0.4 - 1.96 * 0.13, abs=0.05)
    assert found.kappa.high == pytest.approx(0.4 + 1.96 * 0.13, abs=0.05)


def test_ordered_scores_are_weighted_and_one_label_alone_gives_no_kappa() -> None:
    # 1-1, 2-2, 3-3, 1-2: squared distances (0 0 0 1) / 4 of 4 items; margins (2 1 1), (1 2 1).
    # Chance: sum of shares * distance / 4 = (2*2*1 + 2*1*4 + 1*1*1 + 1*1*1 + 1*1*4 + 1*2*1) / 16 / 4 = 20 / 64
    first = {"a": "1", "b": "2", "c": "3", "d": "1"}
    second = {"a": "1", "b": "2", "c": "3", "d": "2"}
    found = agreement("natural", "x", first, second, {}, seed=0)
    assert found is not None
    assert found.observed == 0.75
    assert found.kappa is None or found.kappa.value == pytest.approx(1 - (1 / 16) / (20 / 64))
    alone = agreement("act", "x", {"a": "repair"}, {"a": "repair"}, {}, seed=0)
    assert alone is not None
    assert (alone.observed, alone.kappa) == (1, None)
    assert agreement("act", "x", {"a": "repair"}, {"b": "repair"}, {}, seed=0) is None


def test_consensus_takes_the_majority_and_two_raters_are_compared_on_what_they_share() -> None:
    labels = [
        Label(item=item, label=label, rater=rater)
        for item, label, rater in (
            *(("i", "x", "a"), ("i", "x", "b"), ("i", "y", "c")),
            *(("j", "x", "a"), ("j", "y", "b"), ("k", "y", "c")),
        )
    ]
    assert consensus(labels) == {"i": "x", "k": "y"}
    assert between_raters(labels) == ({"i": "x", "j": "x"}, {"i": "x", "j": "y"})


def test_a_rate_corrected_for_a_judge_who_misses_half_and_never_invents() -> None:
    # se 0.5, sp 1: an apparent 20 % is a true 40 %.
    flags = np.array([1.0] * 20 + [0.0] * 80)
    people = np.array([1.0] * 40 + [0.0] * 60)
    judge = np.array([1.0] * 20 + [0.0] * 80)
    clusters = [str(i) for i in range(100)]
    counts = cluster_resamples(clusters, 500, rng_for(0, "a"))
    found = corrected_rate(flags, counts, people, judge, cluster_resamples(clusters, 500, rng_for(0, "b")))
    assert found is not None
    assert found.value == pytest.approx(0.4)
    assert found.low < 0.3 < 0.5 < found.high
    blind = corrected_rate(flags, counts, people, np.ones(100), counts)
    assert blind is None


def test_a_share_of_equal_values_has_the_width_of_as_many_trials_as_clusters() -> None:
    found = share(np.zeros(40), [str(i // 4) for i in range(40)], 0, "x")
    assert (found.value, found.low, found.n) == (0, 0, 40)
    z2 = 1.959963984540054**2
    assert found.high == pytest.approx(z2 / (10 + z2))  # Wilson at 0 of 10
    assert math.isclose(share(np.full(40, 0.5), ["a", "b"] * 20, 0, "x").value, 0.5)
