"""Goals from a teacher endpoint: prompts, rejected notes, and a run that may stop at any byte."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from data_prep.data_command import main
from data_prep.goals.annotations import Annotation, read_goals
from data_prep.goals.providers import EMPTY, PARROTS, TURN_MISSING, NoGoal
from data_prep.goals.teacher import Teacher, shorten, transcript
from tests.fake_endpoint import Answer, FakeEndpoint, Reply, dead_url, endpoint
from usersim.chat_models.judge import Judge
from usersim.cli import run_main
from usersim.errors import DataError
from usersim.storage.records import write_records
from usersim.types import Conversation, Facet, Turn

NOTES = {
    "facets": [{"turn": 1, "text": "under 50 euros"}, {"turn": 2, "text": "near the station"}],
    "goal": "You want to sleep somewhere affordable.",
    "persona": "hurried, lower case",
    "satisfied": "yes",
}


def talk(id_: str = "a", *texts: str) -> Conversation:
    turns = []
    for text in texts or (f"i want a cheap hotel in town {id_}", "close to trains"):
        turns += [Turn(role="user", text=text), Turn(role="assistant", text="Of course.")]
    return Conversation(id=id_, origin="human", source="t", turns=tuple(turns))


def notes(**changes: Any) -> Reply:
    return Reply(json.dumps(NOTES | changes))


def annotate(*replies: Reply, **settings: Any) -> tuple[Annotation | NoGoal, FakeEndpoint]:
    """Result for the first conversation when the teacher gives these replies."""

    async def once(url: str) -> Annotation | NoGoal:
        teacher = Teacher(Judge(url, "m", max_retries=0), **settings)
        result = await teacher.annotate(talk())
        await teacher.judge.aclose()
        return result

    with endpoint(lambda body, number: replies[number]) as fake:
        return asyncio.run(once(fake.url)), fake


def test_notes_become_an_annotation() -> None:
    result, fake = annotate(notes())
    assert result == Annotation(
        id="a",
        goal="sleep somewhere affordable",
        facets=(Facet(text="under 50 euros", turn=1), Facet(text="near the station", turn=2)),
        persona="hurried, lower case",
        satisfied="yes",
        provenance="teacher:m",
    )
    assert fake.bodies[0]["model"] == "m"
    assert "PERSON 2: close to trains" in fake.prompts()[0]


@pytest.mark.parametrize(
    ("bad", "reason", "complaint"),
    [
        ({"goal": "have a cheap hotel in town"}, PARROTS, '"a cheap hotel"'),
        ({"facets": [{"turn": 3, "text": "x"}]}, TURN_MISSING, "messages 1 to 2"),
        ({"facets": [{"turn": 0, "text": "x"}]}, TURN_MISSING, "messages 1 to 2"),
        ({"goal": " "}, EMPTY, "no goal"),
    ],
)
def test_unusable_notes_are_asked_for_once_more_and_then_there_is_no_goal(
    bad: dict[str, Any], reason: str, complaint: str
) -> None:
    result, fake = annotate(notes(**bad), notes())
    assert isinstance(result, Annotation)
    assert complaint in fake.prompts()[1]
    result, _ = annotate(notes(**bad), notes(**bad))
    assert result == NoGoal(reason)


def test_a_looser_bound_accepts_more() -> None:
    result, fake = annotate(notes(goal="have a cheap hotel in town"), max_overlap=1.0)
    assert isinstance(result, Annotation)
    assert len(fake.bodies) == 1


def test_a_facet_said_twice_counts_at_its_first_turn() -> None:
    twice = [{"turn": 1, "text": "Quiet"}, {"turn": 2, "text": " quiet"}, {"turn": 2, "text": " "}]
    result, _ = annotate(notes(facets=twice))
    assert isinstance(result, Annotation)
    assert result.facets == (Facet(text="Quiet", turn=1),)


def test_long_turns_keep_head_and_tail() -> None:
    assert shorten("a" * 10 + "b" * 10, 14) == "aaaaaa" + " […] " + "bbb"
    assert shorten("short", 5) == "short"
    turns = (Turn(role="assistant", text="x" * 5000), Turn(role="user", text="y" * 5000 + "end"))
    text = transcript(Conversation(id="a", origin="human", source="t", turns=turns))
    assert (text.count("x"), text.count("y")) == (395, 1492)
    assert text.endswith("end")
    many = Conversation(id="a", origin="human", source="t", turns=turns * 40)
    assert len(transcript(many, chars=8000)) <= 8000
    assert "PERSON 40: y" in transcript(many, chars=8000)


# The command.


def hotel(body: dict[str, Any], number: int) -> Reply:
    return notes()


def by_id(answers: dict[str, Reply]) -> Answer:
    """Answers by the conversation id in the prompt (default: `hotel`)."""

    def answer(body: dict[str, Any], number: int) -> Reply:
        match = re.search(r"town (\w+)", body["messages"][-1]["content"])
        return answers.get(match[1] if match else "", notes())

    return answer


def conversations_file(folder: Path, count: int, *, prefix: str = "c") -> Path:
    write_records(folder / f"{prefix}.jsonl", [talk(f"{prefix}{index}") for index in range(count)])
    return folder / f"{prefix}.jsonl"


def command(url: str, files: list[Path], out: Path, *more: str) -> list[str]:
    teacher = ["--teacher-url", url, "--teacher-model", "m", "--max-retries", "0", "--json"]
    return ["goals", *map(str, files), "--out", str(out), *teacher, *more]


def goals(
    capsys: pytest.CaptureFixture[str], url: str, files: list[Path], out: Path, *more: str
) -> tuple[int, Any, str]:
    """Runs the command; returns (status, JSON on stdout, text on stderr)."""
    capsys.readouterr()
    status = run_main(main, command(url, files, out, *more))
    printed = capsys.readouterr()
    return status, json.loads(printed.out) if printed.out else None, printed.err


def ids(out: Path) -> list[str]:
    return [json.loads(line)["id"] for line in out.read_text().splitlines()]


def test_goals_come_in_the_order_of_the_files_and_can_be_joined(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    files = [conversations_file(tmp_path, 4, prefix="x"), conversations_file(tmp_path, 3, prefix="y")]
    out = tmp_path / "goals.jsonl"
    slow = by_id({"x0": Reply(json.dumps(NOTES), delay_s=0.1)})
    with endpoint(slow) as fake:
        status, counts, _ = goals(capsys, fake.url, files, out, "--limit", "6", "--price-in", "1")
        assert len(fake.bodies) == 6
    assert status == 0
    assert ids(out) == ["x0", "x1", "x2", "x3", "y0", "y1"]
    assert (counts["written"], counts["rejected"], counts["failed"]) == (6, {}, {})
    assert counts["usage"]["cost"] == 0.00006
    assert counts["wording_shared_with_user"]["share_above_bound"] == 0
    assert not out.with_name("goals.jsonl.partial").exists()
    joined = read_goals([out]).join(talk("x1"))
    assert joined.satisfied == "yes"
    assert joined.profile.goal is not None
    assert joined.profile.goal.provenance == "teacher:m"

    # A wider run later asks only for what is new.
    with endpoint(hotel) as fake:
        _, counts, _ = goals(capsys, fake.url, files, out)
        assert len(fake.bodies) == 1
    assert (counts["written"], counts["usage"]["cache_hits"]) == (7, 6)


def test_rejected_and_failed_conversations_are_left_out_and_counted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file, out = conversations_file(tmp_path, 4), tmp_path / "goals.jsonl"
    faults = {"c1": notes(goal="have a cheap hotel in town"), "c2": Reply(status=400, raw="odd words")}
    with endpoint(by_id(faults)) as fake:
        status, counts, _ = goals(capsys, fake.url, [file], out)
    assert status == 0
    assert ids(out) == ["c0", "c3"]
    assert (counts["rejected"], counts["failed"]) == ({PARROTS: 1}, {"HTTP 400": 1})
    assert counts["first_error"].endswith("HTTP 400: odd words")
    # Run again: only the failed one is asked for.
    with endpoint(hotel) as fake:
        _, counts, _ = goals(capsys, fake.url, [file], out)
        assert len(fake.bodies) == 1
    assert ids(out) == ["c0", "c2", "c3"]
    assert (counts["resumed"], counts["rejected"]) == (3, {PARROTS: 1})


def test_an_endpoint_that_dies_leaves_what_was_done_and_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file, out = conversations_file(tmp_path, 6), tmp_path / "goals.jsonl"

    def dying(body: dict[str, Any], number: int) -> Reply:
        return notes() if number < 2 else Reply(status=500, raw="out of memory")

    with endpoint(dying) as fake:
        status, counts, stderr = goals(capsys, fake.url, [file], out, "--concurrency", "1")
    assert (status, counts, out.exists()) == (2, None, False)
    complaint = stderr.splitlines()[-1]
    note = f"2 of 6 done are kept in {out}.partial; run again to go on"
    assert complaint == f"usersim: {fake.url}: HTTP 500: out of memory; {note}"
    assert "Traceback" not in stderr

    status, _, stderr = goals(capsys, url := dead_url(), [file], out)
    assert status == 2
    assert stderr.splitlines()[-1].startswith(f"usersim: {url}: cannot be reached")
    assert stderr.splitlines()[-1].endswith(note)

    with endpoint(hotel) as fake:
        status, counts, _ = goals(capsys, fake.url, [file], out)
        assert len(fake.bodies) == 4
    assert (status, counts["resumed"], ids(out)) == (0, 2, [f"c{index}" for index in range(6)])


def test_a_killed_run_goes_on_where_it_was(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file, out = conversations_file(tmp_path, 12), tmp_path / "goals.jsonl"
    journal = out.with_name("goals.jsonl.partial")

    def steady(body: dict[str, Any], number: int) -> Reply:
        return Reply(json.dumps(NOTES), delay_s=0.05)

    with endpoint(steady) as fake:
        argv = command(fake.url, [file], out, "--concurrency", "2")
        process = subprocess.Popen(
            [sys.executable, "-m", "data_prep.data_command", *argv],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        until = time.monotonic() + 30
        while not (journal.exists() and journal.read_bytes().count(b"\n") > 4) and time.monotonic() < until:
            time.sleep(0.01)
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        assert not out.exists()
        done = journal.read_bytes().count(b"\n") - 1
        assert 4 <= done < 12
        with journal.open("ab") as stream:
            stream.write(b'{"key": "half a li')
        status, counts, _ = goals(capsys, fake.url, [file], out, "--concurrency", "2")
        # Only what was on its way when it was killed is asked for twice.
        asked = fake.prompts()
        assert len(asked) - len(set(asked)) <= 2
    assert (status, counts["resumed"]) == (0, done)
    assert ids(out) == [f"c{index}" for index in range(12)]
    assert not journal.exists()


def test_a_journal_of_other_settings_is_not_mixed_in(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file, out = conversations_file(tmp_path, 2), tmp_path / "goals.jsonl"
    with endpoint(by_id({"c1": Reply(status=400, raw="odd")})) as fake:
        goals(capsys, fake.url, [file], out)
        status, _, stderr = goals(capsys, fake.url, [file], out, "--max-overlap", "0.5")
    assert status == 2
    assert "holds an interrupted run with other settings" in stderr


def test_an_id_seen_before_is_left_out_and_no_goal_at_all_is_an_error(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file, out = conversations_file(tmp_path, 2), tmp_path / "goals.jsonl"
    with endpoint(hotel) as fake:
        _, counts, _ = goals(capsys, fake.url, [file, file], out)
    assert (counts["repeated_ids"], counts["written"]) == (2, 2)
    out = tmp_path / "none.jsonl"
    with endpoint(lambda body, number: notes(goal="-")) as fake:
        status, _, stderr = goals(capsys, fake.url, [file], out)
    assert (status, out.exists()) == (2, False)
    assert "no conversation got a goal (empty goal 2)" in stderr


class Parrot:
    """A local provider that says what the first conversation's person said, and of others something else."""

    name = "parrot-1"

    async def annotate(self, conversation: Conversation) -> Annotation | NoGoal:
        said = conversation.turns[0].text if conversation.id == "c0" else "sleep somewhere"
        return Annotation(id=conversation.id, goal=said)


def test_a_local_provider_is_held_to_the_same_bound_and_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked_for = []

    def load_goal_model(path: Path | None, *, max_overlap: float) -> Parrot:
        asked_for.append((path, max_overlap))
        return Parrot()

    model = SimpleNamespace(load_goal_model=load_goal_model)
    monkeypatch.setitem(sys.modules, "data_prep.goals.local_model", model)
    file, out = conversations_file(tmp_path, 3), tmp_path / "goals.jsonl"
    assert main(["goals", str(file), "--out", str(out), "--local", "default", "--json"]) == 0
    counts = json.loads(capsys.readouterr().out)
    assert asked_for == [(None, 0.3)]
    assert (counts["written"], counts["rejected"], counts["usage"]) == (2, {PARROTS: 1}, None)
    assert {json.loads(line)["provenance"] for line in out.read_text().splitlines()} == {"parrot-1"}


def test_ctrl_c_says_what_is_kept(tmp_path: Path) -> None:
    file, out = conversations_file(tmp_path, 4), tmp_path / "goals.jsonl"

    def slowing(body: dict[str, Any], number: int) -> Reply:
        return Reply(json.dumps(NOTES), delay_s=0.0 if number < 2 else 5.0)

    with endpoint(slowing) as fake:
        argv = command(fake.url, [file], out, "--concurrency", "1")
        process = subprocess.Popen(
            [sys.executable, "-m", "data_prep.data_command", *argv],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        until = time.monotonic() + 30
        while len(fake.bodies) < 3 and time.monotonic() < until:
            time.sleep(0.01)
        process.send_signal(signal.SIGINT)
        stderr = process.communicate(timeout=30)[1]
    assert process.returncode == 130
    assert f"2 of 4 done are kept in {out}.partial; run again to go on" in stderr
    assert "Traceback" not in stderr


@pytest.mark.parametrize(
    ("more", "complaint"),
    [
        (["--concurrency", "0"], "--concurrency 0: at least 1"),
        (["--max-overlap", "2"], "a share from 0 to 1"),
        (["--api-key-env", "NO_SUCH_KEY"], "that variable is not set"),
    ],
)
def test_a_command_that_cannot_work_is_refused_before_anything_is_asked(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], more: list[str], complaint: str
) -> None:
    file = conversations_file(tmp_path, 1)
    status, _, stderr = goals(capsys, "http://127.0.0.1:9", [file], tmp_path / "g.jsonl", *more)
    assert status == 2
    assert complaint in stderr


def test_a_line_that_is_no_conversation_names_its_place(tmp_path: Path) -> None:
    file = conversations_file(tmp_path, 1)
    with file.open("a") as stream:
        stream.write('{"id": "bad"}\n')
    with endpoint(hotel) as fake, pytest.raises(DataError, match=r"c\.jsonl:2: "):
        main(command(fake.url, [file], tmp_path / "g.jsonl"))
