"""Cleaning of one batch into finished JSON lines; every engine runs this function."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from functools import lru_cache

from data_prep.cleaning.stages import Rejected, Stage, digest
from data_prep.cleaning.stages_in_order import local_stages
from data_prep.dedup.signatures import Signatures, sign
from data_prep.raw_chats import RawChat
from data_prep.settings import PrepSettings
from usersim.text.style import measure
from usersim.types import Conversation, Persona, Turn, UserProfile


@dataclass
class StageCounts:
    """Counts of one stage over any number of batches."""

    entered: int = 0
    rejected: Counter[str] = field(default_factory=Counter)
    changed: Counter[str] = field(default_factory=Counter)
    """Replaced or removed pieces by kind: `EMAIL`, `edit pager` …"""

    def add(self, other: StageCounts) -> None:
        self.entered += other.entered
        self.rejected.update(other.rejected)
        self.changed.update(other.changed)


@dataclass(frozen=True)
class ChatBatch:
    """Batch of chats from one source."""

    source: int
    """Index of the source; held-out sources come after those of the run."""
    chats: list[RawChat]


@dataclass(frozen=True)
class CleanedBatch:
    source: int
    read: int
    """Chats in the batch before cleaning."""
    lines: list[str]
    """Conversations as JSON, without goal and group."""
    signatures: Signatures
    """Duplicate signatures, one row per line."""
    steps: dict[str, StageCounts]


@lru_cache(maxsize=4)
def stages_of(settings: PrepSettings) -> dict[str, Stage]:
    """Returns the stages of a run. Cached per process: the PII library takes a second to build its patterns."""
    return local_stages(settings)


def clean(settings: PrepSettings, batch: ChatBatch) -> CleanedBatch:
    """Runs the stages over one batch; returns the conversations that are kept, with signatures and counts."""
    steps: dict[str, StageCounts] = {}
    chats = batch.chats
    for name, stage in stages_of(settings).items():
        result = stage(chats)
        steps[name] = StageCounts(
            len(chats), Counter(c.reason for c in result.chats if isinstance(c, Rejected)), result.counts
        )
        chats = [chat for chat in result.chats if isinstance(chat, RawChat)]
    lines = [to_conversation(chat).model_dump_json(exclude_defaults=True) for chat in chats]
    signatures = sign(chats, near=settings.duplicates.near_duplicate is not None)
    return CleanedBatch(batch.source, len(batch.chats), lines, signatures, steps)


def to_conversation(chat: RawChat) -> Conversation:
    """Converts a cleaned chat to a conversation. Goal and group are added in the second pass."""
    turns = tuple(
        Turn.model_construct(role=t.role, text=t.text) for t in chat.turns if t.role in ("user", "assistant")
    )
    style = measure(turns)
    if chat.ended_by != "user":
        # Unless the person ended the chat, its number of turns says nothing about them.
        style = style.model_copy(update={"turns": None})
    return Conversation(
        id=chat.id,
        origin="human",
        source=chat.source,
        system=chat.system,
        turns=turns,
        profile=UserProfile(persona=Persona(style=style, language=chat.language or "en")),
        ended_by=chat.ended_by,
        user=None if chat.user_key is None else digest("person", chat.source, chat.user_key),
        flags=chat.flags,
    )
