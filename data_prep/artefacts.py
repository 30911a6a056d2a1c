"""What the ChatGPT web page left in people's turns when it was copied.

Found by reading ShareGPT. Only traces of the page go: code, markup and pasted documents are the
person's own message and stay.
"""

from __future__ import annotations

import re
from collections import Counter

from data_prep.chats import RawChat

MARKS = re.compile(r"[\u200b\ufeff\u00ad]")
ESCAPES = re.compile(r"\\([_*])")
COPY_CODE = re.compile(r"^[ \t]*Copy code[ \t]*\n", re.MULTILINE)
PAGER = re.compile(r"\s*(\d{1,2}) / (\d{1,2})\s*\Z")
BUTTONS = re.compile(r"\s*(?:Share Prompt|Save & Submit\s*Cancel)\s*\Z")
NOTICE = re.compile(r"\s*This content may violate our content policy\.[^\n]*\s*\Z")
SHARED_FROM = re.compile(r"\A\*This (?:chat )?conversation is shared from [^\n]*\*\Z")


def clean_user_text(text: str, found: Counter[str]) -> str:
    text = _count(MARKS, "", text, "zero-width mark", found)
    # The page was turned into markdown, which escapes _ and * outside code.
    text = _count(ESCAPES, r"\1", text, "markdown escape", found)
    text = _count(COPY_CODE, "", text, "copy-code button", found)
    text = _count(NOTICE, "", text, "policy notice", found)
    text = _count(BUTTONS, "", text, "page button", found)
    pager = PAGER.search(text)
    # The pager of an edited message, "2 / 3"; a fraction such as "9 / 4" stays.
    if pager and 1 <= int(pager[1]) <= int(pager[2]):
        found["edit pager"] += 1
        text = text[: pager.start()]
    return text.strip()


def _count(pattern: re.Pattern[str], to: str, text: str, name: str, found: Counter[str]) -> str:
    text, times = pattern.subn(to, text)
    if times:
        found[name] += 1
    return text


def clean_artefacts(chat: RawChat, found: Counter[str]) -> RawChat:
    """`found` counts turns per kind of trace."""
    turns = tuple(
        turn.model_copy(update={"text": clean_user_text(turn.text, found)}) if turn.role == "user" else turn
        for turn in chat.turns
    )
    system = chat.system
    if system is not None and SHARED_FROM.match(system.strip()):
        found["shared-from footer"] += 1
        system = None
    return chat.model_copy(update={"turns": turns, "system": system})
