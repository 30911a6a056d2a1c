"""Goals packaged with data_prep, and the conversations they belong to.

`assets/goals-sharegpt` has goals of ShareGPT conversations; their text is read from the installed wheel.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Literal

from data_prep.cleaning.clean_batch import stages_of, to_conversation
from data_prep.goals.annotations import Annotation, Goals, read_goals
from data_prep.pipeline.splits import SPLITS
from data_prep.raw_chats import RawChat
from data_prep.settings import PrepSettings, SourceSettings
from data_prep.sources import open_source, resolve
from usersim.storage.records import read_records
from usersim.types import Conversation

Split = Literal["train", "dev", "test"]
SHIPPED = {"sharegpt": Path(__file__).parents[1] / "assets" / "goals-sharegpt"}
"""Folder of goals by kind of source, with one file per split."""


def annotated(split: Split = "test") -> list[Conversation]:
    """Returns the human ShareGPT conversations of a split that have a goal, within seconds and without a run of `prep`.

    Text, goals, personas and `satisfied` equal those of `usersim prep sharegpt`; `group` is unknown.

    Args:
        split: split of the packaged goals.

    Raises:
        DataError: the wheel with the chats is not installed.
    """
    goals = Goals()
    for annotation in read_records(SHIPPED["sharegpt"] / f"{split}.jsonl", Annotation):
        goals.add(annotation, SHIPPED["sharegpt"].name, masked=True)
    chats: list[RawChat] = []
    for chat in open_source("sharegpt").chats:
        if chat.id in goals.by_id:
            goals.count_chat(chat.id)
            chats.append(chat)
    settings = PrepSettings(sources=(SourceSettings(spec="sharegpt"),), out=Path())
    for stage in stages_of(settings).values():
        chats = [chat for chat in stage(chats).chats if isinstance(chat, RawChat)]
    return [goals.join(to_conversation(chat)) for chat in chats]


def goals_for(settings: PrepSettings) -> Goals:
    """Returns the goals of the files in `settings`, and the packaged goals for ids without one.

    Raises:
        DataError: a file that is missing, empty or malformed, with its line.
    """
    goals = read_goals(settings.goals)
    if settings.shipped_goals:
        for annotation, provenance in _packaged_annotations(
            resolve(source.spec)[0] for source in settings.sources
        ):
            if annotation.id not in goals.by_id:
                goals.add(annotation, provenance, masked=True)
    return goals


def _packaged_annotations(kinds: Iterable[str]) -> Iterator[tuple[Annotation, str]]:
    for kind in sorted(SHIPPED.keys() & set(kinds)):
        for split in SPLITS:
            for annotation in read_records(SHIPPED[kind] / f"{split}.jsonl", Annotation):
                yield annotation, SHIPPED[kind].name
