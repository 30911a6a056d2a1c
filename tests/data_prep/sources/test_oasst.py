"""OpenAssistant: one thread of each tree, from messages in any nearby order or from nested trees."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from data_prep.raw_chats import RawChat, SourceReport
from data_prep.sources import open_source
from data_prep.sources.corpora import oasst
from usersim.errors import DataError

Message = dict[str, Any]


def message(id_: str, parent: str | None, **more: Any) -> Message:
    role = "prompter" if len(id_) % 2 else "assistant"
    base = {
        "message_tree_id": id_[0],
        "message_id": id_,
        "parent_id": parent,
        "text": f"text {id_}",
        "role": role,
    }
    return base | {"lang": "pt-BR", "user_id": "u1", "rank": None, "deleted": False} | more


# The id spells the path: `a` the prompt, `ab` and `ac` its replies, `aba` a reply to `ab` …
TREE = [
    message("a", None),
    message("ab", "a", rank=1),
    message("aba", "ab"),
    message("ac", "a", rank=0),
    message("acd", "ac"),
    message("ace", "ac", user_id="u2"),
    message("acex", "ace"),
    message("acf", "ac", deleted=True),
]
BEST = ["text a", "text ac", "text ace", "text acex"]


def nested(messages: list[Message], id_: str) -> Message:
    """The same tree as the published `.trees.jsonl` have it."""
    own = next(m for m in messages if m["message_id"] == id_)
    replies = [nested(messages, m["message_id"]) for m in messages if m["parent_id"] == id_]
    return {key: value for key, value in own.items() if key != "message_tree_id"} | {"replies": replies}


def read(tmp_path: Path, *rows: Any) -> tuple[list[RawChat], SourceReport]:
    file = tmp_path / "o.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    source = open_source(str(file))
    return list(source.chats), source.report


def test_the_best_ranked_replies_and_then_the_longest_thread(tmp_path: Path) -> None:
    (chat,), report = read(tmp_path, *TREE)
    assert [turn.text for turn in chat.turns] == BEST
    assert [turn.role for turn in chat.turns] == ["user", "assistant", "user", "assistant"]
    assert (chat.id, chat.source, chat.language, chat.ended_by) == ("a", "oasst", "pt", "unknown")
    assert report.counts == {"rows": 8, "trees": 1}


def test_a_nested_tree_gives_the_same_thread(tmp_path: Path) -> None:
    flat, _ = read(tmp_path, *TREE)
    tree = {"message_tree_id": "a", "tree_state": "ready_for_export", "prompt": nested(TREE, "a")}
    whole, report = read(tmp_path, tree)
    assert whole == flat
    assert report.counts == {"rows": 1, "trees": 1}


def test_people_are_told_apart(tmp_path: Path) -> None:
    mixed, one = read(tmp_path, *TREE, message("z", None), message("zy", "z", user_id="u9"))[0]
    assert (mixed.user_key, mixed.flags) == (None, ("several_authors",))
    assert (one.user_key, one.flags) == ("u1", ())


def test_toxic_only_where_the_thread_is(tmp_path: Path) -> None:
    rude = {"detoxify": {"toxicity": 0.9}}
    beside, within = read(
        tmp_path,
        message("a", None),
        message("ab", "a", rank=0),
        message("ac", "a", rank=1, **rude),
        message("z", None),
        message("zy", "z", **rude),
    )[0]
    assert (beside.flags, within.flags) == ((), ("toxic",))


def test_what_hangs_on_a_deleted_message_goes_with_it(tmp_path: Path) -> None:
    rows = [message("a", None), message("ab", "a", deleted=True), message("abc", "ab")]
    (chat,), _ = read(tmp_path, *rows)
    assert [turn.text for turn in chat.turns] == ["text a"]


def test_trees_may_be_mixed_with_their_neighbours(tmp_path: Path) -> None:
    other = [m | {"message_tree_id": "z"} for m in TREE]
    rows = [m for pair in zip(TREE, reversed(other), strict=True) for m in pair]
    chats, report = read(tmp_path, *rows)
    assert {chat.id: [turn.text for turn in chat.turns] for chat in chats} == {"a": BEST, "z": BEST}
    assert report.malformed == {}


def test_a_message_far_from_its_tree_is_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(oasst, "OPEN_TREES", 2)
    rows = [
        message("a", None),
        message("b", None),
        message("c", None),
        message("d", None),
        message("ax", "a"),
    ]
    chats, report = read(tmp_path, *rows)
    assert [chat.id for chat in chats] == ["a", "b", "c", "d"]
    assert report.malformed == {"apart from its tree": 1}


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        (message("z", None) | {"message_tree_id": None}, "no message_tree_id"),
        (message("z", None) | {"message_id": None}, "no message_id"),
        (message("z", None) | {"role": "robot"}, "unknown role"),
        (message("z", None) | {"text": None}, "text of a message is not text"),
        (message("z", "elsewhere"), "no root message"),
        (message("z", None) | {"deleted": True}, "no root message"),
        (message("z", None) | {"role": "assistant"}, "does not begin with the user"),
        ({"message_tree_id": "z", "prompt": {"message_id": "z", "role": [], "text": "a"}}, "unknown role"),
        ({"messages": []}, "no message_tree_id"),
        (message("acd", "ac"), "message_id twice"),
        (message("a", "acex"), "message_id twice"),
        (message("aby", None) | {"parent_id": ["ab"]}, "parent_id is no id"),
        (message("z", "z"), "no root message"),
    ],
)  # fmt: skip
def test_malformed_messages_and_trees_are_counted(tmp_path: Path, row: Message, reason: str) -> None:
    (chat,), report = read(tmp_path, *TREE, row)
    assert chat.id == "a"
    assert report.malformed == {reason: 1}


def test_a_reply_that_is_no_message_costs_itself(tmp_path: Path) -> None:
    prompt = {"message_id": "z", "role": "prompter", "text": "a", "replies": [3, message("zy", "z")]}
    (chat,), report = read(tmp_path, {"message_tree_id": "z", "prompt": prompt})
    assert [turn.text for turn in chat.turns] == ["a", "text zy"]
    assert report.malformed == {"no message_id": 1}


def test_a_thread_of_any_length(tmp_path: Path) -> None:
    chain = [
        message("a", f"m{n - 1}" if n else None)
        | {"message_id": f"m{n}", "role": ("prompter", "assistant")[n % 2]}
        for n in range(3000)
    ]
    (chat,), _ = read(tmp_path, *chain)
    assert len(chat.turns) == 3000


def test_no_tree_at_all(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no usable chat in 1 rows; mostly 'no root message'"):
        read(tmp_path, message("z", "elsewhere"))
