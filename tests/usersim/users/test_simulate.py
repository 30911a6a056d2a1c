"""Batches of conversations: order, failures, resuming; and the commands on top."""

from __future__ import annotations

import asyncio
import json
import re
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.fake_endpoint import Reply, endpoint
from usersim.__main__ import main
from usersim.cli import run_main
from usersim.commands import simulate as simulate_command
from usersim.errors import BackendError, DataError
from usersim.storage.records import read_conversations
from usersim.testing import ScriptedAssistant, ScriptedUser
from usersim.types import Conversation, Goal, Turn, UserProfile, UserTurn
from usersim.users.guards import Guards
from usersim.users.prompted import CAREFUL, prompt_hash
from usersim.users.simulate import (
    MAX_CONSECUTIVE_FAILURES,
    BatchJournal,
    Case,
    SimulationResult,
    read_cases,
    repeated,
    simulate,
)


def cases(count: int) -> list[Case]:
    return [Case(f"c{i}", UserProfile(goal=Goal(summary=f"goal {i}")), i) for i in range(count)]


class Flaky(ScriptedAssistant):
    """Fails in every conversation whose user wants goal 1: told by the seed, which is the case's own."""

    async def __call__(
        self, turns: Sequence[Turn], *, system: str | None = None, seed: int | None = None
    ) -> str:
        if seed is not None and seed - 7919 * len(turns) == 1009:  # as converse() derives it from case 1
            raise BackendError("down", retryable=True)
        return await super().__call__(turns, system=system, seed=seed)


def batch(todo: Sequence[Case], journal: BatchJournal | None = None) -> SimulationResult:
    return asyncio.run(
        simulate(
            ScriptedUser("hi", "bye"),
            Flaky("yo"),
            todo,
            max_user_turns=4,
            seed=0,
            source="s",
            backoff_s=0.001,
            done=lambda made: journal.add(made) if journal and made else None,
        )
    )


def test_failures_are_counted_and_left_out_and_order_is_kept() -> None:
    outcome = batch(cases(4))
    assert [made.id for made in outcome.conversations] == ["c0", "c2", "c3"]
    assert outcome.failed == {"BackendError": 1}
    assert outcome.first_error == "down"


def test_an_interrupted_batch_continues_where_it_stopped(tmp_path: Path) -> None:
    out, settings = tmp_path / "out.jsonl", {"seed": 0}
    first = BatchJournal(out, settings)
    batch(cases(1), first)
    with first.path.open("a") as stream:
        stream.write('{"id": "c9", "half')  # the line being written when it was killed
    again = BatchJournal(out, settings)
    assert list(again.finished) == ["c0"]
    batch([case for case in cases(4) if case.id not in again.finished], again)
    assert list(BatchJournal(out, settings).finished) == ["c0", "c2", "c3"]
    assert again.close([case.id for case in cases(4)]) == 3
    assert [made.id for made in read_conversations(out)] == ["c0", "c2", "c3"]
    assert not again.path.exists()


def test_a_line_separator_in_chat_text_breaks_no_journal(tmp_path: Path) -> None:
    journal = BatchJournal(tmp_path / "out.jsonl", {})
    turns = (Turn(role="user", text="one\u2028two\x85three"),)
    for name in ("a", "b"):
        journal.add(Conversation(id=name, origin="simulated", source="s", turns=turns))
    assert list(BatchJournal(tmp_path / "out.jsonl", {}).finished) == ["a", "b"]


def test_a_journal_of_other_settings_is_refused(tmp_path: Path) -> None:
    journal = BatchJournal(tmp_path / "out.jsonl", {"seed": 0})
    batch(cases(1), journal)
    with pytest.raises(DataError, match=r"other settings \(seed\)"):
        BatchJournal(tmp_path / "out.jsonl", {"seed": 1})


def test_goals_come_as_strings_objects_or_profiles(tmp_path: Path) -> None:
    file = tmp_path / "goals.jsonl"
    rows = [
        {"goal": "plan a trip", "persona": "terse"},
        {"id": "x", "goal": {"summary": "cook", "facets": [{"text": "vegan"}]}},
        {"id": "y", "profile": {"goal": {"summary": "sew"}}, "turns": []},
        {"id": "z", "turns": []},
    ]
    file.write_text("\n".join(map(json.dumps, rows)))
    read = read_cases(file)
    assert [case.id for case in read] == ["1", "x", "y", "z"]
    assert read.pop().profile == UserProfile()
    assert [case.profile.goal and case.profile.goal.summary for case in read] == [
        "plan a trip",
        "cook",
        "sew",
    ]
    assert read[0].profile.persona is not None


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ('{"persona": "x"}', r"g\.jsonl:1: needs"),
        ("[1]", r"g\.jsonl:1"),
        ("{", r"g\.jsonl:1: not JSON"),
        ("", "no goals"),
    ],
)
def test_bad_goals_name_their_line(tmp_path: Path, text: str, why: str) -> None:
    file = tmp_path / "g.jsonl"
    file.write_text(text)
    with pytest.raises(DataError, match=why):
        read_cases(file)


def test_the_simulate_command_end_to_end(
    tmp_path: Path, tiny_userlm: Path, tiny_base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("usersim.weights.default_model.build_base", lambda: tiny_base)
    goals, out = tmp_path / "goals.jsonl", tmp_path / "out.jsonl"
    goals.write_text('{"goal": "a"}\n{"goal": "b"}\n')
    argv = ["--goals", str(goals), "--assistant", "local", "--out", str(out), "--model", str(tiny_userlm)]
    argv += ["--turns", "1", "--assistant-tokens", "6", "--json-out", str(tmp_path / "s.json")]
    assert run_main(simulate_command.main, argv) == 0
    made = read_conversations(out)
    assert made
    assert {conversation.origin for conversation in made} == {"simulated"}
    summary = json.loads((tmp_path / "s.json").read_text())
    assert summary["conversations"] == len(made)
    assert len(made) + sum(summary["failed"].values()) == 2


def test_dry_runs_and_bad_input_cost_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    goals = tmp_path / "goals.jsonl"
    goals.write_text('{"goal": "a"}\n')
    argv = [
        "simulate",
        "--goals",
        str(goals),
        "--assistant",
        "http://x",
        "--out",
        str(tmp_path / "o"),
        "--dry-run",
    ]
    assert main(argv) == 0
    assert json.loads(capsys.readouterr().out)["conversations"] == 1
    assert main(["simulate", "--goals", "missing", "--assistant", "local", "--out", "o"]) == 2
    assert "missing: no such file" in capsys.readouterr().err
    assert main(["sample", "--goal", "plan a trip", "--dry-run"]) == 0
    assert "You want to plan a trip." in capsys.readouterr().out
    assert main(["sample", "--goal", '{"summry": "x"}', "--dry-run"]) == 2
    assert "--goal: summary" in capsys.readouterr().err
    assert main(["nonsense"]) == 2


def test_only_conversations_with_a_goal_are_simulated_and_their_number_is_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    goals = tmp_path / "test.jsonl"
    lines = [
        {"id": f"c{i}", "origin": "human", "source": "s", "turns": [{"role": "user", "text": "hi"}]}
        | ({"profile": {"goal": {"summary": f"goal {i}"}}} if i % 2 else {})
        for i in range(6)
    ]
    goals.write_text("\n".join(map(json.dumps, lines)))
    argv = ["--goals", str(goals), "--assistant", "local", "--out", str(tmp_path / "o.jsonl"), "--dry-run"]
    assert run_main(simulate_command.main, [*argv, "--limit", "2"]) == 0
    told = capsys.readouterr()
    assert json.loads(told.out)["conversations"] == 2
    assert told.err == f"{goals}: 6 conversations, 3 with a goal\n"
    asked = simulate_command._cases(simulate_command._parser().parse_args(argv))
    assert [(case.id, case.index) for case in asked] == [("c1", 1), ("c3", 3), ("c5", 5)]

    goals.write_text("\n".join(json.dumps(line) for line in lines[::2]))
    assert run_main(simulate_command.main, argv) == 2
    first, error = capsys.readouterr().err.removesuffix("\n").split("\n")[-2:]
    assert first == f"{goals}: 3 conversations, 0 with a goal"
    assert error.startswith(f"usersim: {goals}: no conversation has a goal for the user to pursue; ")


def test_sample_prints_one_json_document(tiny_userlm: Path, capsys: pytest.CaptureFixture[str]) -> None:
    persona = '{"style": {"words_per_turn": 5}}'
    status = main(
        ["sample", "--goal", "g", "--persona", persona, "--model", str(tiny_userlm), "-n", "2", "--json"]
    )
    assert status == 0
    assert len(json.loads(capsys.readouterr().out)["turns"]) == 2


# -- prompted users, run files, going on -------------------------------------------------------------


def of_goal(body: dict[str, Any]) -> str | None:
    """The goal that a prompted user was told; None for the assistant's side."""
    system = next((m["content"] for m in body["messages"] if m["role"] == "system"), "")
    found = re.search(r"What the person wants: (.*)\.", system)
    return found[1] if found else None


def speaking(body: dict[str, Any], number: int) -> Reply:
    """Both sides: the user says its goal, then stops."""
    goal = of_goal(body)
    if goal is None:
        return Reply("Here you are.")
    return Reply("[DONE]" if len(body["messages"]) > 2 else f'User: "{goal}, how"')


def command(folder: Path, url: str, *more: str, goals: int = 4) -> list[str]:
    lines = [json.dumps({"id": f"c{i}", "goal": f"goal {i}", "group": f"p{i // 2}"}) for i in range(goals)]
    (folder / "goals.jsonl").write_text("\n".join(lines))
    return [
        *("--goals", str(folder / "goals.jsonl"), "--out", str(folder / "sim.jsonl"), "--retries", "0"),
        *(
            "--assistant",
            f"{url}#helper",
            "--prompted",
            url,
            "--model",
            "large",
            "--prompt",
            "careful",
            *more,
        ),
    ]


def run_of(folder: Path) -> dict[str, Any]:
    return dict(json.loads((folder / "sim.run.json").read_text()))


def test_a_prompted_user_over_an_endpoint_and_the_record_of_how_it_was_made(tmp_path: Path) -> None:
    with endpoint(speaking) as fake:
        assert run_main(simulate_command.main, command(tmp_path, fake.url, "--turns", "3")) == 0
        told = {of_goal(body): body for body in fake.bodies}
    made = read_conversations(tmp_path / "sim.jsonl")
    assert [(c.id, c.source, c.group, c.ended_by) for c in made] == [
        (f"c{i}", "prompted-large", f"p{i // 2}", "user") for i in range(4)
    ]
    assert [turn.text for turn in made[1].turns] == ["goal 1, how", "Here you are."]  # label and quotes gone
    assert (told["goal 1"]["model"], told["goal 1"]["max_tokens"], told["goal 1"]["temperature"]) == (
        *("large", 192, 1.0),
    )
    run = run_of(tmp_path)
    (session,) = run["sessions"]
    assert (run["settings"]["turns"], run["settings"]["prompt"], run["conversations"]) == (3, "careful", 4)
    assert len(run["settings"]["goals_sha256"]) == 64
    assert run["settings"]["prompt_hash"] == session["user"]["prompt_hash"] == prompt_hash(CAREFUL)
    # Two calls a conversation: the opening and the end.
    assert (session["user"]["model"], session["user"]["replies"], session["user"]["cut"]) == ("large", 8, 0)
    assert session["user"]["guards"] == Guards.off().model_dump()
    assert (session["assistant"]["model"], session["assistant"]["completion_tokens"]) == ("helper", 20)
    assert session["failed"] == {}


def test_guards_of_a_server_are_not_turned_off_from_here(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "g.jsonl").write_text('{"goal": "a chair"}\n')
    argv = ["--goals", str(tmp_path / "g.jsonl"), "--out", str(tmp_path / "s.jsonl"), "--assistant", "local"]
    assert run_main(simulate_command.main, [*argv, "--url", "http://127.0.0.1:9", "--no-guards"]) == 2
    assert "a server has guards of its own" in capsys.readouterr().err


def test_what_failed_is_counted_and_done_by_the_same_command_later(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken(body: dict[str, Any], number: int) -> Reply:
        return Reply(status=500, raw="oh no") if of_goal(body) == "goal 2" else speaking(body, number)

    with endpoint(broken) as fake:
        argv = command(tmp_path, fake.url)
        assert run_main(simulate_command.main, argv) == 0
        assert [c.id for c in read_conversations(tmp_path / "sim.jsonl")] == ["c0", "c1", "c3"]
        assert run_of(tmp_path)["sessions"][0]["failed"] == {"BackendError": 1}
        fake.answer, before = speaking, len(fake.bodies)
        assert run_main(simulate_command.main, argv) == 0
        assert {of_goal(body) for body in fake.bodies[before:]} == {"goal 2", None}
        before = len(fake.bodies)
        assert run_main(simulate_command.main, argv) == 0  # nothing is left to do
        assert len(fake.bodies) == before
        assert run_main(simulate_command.main, [*argv, "--seed", "1"]) == 2
    assert [c.id for c in read_conversations(tmp_path / "sim.jsonl")] == ["c0", "c1", "c2", "c3"]
    assert [session["failed"] for session in run_of(tmp_path)["sessions"]] == [{"BackendError": 1}, {}]
    assert "was made with other settings (seed)" in " ".join(capsys.readouterr().err.split())


def test_a_killed_batch_goes_on_with_exactly_what_is_missing(tmp_path: Path) -> None:
    def slowly(body: dict[str, Any], number: int) -> Reply:
        return replace(speaking(body, number), delay_s=0.05)

    with endpoint(slowly) as fake:
        argv = command(tmp_path, fake.url, "--concurrency", "1", goals=12)
        partial = tmp_path / ".sim.jsonl.partial"
        batch = subprocess.Popen(
            [sys.executable, "-m", "usersim", "simulate", *argv], stderr=subprocess.DEVNULL
        )
        try:
            limit = time.monotonic() + 60
            while not partial.is_file() or partial.read_text().count("\n") < 4:
                assert batch.poll() is None
                assert time.monotonic() < limit
                time.sleep(0.01)
        finally:
            batch.kill()
            batch.wait()
        kept = {json.loads(line)["id"] for line in partial.read_text().split("\n")[1:-1]}
        assert 3 <= len(kept) < 12
        fake.answer, before = speaking, len(fake.bodies)
        assert run_main(simulate_command.main, argv) == 0
        again = {goal for body in fake.bodies[before:] if (goal := of_goal(body))}
    assert again == {f"goal {i}" for i in range(12) if f"c{i}" not in kept}
    assert [c.id for c in read_conversations(tmp_path / "sim.jsonl")] == [f"c{i}" for i in range(12)]


def test_a_batch_may_be_made_longer_and_a_shorter_one_takes_nothing_away(tmp_path: Path) -> None:
    with endpoint(speaking) as fake:
        for limit, asked in (("2", {"goal 0", "goal 1"}), ("4", {"goal 2", "goal 3"}), ("1", set())):
            before = len(fake.bodies)
            assert run_main(simulate_command.main, command(tmp_path, fake.url, "--limit", limit)) == 0
            assert {of_goal(body) for body in fake.bodies[before:]} - {None} == asked
    assert [c.id for c in read_conversations(tmp_path / "sim.jsonl")] == ["c0", "c1", "c2", "c3"]


def test_a_dead_endpoint_is_given_up_and_what_was_made_is_kept(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def dying(body: dict[str, Any], number: int) -> Reply:
        return speaking(body, number) if number < 6 else Reply(status=503)

    with endpoint(dying) as fake:
        argv = command(tmp_path, fake.url, "--concurrency", "1", goals=16)
        assert run_main(simulate_command.main, argv) == 2
        assert len(fake.bodies) == 6 + MAX_CONSECUTIVE_FAILURES
        assert "2 of 16 conversations are kept: run the same command again" in capsys.readouterr().err
        fake.answer = speaking
        assert run_main(simulate_command.main, argv) == 0
    assert len(read_conversations(tmp_path / "sim.jsonl")) == 16


def test_a_turn_that_may_succeed_later_is_asked_for_again_from_the_same_seed() -> None:
    seeds: list[int | None] = []

    class Busy(ScriptedUser):
        async def __call__(
            self, profile: UserProfile, turns: Sequence[Turn], *, seed: int | None = None
        ) -> UserTurn:
            seeds.append(seed)
            if len(seeds) < 3:
                raise BackendError("busy", retryable=True)
            return await super().__call__(profile, turns, seed=seed)

    outcome = asyncio.run(
        simulate(
            Busy("hi"),
            ScriptedAssistant("yo"),
            cases(1),
            max_user_turns=1,
            seed=5,
            source="s",
            backoff_s=0.001,
        )
    )
    assert (len(outcome.conversations), outcome.retries, outcome.failed) == (1, 2, {})
    assert len(set(seeds)) == 1


def test_repeats_of_a_goal_have_ids_and_seeds_of_their_own_and_one_group() -> None:
    told = repeated([*cases(2)], 2, of=10)
    assert [(case.id, case.index, case.group) for case in told] == [
        *(("c0#1", 0, "c0"), ("c0#2", 10, "c0"), ("c1#1", 1, "c1"), ("c1#2", 11, "c1")),
    ]
    assert repeated(cases(2), 1, of=10) == cases(2)


def test_a_policy_is_part_of_the_name_and_of_the_record(tmp_path: Path) -> None:
    def talkative(body: dict[str, Any], number: int) -> Reply:
        return Reply(f"word{number} other{number}")

    with endpoint(talkative) as fake:
        argv = command(tmp_path, fake.url, "--policy", "impatient:most_turns=2", goals=1)
        assert run_main(simulate_command.main, argv) == 0
    (made,) = read_conversations(tmp_path / "sim.jsonl")
    assert (made.source, made.ended_by, len(made.turns)) == ("prompted-large+impatient", "user", 4)
    policy = {"seed": 0, "patience": 2, "most_turns": 2}
    assert run_of(tmp_path)["sessions"][0]["user"]["policy"] == policy


MARKED = "[/x] [bold] :smile:"


def test_markup_in_data_is_printed_as_it_is(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def broken(body: dict[str, Any], number: int) -> Reply:
        return Reply(status=500, raw=MARKED) if of_goal(body) == "goal 1" else speaking(body, number)

    out = tmp_path / MARKED.replace("/", "") / f"{MARKED.partition('/')[0]}.jsonl"
    with endpoint(broken) as fake:
        argv = [*command(tmp_path, fake.url, "--name", MARKED, goals=2), "--out", str(out)]
        assert run_main(simulate_command.main, argv) == 0
        assert run_main(simulate_command.main, argv) == 0  # and says that it goes on
    (made,) = read_conversations(out)
    assert made.source == MARKED
    said = capsys.readouterr().err.replace("\n", "")
    assert MARKED in said
    assert "resuming: 1 of 2" in said


def test_nothing_printed_on_the_console_is_markup(capsys: pytest.CaptureFixture[str]) -> None:
    from rich.progress import Progress
    from rich.table import Table

    from usersim.cli import console, show

    table = Table("head", title=MARKED)
    table.add_row(MARKED)
    console.print(MARKED, style="dim")
    console.print(table)
    show({MARKED: MARKED, "count": 1234, "loss": 0.123456, "left_out": None})
    with Progress(console=console):
        pass
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == MARKED
    assert sum(MARKED in line for line in lines) == 4
    assert [line.split() for line in lines if "count" in line or "loss" in line] == [
        ["count", "1,234"],
        ["loss", "0.1235"],
    ]
