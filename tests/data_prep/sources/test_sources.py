"""Sources: every file format, directories of shards, `datasets` names, and which layout a file has."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from data_prep.raw_chats import RawChat
from data_prep.sources import files_of, open_source, resolve
from usersim.errors import ConfigError, DataError

pa = pytest.importorskip("pyarrow")
pq = pytest.importorskip("pyarrow.parquet")


def log_row(*texts: str, **more: Any) -> dict[str, Any]:
    roles = ("user", "assistant")
    return {"messages": [{"role": roles[i % 2], "content": t} for i, t in enumerate(texts)], **more}


def lines(path: Path, *rows: Any) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def chats(spec: str | Path, **options: Any) -> list[RawChat]:
    return list(open_source(str(spec), **options).chats)


ROWS = [log_row("hi", "hello", id="x", language="English"), log_row("és?", "sì", "ok 😀", id="y")]


def written(directory: Path, name: str) -> Path:
    path = directory / name
    text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in ROWS)
    if name.endswith(".parquet"):
        pq.write_table(pa.Table.from_pylist(ROWS), path)
    elif name == "array.json":
        path.write_text(json.dumps(ROWS, indent=1), encoding="utf-8")
    elif name == "windows.jsonl":
        path.write_bytes(b"\xef\xbb\xbf" + text.replace("\n", "\r\n").encode())
    elif name == "one_after_another.json":
        path.write_text("\n".join(json.dumps(row, indent=2) for row in ROWS), encoding="utf-8")
    else:
        path.write_bytes(gzip.compress(text.encode()) if name.endswith(".gz") else text.encode())
    return path


@pytest.mark.parametrize(
    "name",
    [
        "log.jsonl",
        "log.jsonl.gz",
        "log.json",
        "log.json.gz",
        "array.json",
        "one_after_another.json",
        "windows.jsonl",
        "log.parquet",
    ],
)
def test_a_log_reads_the_same_from_every_format(tmp_path: Path, name: str) -> None:
    source = open_source(str(written(tmp_path, name)))
    chats_read = list(source.chats)
    assert [(c.id, c.language, c.user_texts) for c in chats_read] == [
        ("x", "en", ("hi",)),
        ("y", None, ("és?", "ok 😀")),
    ]
    assert source.report.counts == {"rows": 2}
    assert source.report.malformed == {}
    assert source.report.stopped is None
    assert chats_read == chats(f"messages:{tmp_path / name}", name=source.report.name)


def test_a_directory_of_shards_is_one_source_in_name_order(tmp_path: Path) -> None:
    for shard in ("b", "a"):
        lines(tmp_path / f"{shard}.jsonl", log_row("hi", id=shard))
    lines(tmp_path / "dataset_infos.json", {"default": {}})
    hidden = tmp_path / ".cache"
    hidden.mkdir()
    lines(hidden / "c.jsonl", log_row("hi", id="c"))
    source = open_source(str(tmp_path))
    assert [(chat.id, chat.place) for chat in source.chats] == [
        ("a", f"{tmp_path / 'a.jsonl'}:1"),
        ("b", f"{tmp_path / 'b.jsonl'}:1"),
    ]
    assert source.report.malformed == {}
    assert files_of(str(tmp_path)) == [tmp_path / "a.jsonl", tmp_path / "b.jsonl"]
    assert files_of(f"messages:{tmp_path / 'a.jsonl'}") == [tmp_path / "a.jsonl"]


def test_a_directory_of_several_layouts_is_not_read_as_one(tmp_path: Path) -> None:
    lines(tmp_path / "a.jsonl", log_row("hi"))
    lines(tmp_path / "b.jsonl", log_row("book a trip", vague=True))
    with pytest.raises(DataError, match=r"several layouts \(a\.jsonl is messages, b\.jsonl is in3\)"):
        resolve(str(tmp_path))
    assert len(chats(f"messages:{tmp_path}")) == 2


MESSAGES = [{"role": "user", "content": "hi"}]
LAYOUTS: dict[str, dict[str, Any]] = {
    "wildchat": {"conversation_hash": "h", "conversation": MESSAGES},
    "lmsys": {"conversation_id": "c", "openai_moderation": [], "conversation": MESSAGES},
    "arena": {"question_id": "q", "conversation_a": MESSAGES, "conversation_b": MESSAGES},
    "prism": {"conversation_id": "c", "conversation_history": [{"turn": 0, **MESSAGES[0]}]},
    "oasst": {"message_tree_id": "t", "message_id": "t", "role": "prompter", "text": "hi"},
    "simulatorarena": {"id": "s", "task": "math_tutoring", "meta": {}, "messages": MESSAGES},
    "in3": {"id": "i", "vague": False, "messages": MESSAGES},
    "mtrag": {"id": "m", "dataset": "MT-RAG 2.0", "messages": MESSAGES},
    "sharegpt": {"id": "aBcD123_0", "conversations": [{"from": "human", "value": "hi"}]},
    "messages": {"id": "session_7", "conversations": [{"from": "human", "value": "hi"}]},
}


@pytest.mark.parametrize("kind", LAYOUTS)
def test_the_layout_shows_in_the_first_row_that_can_be_read(tmp_path: Path, kind: str) -> None:
    file = lines(tmp_path / "log.jsonl", "no object", LAYOUTS[kind])
    assert resolve(str(file)) == (kind, str(file))
    source = open_source(str(file))
    (chat,) = source.chats
    assert chat.user_texts == ("hi",)
    assert chat.source == {"messages": "log", "arena": "chatbot_arena"}.get(kind, kind)
    assert source.report.malformed == {"not an object": 1}


def test_rows_of_another_layout_are_counted(tmp_path: Path) -> None:
    file = lines(
        tmp_path / "w.jsonl", LAYOUTS["wildchat"], LAYOUTS["messages"], {"text": "?"}, LAYOUTS["wildchat"]
    )
    source = open_source(str(file))
    assert len(list(source.chats)) == 2
    assert source.report.counts["rows"] == 4
    assert source.report.malformed == {"no `conversation` list": 2}
    assert source.report.examples[0] == f"{file}:2: no `conversation` list"


def test_ends_and_name_can_be_said(tmp_path: Path) -> None:
    file = lines(tmp_path / "w.jsonl", LAYOUTS["wildchat"])
    assert [(chat.source, chat.ended_by) for chat in chats(file)] == [("wildchat", "user")]
    assert [(chat.source, chat.ended_by) for chat in chats(file, name="x", ends="cut")] == [("x", "cut")]


def test_strict_names_the_first_malformed_record(tmp_path: Path) -> None:
    file = lines(tmp_path / "m.jsonl", log_row("hi"), log_row(), log_row("hi"))
    with pytest.raises(DataError, match=r"m\.jsonl:2: no messages$"):
        chats(file, strict=True)
    broken = tmp_path / "b.json"
    broken.write_text(json.dumps([log_row("hi")])[:-1])
    with pytest.raises(
        DataError, match=r"b\.json: breaks off at byte \d+, .* \(the file ends inside the JSON\)$"
    ):
        chats(broken, strict=True)


def test_sources_that_are_not_there_or_not_known(tmp_path: Path) -> None:
    other = lines(tmp_path / "o.jsonl", {"text": "hi"})
    for spec, complaint in [
        ("nowhere.jsonl", r"^nowhere\.jsonl: no such file; .* one of arena, "),
        ("wildchatt:nowhere.jsonl", r"^wildchatt:nowhere\.jsonl: no such file; .* one of arena, "),
        ("messages:nowhere.jsonl", r"^nowhere\.jsonl: no such file$"),
        ("messages:no where/log", "no such file"),
        (str(other), r"o\.jsonl:1: no chat in a known layout; write KIND:"),
        (
            f"wildchat:{other}",
            r"o\.jsonl: no usable chat in 1 rows; mostly 'no `conversation` list' \(1 times\)",
        ),
        (f"messages:{tmp_path / 'o.csv'}", "no such file"),
        (str(tmp_path.parent / "missing" / "dir"), "no such file"),
    ]:
        with pytest.raises(DataError, match=complaint) as caught:
            chats(spec)
        assert "\n" not in str(caught.value)
    (tmp_path / "log.csv").write_text("hi")
    with pytest.raises(DataError, match=r"log\.csv: expected one of \.jsonl"):
        resolve(f"messages:{tmp_path / 'log.csv'}")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match=r"empty: no \.jsonl"):
        resolve(str(tmp_path / "empty"))
    with pytest.raises(ConfigError, match="messages:PATH"):
        resolve("messages:")


@pytest.mark.parametrize(
    ("spec", "arguments"),
    [
        ("wildchat:allenai/WildChat-1M", ("allenai/WildChat-1M", None, "train")),
        ("allenai/WildChat-1M:test", ("allenai/WildChat-1M", None, "test")),
        ("wildchat:some.one/logs@full-2:dev", ("some.one/logs", "full-2", "dev")),
        (
            "prism:HannahRoseKirk/prism-alignment",
            ("HannahRoseKirk/prism-alignment", "conversations", "train"),
        ),
        ("prism:some/copy@all", ("some/copy", "all", "train")),
    ],
)
def test_a_datasets_name_is_streamed(
    monkeypatch: pytest.MonkeyPatch, spec: str, arguments: tuple[str, str | None, str]
) -> None:
    row = LAYOUTS["prism" if "prism" in spec else "wildchat"]

    def load_dataset(name: str, config: str | None, *, split: str, streaming: bool) -> list[dict[str, Any]]:
        assert streaming
        assert (name, config, split) == arguments
        return [row]

    monkeypatch.setitem(__import__("sys").modules, "datasets", SimpleNamespace(load_dataset=load_dataset))
    (chat,) = chats(spec)
    assert chat.user_texts == ("hi",)
    assert chat.place.endswith(":1")
    assert files_of(spec) == []


def test_a_datasets_name_that_cannot_be_loaded_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def load_dataset(*_: Any, **__: Any) -> None:
        raise ConnectionError("no route\nto the hub")

    monkeypatch.setitem(__import__("sys").modules, "datasets", SimpleNamespace(load_dataset=load_dataset))
    with pytest.raises(DataError, match=r"datasets cannot load it \(ConnectionError: no route\)$"):
        chats("wildchat:allenai/WildChat-1M")
