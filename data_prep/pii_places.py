"""Where personal data can stand: a cheap look at a text, so that the library reads only those places.

A core is a piece of text that a recogniser and the rules could accept. Every pattern is linear: its repeats
are bounded, or possessive over what they match.
"""

from __future__ import annotations

import re
import string
from collections.abc import Callable, Iterator
from functools import lru_cache

from data_prep.pii_rules import BINARY, DATE, PHONE_FORM, SECRET, SOCIAL, TO_CALL, Span, near, within_word

SEPARATORS = r" .()/\-+\u00a0\u00ad\u2010-\u2015\u2212"
RUN = re.compile(rf"[+(]{{0,2}}\d(?:[{SEPARATORS}]{{0,4}}+\d){{6,}}+")
"""At least seven digits, at most four separators between two."""
DECIMAL = re.compile(r"\d+\.\d+")
LONGEST_RUN = 160
"""A longer run of digits is a table."""
LONGEST_TOKEN = 4096
"""A longer run of key characters is a file in base64."""
EMAIL = re.compile(r"@(?<=[\w!#$%&'*+/=?^`{|}~.-]@)\w[\w-]{0,62}\.\w")
IBAN = re.compile(r"[A-Z]{2}\d\d[ -]?[A-Z0-9]{4}[ -]?[A-Z0-9]{4}")
IPV4 = re.compile(r"(?<![\w.])\d{1,3}(?:\.\d{1,3}){3}(?!\w|\.\d)")
IPV6 = re.compile(r"(?<![\w:.])(?:[0-9A-Fa-f]{1,4}:){1,7}(?:[0-9A-Fa-f]{1,4}|:)[0-9A-Fa-f:.]{0,40}")
KEY_FORM = re.compile(
    r"sk-|gh[pousr]_|github_pat_|glpat-|A[A-Z]{3}[A-Z0-9]{16}|AIza|GOCSPX-|ya29\.|xox|hooks\.slack|[sr]k_|whsec_"
    r"|hf_|npm_|pypi-|SG\.|eyJ|[AS][CK][0-9a-f]{32}|do[opr]_v1_|dapi|shp[acps]|sq0|gsk_|xai-|r8_|pplx-|lin_api_|figd_|ntn_|secret_"
)
DIGIT = re.compile(r"\d")
PEM = re.compile(r"-----BEGIN [A-Z ]{0,30}PRIVATE KEY")
LOGIN = re.compile(r"://[^\s/:@]{1,64}:[^\s/@]{1,128}@")
WALLET = re.compile(r"(?<![A-Za-z0-9])(?:bc1|[13])[A-Za-z0-9]{25,62}(?![A-Za-z0-9])")
NAME = re.compile(r"ame(?:\u2019s|'s| is) |Dear |,[ \t]{0,3}\n{1,2}[ \t]{0,3}(?=[^\W\d_a-z])")

_ZEROS = bytes.maketrans(string.digits.encode(), b"0" * 10)
_BETWEEN = b" .()/+-\xa0\xad?"  # "?" is what a dash outside Latin-1 becomes
_KEY_CHARACTERS = frozenset(f"{string.ascii_letters}{string.digits}_+/=.~-".encode())
_TOKENS = bytes(97 if code in _KEY_CHARACTERS else 32 for code in range(256))
_IPV4 = re.compile(r"\.\d{1,3}\.\d{1,3}\.\d")
_IPV6 = re.compile(r":(?:(?<=[0-9A-Fa-f]:):|[0-9A-Fa-f]{1,4}:[0-9A-Fa-f]{1,4}:[0-9A-Fa-f]{1,4}:)")
_SIGNED = re.compile(r",[ \t]{0,3}\n{1,2}[ \t]{0,3}[^\W\d_a-z]")


def kinds_in(text: str) -> set[str]:
    """The kinds that may occur; the others certainly do not."""
    kinds: set[str] = set()
    latin = text.encode("latin-1", "replace")
    if b"0000000" in latin.translate(_ZEROS, _BETWEEN):
        kinds |= {"PHONE", "ABROAD", "CARD", "SSN", "IBAN"}
    if b"a" * 20 in latin.translate(_TOKENS):
        kinds |= {"KEY", "SECRET", "WALLET"}
    if "PRIVATE KEY" in text:
        kinds.add("PEM")
    if "@" in text:
        kinds |= {"EMAIL", "LOGIN"} if "://" in text else {"EMAIL"}
    if _IPV4.search(text) or _IPV6.search(text):
        kinds.add("IP")
    if (
        "ame is " in text
        or "ame's " in text
        or "ame\u2019s " in text
        or "Dear " in text
        or _SIGNED.search(text)
    ):
        kinds.add("NAME")
    return kinds


def _all(*patterns: re.Pattern[str]) -> Callable[[str], Iterator[Span]]:
    return lambda text: (match.span() for pattern in patterns for match in pattern.finditer(text))


@lru_cache(maxsize=1)
def _runs(text: str) -> tuple[tuple[int, int, int], ...]:
    """Start, end and number of digits of every run that is no table; four kinds look at them one after the other."""
    spans = (match.span() for match in RUN.finditer(text))
    return tuple(
        (start, end, sum(map(str.isdigit, text[start:end])))
        for start, end in spans
        if end - start <= LONGEST_RUN
    )


@lru_cache(maxsize=1)
def _phones(text: str) -> tuple[tuple[int, int, bool], ...]:
    """Runs of which `pii_rules.phone` could accept a piece; True: one number, with its country code."""
    found = []
    for start, end, digits in _runs(text):
        run = text[start:end]
        date = DATE.match(run)
        left = run[date.end() :] if date else run
        if len(left) < 7 or DECIMAL.fullmatch(left) or BINARY.fullmatch(run):
            continue
        if run[0] not in "+(" and within_word(text, start):
            continue
        formed = len(left) >= 9 and not run.isdigit() and PHONE_FORM.search(text, end - len(left), end)
        if formed or near(TO_CALL, text, start, end):
            found.append((start, end, run[0] == "+" and digits <= 15))
    return tuple(found)


def _national(text: str) -> Iterator[Span]:
    return ((start, end) for start, end, international in _phones(text) if not international)


def _international(text: str) -> Iterator[Span]:
    return ((start, end) for start, end, international in _phones(text) if international)


def _cards(text: str) -> Iterator[Span]:
    return ((start, end) for start, end, digits in _runs(text) if digits >= 13)


def _social(text: str) -> Iterator[Span]:
    return (
        (start, end) for start, end, digits in _runs(text) if digits >= 9 and near(SOCIAL, text, start, end)
    )


def _tokens(text: str) -> Iterator[Span]:
    """Runs of 20 and more key characters."""
    shape = text.encode("latin-1", "replace").translate(_TOKENS)
    start = shape.find(b"a" * 20)
    while start >= 0:
        end = shape.find(b" ", start)
        end = len(shape) if end < 0 else end
        if end - start <= LONGEST_TOKEN:
            yield start, end
        start = shape.find(b"a" * 20, end)


def _keys(text: str) -> Iterator[Span]:
    for start, end in _tokens(text):
        telegram = text[start - 1 : start] == ":" and text[start - 2 : start - 1].isdigit()
        if telegram or KEY_FORM.search(text, start, end):
            yield start, end


def _addresses(text: str) -> Iterator[Span]:
    yield from _all(IPV4)(text)
    for match in IPV6.finditer(text):
        if "::" in match[0] or match[0].count(":") == 7:
            yield match.span()


def _secrets(text: str) -> Iterator[Span]:
    """Behind `key =` and the like, which may be a piece of the same run: `KEY=abc`."""
    for start, end in _tokens(text):
        if DIGIT.search(text, start, end):
            equals = text.find("=", start, end)
            inside = start if equals < 0 else equals + 1
            if SECRET.search(text[max(0, start - 48) : start]) or SECRET.search(
                text[max(0, inside - 48) : inside]
            ):
                yield start, end


def _wallets(text: str) -> Iterator[Span]:
    for start, end in _tokens(text):
        for match in WALLET.finditer(text, start, end):
            yield match.span()


CORES: dict[str, tuple[Callable[[str], Iterator[Span]], int, int]] = {
    "PEM": (_all(PEM), 1, 20_100),
    "KEY": (_keys, 16, 2),
    "SECRET": (_secrets, 2, 2),
    "LOGIN": (_all(LOGIN), 2, 2),
    "EMAIL": (_all(EMAIL), 100, 330),
    "IBAN": (_all(IBAN), 2, 48),
    "CARD": (_cards, 2, 2),
    "WALLET": (_wallets, 1, 1),
    "IP": (_addresses, 2, 24),
    "SSN": (_social, 2, 2),
    "PHONE": (_national, 8, 32),
    "ABROAD": (_international, 8, 32),
    "NAME": (_all(NAME), 40, 80),
}
"""Of each kind its cores, and how much more the library reads before and after; the first kinds win overlaps."""


def windows(kind: str, text: str) -> Iterator[Span]:
    """What the library has to read to find every match of this kind; they do not overlap."""
    cores, before, after = CORES[kind]
    held: Span | None = None
    for start, end in sorted(cores(text)):
        start, end = max(0, start - before), min(len(text), end + after)
        if held and start <= held[1]:
            held = held[0], max(held[1], end)
            continue
        if held:
            yield held
        held = start, end
    if held:
        yield held
