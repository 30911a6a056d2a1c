"""What the ChatGPT web page left in people's turns when it was copied.

Found by reading ShareGPT. Only traces of the page go: code, markup and pasted documents are the
person's own message and stay.
"""

from __future__ import annotations

import re
from collections import Counter

from data_prep.chats import RawChat, RawTurn

MARKS = re.compile(r"[\u200b\ufeff\u00ad]")
ESCAPES = re.compile(r"\\([_*])")
COPY_CODE = re.compile(r"^[ \t]*Copy code[ \t]*\n", re.MULTILINE)
PAGER = re.compile(r"(?<!\S)(\d{1,2}) / (\d{1,2})\s*\Z")
BUTTONS = re.compile(r"(?:Share Prompt|Save & Submit\s*Cancel)\s*\Z")
NOTICE = re.compile(r"This content may violate our content policy\.[^\n]*\s*\Z")
SHARED_FROM = re.compile(r"\A\*This (?:chat )?conversation is shared from [^\n]*\*\Z")
TAIL = 400
"""What stands at the end of a message is looked for there: a pasted book is not searched."""


def clean_user_text(text: str, found: Counter[str]) -> str:
    if not text.isascii():
        text = _count(MARKS, "", text, "zero-width mark", found)
    # The page was turned into markdown, which escapes _ and * outside code.
    if "\\" in text:
        text = _count(ESCAPES, r"\1", text, "markdown escape", found)
    if "Copy code" in text:
        text = _count(COPY_CODE, "", text, "copy-code button", found)
    return _clean_tail(text.strip(), found)


def _clean_tail(text: str, found: Counter[str]) -> str:
    head, tail = text[:-TAIL], text[-TAIL:]
    if "content policy" in tail:
        tail = _count(NOTICE, "", tail, "policy notice", found).rstrip()
    if "Share Prompt" in tail or "Save & Submit" in tail:
        tail = _count(BUTTONS, "", tail, "page button", found).rstrip()
    pager = PAGER.search(tail) if tail[-1:].isdigit() else None
    # The pager of an edited message, "2 / 3"; a fraction such as "9 / 4" stays.
    if pager and 1 <= int(pager[1]) <= int(pager[2]):
        found["edit pager"] += 1
        tail = tail[: pager.start()]
    return (head + tail).strip()


def _count(pattern: re.Pattern[str], to: str, text: str, name: str, found: Counter[str]) -> str:
    text, times = pattern.subn(to, text)
    if times:
        found[name] += 1
    return text


def clean_artefacts(chat: RawChat, found: Counter[str]) -> RawChat:
    """`found` counts turns per kind of trace."""
    turns = tuple(_clean_turn(turn, found) if turn.role == "user" else turn for turn in chat.turns)
    system = chat.system
    if system is not None and SHARED_FROM.match(system.strip()):
        found["shared-from footer"] += 1
        system = None
    return chat.model_copy(update={"turns": turns, "system": system})


def _clean_turn(turn: RawTurn, found: Counter[str]) -> RawTurn:
    text = clean_user_text(turn.text, found)
    return turn if text == turn.text else turn.model_copy(update={"text": text})
