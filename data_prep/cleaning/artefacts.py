"""Removes text that web pages and browser extensions left in the turns.

The traces come from reading ShareGPT, Chatbot Arena and WildChat. Only chats from pages are cleaned. Code, markup,
formulas and pasted documents are the person's own message and stay; so does all markdown of assistants.
"""

from __future__ import annotations

import re
from collections import Counter

from data_prep.raw_chats import RawChat, RawTurn

MARKS = re.compile(r"[\u200b\ufeff\u00ad]")
ESCAPES = re.compile(r"(?:(?<=[\w*])|(?<!\S))\\([_*])")
"""Escapes before or inside a word. After a colon or a quote, a backslash is part of a path or a pattern."""
VERBATIM = re.compile(r"(```.*?(?:```|\Z)|`[^`\n]+`|\$\$.*?\$\$|\$[^$\n]+\$)", re.DOTALL)
"""Code and formulas."""
COPY_CODE = re.compile(r"^[ \t]*Copy code[ \t]*\n", re.MULTILINE)
TYPED_QUERY = re.compile(r"\n(?:Query|Prompt): ?(?=[^\n]*\S)")
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
"""Name, a word in the trace, and the trace at the end of a turn. Lower entries stand before upper ones."""
PAGER = re.compile(r"(?<![\d \t/*+=(^-])(?<!\d[.,])(?:(\d{1,2}) / (\d{1,2})|[ \t]{1,3}(\d{1,2}) / \3)\Z")
"""Page counter after the last word or on its own line. After a space, only pairs such as "2 / 2", not fractions."""
ASKS_VALUE = re.compile(
    r"(?i)(?:\b(?:of|is|equals?|by|simplify|solve|evaluate|calculate|compute|convert|add|value|fraction)|[:=+*/,-])\s*\Z"
)
"""Words after which a fraction on a line of its own may be the answer."""
LAST = 400
"""Characters at the end of a turn that are searched; every trace fits in."""
SHARED_FROM = re.compile(r"\A\*This (?:chat )?conversation is shared from [^\n]*\*\Z")


def clean_user_text(text: str, counts: Counter[str]) -> str:
    """Removes page and extension traces from a user turn."""
    text = clean_any_text(text, counts)
    if "\\" in text:
        # The page was converted to markdown, which escapes _ and * outside code.
        text = _substitute(ESCAPES, r"\1", text, "markdown escape", counts)
    if text.startswith("Web search results"):
        text = _typed_question(text, counts)
    return _strip_endings(text.strip(), counts)


def clean_any_text(text: str, counts: Counter[str]) -> str:
    """Removes zero-width characters and code-button labels, which occur on both sides."""
    if not text.isascii():
        text = _substitute(MARKS, "", text, "zero-width mark", counts)
    if "Copy code" in text:
        # The button label is the first line of a code block.
        text, labels = COPY_CODE.subn("", text)
        if labels:
            counts["copy-code button"] += 1
    return text


def _substitute(
    pattern: re.Pattern[str], replacement: str, text: str, name: str, counts: Counter[str]
) -> str:
    """Replaces `pattern` outside code and formulas, and counts the turn under `name` if it changed."""
    pieces = VERBATIM.split(text) if "`" in text or "$" in text else [text]
    cleaned = "".join(
        [piece if index % 2 else pattern.sub(replacement, piece) for index, piece in enumerate(pieces)]
    )
    if cleaned != text:
        counts[name] += 1
    return cleaned


def _typed_question(text: str, counts: Counter[str]) -> str:
    """Returns the question typed after the search results and instructions that an extension had inserted."""
    queries = list(TYPED_QUERY.finditer(text))
    if not queries:
        return text
    counts["search results of an extension"] += 1
    return REPLY_IN.sub("", text[queries[-1].end() :])


def _strip_endings(text: str, counts: Counter[str]) -> str:
    for name, word, pattern in ENDS:
        last = text[-LAST:]
        ending = pattern.search(last) if word in last else None
        if ending:
            counts[name] += 1
            text = text[: ending.start() - len(last)].rstrip()
    last = text[-16:]
    pager = PAGER.search(last) if " / " in last else None
    # The pager of an edited message, "2 / 3"; a fraction such as "9 / 4" stays.
    if pager and (pager[3] or 1 <= int(pager[1]) <= int(pager[2])):
        before = text[: pager.start() - len(last)].rstrip()
        if not ASKS_VALUE.search(before[-40:]):
            counts["edit pager"] += 1
            return before
    return text


def clean_artefacts(chat: RawChat, counts: Counter[str]) -> RawChat:
    """Removes page and extension traces from a chat that comes from a web page.

    Args:
        chat: the chat; returned unchanged if it is not from a page.
        counts: number of turns by kind of trace; updated in place.
    """
    if not chat.from_page:
        return chat
    turns = tuple([_clean_turn(turn, counts) for turn in chat.turns])
    system = chat.system
    if system is not None and SHARED_FROM.match(system.strip()):
        counts["shared-from footer"] += 1
        system = None
    if system is chat.system and all(new is old for new, old in zip(turns, chat.turns, strict=True)):
        return chat
    return chat.model_copy(update={"turns": turns, "system": system})


def _clean_turn(turn: RawTurn, counts: Counter[str]) -> RawTurn:
    text = (clean_user_text if turn.role == "user" else clean_any_text)(turn.text, counts)
    return turn if text == turn.text else turn.model_copy(update={"text": text})
