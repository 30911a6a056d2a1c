"""Whatever stands in a field of a row, in any corpus: the row becomes a chat or is counted."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from data_prep.raw_chats import RawChat
from data_prep.sources import CORPORA, open_source

SAID: list[dict[str, Any]] = [
    {"role": "user", "content": "hi", "hashed_ip": "p", "toxic": False},
    {"role": "assistant", "content": "ok"},
]
TREE: dict[str, Any] = {
    "message_id": "t",
    "role": "prompter",
    "text": "hi",
    "rank": 0,
    "user_id": "u",
    "detoxify": {"toxicity": 0.1},
}
SAMPLES: dict[str, list[dict[str, Any]]] = {
    "wildchat": [
        {"conversation_hash": "h", "conversation": SAID, "language": "English", "openai_moderation": [{}]}
    ],
    "lmsys": [{"conversation_id": "c", "conversation": SAID, "openai_moderation": [{"flagged": True}]}],
    "arena": [
        {
            "question_id": "q",
            "conversation_a": SAID,
            "judge": "j",
            "toxic_chat_tag": {"t5": {"flagged": True}},
        }
    ],
    "prism": [
        {
            "conversation_id": "c",
            "user_id": "u",
            "conversation_history": [{"turn": 0, **said} for said in SAID],
        }
    ],
    "oasst": [
        {
            "message_tree_id": "t",
            "prompt": {**TREE, "replies": [{**TREE, "message_id": "u", "role": "assistant"}]},
        },
        {"message_tree_id": "f", "parent_id": None, **TREE},
    ],
    "simulatorarena": [
        {"id": "s", "meta": {"why_stop": "done"}, "messages": SAID},
        {"workerId": "w", "user_queries": ["hi"], "ai_responses": ["ok"], "why_stop": "done"},
    ],
    "chatgpt": [
        {
            "conversation_id": "c",
            "current_node": "a",
            "mapping": {
                "a": {
                    "parent": None,
                    "children": [],
                    "message": {
                        "author": {"role": "user"},
                        "content": {"content_type": "text", "parts": ["hi"]},
                    },
                }
            },
        }
    ],
    "claude": [
        {"uuid": "c", "chat_messages": [{"sender": "human", "content": [{"type": "text", "text": "hi"}]}]}
    ],
    "in3": [{"id": "i", "vague": True, "messages": SAID}],
    "mtrag": [{"id": "m", "dataset": "MT-RAG", "messages": SAID}],
    "sharegpt": [{"id": "aBcD123_0", "conversations": [{"from": "human", "value": "hi"}]}],
    "messages": [{"id": 1, "messages": SAID, "system": "s", "user": "u", "flags": ["f"], "language": "en"}],
}
JUNK: list[Any] = [None, True, -1, 1e300, "", "x", [], [[]], ["x"], [{}], {}, {"x": {}}, {"flagged": [1]}]


def spoilt(value: Any) -> Iterator[Any]:
    """The value with each of its parts, in turn, replaced by each junk."""
    yield from JUNK
    pairs = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, part in list(pairs):
        for other in spoilt(part):
            yield (
                {**value, key: other} if isinstance(value, dict) else [*value[:key], other, *value[key + 1 :]]
            )
        if isinstance(value, dict):
            yield {name: item for name, item in value.items() if name != key}


@pytest.mark.parametrize("kind", CORPORA)
def test_a_row_spoilt_anywhere_is_a_chat_or_counted(tmp_path: Path, kind: str) -> None:
    rows = [bad for sample in SAMPLES[kind] for bad in spoilt(sample)]
    file = tmp_path / "m.jsonl"
    file.write_text("".join(json.dumps(one) + "\n" for one in SAMPLES[kind] + rows))
    source = open_source(f"{kind}:{file}")
    chats = list(source.chats)
    assert chats
    assert source.report.counts[CORPORA[kind].unit] == len(rows) + len(SAMPLES[kind]) > 50
    assert source.report.malformed
    for chat in chats:
        assert RawChat.model_validate(chat.model_dump()) == chat
    if kind not in ("oasst", "sharegpt"):  # there several rows make a chat
        assert len(chats) + source.report.malformed.total() == len(rows) + len(SAMPLES[kind])
