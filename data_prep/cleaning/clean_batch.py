"""One batch through the stages to finished lines: what every engine runs, in this process or another."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from functools import lru_cache

from data_prep.cleaning.stages import Rejected, Stage, digest
from data_prep.cleaning.stages_in_order import local_stages
from data_prep.dedup.signatures import Signatures, sign
from data_prep.raw_chats import RawChat
from data_prep.settings import Settings
from usersim.text.style import measure
from usersim.types import Conversation, Persona, Turn, UserProfile


@dataclass
class Step:
    """What a stage did, over any number of batches."""

    entered: int = 0
    rejected: Counter[str] = field(default_factory=Counter)
    found: Counter[str] = field(default_factory=Counter)

    def add(self, other: Step) -> None:
        self.entered += other.entered
        self.rejected.update(other.rejected)
        self.found.update(other.found)


@dataclass(frozen=True)
class Batch:
    """Chats of one source, by its place among the sources of the run; held-out ones are counted on."""

    source: int
    chats: list[RawChat]


@dataclass(frozen=True)
class Cleaned:
    source: int
    read: int
    lines: list[str]
    """Conversations without goal or group, as JSON."""
    signatures: Signatures
    """One row for each line."""
    steps: dict[str, Step]


@lru_cache(maxsize=4)
def stages_of(settings: Settings) -> dict[str, Stage]:
    """Made once in each process: the patterns of the PII library take a second to build."""
    return local_stages(settings)


def clean(settings: Settings, batch: Batch) -> Cleaned:
    steps: dict[str, Step] = {}
    kept = batch.chats
    for name, stage in stages_of(settings).items():
        done = stage(kept)
        steps[name] = Step(
            len(kept), Counter(c.reason for c in done.chats if isinstance(c, Rejected)), done.found
        )
        kept = [chat for chat in done.chats if isinstance(chat, RawChat)]
    lines = [to_conversation(chat).model_dump_json(exclude_defaults=True) for chat in kept]
    signatures = sign(kept, near=settings.duplicates.near_duplicate is not None)
    return Cleaned(batch.source, len(batch.chats), lines, signatures, steps)


def to_conversation(chat: RawChat) -> Conversation:
    """Without a goal and a group, which are known when all chats are."""
    turns = tuple(
        Turn.model_construct(role=t.role, text=t.text) for t in chat.turns if t.role in ("user", "assistant")
    )
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
        user=None if chat.user_key is None else digest("person", chat.source, chat.user_key),
        flags=chat.flags,
    )
