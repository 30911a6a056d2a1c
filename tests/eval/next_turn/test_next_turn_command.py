import json
from pathlib import Path

import numpy as np
import pytest

from eval.__main__ import main
from eval.likelihood.likelihood import ConversationScore, TurnScore
from eval.next_turn.metrics.likelihood import bits_per_character
from eval.next_turn.prefixes import prefixes_of
from eval.next_turn.results import NextTurnReport
from eval.next_turn.turns import NextTurn, write_turns
from usersim.cli import run_main
from usersim.stats.estimates import rng_for
from usersim.storage.records import write_records
from usersim.types import Conversation, Goal, Turn, UserProfile

TOPICS = (
    "bread",
    "a bicycle",
    "taxes",
    "the moon",
    "my garden",
    "a poem",
    "python lists",
    "soup",
    "a visa",
    "chess",
)
ASKS = ("how do I start with {}", "tell me about {}", "what is best for {}", "i need help with {}")
FOLLOWS = (
    "and what does {} cost",
    "shorter please, only {}",
    "no, i meant {} for beginners",
    "give me 3 more on {}",
)


def people(n: int) -> list[Conversation]:
    """Invented people who ask, get an answer about their topic, and go on or leave."""
    found = []
    for number in range(n):
        rng = rng_for(number, "invented")
        topic = TOPICS[number % len(TOPICS)]
        turns = [Turn(role="user", text=ASKS[rng.integers(4)].format(topic))]
        for step in range(int(rng.integers(1, 4))):
            turns.append(
                Turn(role="assistant", text=f"Here is step {step} about {topic}. It takes {step + 2} hours.")
            )
            turns.append(Turn(role="user", text=FOLLOWS[rng.integers(4)].format(topic)))
        turns.append(Turn(role="assistant", text=f"This is all about {topic}."))
        goal = Goal(f"learn about {topic}", facets=[f"wants to know what {topic} costs"])
        found.append(
            Conversation(
                id=f"c{number}",
                origin="human",
                source="invented",
                turns=tuple(turns),
                profile=UserProfile(goal=goal),
                ended_by="user",
            )
        )
    return found


@pytest.fixture
def files(tmp_path: Path) -> tuple[Path, Path]:
    """(people, turns of a deaf simulator that thanks and never leaves)."""
    conversations = people(60)
    write_records(tmp_path / "people.jsonl", conversations)
    prefixes = [prefix for c in conversations for prefix in prefixes_of(c)]
    write_turns(
        tmp_path / "turns.jsonl",
        [NextTurn(prefix=p.id, text="thank you so much for this", end_probability=0.0) for p in prefixes],
    )
    return tmp_path / "people.jsonl", tmp_path / "turns.jsonl"


def test_a_deaf_and_thankful_user_is_read_as_what_it_is(files, tmp_path) -> None:
    human, turns = files
    out, log = tmp_path / "out", tmp_path / "family-b.jsonl"
    argv = ["next-turn", "--human", str(human), "--simulator", f"deaf=file:{turns}", "--no-scorer"]
    assert run_main(main, [*argv, "--out", str(out), "--certificate", str(log)]) == 0
    stored = json.loads((out / "report.json").read_text())
    report = NextTurnReport.model_validate(stored)
    (deaf,) = report.simulators
    readings = {m.spec.key: m.reading for m in deaf.measurements}
    assert readings["coherence.answer.embedding"] == "less"
    assert readings["acts.thanks"] == "more"
    assert readings["told_apart.a.all"] == readings["told_apart.b.all"] == "more"
    assert readings["leaving.rate"] == "less"
    assert report.family_b_use == 1
    assert report.prefixes == sum(p.text is not None for c in people(60) for p in prefixes_of(c))
    html = (out / "report.html").read_text()
    assert "Not like people" in html
    assert "bicycle" not in html + (out / "report.md").read_text() + json.dumps(stored)


def test_what_was_seen_in_training_is_left_out_and_counted(files, tmp_path, capsys) -> None:
    human, turns = files
    write_records(tmp_path / "train.jsonl", people(20))
    argv = [
        "next-turn",
        "--human",
        str(human),
        "--simulator",
        f"x=file:{turns}",
        "--train",
        str(tmp_path / "train.jsonl"),
    ]
    assert run_main(main, [*argv, "--out", str(tmp_path / "out"), "--dry-run"]) == 0
    told = capsys.readouterr()
    assert "left out: seen in training" in told.out + told.err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["--simulator", "x=nothing:here"], "write NAME=KIND:ARGUMENT"),
        (["--simulator", "x=file:no-such-file.jsonl"], "no-such-file.jsonl"),
        (["--simulator", "x=file:{turns}", "--simulator", "x=file:{turns}"], "a name of its own"),
        (["--simulator", "x=file:{turns}", "--goals", "others"], "known are own, none, count_neutral"),
    ],
)
def test_errors_say_what_to_do(files, tmp_path, capsys, given, message) -> None:
    human, turns = files
    argv = ["next-turn", "--human", str(human), "--out", str(tmp_path / "out")]
    assert run_main(main, [*argv, *(word.format(turns=turns) for word in given)]) == 2
    assert message in " ".join(capsys.readouterr().err.split())


def test_simulators_without_a_common_prefix_are_refused(files, tmp_path, capsys) -> None:
    human, turns = files
    write_turns(tmp_path / "silent.jsonl", [NextTurn(prefix="c0@1", ends=True)])
    argv = ["next-turn", "--human", str(human), "--simulator", f"a=file:{turns}", "--no-scorer"]
    argv += ["--simulator", f"b=file:{tmp_path / 'silent.jsonl'}", "--out", str(tmp_path / "out")]
    assert run_main(main, argv) == 2
    assert "the simulators share no prefix with a turn" in " ".join(capsys.readouterr().err.split())


def test_bits_per_character_are_nats_over_characters() -> None:
    class Constant:
        def score(self, conversation: Conversation, profile: UserProfile) -> ConversationScore:
            users = [turn for turn in conversation.turns if turn.role == "user"]
            return ConversationScore(
                tuple(TurnScore(np.log(2) * 2 * len(t.text), 1, len(t.text), 0.0) for t in users), None
            )

    assert bits_per_character(Constant(), people(3)).value == pytest.approx(2.0)
