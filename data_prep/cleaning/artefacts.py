"""What web pages and browser extensions left in the turns when they were typed or copied.

Found by reading ShareGPT, Chatbot Arena and WildChat, and looked for in chats from pages only. Only traces of pages and
tools go: code, markup, formulas and pasted documents are the person's own message and stay, and so does all markdown of
assistants.
"""

from __future__ import annotations

import re
from collections import Counter

from data_prep.raw_chats import RawChat, RawTurn

MARKS = re.compile(r"[\u200b\ufeff\u00ad]")
ESCAPES = re.compile(r"(?:(?<=[\w*])|(?<!\S))\\([_*])")
"""Before a word or in it; behind a colon or a quote it is a path or a pattern."""
VERBATIM = re.compile(r"(```.*?(?:```|\Z)|`[^`\n]+`|\$\$.*?\$\$|\$[^$\n]+\$)", re.DOTALL)
"""Code and formulas."""
COPY_CODE = re.compile(r"^[ \t]*Copy code[ \t]*\n", re.MULTILINE)
ASKED = re.compile(r"\n(?:Query|Prompt): ?(?=[^\n]*\S)")
REPLY_IN = re.compile(r"\nReply in \S{1,20}\s*\Z")
ENDS: tuple[tuple[str, str, re.Pattern[str]], ...] = (
    (
        "policy notice",
        "content policy.",
        re.compile(r"This content may violate our content policy\.[^\n]*\Z"),
    ),
    (
        "editor buttons",
        "Copy HTML",
        re.compile(
            r"(?:GoodBad)?\s?\d{1,6} words \d{1,7} char Copy Text Copy HTML [^\n]*\Z"
            r"|CopyCopy HTMLRead Aloud[^\n]{0,12}?\d{1,7} chars? \| \d{1,6} words?\Z"
        ),
    ),
    ("translate button", "\ubc88\uc5ed", re.compile(r"\uc9c0\uae08 \ubc88\uc5ed\ud558\uae30\Z")),
    (
        "added by an extension",
        " in ",
        re.compile(r"\n(?:Please write in [A-Z][a-z]{2,20} language\.|Answer in [A-Z][a-z]{2,20}\.)\Z"),
    ),
    ("page button", "Cancel", re.compile(r"Save & Submit\s{0,5}Cancel\Z")),
    ("page button", "Share Prompt", re.compile(r"Share Prompt\Z")),
)
"""Name, a word that is in it, and the trace as the last thing of a turn; the lower ones come before the upper."""
PAGER = re.compile(r"(?<![\d \t/*+=(^-])(?<!\d[.,])(?:(\d{1,2}) / (\d{1,2})|[ \t]{1,3}(\d{1,2}) / \3)\Z")
"""Glued to the last word or on a line of its own; after a space only the likes of "2 / 2", nobody's fraction."""
ASKS_VALUE = re.compile(
    r"(?i)(?:\b(?:of|is|equals?|by|simplify|solve|evaluate|calculate|compute|convert|add|value|fraction)|[:=+*/,-])\s*\Z"
)
"""A fraction on a line of its own may answer to this."""
LAST = 400
"""Every trace at the end fits into this many characters."""
SHARED_FROM = re.compile(r"\A\*This (?:chat )?conversation is shared from [^\n]*\*\Z")


def clean_user_text(text: str, found: Counter[str]) -> str:
    text = clean_any_text(text, found)
    if "\\" in text:
        # The page was turned into markdown, which escapes _ and * outside code.
        text = _count(ESCAPES, r"\1", text, "markdown escape", found)
    if text.startswith("Web search results"):
        text = _own_question(text, found)
    return _without_ends(text.strip(), found)


def clean_any_text(text: str, found: Counter[str]) -> str:
    if not text.isascii():
        text = _count(MARKS, "", text, "zero-width mark", found)
    if "Copy code" in text:
        # The button stands in the first line of a block of code.
        text, times = COPY_CODE.subn("", text)
        if times:
            found["copy-code button"] += 1
    return text


def _count(pattern: re.Pattern[str], to: str, text: str, name: str, found: Counter[str]) -> str:
    """Outside code and formulas."""
    pieces = VERBATIM.split(text) if "`" in text or "$" in text else [text]
    cleaned = "".join([piece if place % 2 else pattern.sub(to, piece) for place, piece in enumerate(pieces)])
    if cleaned != text:
        found[name] += 1
    return cleaned


def _own_question(text: str, found: Counter[str]) -> str:
    """An extension sent what it found on the web, instructions, and last what the person had typed."""
    asked = list(ASKED.finditer(text))
    if not asked:
        return text
    found["search results of an extension"] += 1
    return REPLY_IN.sub("", text[asked[-1].end() :])


def _without_ends(text: str, found: Counter[str]) -> str:
    for name, word, pattern in ENDS:
        last = text[-LAST:]
        trace = pattern.search(last) if word in last else None
        if trace:
            found[name] += 1
            text = text[: trace.start() - len(last)].rstrip()
    last = text[-16:]
    pager = PAGER.search(last) if " / " in last else None
    # The pager of an edited message, "2 / 3"; a fraction such as "9 / 4" stays.
    if pager and (pager[3] or 1 <= int(pager[1]) <= int(pager[2])):
        before = text[: pager.start() - len(last)].rstrip()
        if not ASKS_VALUE.search(before[-40:]):
            found["edit pager"] += 1
            return before
    return text


def clean_artefacts(chat: RawChat, found: Counter[str]) -> RawChat:
    """Of a chat from a page; `found` counts turns per kind of trace."""
    if not chat.from_page:
        return chat
    turns = tuple([_clean_turn(turn, found) for turn in chat.turns])
    system = chat.system
    if system is not None and SHARED_FROM.match(system.strip()):
        found["shared-from footer"] += 1
        system = None
    if system is chat.system and all(new is old for new, old in zip(turns, chat.turns, strict=True)):
        return chat
    return chat.model_copy(update={"turns": turns, "system": system})


def _clean_turn(turn: RawTurn, found: Counter[str]) -> RawTurn:
    text = (clean_user_text if turn.role == "user" else clean_any_text)(turn.text, found)
    return turn if text == turn.text else turn.model_copy(update={"text": text})
