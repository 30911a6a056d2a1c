"""Batches of conversations: order, failures, resuming; and the commands on top."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from pathlib import Path

import pytest

from usersim.__main__ import main
from usersim.cli import run_main
from usersim.commands import simulate as simulate_command
from usersim.errors import BackendError, DataError
from usersim.records import read_conversations
from usersim.simulate import Case, Journal, Outcome, read_cases, simulate
from usersim.testing import ScriptedAssistant, ScriptedUser
from usersim.types import Conversation, Goal, Turn, UserProfile


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


def batch(todo: Sequence[Case], journal: Journal | None = None) -> Outcome:
    return asyncio.run(
        simulate(
            ScriptedUser("hi", "bye"),
            Flaky("yo"),
            todo,
            max_user_turns=4,
            seed=0,
            source="s",
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
    first = Journal(out, settings)
    batch(cases(1), first)
    with first.path.open("a") as stream:
        stream.write('{"id": "c9", "half')  # the line being written when it was killed
    again = Journal(out, settings)
    assert list(again.finished) == ["c0"]
    batch([case for case in cases(4) if case.id not in again.finished], again)
    assert list(Journal(out, settings).finished) == ["c0", "c2", "c3"]
    assert again.close([case.id for case in cases(4)]) == 3
    assert [made.id for made in read_conversations(out)] == ["c0", "c2", "c3"]
    assert not again.path.exists()


def test_a_line_separator_in_chat_text_breaks_no_journal(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "out.jsonl", {})
    turns = (Turn(role="user", text="one\u2028two\x85three"),)
    for name in ("a", "b"):
        journal.add(Conversation(id=name, origin="simulated", source="s", turns=turns))
    assert list(Journal(tmp_path / "out.jsonl", {}).finished) == ["a", "b"]


def test_a_journal_of_other_settings_is_refused(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "out.jsonl", {"seed": 0})
    batch(cases(1), journal)
    with pytest.raises(DataError, match="other settings"):
        Journal(tmp_path / "out.jsonl", {"seed": 1})


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
    monkeypatch.setattr("usersim.model.build_base", lambda: tiny_base)
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


def test_sample_prints_one_json_document(tiny_userlm: Path, capsys: pytest.CaptureFixture[str]) -> None:
    persona = '{"style": {"words_per_turn": 5}}'
    status = main(
        ["sample", "--goal", "g", "--persona", persona, "--model", str(tiny_userlm), "-n", "2", "--json"]
    )
    assert status == 0
    assert len(json.loads(capsys.readouterr().out)["turns"]) == 2
