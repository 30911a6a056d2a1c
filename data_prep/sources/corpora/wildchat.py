"""WildChat-1M, WildChat-4.8M and the first release: one row is one chat of a public ChatGPT page.

The key of a person is a hashed IP address and a country, in the row or (1M, 4.8M) in each user message; the first
release has none. Language and toxicity are detected by the corpus. A chat ends where the person stopped writing. Rows
with the same `conversation_hash` are left to deduplication.
"""

from __future__ import annotations

from typing import Any

from data_prep.raw_chats import RawChat, SourceReport
from data_prep.sources.corpus import ChatFormat, row_by_row
from data_prep.sources.languages import language_code
from data_prep.sources.turns import read_flags, read_key, read_turns, repaired

MESSAGE_FIELDS = (frozenset(("turn_identifier",)), frozenset(("language", "toxic", "redacted")))
"""Message fields of 1M and 4.8M, and of the first release."""


def recognises(row: dict[str, Any]) -> bool:
    messages = row.get("conversation")
    if not isinstance(messages, list):
        return False
    first = messages[0] if messages and isinstance(messages[0], dict) else {}
    return "conversation_hash" in row or any(fields <= first.keys() for fields in MESSAGE_FIELDS)


def _chat(row: dict[str, Any], place: str, report: SourceReport) -> RawChat | str:
    messages = row.get("conversation")
    turns = read_turns(messages, field="conversation")
    if isinstance(turns, str):
        return turns
    id_ = read_key(row, "conversation_id", "conversation_hash")
    if id_ is None:
        return "no conversation_id or conversation_hash"
    return RawChat(
        id=id_,
        source=report.name,
        place=place,
        turns=turns,
        user_key=_person(row, messages),
        language=language_code(row.get("language")),
        flags=read_flags(row, messages),
        ended_by="user",
    )


def _person(row: dict[str, Any], messages: Any) -> str | None:
    """Returns the key of the person. People may share an address; the country separates some of them."""
    user_messages = (m for m in messages if isinstance(m, dict) and m.get("role") == "user")
    for record in (row, *user_messages):
        if record.get("hashed_ip"):
            return repaired(f"{record['hashed_ip']}|{record.get('country') or ''}")
    return None


WILDCHAT = ChatFormat("wildchat", recognises, row_by_row(_chat), name="wildchat", from_pages=True)
