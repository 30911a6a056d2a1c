"""Broken files: every record is read, counted by reason, or lies behind the place where the file stopped."""

from __future__ import annotations

import gzip
import json
import tracemalloc
from pathlib import Path
from typing import Any

import pytest

from data_prep.raw_chats import RawChat, SourceReport
from data_prep.sources import open_source, streams
from usersim.errors import DataError


def row(id_: str, text: str = "hi") -> dict[str, Any]:
    return {
        "id": id_,
        "messages": [{"role": "user", "content": text}, {"role": "assistant", "content": "ok"}],
    }


def line(id_: str, text: str = "hi") -> bytes:
    return json.dumps(row(id_, text)).encode() + b"\n"


def read(path: Path, **options: Any) -> tuple[list[RawChat], SourceReport]:
    source = open_source(f"messages:{path}", **options)
    return list(source.chats), source.report


BAD_LINES = [
    (b"{oops", "not JSON"),
    (b'{"id": "a", "messages": [{"role": "us', "truncated JSON"),
    (b'{"id": "a"} {"id": "b"}', "not JSON"),
    (b'{"id": "\xff\xfe"}', "not UTF-8"),
    (b"[1, 2]", "not an object"),
    (b"null", "not an object"),
    (b"[" * 5000, "nested too deeply"),
    (b'{"id": ' + b"9" * 9000 + b"}", "not JSON"),
    (b'{"messages": "hi"}', "no `messages` list"),
    (b'{"text": "hi"}', "no `messages` list"),
    (b'{"messages": []}', "no messages"),
    (b'{"messages": ["hi"]}', "a message is not an object"),
    (b'{"messages": [{"role": "robot", "content": "hi"}]}', "role 'robot'"),
    (b'{"messages": [{"role": "ignore all that", "content": "hi"}]}', "unknown role"),
    (b'{"messages": [{"role": {"a": 1}, "content": "hi"}]}', "unknown role"),
    (b'{"messages": [{"content": "hi"}]}', "unknown role"),
    (b'{"messages": [{"role": "user", "content": null}]}', "user content is not text"),
    (b'{"messages": [{"role": "assistant", "content": 5}]}', "assistant content is not text"),
    (
        b'{"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}',
        "user content is not text",
    ),
]


@pytest.mark.parametrize(("bad", "reason"), BAD_LINES)
def test_a_bad_line_costs_itself_only(tmp_path: Path, bad: bytes, reason: str) -> None:
    file = tmp_path / "m.jsonl"
    file.write_bytes(line("a") + b"\n" + bad + b"\n" + line("b"))
    chats, report = read(file)
    assert [chat.id for chat in chats] == ["a", "b"]
    assert report.counts["rows"] == 3
    assert report.malformed == {reason: 1}
    assert report.examples == [f"{file}:3: {reason}"]
    assert report.stopped is None
    with pytest.raises(DataError) as caught:
        read(file, strict=True)
    assert str(caught.value) == f"{file}:3: {reason}"


def test_the_same_bad_values_in_an_array_cost_themselves_only(tmp_path: Path) -> None:
    file = tmp_path / "m.json"
    bad = [b"nonsense", b'"text"', b"[1, [2]]", b'{"id": "\xff"}', b'{"id": 1,}', b"12"]
    file.write_bytes(b"[\n" + b",\n".join([line("a"), *bad, line("b")]) + b"]")
    chats, report = read(file)
    assert [chat.id for chat in chats] == ["a", "b"]
    assert report.counts["rows"] == 8
    assert report.malformed == {"not JSON": 2, "not an object": 3, "not UTF-8": 1}
    assert report.examples[0] == f"{file}:record 2: not JSON"
    assert report.stopped is None


def test_a_last_line_cut_off_is_counted_and_located(tmp_path: Path) -> None:
    file = tmp_path / "m.jsonl"
    file.write_bytes(line("a") + line("b", "é")[:-20])
    (chat,), report = read(file)
    assert chat.id == "a"
    assert report.malformed == {"truncated JSON": 1}
    assert report.stopped == {
        "file": str(file),
        "error": "the file ends inside the JSON",
        "byte": len(line("a")),
        "of_bytes": file.stat().st_size,
        "records": 1,
        "files": 1,
    }


def test_a_last_line_without_a_line_feed_is_whole(tmp_path: Path) -> None:
    file = tmp_path / "m.jsonl"
    file.write_bytes(line("a") + line("b").rstrip())
    chats, report = read(file)
    assert (len(chats), report.malformed, report.stopped) == (2, {}, None)


@pytest.mark.parametrize("suffix", [".jsonl.gz", ".json.gz"])
def test_what_a_broken_gzip_file_still_gives_is_kept(tmp_path: Path, suffix: str) -> None:
    texts = [
        f"{number:05} " + "".join(chr(97 + (number * k) % 26) for k in range(200)) for number in range(600)
    ]
    rows = [row(str(number), text) for number, text in enumerate(texts)]
    plain = json.dumps(rows) if suffix == ".json.gz" else "".join(json.dumps(one) + "\n" for one in rows)
    packed = gzip.compress(plain.encode())
    file = tmp_path / f"m{suffix}"
    file.write_bytes(packed[: len(packed) * 2 // 3])
    chats, report = read(file)
    assert 200 < len(chats) < 600
    assert [chat.user_texts[0] for chat in chats] == texts[: len(chats)]
    assert report.counts["rows"] == len(chats)
    assert report.malformed == {}
    assert report.stopped is not None
    assert report.stopped["records"] == len(chats)
    assert report.stopped["error"].startswith("Compressed file ended before")
    with pytest.raises(DataError, match="breaks off at byte"):
        read(file, strict=True)


def test_no_gzip_at_all(tmp_path: Path) -> None:
    file = tmp_path / "m.jsonl.gz"
    file.write_bytes(line("a"))
    with pytest.raises(DataError, match=r"breaks off before the first record \(Not a gzipped file"):
        read(file)


def test_a_broken_parquet_file_costs_itself_and_not_the_shards_after_it(tmp_path: Path) -> None:
    pa, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    for name in "abc":
        pq.write_table(
            pa.Table.from_pylist([row(f"{name}{n}", f"say {n}") for n in range(9)]),
            tmp_path / f"{name}.parquet",
        )
    whole = (tmp_path / "b.parquet").read_bytes()
    (tmp_path / "b.parquet").write_bytes(whole[: len(whole) // 2])
    chats, report = read(tmp_path)
    assert {chat.id[0] for chat in chats} == {"a", "c"}
    assert report.counts["rows"] == len(chats) == 18
    assert report.malformed == {"not a readable Parquet file": 1}
    assert report.examples == [f"{tmp_path / 'b.parquet'}: not a readable Parquet file"]
    assert report.stopped is not None
    with pytest.raises(DataError, match=r"b\.parquet: not a readable Parquet file$"):
        read(tmp_path, strict=True)
    with pytest.raises(DataError, match=r"no usable chat in 1 file; mostly 'not a readable Parquet file'"):
        read(tmp_path / "b.parquet")


@pytest.mark.parametrize("name", ["m.jsonl", "m.json", "m.jsonl.gz"])
@pytest.mark.parametrize("text", [b"", b"\n  \n", b"[]", b"\xef\xbb\xbf"])
def test_a_file_without_a_record_is_one_readable_line(tmp_path: Path, name: str, text: bytes) -> None:
    file = tmp_path / name
    file.write_bytes(gzip.compress(text) if name.endswith(".gz") else text)
    with pytest.raises(DataError) as caught:
        read(file)
    assert str(caught.value).startswith(f"{file}: ")
    assert "\n" not in str(caught.value)


def test_a_file_without_a_usable_record_names_the_main_reason(tmp_path: Path) -> None:
    file = tmp_path / "m.jsonl"
    file.write_bytes(b'{"messages": []}\n' + b"oops\n" * 3)
    with pytest.raises(DataError) as caught:
        read(file)
    assert str(caught.value) == (
        f"{file}: no usable chat in 4 rows; mostly 'not JSON' (3 times), first {file}:1: no messages"
    )


def test_half_an_emoji_becomes_a_replacement_character(tmp_path: Path) -> None:
    file = tmp_path / "m.jsonl"
    file.write_text(
        r'{"id": "\ud83d", "system": "\ud83d", "messages": [{"role": "user", "content": "ok \ud83d"}]}'
    )
    (chat,), _ = read(file)
    assert (chat.id, chat.system, chat.user_texts) == ("�", "�", ("ok �",))
    chat.model_dump_json()


def test_a_record_without_end_is_given_up_at_the_limit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(streams, "PIECE", 256)
    monkeypatch.setattr(streams, "RECORD_LIMIT", 1024)
    by_line, array = tmp_path / "m.jsonl", tmp_path / "m.json"
    by_line.write_bytes(line("a") + line("b", "x" * 2000) + line("c"))
    chats, report = read(by_line)
    assert [chat.id for chat in chats] == ["a", "c"]
    assert report.malformed == {"record too large": 1}
    array.write_bytes(b"[" + line("a") + b', {"id": "b' + b"x" * 5000)
    (chat,), report = read(array)
    assert chat.id == "a"
    assert report.stopped is not None
    assert report.stopped["error"].startswith("no end of a record within")


@pytest.mark.parametrize("name", ["m.jsonl", "m.json"])
def test_one_huge_turn_takes_a_few_times_its_size(tmp_path: Path, name: str) -> None:
    size = 4 * 1024 * 1024
    huge = 'say "{[\\ \n' * (size // 10)
    rows = [row("a"), row("b", huge), row("c")]
    file = tmp_path / name
    file.write_text(json.dumps(rows) if name == "m.json" else "".join(json.dumps(one) + "\n" for one in rows))
    sizes = []
    tracemalloc.start()
    source = open_source(f"messages:{file}")
    for chat in source.chats:
        sizes.append(len(chat.user_texts[0]))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert sizes == [2, len(huge), 2]
    assert peak < 6 * file.stat().st_size
