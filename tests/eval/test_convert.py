"""Conversations of other tools: invented files of their layouts, in and out."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from eval.__main__ import main
from eval.convert import collabllm, messages, nemo_usersim, tau2
from eval.convert.turns import conversation
from usersim.cli import run_main
from usersim.storage.records import read_conversations
from usersim.types import Conversation


def says(role: str, content: Any, **more: Any) -> dict[str, Any]:
    return {"role": role, "content": content, **more}


def turns(conversation: Conversation) -> list[tuple[str, str]]:
    return [(turn.role[0], turn.text) for turn in conversation.turns]


def written(path: Path, value: Any) -> Path:
    lines = "\n".join(map(json.dumps, value)) if path.suffix == ".jsonl" else json.dumps(value)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(lines, encoding="utf-8")
    return path


# -- tau2 --------------------------------------------------------------------------------------------

CALL = [{"id": "1", "name": "look_up", "arguments": {}, "requestor": "assistant"}]
TASK = {
    "id": "7",
    "user_scenario": {
        "persona": "a hurried gardener",
        "instructions": {
            "domain": "shop",
            "reason_for_call": "return a spade that broke",
            "known_info": "Your order is 4711.\nYou live in Ulm. ",
            "task_instructions": "Stay calm.",
        },
    },
}
RESULTS = {
    "info": {
        "user_info": {"implementation": "user_simulator", "llm": "some-model"},
        "environment_info": {"domain_name": "shop", "policy": "Sell spades."},
    },
    "tasks": [TASK, {"id": "8", "user_scenario": {"instructions": "Ask for a rake."}}],
}
TALK = [
    says("assistant", "Hi! What is it?"),
    says("user", "my spade broke"),
    says("assistant", None, tool_calls=CALL),
    says("tool", "{}", id="1"),
    says("assistant", "Which order?"),
    says("user", "4711"),
    says("assistant", "One moment.", tool_calls=CALL),
    says("tool", "{}", id="2"),
    says("assistant", "Done."),
    says("user", "great bye ###STOP###"),
]


def simulation(name: str, task: str, reason: str, talk: Any) -> dict[str, Any]:
    return {"id": name, "task_id": task, "termination_reason": reason, "trial": 0, "messages": talk}


SIMULATIONS = [
    simulation("s1", "7", "user_stop", TALK),
    simulation("s2", "7", "max_steps", TALK[:5]),
    simulation("s3", "8", "user_stop", [*TALK[:1], says("user", "###TRANSFER###"), says("assistant", "x")]),
    simulation("s4", "8", "user_stop", [*TALK[:2], TALK[4], says("user", " ###TRANSFER###"), TALK[4]]),
    simulation("s5", "9", "infrastructure_error", TALK),
    {**simulation("s6", "7", "user_stop", None), "ticks": [{}]},
    simulation("s7", "nine", "agent_stop", TALK[:2]),
]


@pytest.fixture(params=["one file", "folder"])
def results(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    if request.param == "one file":
        return written(tmp_path / "r.json", {**RESULTS, "simulations": SIMULATIONS})
    written(tmp_path / "run" / "results.json", RESULTS)
    for run in SIMULATIONS:
        written(tmp_path / "run" / "simulations" / f"{run['id']}.json", run)
    return tmp_path / "run"


def test_tau2_without_tools_with_goal_and_the_users_own_end(results: Path) -> None:
    made = tau2.convert(results)
    by_id = {c.id: c for c in made.conversations}
    assert list(by_id) == ["s1", "s2", "s4", "s7"]
    assert turns(by_id["s1"]) == [
        *(("a", "Hi! What is it?"), ("u", "my spade broke"), ("a", "Which order?"), ("u", "4711")),
        *(("a", "One moment.\n\nDone."), ("u", "great bye")),
    ]
    assert [c.ended_by for c in by_id.values()] == ["user", "turn_cap", "cut", "cut"]
    first = by_id["s1"]
    assert (first.origin, first.source, first.group) == ("simulated", "tau2 some-model", "shop/7")
    assert first.system == "Sell spades."
    goal, persona = first.profile.goal, first.profile.persona
    assert goal is not None
    assert persona is not None
    assert (goal.summary, [facet.text for facet in goal.facets]) == (
        *("return a spade that broke", ["Your order is 4711.", "You live in Ulm."]),
    )
    assert persona.description == "a hurried gardener"
    assert by_id["s4"].profile.goal is not None
    assert by_id["s4"].profile.goal.summary == "Ask for a rake."
    assert by_id["s7"].profile.goal is None
    assert made.excluded == {
        "failed run (infrastructure_error)": 1,
        "voice run without messages": 1,
        "no user turn": 1,
    }
    assert made.notes["messages of tools left out"] == 3
    assert made.notes["messages joined to the one before"] == 1
    assert made.notes["no task of that id, so no goal"] == 1
    assert made.notes["ended by ###STOP###"] == 1


# -- CollabLLM ---------------------------------------------------------------------------------------

CHAT = [says("user", "help me with a sum"), says("assistant", "Which?"), says("user", "2+2")]
LEFT = [*CHAT, says("assistant", "4"), says("user", "ok [[TERMINATE CHAT]]")]


@pytest.mark.parametrize(
    ("rows", "goal", "count", "ended_by", "last"),
    [
        ({"3": {"chat": LEFT, "qa": [says("user", "What is 2+2?")]}}, "What is 2+2?", 1, "user", "ok"),
        ({"3": {"chat": [says("system", "Be kind."), *CHAT], "qa": []}}, None, 1, "turn_cap", "2+2"),
        ([[{"accuracy": 1.0}, LEFT], [{"accuracy": 0.0}, CHAT]], None, 2, "user", "ok"),
        (
            [
                {
                    "single_turn_prompt": "What is 2+2?",
                    "turns": [
                        {"prompt": CHAT[:1], "responses": [{"completion": "Which?", "score": 1}]},
                        {
                            "prompt": CHAT,
                            "responses": [
                                {"completion": "5", "score": 0.1, "sessions": [LEFT, LEFT]},
                                {"completion": "4", "score": 0.9, "sessions": [LEFT]},
                            ],
                        },
                    ],
                }
            ],
            *("What is 2+2?", 1, "unknown", "4"),
        ),
        (
            [
                {
                    "conv_id": 0,
                    "prompt": p,
                    "completion": text,
                    "score": s,
                    "single_turn_prompt": "What is 2+2?",
                }
                for p, text, s in ((CHAT[:1], "Which?", 1), (CHAT, "4", 0.9), (CHAT, "5", 0.1))
            ],
            *("What is 2+2?", 1, "unknown", "4"),
        ),
    ],
)
def test_collabllm_in_each_of_its_layouts(
    tmp_path: Path, rows: Any, goal: str | None, count: int, ended_by: str, last: str
) -> None:
    made = collabllm.convert(written(tmp_path / "log.json", rows))
    assert len(made.conversations) == count
    first = made.conversations[0]
    assert (first.profile.goal and first.profile.goal.summary) == goal
    assert (first.ended_by, first.turns[-1].text, first.source) == (ended_by, last, "collabllm")
    assert turns(first)[:3] == [("u", "help me with a sum"), ("a", "Which?"), ("u", "2+2")]


def test_sampled_futures_are_left_out_and_counted(tmp_path: Path) -> None:
    turn = {"prompt": CHAT, "responses": [{"completion": "4", "score": 1, "sessions": [LEFT, LEFT]}]}
    made = collabllm.convert(written(tmp_path / "x.jsonl", [{"single_turn_prompt": "q", "turns": [turn]}, 5]))
    assert made.notes[collabllm.FUTURES] == 2
    assert made.excluded == {"no CollabLLM layout that is known": 1}


# -- NeMo UserSim ------------------------------------------------------------------------------------


def trajectory(name: str, outcome: dict[str, Any], **metadata: Any) -> dict[str, Any]:
    talk = [
        *(
            says("system", "You are a bank."),
            says("user", "card lost"),
            says("assistant", "", tool_calls=[{}]),
        ),
        *(says("tool", "ok", tool_call_id="1"), says("assistant", "Blocked."), says("user", "thanks")),
    ]
    return {
        "trajectory_id": name,
        "persona_uuid": "p1",
        "locale": "fr_FR",
        "conversation_messages": json.dumps(talk),
        "conversation_metadata": json.dumps(metadata),
        "simulation_outcome": json.dumps(outcome),
    }


TRAJECTORIES = [
    trajectory("t1", {"status": "ok", "early_stop": True}),
    trajectory("t2", {"status": "ok", "early_stop": True}, stopped_on_capitulation=True),
    trajectory("t3", {"status": "completed_with_warnings", "early_stop": False}),
    trajectory("t4", {"status": "failed", "failure_class": "scenario_aborted"}),
]


@pytest.mark.parametrize("layout", ["rows", "parquet"])
def test_nemo_usersim_rows_and_parquet(tmp_path: Path, layout: str) -> None:
    if layout == "rows":
        path = written(tmp_path / "t.jsonl", TRAJECTORIES)
    else:
        pa = pytest.importorskip("pyarrow")
        import pyarrow.parquet as pq

        path = tmp_path / "trajectories"
        for part in (TRAJECTORIES[:2], TRAJECTORIES[2:]):
            folder = (
                path / "run=17" / "locale=fr_FR" / f"probe_family={len(part[0])}{part[0]['trajectory_id']}"
            )
            folder.mkdir(parents=True)
            rows = [{key: value for key, value in row.items() if key != "locale"} for row in part]
            pq.write_table(pa.Table.from_pylist(rows), folder / "part-0.parquet")
    made = nemo_usersim.convert(path)
    assert [(c.id, c.ended_by) for c in made.conversations] == [
        *(("t1", "user"), ("t2", "cut"), ("t3", "turn_cap")),
    ]
    assert made.excluded == {"failed run (scenario_aborted)": 1}
    first = made.conversations[0]
    assert turns(first) == [("u", "card lost"), ("a", "Blocked."), ("u", "thanks")]
    assert (first.system, first.group, first.source) == ("You are a bank.", "p1", "nemo-usersim")
    assert first.profile.persona is not None
    assert first.profile.persona.language == "fr"


# -- messages ----------------------------------------------------------------------------------------


def test_plain_messages_with_parts_goals_and_marks_of_ones_own(tmp_path: Path) -> None:
    image = {"type": "image_url", "image_url": {}}
    path = written(
        tmp_path / "chats.jsonl",
        [
            {
                "id": "a",
                "goal": "sell a car",
                "messages": [says("user", [{"type": "text", "text": "car"}, image])],
            },
            {
                "id": "a",
                "messages": [says("developer", "Be brief."), says("user", "x"), says("assistant", "y")],
            },
            [says("user", "one"), says("assistant", "two"), says("user", "over and out"), says("user", "??")],
            {"messages": [says("narrator", "Night.")]},
            {"messages": []},
            {"messages": [says("user", {"text": "x"})]},
            {"goal": {"sumary": "x"}, "messages": [says("user", "x")]},
        ],
    )
    made = messages.convert(path, stop=("over and out",))
    assert [(c.id, c.ended_by, len(c.turns)) for c in made.conversations] == [
        *(("a", "unknown", 1), ("a~2", "unknown", 2), ("3", "user", 2)),
    ]
    assert made.conversations[0].profile.goal is not None
    assert (made.conversations[1].system, made.conversations[1].source) == ("Be brief.", "chats")
    assert made.excluded == {
        "a message of role 'narrator'": 1,
        "no messages": 1,
        "a message whose content is no text": 1,
        "a goal or persona of another layout": 1,
    }
    assert made.notes["messages after a stop mark left out"] == 1


# -- the command -------------------------------------------------------------------------------------


def test_the_command_writes_records_and_prints_what_it_left_out(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = written(tmp_path / "r.json", {**RESULTS, "simulations": SIMULATIONS})
    out, told = tmp_path / "out.jsonl", tmp_path / "told.json"
    argv = ["convert", "tau2", str(source), "--out", str(out), "--source", "theirs", "--json-out", str(told)]
    assert run_main(main, argv) == 0
    assert {c.source for c in read_conversations(out)} == {"theirs"}
    assert "excluded: failed run (infrastructure_error): 1" in capsys.readouterr().err
    summary = json.loads(told.read_text())
    assert (summary["conversations"], summary["with_goal"], summary["ended_by_user"]) == (4, 3, 1)
    people = written(tmp_path / "people.jsonl", [[says("user", "hi")]])
    assert run_main(main, ["convert", "messages", str(people), "--human", "--out", str(out)]) == 0
    assert read_conversations(out)[0].origin == "human"


@pytest.mark.parametrize(
    ("layout", "content", "why"),
    [
        ("tau2", "{}", "no tau2 results"),
        ("tau2", '{"tasks": []}', "no `simulations` in it"),
        ("tau2", "{", "not JSON"),
        ("messages", '"x"', "needs a list or an object"),
        ("messages", "[]", "it is empty"),
        ("collabllm", '[{"turns": [{}]}]', "not of this layout (KeyError) 1"),
        ("nemo-usersim", '[{"x": 1}]', "no `conversation_messages` 1"),
    ],
)
def test_a_file_of_another_kind_is_one_readable_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], layout: str, content: str, why: str
) -> None:
    (tmp_path / "f.json").write_text(content)
    assert (
        run_main(main, ["convert", layout, str(tmp_path / "f.json"), "--out", str(tmp_path / "o.jsonl")]) == 2
    )
    err = capsys.readouterr().err
    assert why in err
    assert err.count("\n") == 1
    assert not (tmp_path / "o.jsonl").exists()


@pytest.mark.parametrize(
    ("last", "left", "ended_by"),
    [
        ("sort these:\n- [DONE] milk\n- bread", "sort these:\n- [DONE] milk\n- bread", "unknown"),
        ("**###STOP###**", None, "user"),
        ("thanks, bye. ###STOP###", "thanks, bye.", "user"),
        ("bye\n###STOP###\nand more", "bye", "user"),
        ("what does `###STOP###` do here?", "what does `###STOP###` do here?", "unknown"),
    ],
)
def test_a_mark_ends_a_conversation_where_it_stands_by_itself(
    last: str, left: str | None, ended_by: str
) -> None:
    talk = [says("user", "hi"), says("assistant", "yo"), says("user", last)]
    found = conversation(talk, source="s", notes=Counter())
    assert [turn.text for turn in found.turns] == ["hi", "yo", *([left] if left else [])]
    assert found.ended_by == ended_by


def test_a_short_form_ends_no_sentence() -> None:
    known = "You are Ann. You live in the U.S. now, at no. 5."
    task = {"user_scenario": {"instructions": {"reason_for_call": "r", "known_info": known}}}
    goal = tau2._profile(task).goal
    assert goal is not None
    assert [facet.text for facet in goal.facets] == ["You are Ann.", "You live in the U.S. now, at no. 5."]
