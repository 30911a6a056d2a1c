"""Candidate search for personal data: a fast scan that selects the windows of text read by the recognisers.

A core is a piece of text that a recogniser and the rules could accept. Every pattern is linear: its repeats are
bounded or possessive.
"""

from __future__ import annotations

import re
import string
from collections.abc import Callable, Iterable, Iterator
from functools import lru_cache

from data_prep.pii.rules import (
    BINARY,
    DATE,
    PHONE_FORM,
    PHONE_WORD,
    SECRET,
    SOCIAL,
    Span,
    has_word_near,
    within_word,
)

SEPARATORS = r" .()/\-+"
RUN = re.compile(rf"[+(]{{0,2}}\d(?:[{SEPARATORS}]{{0,4}}+\d){{6,}}+")
"""Run of at least seven digits, with at most four separators between two."""
DECIMAL = re.compile(r"\d+\.\d+")
LONGEST_RUN = 160
"""Longest run of digits in characters; a longer one is a table."""
LONGEST_TOKEN = 4096
"""Longest run of key characters; a longer one is a base64 file."""
EMAIL = re.compile(r"@(?<=[\w!#$%&'*+/=?^`{|}~.-]@)\w[\w-]{0,62}\.\w")
IBAN = re.compile(r"[A-Za-z]{2}\d\d[ -]?[A-Za-z0-9]{4}[ -]?[A-Za-z0-9]{4}")
IPV4 = re.compile(r"(?<![\w.])\d{1,3}(?:\.\d{1,3}){3}(?!\w|\.\d)")
IPV6 = re.compile(r"(?<![\w:.])(?:[0-9A-Fa-f]{1,4}:){1,7}(?:[0-9A-Fa-f]{1,4}|:)[0-9A-Fa-f:.]{0,40}")
KEY_FORM = re.compile(
    r"sk-|gh[pousr]_|github_pat_|glpat-|A[A-Z]{3}[A-Z0-9]{16}|AIza|GOCSPX-|ya29\.|xox|hooks\.slack|[sr]k_|whsec_"
    r"|hf_|npm_|pypi-|SG\.|eyJ|[AS][CK][0-9a-f]{32}|do[opr]_v1_|dapi|shp[acps]|sq0|gsk_|xai-|r8_|pplx-|lin_api_|figd_|ntn_|secret_"
    r"|xapp-|[MNO][\w-]{23,27}\.|key-[0-9a-f]|-us\d|hv[sbr]\.|atlasv1|sbp_|sb_secret_|HRKU-|NRAK-|PMAK-|gl(?:sa|c)_|pat-|sntrys_|webhooks/"
)
DIGIT = re.compile(r"\d")
KEY_BEFORE = re.compile(r"\bBasic \Z|(?:AKIA|ASIA)[A-Z0-9]{16}[^A-Za-z0-9+/]{1,24}\Z")
PEM = re.compile(r"-----BEGIN [A-Z ]{0,30}PRIVATE KEY|PuTTY-User-Key-File-\d")
LOGIN = re.compile(r"://[^\s/:@]{1,64}:[^\s/@]{1,128}@")
WALLET = re.compile(r"(?<![A-Za-z0-9])(?:bc1|[13])[A-Za-z0-9]{25,62}(?![A-Za-z0-9])")
ETHER = re.compile(r"0x[0-9a-fA-F]{40}")
MAC = re.compile(r"[0-9A-Fa-f]{2}([:-])(?:[0-9A-Fa-f]{2}\1){4}[0-9A-Fa-f]{2}")
AT = re.compile(r"(?i)[\[(]at[\])]|&#64;|%40| at ")
SPELLED = ("[at]", "(at)", "&#64;", "%40", " dot ", " DOT ")
HOMES = ("/home/", "/Users/", ":\\Users\\", ":\\\\Users\\", ":/Users/", ":\\users\\")
INTRODUCTIONS = (
    "ame is ", "ame's ", "ame: ", "Dear ", "I'm ", "I am ", "im ", "his is ", "all me ",
    "From: ", "To: ", "llamo ", "nombre es ",
    "appelle ",
)  # fmt: skip
"""Phrases that a capitalised name may follow."""
INTRODUCTIONS_BEYOND_ASCII = (
    "ame\u2019s ", "I\u2019m ", "hei\u00dfe ", "nome \u00e9 ", "azywam si\u0119 ", "\u0437\u043e\u0432\u0443\u0442 ",
)  # fmt: skip
FORMAL = ("egards", "incerely", "ishes")
"""Letter closings that need no comma after them."""
CLOSINGS = (*FORMAL, "aithfully", "ruly", "Best", "hanks", "hank you", "heers", "Love")
SIGNED = re.compile(r"[.]?[ \t]{0,3}\n{1,2}[ \t]{0,3}(?=[^\W\d_a-z])")
CAPITAL = re.compile(r"\n?[ \t]{0,3}[^\W\d_a-z]")
LABELS = (
    "passport", "licen", "pasaporte", "reisepass", "ausweis", "insurance", "national id", "identity card", "id card",
    "fiscale", "aadha", "pesel", "tunnus", "personnummer", "fødselsnummer", "burgerservice",
    "social", "tax ", "steuer", "nhs",
    "medicare", "imei", "cpf", "curp", "ssn", "itin", "sort code", "routing", "account n", "account #", "iban",
)  # fmt: skip
LABELS_BEYOND_ASCII = (
    "\uc8fc\ubbfc\ub4f1\ub85d\ubc88\ud638",
    "sociale",
    "\u8eab\u4efd\u8bc1",
    "\u30de\u30a4\u30ca\u30f3\u30d0\u30fc",
)
ACRONYMS = (
    "DNI", "NIF", "NIE", "NI", "NRIC", "FIN", "PAN", "SIN", "TFN", "BSN", "TIN", "AHV", "NIR", "RFC", "CNIC",
)  # fmt: skip
TO_NUMBER = 60
"""Most characters between the name of a number and its first digit."""
SITE = re.compile(
    r"(?i)insta|twitter|tik ?tok|telegram|snap|discord|facebook|youtube|twitch|reddit|mastodon|bluesky"
    r"|threads|linkedin|wechat"
    r"|skype|steam|kik|\big\b|\bfb\b"
)
PROFILES = (
    "linkedin.com/in/", "facebook.com/", "fb.com/", "instagram.com/", "twitter.com/", "snapchat.com/", "x.com/",
    "t.me/",
    "tiktok.com/@", "youtube.com/@", "reddit.com/u",
)  # fmt: skip
OF_ME = (
    "y insta",
    "y Insta",
    "y twitter",
    "y Twitter",
    "y snap",
    "y Snap",
    "y telegram",
    "y Telegram",
    "iscord",
)

_ZEROS = bytes.maketrans(string.digits.encode(), b"0" * 10)
_BETWEEN = b" .()/+-\xa0\xad?"  # "?" is what an odd space or dash becomes
_KEY_CHARACTERS = frozenset(f"{string.ascii_letters}{string.digits}_+/=.~-".encode())
_TOKENS = bytes(97 if code in _KEY_CHARACTERS else 32 for code in range(256))
_IPV4 = re.compile(r"\.\d{1,3}\.\d{1,3}\.\d")
_IPV6 = re.compile(r":(?:(?<=[0-9A-Fa-f]:):|[0-9A-Fa-f]{1,4}:[0-9A-Fa-f]{1,4}:[0-9A-Fa-f]{1,4}:)")
_HEX = bytes(104 if chr(code) in string.hexdigits else 58 if chr(code) in ":-" else 32 for code in range(256))


def kinds_in(text: str) -> set[str]:
    """Returns the kinds that may occur in `text`, without those in SEARCHED. Other kinds certainly do not occur."""
    kinds: set[str] = set()
    latin = text.encode("latin-1", "replace")
    if b"0000000" in latin.translate(_ZEROS, _BETWEEN):
        kinds |= {"PHONE", "ABROAD", "CARD", "SSN", "IBAN"}
    if b"a" * 20 in latin.translate(_TOKENS):
        kinds |= {"KEY", "SECRET", "WALLET"} | ({"ETHER"} if "0x" in text else set())
    if "PRIVATE KEY" in text or "PuTTY-User-Key-File-" in text:
        kinds.add("PEM")
    if "@" in text:
        kinds |= {"EMAIL", "LOGIN"} if "://" in text else {"EMAIL"}
    if _IPV4.search(text) or _IPV6.search(text):
        kinds.add("IP")
    return kinds


SEARCHED = frozenset(("MAC", "ID", "SPELLED", "HANDLE", "HOME", "NAME"))
"""Kinds whose presence costs as much to check as to search. An assistant repeats or invents them."""


def searched_in(text: str) -> set[str]:
    """Returns the kinds of SEARCHED that may occur in `text`."""
    kinds: set[str] = set()
    latin = text.encode("latin-1", "replace")
    if b"hh:hh:hh:hh:hh:hh" in latin.translate(_HEX):
        kinds.add("MAC")
    # Most numbers are long, those of Italy and of Indian taxes are mixed with letters.
    is_long = b"000000" in latin.translate(_ZEROS, _BETWEEN)
    if (is_long or "PAN" in text or "iscale" in text) and _has_any(_labels(text)):
        kinds.add("ID")
    if _has_any(_spelled(text)):
        kinds.add("SPELLED")
    if _has_any(_handles(text)):
        kinds.add("HANDLE")
    if ("/home/" in text or "sers" in text) and _has_any(_homes(text)):
        kinds.add("HOME")
    if _has_any(_names(text)):
        kinds.add("NAME")
    return kinds


def may_name_person(text: str) -> bool:
    """Returns whether an assistant text has a letter or an introduction, where it may repeat a name it was given."""
    return "ame is " in text or "ame's " in text or "Dear " in text or _has_any(_signed(text))


def _has_any(places: Iterator[Span]) -> bool:
    return next(places, None) is not None


def _occurrences(text: str, pieces: Iterable[str]) -> Iterator[Span]:
    """Yields the spans of all pieces; str.find per piece is much faster than one alternation."""
    for piece in pieces:
        at = text.find(piece)
        while at >= 0:
            yield at, at + len(piece)
            at = text.find(piece, at + 1)


def _names(text: str) -> Iterator[Span]:
    """Yields spans after which a name may begin."""
    pieces = INTRODUCTIONS if text.isascii() else INTRODUCTIONS + INTRODUCTIONS_BEYOND_ASCII
    for start, end in _occurrences(text, pieces):
        if text[end : end + 1].isupper() or text[end : end + 1] == '"':
            yield start, end
    yield from _signed(text)
    for _, end in _occurrences(text, FORMAL):
        signed = SIGNED.match(text, end)
        if signed:
            yield signed.span()


def _signed(text: str) -> Iterator[Span]:
    """Yields breaks between a closing such as "Regards," and a capitalised line."""
    for start, end in _occurrences(text, (",\n", "!\n", ", \n")):
        if text.endswith(CLOSINGS, 0, start) and CAPITAL.match(text, end):
            yield start, end


def _spelled(text: str) -> Iterator[Span]:
    return _occurrences(text, SPELLED)


def _homes(text: str) -> Iterator[Span]:
    return _occurrences(text, HOMES)


def _labels(text: str) -> Iterator[Span]:
    """Yields names of papers and accounts with a digit shortly after."""
    lower = text.lower()
    # Lower-casing may change the length, and with it the positions.
    lower = lower if len(lower) == len(text) else text
    pieces = LABELS if text.isascii() else LABELS + LABELS_BEYOND_ASCII
    for start, end in (*_occurrences(lower, pieces), *_occurrences(text, ACRONYMS)):
        if DIGIT.search(text, end, end + TO_NUMBER):
            yield start, end


def _handles(text: str) -> Iterator[Span]:
    """Yields an @ beside the name of a site, a profile link, or an account described as belonging to a person."""
    for match in SITE.finditer(text) if "@" in text else ():
        at = text.find("@", match.end(), match.end() + 32)
        if at >= 0:
            yield match.start(), at
    if "y " in text or "iscord" in text:
        yield from _occurrences(text, OF_ME)
    if ".com/" in text or "t.me/" in text:
        lower = text.lower()
        if len(lower) == len(text):
            yield from _occurrences(lower, PROFILES)


def _all(*patterns: re.Pattern[str]) -> Callable[[str], Iterator[Span]]:
    return lambda text: (match.span() for pattern in patterns for match in pattern.finditer(text))


@lru_cache(maxsize=1)
def _runs(text: str) -> tuple[tuple[int, int, int], ...]:
    """Returns (start, end, digits) of every run that is no table. Cached: four kinds use them in a row."""
    spans = (match.span() for match in RUN.finditer(text))
    return tuple(
        (start, end, sum(map(str.isdigit, text[start:end])))
        for start, end in spans
        if end - start <= LONGEST_RUN
    )


@lru_cache(maxsize=1)
def _phones(text: str) -> tuple[tuple[int, int, bool], ...]:
    """Returns runs of which `rules.phone` could accept a part; the flag marks one number with a country code."""
    phones = []
    for start, end, digits in _runs(text):
        run = text[start:end]
        date = DATE.match(run)
        rest = run[date.end() :] if date else run
        if len(rest) < 7 or DECIMAL.fullmatch(rest) or BINARY.fullmatch(run):
            continue
        if run[0] not in "+(" and within_word(text, start):
            continue
        has_form = len(rest) >= 9 and not run.isdigit() and PHONE_FORM.search(text, end - len(rest), end)
        if has_form or has_word_near(PHONE_WORD, text, start, end):
            phones.append((start, end, run[0] == "+" and digits <= 15))
    return tuple(phones)


def _national(text: str) -> Iterator[Span]:
    return ((start, end) for start, end, international in _phones(text) if not international)


def _international(text: str) -> Iterator[Span]:
    return ((start, end) for start, end, international in _phones(text) if international)


def _cards(text: str) -> Iterator[Span]:
    return ((start, end) for start, end, digits in _runs(text) if digits >= 13)


def _social(text: str) -> Iterator[Span]:
    return (
        (start, end)
        for start, end, digits in _runs(text)
        if digits >= 9 and has_word_near(SOCIAL, text, start, end)
    )


def _tokens(text: str) -> Iterator[Span]:
    """Yields runs of at least 20 key characters."""
    shape = text.encode("latin-1", "replace").translate(_TOKENS)
    start = shape.find(b"a" * 20)
    while start >= 0:
        end = shape.find(b" ", start)
        end = len(shape) if end < 0 else end
        if end - start <= LONGEST_TOKEN:
            yield start, end
        start = shape.find(b"a" * 20, end)


def _keys(text: str) -> Iterator[Span]:
    has_prefix_word = "Basic " in text or "AKIA" in text or "ASIA" in text
    for start, end in _tokens(text):
        is_telegram = text[start - 1 : start] == ":" and text[start - 2 : start - 1].isdigit()
        has_prefix = has_prefix_word and KEY_BEFORE.search(text[max(0, start - 64) : start])
        if is_telegram or has_prefix or KEY_FORM.search(text, start, end):
            yield start, end


def _addresses(text: str) -> Iterator[Span]:
    yield from _all(IPV4)(text)
    for match in IPV6.finditer(text):
        if "::" in match[0] or match[0].count(":") == 7:
            yield match.span()


def _secrets(text: str) -> Iterator[Span]:
    """Yields tokens after `key =` and the like, which may be part of the same run: `KEY=abc`."""
    for start, end in _tokens(text):
        if DIGIT.search(text, start, end):
            equals = text.find("=", start, end)
            value_start = start if equals < 0 else equals + 1
            if SECRET.search(text[max(0, start - 48) : start]) or SECRET.search(
                text[max(0, value_start - 48) : value_start]
            ):
                yield start, end


def _wallets(text: str) -> Iterator[Span]:
    for start, end in _tokens(text):
        for match in WALLET.finditer(text, start, end):
            yield match.span()


CORES: dict[str, tuple[Callable[[str], Iterator[Span]], int, int]] = {
    "PEM": (_all(PEM), 1, 20_100),
    "KEY": (_keys, 64, 2),
    "SECRET": (_secrets, 2, 2),
    "LOGIN": (_all(LOGIN), 2, 2),
    "EMAIL": (_all(EMAIL), 100, 330),
    "SPELLED": (_all(AT), 140, 200),
    "IBAN": (_all(IBAN), 2, 48),
    "CARD": (_cards, 2, 2),
    "WALLET": (_wallets, 1, 1),
    "ETHER": (_all(ETHER), 1, 1),
    "MAC": (_all(MAC), 2, 2),
    "IP": (_addresses, 2, 24),
    "SSN": (_social, 2, 2),
    "ID": (_labels, 32, 120),
    "PHONE": (_national, 8, 32),
    "ABROAD": (_international, 8, 32),
    "HANDLE": (_handles, 48, 140),
    "HOME": (_homes, 6, 64),
    "NAME": (_names, 48, 120),
}
"""By kind: search for cores, and characters that the recogniser reads before and after. Earlier kinds win overlaps."""


def windows(kind: str, text: str) -> Iterator[Span]:
    """Yields the non-overlapping windows that contain every match of a kind."""
    cores, before, after = CORES[kind]
    window: Span | None = None
    for start, end in sorted(cores(text)):
        start, end = max(0, start - before), min(len(text), end + after)
        if window and start <= window[1]:
            window = window[0], max(window[1], end)
            continue
        if window:
            yield window
        window = start, end
    if window:
        yield window
