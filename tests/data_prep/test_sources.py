"""WildChat rows and message logs, in every file format they come in."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from data_prep.chats import RawChat
from data_prep.sources import open_source, resolve
from usersim.errors import ConfigError, DataError


def wildchat_row(**changes: Any) -> dict[str, Any]:
    row = {
        "conversation_hash": "h1",
        "hashed_ip": None,
        "model": "gpt-4",
        "conversation": [
            {"role": "user", "content": "name three rivers", "hashed_ip": "p1", "country": "Chile"},
            {"role": "assistant", "content": "Loa, Maipo, Biobío", "hashed_ip": None, "country": None},
        ],
        "language": "English",
        "toxic": False,
        "redacted": False,
    }
    return row | changes


def log_row(*texts: str, **more: Any) -> dict[str, Any]:
    roles = ("user", "assistant")
    return {"messages": [{"role": roles[i % 2], "content": t} for i, t in enumerate(texts)], **more}


def lines(path: Path, *rows: Any) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def chats(spec: str | Path, **options: Any) -> list[RawChat]:
    return list(open_source(str(spec), **options).chats)


def test_wildchat_reads_the_same_from_every_format(tmp_path: Path) -> None:
    pa, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    rows = [wildchat_row(), wildchat_row(conversation_hash="h2", hashed_ip="p2", language="French")]
    plain = lines(tmp_path / "w.jsonl", *rows)
    packed = tmp_path / "w.jsonl.gz"
    packed.write_bytes(gzip.compress(plain.read_bytes()))
    table = tmp_path / "w.parquet"
    pq.write_table(pa.Table.from_pylist(rows), table)

    expected = [("h1", "p1", "en"), ("h2", "p2", "other")]
    for file in (plain, packed, table):
        found = chats(f"wildchat:{file}")
        assert [(c.id, c.user_key, c.language) for c in found] == expected
        assert found[0].user_texts == ("name three rivers",)
        assert found == chats(file), "the format shows in the first row"


def test_a_directory_of_shards_is_one_source(tmp_path: Path) -> None:
    for shard in ("b", "a"):
        lines(tmp_path / f"{shard}.jsonl", wildchat_row(conversation_hash=shard))
    assert [chat.id for chat in chats(tmp_path)] == ["a", "b"]


def test_wildchat_rows_that_cannot_be_read_are_counted_by_reason(tmp_path: Path) -> None:
    file = lines(
        tmp_path / "w.jsonl",
        wildchat_row(),
        wildchat_row(conversation=[]),
        wildchat_row(conversation=[{"role": "user", "content": None}]),
        wildchat_row(conversation_hash=None),
    )
    source = open_source(f"wildchat:{file}")
    assert len(list(source.chats)) == 1
    assert source.report.counts["rows"] == 4
    assert source.report.malformed == {
        "empty conversation": 1,
        "message without known role and text": 1,
        "no conversation_id or conversation_hash": 1,
    }
    assert source.report.examples[0] == f"{file}:2: empty conversation"


def test_messages_with_system_prompt_parts_and_missing_id(tmp_path: Path) -> None:
    file = lines(
        tmp_path / "mylog.jsonl",
        log_row("hi", "hello", id="x"),
        {
            "messages": [
                {"role": "developer", "content": "Be brief."},
                {"role": "user", "content": [{"type": "text", "text": "hi"}, {"text": "there"}]},
            ]
        },
    )
    first, second = chats(file)
    assert (first.id, first.source, first.ended_by) == ("x", "mylog", "user")
    assert second.id == "mylog-2"
    assert [(turn.role, turn.text) for turn in second.turns] == [
        ("system", "Be brief."),
        ("user", "hi\nthere"),
    ]
    assert {chat.ended_by for chat in chats(file, ends="cut")} == {"cut"}
    assert {chat.source for chat in chats(file, name="support")} == {"support"}


def test_half_an_emoji_becomes_a_replacement_character(tmp_path: Path) -> None:
    file = tmp_path / "m.jsonl"
    file.write_text('{"messages": [{"role": "user", "content": "ok \\ud83d"}]}\n')
    assert chats(file)[0].user_texts == ("ok �",)


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        ("{oops", "not JSON"),
        ("[1, 2]", "no `messages` list"),
        ('{"messages": "hi"}', "no `messages` list"),
        ('{"messages": ["hi"]}', "a message is not an object"),
        ('{"messages": [{"role": "robot", "content": "hi"}]}', "role 'robot'"),
        ('{"messages": [{"role": "user", "content": null}]}', "content of a user message is not text"),
        (
            '{"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}',
            "content of a user message is not text",
        ),
    ],
)
def test_a_malformed_line_names_path_and_line(tmp_path: Path, line: str, complaint: str) -> None:
    file = tmp_path / "m.jsonl"
    file.write_text(json.dumps(log_row("hi", "hello")) + "\n\n" + line + "\n")
    with pytest.raises(DataError) as caught:
        chats(f"messages:{file}")
    assert str(caught.value).startswith(f"{file}:3: ")
    assert complaint in str(caught.value)


def test_sources_that_are_not_there_or_not_known(tmp_path: Path) -> None:
    other = lines(tmp_path / "o.jsonl", {"text": "hi"})
    for spec, complaint in [
        ("nowhere.jsonl", r"nowhere\.jsonl: no such file"),
        ("messages:nowhere.jsonl", "no such file"),
        ("wildchat:nowhere.jsonl", "no such file, and not a datasets name"),
        (str(other), r"o\.jsonl:1: the first row has neither"),
        (f"wildchat:{other}", r"o\.jsonl:1: no `conversation` list"),
        (f"messages:{tmp_path / 'o.csv'}", "no such file"),
    ]:
        with pytest.raises(DataError, match=complaint):
            chats(spec)
    broken = tmp_path / "b.parquet"
    broken.write_bytes(b"PAR1 not really")
    with pytest.raises(DataError, match=r"b\.parquet: not a readable Parquet"):
        chats(f"messages:{broken}")
    with pytest.raises(ConfigError, match="messages:PATH"):
        resolve("messages:")
