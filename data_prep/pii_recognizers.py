"""Presidio's recognisers as they are used here, without a language model. Importing this takes seconds.

A recogniser reads a text; the rules say which of its matches count. Nothing is ever fetched: the public
suffix list is the one that comes with tldextract.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache, lru_cache

import regex  # type: ignore[import-untyped]
from presidio_analyzer import LocalRecognizer, Pattern, PatternRecognizer
from presidio_analyzer.predefined_recognizers import (
    CreditCardRecognizer,
    CryptoRecognizer,
    EmailRecognizer,
    IbanRecognizer,
    IpRecognizer,
    PhoneRecognizer,
    UsSsnRecognizer,
)
from tldextract import TLDExtract

from data_prep.pii_rules import Span

REGIONS = (
    "US", "GB", "IE", "AU", "NZ", "ZA", "NG", "KE", "IN", "PK", "BD", "SG", "PH", "ID", "VN", "TH", "CN", "JP", "KR",
    "DE", "AT", "CH", "FR", "BE", "NL", "ES", "PT", "IT", "SE", "NO", "DK", "FI", "PL", "CZ", "GR", "RO", "RU", "UA",
    "TR", "IL", "EG", "AE", "SA", "BR", "MX", "AR", "CO", "CL", "PE",
)  # fmt: skip
"""Whose national way of writing is read; a number with + is read for every country."""
WORD = r"\p{Lu}[\p{Ll}'\u2019]+(?:-\p{Lu}\p{Ll}+)?"
NAMES = {
    "introduction": rf"(?<=\b[Mm]y (?:full |first )?name(?: is|['\u2019]s) ){WORD}(?: {WORD}){{0,2}}",
    "signature": rf"(?<=(?:[Rr]egards|[Ss]incerely|[Ff]aithfully|[Tt]ruly|[Ww]ishes|Best|[Tt]hanks|[Tt]hank you"
    rf"|[Cc]heers),[ \t]{{0,3}}\n{{1,2}}[ \t]{{0,3}}){WORD}(?: (?:{WORD}|\p{{Lu}}\.?)){{0,3}}"
    r"(?=[ \t,.]{0,4}(?:\n|$))",
    "address": rf"(?<=(?:^|\n)[ \t>*]{{0,4}}Dear (?:(?:Mr|Mrs|Ms|Dr|Prof|Professor)\.? )?){WORD}(?: {WORD}){{0,2}}"
    r"(?=[ ,:!-]{0,3}\n)",
}
KEYS = {
    "OpenAI, Anthropic, OpenRouter": r"\bsk-(?:ant-|proj-|svcacct-|or-)?[\w-]{20,}",
    "GitHub": r"\b(?:gh[pousr]_[A-Za-z0-9]{36,}|github_pat_\w{22,})",
    "GitLab": r"\bglpat-[\w-]{20,}",
    "AWS": r"\b(?:AKIA|ASIA|AROA|AIDA|AGPA)[A-Z0-9]{16}\b",
    "Google": r"\b(?:AIza[\w-]{35}|GOCSPX-[\w-]{20,}|ya29\.[\w-]{20,})",
    "Slack": r"\bxox[abeoprs]-[A-Za-z0-9-]{10,}|(?<=hooks\.slack\.com/services/)[A-Za-z0-9/]{20,}",
    "Stripe": r"\b(?:[sr]k_(?:live|test)_[A-Za-z0-9]{16,}|whsec_[A-Za-z0-9+/=]{20,})",
    "Hugging Face": r"\bhf_[A-Za-z0-9]{30,}",
    "npm, PyPI": r"\b(?:npm_[A-Za-z0-9]{36}|pypi-[\w-]{50,})",
    "SendGrid": r"\bSG\.[\w-]{16,}\.[\w-]{30,}",
    "Twilio": r"\b(?:SK|AC)[0-9a-f]{32}\b",
    "Telegram": r"\b\d{8,10}:[\w-]{35}(?![\w-])",
    "DigitalOcean, Databricks": r"\bdo[opr]_v1_[0-9a-f]{64}\b|\bdapi[0-9a-f]{32}\b",
    "Shopify, Square": r"\bshp(?:at|ca|pa|ss)_[0-9a-f]{32}\b|\bsq0(?:csp|atp)-[\w-]{22,}",
    "Groq, xAI, Replicate, Perplexity": r"\b(?:gsk_|xai-|r8_|pplx-)[A-Za-z0-9]{36,}",
    "Linear, Figma, Notion": r"\b(?:lin_api_|figd_|ntn_|secret_)[\w-]{36,}",
    "JSON web token": r"\beyJ[\w-]{10,}\.eyJ[\w-]{10,}\.[\w-]{10,}",
}
PEM = {
    "private key": r"-----BEGIN [A-Z ]{0,30}PRIVATE KEY-----"
    r"(?:.{0,20000}?-----END [A-Z ]{0,30}PRIVATE KEY-----|.{0,20000})"
}
SECRETS = {"random string": r"(?<![\w+/.~-])[\w+/.~-]{20,200}={0,2}(?<!\.)(?![\w+/=~-])"}
LOGINS = {"link": r"(?<=://)[^\s/:@]{1,64}:[^\s/@]{1,128}(?=@)"}
CARDS = {
    "Mastercard 2": r"\b2[2-7]\d\d[- .]?\d{4}[- .]?\d{4}[- .]?\d{4}\b",
    "19 digits": r"\b[4-6]\d{3}[- .]?\d{4}[- .]?\d{4}[- .]?\d{4}[- .]?\d{3}\b",
    "dots": r"\b[3-6]\d{3}\.\d{4}\.\d{4}\.\d{4}\b|\b3\d{3}\.\d{6}\.\d{5}\b",
}

_suffixes = TLDExtract(suffix_list_urls=(), cache_dir=None)


class OfflineEmail(EmailRecognizer):
    def validate_result(self, pattern_text: str) -> bool:
        """By the domain alone: what stands before it may look like one too."""
        return bool(_suffixes(pattern_text.rpartition("@")[2]).fqdn)


def _own(kind: str, patterns: dict[str, str]) -> PatternRecognizer:
    """Case counts, and $ is the end of the text."""
    return PatternRecognizer(kind, patterns=_patterns(patterns), global_regex_flags=int(regex.DOTALL))


def _patterns(named: dict[str, str]) -> list[Pattern]:
    return [Pattern(name, pattern, 0.5) for name, pattern in named.items()]


@cache
def recognizers() -> dict[str, LocalRecognizer]:
    dashes = [("-", ""), (" ", ""), (".", "")]
    cards = [*CreditCardRecognizer.PATTERNS, *_patterns(CARDS)]
    return {
        "PEM": _own("PEM", PEM),
        "KEY": _own("KEY", KEYS),
        "SECRET": _own("SECRET", SECRETS),
        "LOGIN": _own("LOGIN", LOGINS),
        "EMAIL": OfflineEmail(),
        "IBAN": IbanRecognizer(),
        "CARD": CreditCardRecognizer(patterns=cards, replacement_pairs=dashes),
        "WALLET": CryptoRecognizer(),
        "IP": IpRecognizer(),
        "SSN": UsSsnRecognizer(),
        "PHONE": PhoneRecognizer(supported_regions=REGIONS),
        "ABROAD": PhoneRecognizer(supported_regions=REGIONS[:1]),
        "NAME": _own("NAME", NAMES),
    }


SHORT = 1000


def read(kind: str, text: str) -> Iterable[Span]:
    """Every match of the library."""
    return _read_short(kind, text) if len(text) <= SHORT else _read(kind, text)


def _read(kind: str, text: str) -> tuple[Span, ...]:
    recognizer = recognizers()[kind]
    # None of these reads the artefacts of a language model.
    found = recognizer.analyze(text, recognizer.supported_entities, None)  # type: ignore[arg-type]
    return tuple({(int(match.start), int(match.end)): None for match in found})


_read_short = lru_cache(maxsize=8192)(_read)
"""People and assistants repeat themselves, and each other."""
