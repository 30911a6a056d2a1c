"""Personal data replaced by typed placeholders: e-mail, phone, IPv4, payment card, API key.

Plain patterns, chosen to leave ordinary numbers alone. Names, addresses and dates of birth are not
looked for.
"""

from __future__ import annotations

import ipaddress
import re
from collections import Counter
from collections.abc import Callable

from data_prep.chats import RawChat

EMAIL = re.compile(r"(?<![\w.+-])[\w.+-]{1,64}@(?:[A-Za-z0-9-]{1,63}\.)+[A-Za-z]{2,24}\b")
CARD = re.compile(
    r"(?<![\w.-])(?:\d{13,16}|\d{4}([ -])\d{4}\1\d{4}\1\d{4}|\d{4}([ -])\d{6}\2\d{5})(?![\w.-]?\d)"
)
"""In one piece or in the groups printed on cards; loose runs of numbers are tables."""
IPV4 = re.compile(r"(?<![\w.])(?:\d{1,3}\.){3}\d{1,3}(?![\w]|\.\d)")
PHONE = re.compile(
    r"(?<![\w.+-])(?:"
    r"\+\d{1,3}(?:[ .-]?\(?\d{2,4}\)?){2,5}"  # +44 20 7946 0958
    r"|(?:1[ .-])?(?:\(\d{3}\) ?|\d{3}[.-])\d{3}[ .-]\d{4}"  # (212) 555-0143
    r"|\d{3} \d{3}-\d{4}"
    r")(?![\w-]|\.\d)"
)
KEY = re.compile(
    r"-----BEGIN [A-Z ]*PRIVATE KEY-----.*?(?:-----END [A-Z ]*PRIVATE KEY-----|\Z)"
    r"|\b(?:sk-(?:ant-|proj-)?[A-Za-z0-9_-]{20,}"  # OpenAI, Anthropic
    r"|gh[pousr]_[A-Za-z0-9]{36,}|github_pat_\w{22,}"
    r"|(?:AKIA|ASIA)[A-Z0-9]{16}"
    r"|AIza[A-Za-z0-9_-]{35}"
    r"|xox[abprs]-[A-Za-z0-9-]{10,}"
    r"|hf_[A-Za-z0-9]{30,}"
    r"|[sr]k_live_[A-Za-z0-9]{20,}"
    r"|eyJ[A-Za-z0-9_-]{10,}\.eyJ[A-Za-z0-9_-]{10,}\.[A-Za-z0-9_-]{10,})",  # JWT
    re.DOTALL,
)


def luhn(digits: str) -> bool:
    doubled = [int(d) * (1 + place % 2) for place, d in enumerate(reversed(digits))]
    return sum(n - 9 if n > 9 else n for n in doubled) % 10 == 0


def _is_card(text: str) -> bool:
    digits = re.sub(r"\D", "", text)
    return digits[0] in "3456" and len(set(digits)) > 1 and luhn(digits)


def _is_public_ip(text: str) -> bool:
    """Private addresses say nothing about a person; four single digits are a heading or 8.8.8.8."""
    try:
        return ipaddress.IPv4Address(text).is_global and len(text) > len("8.8.8.8")
    except ValueError:
        return False


def _is_phone(text: str) -> bool:
    return 8 <= sum(character.isdigit() for character in text) <= 15


KINDS: tuple[tuple[str, re.Pattern[str], Callable[[str], bool]], ...] = (
    ("KEY", KEY, lambda _: True),
    ("EMAIL", EMAIL, lambda _: True),
    ("CARD", CARD, _is_card),
    ("IP", IPV4, _is_public_ip),
    ("PHONE", PHONE, _is_phone),
)


def scrub_text(text: str, found: Counter[str]) -> str:
    for kind, pattern, holds in KINDS:

        def replace(match: re.Match[str], kind: str = kind, holds: Callable[[str], bool] = holds) -> str:
            if not holds(match[0]):
                return match[0]
            found[kind] += 1
            return f"[{kind}]"

        text = pattern.sub(replace, text)
    return text


def scrub(chat: RawChat, found: Counter[str]) -> RawChat:
    """Both sides and the system prompt: assistants repeat what they were told."""
    turns = tuple(turn.model_copy(update={"text": scrub_text(turn.text, found)}) for turn in chat.turns)
    system = None if chat.system is None else scrub_text(chat.system, found)
    return chat.model_copy(update={"turns": turns, "system": system})
