"""Source → stages → groups → splits; chats wait on disk between the passes, so any corpus fits."""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import IO, Any

from data_prep.artefacts import clean_artefacts
from data_prep.chats import RawChat
from data_prep.datasheet import SplitCount, Step, versions
from data_prep.goals import Goals, read_goals
from data_prep.language import english_only, name_language
from data_prep.pii import scrub
from data_prep.settings import Settings
from data_prep.sources import open_source
from data_prep.splits import SPLITS, Groups, labels, split_of
from data_prep.stages import Deduplicate, Rejected, cap_user_turns, drop_empty, repair_roles
from usersim.errors import ConfigError, DataError
from usersim.records import atomic_writer, write_json
from usersim.style import measure
from usersim.types import Conversation, Persona, Turn, UserProfile

Stage = Callable[[RawChat], RawChat | Rejected]
Watch = Callable[[Iterator[RawChat]], Iterable[RawChat]]


@dataclass
class Cleaning:
    """The stages in order, and what they did."""

    settings: Settings
    artefacts: Counter[str] = field(default_factory=Counter)
    pii: Counter[str] = field(default_factory=Counter)

    def __post_init__(self) -> None:
        stages = self._stages()
        self.steps = [(Step(name), stage) for name, stage in stages.items()]

    def _stages(self) -> dict[str, Stage]:
        stages: dict[str, Stage] = {
            "role repair": repair_roles,
            "web artefacts": lambda chat: clean_artefacts(chat, self.artefacts),
            "empty turns": drop_empty,
        }
        limit = self.settings.user_max_chars
        if limit is not None:
            stages["user turn length"] = lambda chat: cap_user_turns(chat, limit)
        stages["language"] = name_language
        if self.settings.language == "en":
            stages["language"] = lambda chat: english_only(name_language(chat))
        stages["personal data"] = lambda chat: scrub(chat, self.pii)
        stages["duplicates"] = Deduplicate()
        return stages

    def __call__(self, chat: RawChat) -> RawChat | None:
        for step, stage in self.steps:
            step.entered += 1
            result = stage(chat)
            if isinstance(result, Rejected):
                step.rejected[result.reason] += 1
                return None
            chat = result
        return chat


def prepare(settings: Settings, watch: Watch = iter) -> dict[str, Any]:
    """Writes the splits and the datasheet into `settings.out`; returns the datasheet."""
    goals = read_goals(settings.goals)
    source = open_source(settings.source, ends=settings.ends, name=settings.source_name)
    cleaning, groups = Cleaning(settings), Groups()
    with _waiting_room(settings.out) as waiting:
        for raw in watch(islice(source.chats, settings.limit)):
            goals.see(raw.id)
            chat = cleaning(raw)
            if chat is not None:
                tied = labels(chat)
                groups.add(tied)
                waiting.write(to_conversation(chat, tied[0]).model_dump_json() + "\n")
        splits = _write_splits(waiting, groups, goals, settings)
    sheet = {
        "source": source.report.summary(),
        "steps": [step.summary() for step, _ in cleaning.steps],
        "changed": {
            "artefacts_turns": dict(cleaning.artefacts.most_common()),
            "personal_data_replaced": dict(cleaning.pii.most_common()),
        },
        "goals": goals.summary(),
        "splits": {name: count.summary() for name, count in splits.items()},
        "seed": settings.seed,
        "settings": settings.model_dump(mode="json"),
        "versions": versions(),
    }
    write_json(settings.out / "datasheet.json", sheet)
    return sheet


def _waiting_room(directory: Path) -> IO[str]:
    """A nameless file beside the output: /tmp may be memory."""
    try:
        directory.mkdir(parents=True, exist_ok=True)
        return tempfile.TemporaryFile("w+", encoding="utf-8", dir=directory)
    except OSError as error:
        raise ConfigError(f"{directory}: cannot be written to ({error.strerror})") from error


def to_conversation(chat: RawChat, label: str) -> Conversation:
    """Without a goal, and with the label of its opening for a group."""
    turns = tuple(Turn.model_validate(turn.model_dump()) for turn in chat.turns)
    style = measure(turns)
    if chat.ended_by != "user":
        # How long this person stays is not known.
        style = style.model_copy(update={"turns": None})
    return Conversation(
        id=chat.id,
        origin="human",
        source=chat.source,
        system=chat.system,
        turns=turns,
        profile=UserProfile(persona=Persona(style=style, language=chat.language or "en")),
        ended_by=chat.ended_by,
        group=label,
    )


def _write_splits(
    waiting: IO[str], groups: Groups, goals: Goals, settings: Settings
) -> dict[str, SplitCount]:
    """Second pass: groups and repeated ids are known. A split that stays empty leaves no file."""
    counts = {name: SplitCount() for name in SPLITS}
    waiting.seek(0)
    with ExitStack() as files:
        writers: dict[str, IO[Any]] = {}
        for line in waiting:
            found = Conversation.model_validate_json(line)
            group = groups.root(str(found.group))
            conversation = goals.join(found).model_copy(update={"group": group})
            name = split_of(group, seed=settings.seed, fractions=settings.split_fractions)
            if name not in writers:
                path = settings.out / f"{name}.jsonl"
                writers[name] = files.enter_context(atomic_writer(path))
            writers[name].write(conversation.model_dump_json(exclude_defaults=True) + "\n")
            counts[name].add(conversation)
        if not writers:
            raise DataError(f"{settings.source}: no conversation was left after cleaning")
    for name in SPLITS:
        if name not in writers:
            # One of an earlier run would otherwise pass for this one's.
            (settings.out / f"{name}.jsonl").unlink(missing_ok=True)
    return counts
