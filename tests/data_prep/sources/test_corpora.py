"""Fields of each corpus besides the messages: person, language, flags, system prompt and end."""

from __future__ import annotations

import datetime
import json
from pathlib import Path
from typing import Any

import pytest

from data_prep.raw_chats import RawChat, SourceReport
from data_prep.sources import open_source
from data_prep.sources.languages import language_code


def messages_of(*texts: str, **more: Any) -> list[dict[str, Any]]:
    roles = ("user", "assistant")
    return [{"role": roles[i % 2], "content": text, **more} for i, text in enumerate(texts)]


def read(tmp_path: Path, kind: str, *rows: Any) -> tuple[list[RawChat], SourceReport]:
    file = tmp_path / f"{kind}.jsonl"
    file.write_text("".join(json.dumps(row, default=str) + "\n" for row in rows), encoding="utf-8")
    source = open_source(f"{kind}:{file}")
    return list(source.chats), source.report


def texts(chat: RawChat) -> list[str]:
    return [turn.text for turn in chat.turns]


# WildChat


def wildchat_row(**changes: Any) -> dict[str, Any]:
    """A row of WildChat-1M."""
    times = {"timestamp": datetime.datetime(2024, 5, 1, tzinfo=datetime.UTC), "turn_identifier": 100}
    person = {"hashed_ip": "p1", "country": "Chile", "state": None, "header": {"accept-language": "es"}}
    nobody = dict.fromkeys(person)
    marks = {"language": "English", "toxic": False, "redacted": False}
    row = {
        "conversation_hash": "h1",
        "model": "gpt-4",
        "conversation": [
            {"role": "user", "content": "name three rivers", **times, **person, **marks},
            {"role": "assistant", "content": "Loa, Maipo, Biobío", **times, **nobody, **marks},
        ],
        "turn": 1,
        "openai_moderation": [{"flagged": False, "categories": {"hate": False}}],
        **person,
        **times,
        **marks,
    }
    return row | changes


def test_wildchat(tmp_path: Path) -> None:
    (chat,), report = read(tmp_path, "wildchat", wildchat_row())
    assert (chat.id, chat.source, chat.user_key, chat.language) == ("h1", "wildchat", "p1|Chile", "en")
    assert (chat.flags, chat.ended_by, chat.system) == ((), "user", None)
    assert texts(chat) == ["name three rivers", "Loa, Maipo, Biobío"]
    assert report.counts == {"rows": 1}


def test_wildchat_is_the_same_from_parquet_with_its_times(tmp_path: Path) -> None:
    pa, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    rows = [wildchat_row(), wildchat_row(conversation_hash="h2", language="Chinese", toxic=True)]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "w.parquet")
    from_table = list(open_source(str(tmp_path / "w.parquet")).chats)
    from_lines, _ = read(tmp_path, "wildchat", *rows)
    assert [c.model_copy(update={"place": ""}) for c in from_table] == [
        c.model_copy(update={"place": ""}) for c in from_lines
    ]
    assert [(chat.language, chat.flags) for chat in from_table] == [("en", ()), ("zh", ("toxic",))]


@pytest.mark.parametrize(
    ("changes", "person"),
    [
        ({"hashed_ip": None}, "p1|Chile"),
        ({"hashed_ip": "p2", "country": None}, "p2|"),
        ({"hashed_ip": None, "conversation": messages_of("hi", "ho")}, None),
    ],
)
def test_who_wrote_a_wildchat_row(tmp_path: Path, changes: dict[str, Any], person: str | None) -> None:
    (chat,), _ = read(tmp_path, "wildchat", wildchat_row(**changes))
    assert chat.user_key == person


def test_marks_of_a_wildchat_row(tmp_path: Path) -> None:
    chats, _ = read(
        tmp_path,
        "wildchat",
        wildchat_row(toxic=True, redacted=True),
        wildchat_row(conversation=messages_of("hi", redacted=True)),
        wildchat_row(openai_moderation=[{"flagged": False}, {"flagged": True}]),
    )
    assert [chat.flags for chat in chats] == [("redacted", "toxic"), ("redacted",), ("toxic",)]


def test_wildchat_rows_that_cannot_be_read_are_counted_by_reason(tmp_path: Path) -> None:
    chats, report = read(
        tmp_path,
        "wildchat",
        wildchat_row(),
        wildchat_row(conversation=[]),
        wildchat_row(conversation=[{"role": "user", "content": None}]),
        wildchat_row(conversation_hash=None),
    )
    assert len(chats) == 1
    assert report.counts["rows"] == 4
    assert report.malformed == {
        "no messages": 1,
        "user content is not text": 1,
        "no conversation_id or conversation_hash": 1,
    }


# LMSYS, Arena, PRISM


def test_lmsys(tmp_path: Path) -> None:
    row = {
        "conversation_id": "c1",
        "model": "vicuna-13b",
        "conversation": messages_of("hola", "hola"),
        "turn": 1,
        "language": "Spanish",
        "openai_moderation": [{"flagged": False}, {"flagged": True}],
        "redacted": True,
    }
    (chat, unnamed), report = read(
        tmp_path,
        "lmsys",
        row,
        row | {"language": "unknown", "openai_moderation": []},
        {"conversation": messages_of("hi")},
    )
    assert (chat.id, chat.source, chat.language, chat.user_key) == ("c1", "lmsys", "es", None)
    assert (chat.flags, chat.ended_by) == (("redacted", "toxic"), "user")
    assert (unnamed.language, unnamed.flags) == (None, ("redacted",))
    assert report.malformed == {"no conversation_id": 1}


def test_arena_takes_one_side_once(tmp_path: Path) -> None:
    row = {
        "question_id": "q1",
        "winner": "model_b",
        "judge": "arena_user_7",
        "conversation_a": messages_of("hi", "from a", "go on", "more a"),
        "conversation_b": messages_of("hi", "from b", "go on", "more b"),
        "language": "German",
        "openai_moderation": {"flagged": False, "categories": {}},
        "toxic_chat_tag": {"roberta-large": {"flagged": False}, "t5-large": {"flagged": True, "score": 0.1}},
    }
    parts = [{"role": "user", "content": [{"type": "text", "text": "hi"}]}]
    newer = {"id": "q2", "conversation_a": parts, "conversation_b": parts, "judge_hash": "j"}
    local = {"id": "arena_3", "messages": messages_of("hi", "ho"), "lang_guess": "pl", "well_formed": True}
    chats, _ = read(tmp_path, "arena", row, newer, local)
    assert texts(chats[0]) == ["hi", "from a", "go on", "more a"]
    assert [(c.id, c.source, c.user_key, c.language, c.flags) for c in chats] == [
        ("q1", "chatbot_arena", "arena_user_7", "de", ("toxic",)),
        ("q2", "chatbot_arena", "j", None, ()),
        ("arena_3", "chatbot_arena", None, None, ()),
    ]


def prism_turn(turn: int, prompt: str | None, *replies: tuple[str, bool]) -> list[dict[str, Any]]:
    prompts = [] if prompt is None else [{"turn": turn, "role": "user", "content": prompt, "if_chosen": None}]
    return prompts + [
        {"turn": turn, "role": "model", "content": text, "if_chosen": chosen, "within_turn_id": k}
        for k, (text, chosen) in enumerate(replies)
    ]


def test_prism_keeps_the_reply_that_was_chosen(tmp_path: Path) -> None:
    history = (
        prism_turn(0, "why?", ("no", False), ("because", True), ("so", False))
        + prism_turn(1, "and?", ("alone", False))
        + prism_turn(2, "well", ("x", False), ("y", False))
    )
    row = {"conversation_id": "c1", "user_id": "user9", "conversation_history": history}
    (chat,), _ = read(tmp_path, "prism", row)
    assert texts(chat) == ["why?", "because", "and?", "alone", "well"]
    assert (chat.id, chat.source, chat.user_key, chat.ended_by) == ("c1", "prism", "user9", "user")


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"conversation_history": prism_turn(0, "a", ("x", False), ("y", False)) + prism_turn(1, "b")},
         "a turn without a chosen reply"),
        ({"conversation_history": prism_turn(0, None, ("x", True))}, "a turn without exactly one user message"),
        ({"conversation_history": []}, "no messages"),
        ({"conversation_history": "?"}, "no `conversation_history` list"),
        ({"conversation_history": ["?"]}, "a message is not an object"),
        ({"conversation_history": prism_turn(0, "a"), "conversation_id": None}, "no conversation_id"),
        ({"conversation_history": [{"turn": 0, "role": "user", "content": 3}]},
         "user content is not text"),
    ],
)  # fmt: skip
def test_a_prism_row_with_a_hole_is_counted(tmp_path: Path, row: dict[str, Any], reason: str) -> None:
    whole = {"conversation_id": "c", "conversation_history": prism_turn(0, "a", ("x", True))}
    chats, report = read(tmp_path, "prism", whole, {"conversation_id": "d"} | row)
    assert [chat.id for chat in chats] == ["c"]
    assert report.malformed == {reason: 1}


# SimulatorArena, IN3, MTRAG


def test_simulatorarena_in_both_layouts(tmp_path: Path) -> None:
    satisfied, trouble = "I am satisfied.", "I encountered technical issues."
    rows = [
        {
            "id": "s_0",
            "task": "math_tutoring",
            "messages": messages_of("x=?", "2"),
            "meta": {"why_stop": satisfied},
        },
        {
            "id": "s_1",
            "task": "math_tutoring",
            "messages": messages_of("x=?", "2"),
            "meta": {"why_stop": trouble},
        },
        {"id": "s_2", "task": "math_tutoring", "messages": messages_of("x=?", "2"), "meta": None},
    ]
    chats, _ = read(tmp_path, "simulatorarena", *rows)
    assert [(chat.id, chat.ended_by) for chat in chats] == [
        ("s_0", "user"),
        ("s_1", "unknown"),
        ("s_2", "user"),
    ]

    annotated = [
        {"workerId": "w1", "problem_id": 3, "user_queries": ["x=?", ["and", "y?"]], "ai_responses": ["2", None]},
        {"workerId": "w2", "document_type": "email", "user_queries": ["dear"], "ai_responses": ["sir"],
         "why_stop": trouble},
        {"workerId": "w3", "user_queries": ["dear", "sir"], "ai_responses": ["madam"]},
    ]  # fmt: skip
    (maths, email), report = read(tmp_path, "simulatorarena", *annotated)
    assert texts(maths) == ["x=?", "2", "and\ny?", ""]
    assert (maths.id, maths.user_key, maths.ended_by) == ("simarena_math_tutoring_0", "w1", "user")
    assert (email.id, email.user_key, email.ended_by) == ("simarena_document_creation_1", "w2", "unknown")
    assert report.malformed == {"queries and responses do not pair": 1}


def test_nobody_chose_the_ends_of_in3_and_mtrag(tmp_path: Path) -> None:
    (chat,), _ = read(
        tmp_path, "in3", {"id": "i", "vague": True, "messages": messages_of("plan", "for whom?")}
    )
    assert (chat.source, chat.ended_by, chat.flags) == ("in3", "cut", ("given_opening",))
    (chat,), _ = read(
        tmp_path, "mtrag", {"id": "m", "dataset": "MT-RAG 2.0", "messages": messages_of("who", "she")}
    )
    assert (chat.source, chat.ended_by, chat.flags) == ("mtrag", "cut", ())


# Anybody's log


def test_everything_a_log_may_say(tmp_path: Path) -> None:
    (chat,), _ = read(
        tmp_path,
        "messages",
        {
            "id": 17,
            "messages": [
                {"role": "developer", "content": "Be brief."},
                {"role": "user", "content": [{"type": "text", "text": "hi"}, {"text": "there"}, "!"]},
                {"role": "assistant", "content": None, "tool_calls": [{}]},
                {"role": "tool", "content": "4"},
            ],
            "system": "You help.",
            "user_id": 4,
            "language": "pt-BR",
            "toxic": True,
            "flags": ["internal", 3],
            "anything": {"else": 1},
        },
    )
    assert (chat.id, chat.source, chat.system, chat.user_key) == ("17", "messages", "You help.", "4")
    assert (chat.language, chat.flags, chat.ended_by) == ("pt", ("internal", "toxic"), "user")
    assert [(turn.role, turn.text) for turn in chat.turns] == [
        ("system", "Be brief."),
        ("user", "hi\nthere\n!"),
        ("assistant", ""),
        ("tool", "4"),
    ]


def test_conversations_of_from_and_value_and_messages_kept_as_text(tmp_path: Path) -> None:
    chats, _ = read(
        tmp_path,
        "messages",
        {"conversations": [{"from": "human", "value": "hi"}, {"from": "gpt", "value": "ho"}], "system": " "},
        {"id": "", "messages": json.dumps(messages_of("hi", "ho"))},
        {"conversation": messages_of("hi", "ho"), "user": {"name": "x"}, "user_key": "k"},
    )
    assert [texts(chat) for chat in chats] == [["hi", "ho"]] * 3
    assert [chat.id for chat in chats] == ["messages-1", "messages-2", "messages-3"]
    assert [chat.user_key for chat in chats] == [None, None, "k"]
    assert [chat.system for chat in chats] == [None, None, None]


@pytest.mark.parametrize(
    ("named", "code"),
    [
        ("English", "en"),
        ("en", "en"),
        ("uk-UA", "uk"),
        ("zh_Hans", "zh"),
        ("Lao", "lo"),
        ("Klingon", "other"),
        ("unknown", None),
        ("", None),
        (None, None),
        (3, None),
    ],
)
def test_language_names(named: Any, code: str | None) -> None:
    assert language_code(named) == code
