"""Presidio recognisers without a language model. Importing this module takes seconds.

A recogniser reads a text; `rules` decides which matches count. Nothing is fetched: the public suffix list is the one
packaged with tldextract.
"""

from __future__ import annotations

import string
from collections.abc import Iterable
from functools import cache, lru_cache
from typing import Any

import regex  # type: ignore[import-untyped]
from presidio_analyzer import LocalRecognizer, Pattern
from presidio_analyzer.predefined_recognizers import (
    CreditCardRecognizer,
    CryptoRecognizer,
    EmailRecognizer,
    IbanRecognizer,
    IpRecognizer,
    MacAddressRecognizer,
    PhoneRecognizer,
    UsSsnRecognizer,
)
from tldextract import TLDExtract

from data_prep.pii.rules import Span

REGIONS = (
    "US", "GB", "IE", "AU", "NZ", "ZA", "NG", "KE", "IN", "PK", "BD", "SG", "PH", "ID", "VN", "TH", "CN", "JP", "KR",
    "DE", "AT", "CH", "FR", "BE", "NL", "ES", "PT", "IT", "SE", "NO", "DK", "FI", "PL", "CZ", "GR", "RO", "RU", "UA",
    "TR", "IL", "EG", "AE", "SA", "BR", "MX", "AR", "CO", "CL", "PE",
)  # fmt: skip
"""Regions whose national phone formats are read; a number with + is read for every country."""
WORD = r"\p{Lu}[\p{Ll}'\u2019]+(?:-\p{Lu}\p{Ll}+)?"
TITLE = r"(?:Mr|Mrs|Ms|Miss|Dr|Prof|Professor|Herr|Frau|Señor|Señora|Madame|Monsieur)"
RELATIVE = (
    r"(?:husband|wife|son|daughter|mother|father|mom|mum|dad|brother|sister|friend|boss|cousin|baby|kid|child"
    r"|girlfriend|boyfriend|partner|fianc[ée]e?|neighbou?r|colleague|coworker|teacher|uncle|aunt|niece|nephew)"
)
NAMES = {
    "introduction": rf"(?<=\b(?:(?:[Mm]y|[Hh]is|[Hh]er|{RELATIVE}['\u2019]s) (?:full |first |last "
    rf"|real )?name(?: is|['\u2019]s) "
    r"|[Mm]e llamo |[Mm]i nombre es |[Jj]e m['\u2019]appelle |[Ii]ch heiße "
    rf"|[Mm]eu nome é |[Nn]azywam się |[Мм]еня зовут )){WORD}(?: {WORD}){{0,2}}",
    "I am": rf"(?<=(?<!\w)(?:I['\u2019]m|I am|im) ){WORD}(?: {WORD}){{0,2}}"
    r"(?=,? and (?:I\b|my\b)|,? from \p{Lu}|, (?:an?|the|can|could|please|I|your|from)\b|[.!]?[ \t]*(?:\n|$))",
    "this is": rf"(?<=(?<!\w)[Tt]his is ){WORD}(?: {WORD}){{0,2}}(?=,? (?:from|speaking|calling|at|with)\b)",
    "call me": rf"(?<=(?<!\w)[Cc]all me ){WORD}(?= {WORD}|[.,!]|[ \t]*(?:\n|$))(?: {WORD})?",
    "signature": rf"(?<=(?:(?:[Rr]egards|[Ss]incerely|[Ff]aithfully|[Tt]ruly|[Ww]ishes)[,.!]?[ \t]{{0,3}}"
    rf"|(?:Best|[Tt]hanks|[Tt]hank you"
    r"|[Cc]heers|Love)(?:[,!]|, ))\n{1,2}[ \t]{0,3}"
    rf"(?:{TITLE}\.? )?)(?!{TITLE}\b)(?:\p{{Lu}}\. ?)?{WORD}(?: (?:{WORD}"
    rf"|\p{{Lu}}\.?)){{0,3}}(?=[ \t,.]{{0,4}}(?:\n|$))",
    "address": rf"(?<=\bDear (?:{TITLE}\.? )?)(?!{TITLE}\b){WORD}(?: {WORD}){{0,2}}(?=[ \t]?(?:[,:;!-]|\n|$))",
    "header": rf"(?<=(?:^|\n)[ \t>*]{{0,4}}(?:From|To): ?\"?){WORD}(?: (?:{WORD}|\p{{Lu}}\.?)){{0,3}}(?=\"? ?[<\[(])",
    "field": rf"(?<=(?:^|\n)[ \t>*-]{{0,4}}(?:Full [Nn]ame|Surname|First [Nn]ame"
    rf"|Last [Nn]ame)[ \t]?:[ \t]?){WORD}(?: (?:{WORD}|\p{{Lu}}\.?)){{0,3}}"
    r"(?=[ \t,.]{0,4}(?:\n|$))",
    "record": rf"(?<=(?:^|\n)[ \t>*-]{{0,4}}Name[ \t]?:[ \t]?){WORD}(?: (?:{WORD}|\p{{Lu}}\.?)){{0,3}}"
    r"(?=[ \t,.]{0,4}\n[ \t>*-]{0,4}(?:Age|Sex|Gender|Address|Phone|Tel|Mobile|E-?[Mm]ail|City|D\.?O\.?B"
    r"|Date of [Bb]irth"
    r"|Born|Birth|Nationality|Occupation|Job|Position|Title|Location)\b)",
}
"""Contexts in which people name themselves or each other; other names would need a language model."""
HOMES = {
    "Unix": r"(?<=(?<![\w.\]])/home/)[\w.-]{2,32}(?=/[\w.~-])",
    "macOS": r"(?<=(?<![\w.\]])/Users/)[\w.-]{2,32}(?=/[\w.~-])",
    "Windows": r"(?<=\b[A-Za-z]:(?:\\{1,2}[Uu]sers\\{1,2}|/Users/))[^\\/:*?\"<>|\r\n\[\]]{2,40}(?=[\\/])",
}
SITES = (
    r"(?:instagram|insta|ig|twitter|tik ?tok|telegram|snap ?chat|snap|discord|facebook|fb|youtube|twitch"
    r"|reddit|mastodon"
    r"|bluesky|threads|linkedin|kik|wechat|skype|steam)"
)
HANDLES = {
    "after a site": rf"(?i)(?<=\b{SITES}\b[^@\n]{{0,24}}@)[a-z0-9_](?:[\w.]{{1,28}}\w)",
    "of a person": rf"(?i)(?<=\b(?:my|his|her|our) {SITES}(?: (?:handle|account|username|user|name|id"
    rf"|tag))?(?: is|['\u2019]s|:) ?)"
    r"(?=[a-z._]*[\d._])[a-z0-9_][\w.]{1,28}\w",
    "Discord": r"(?i)(?<=\bdiscord\b[^\n#]{0,32}[ :(@])[\w.]{2,32}#\d{4}(?!\d)",
    "profile": r"(?i)(?<=\blinkedin\.com/in/)[\w%-]{3,100}"
    r"|(?<=\b(?:facebook|fb|instagram|twitter|snapchat)\.com/(?:add/)?|(?<![\w.])x\.com/|\bt\.me/)[\w.]{3,50}(?![\w.]*[?=])"
    r"|(?<=\btiktok\.com/@|\byoutube\.com/@|\breddit\.com/u(?:ser)?/)[\w.-]{3,50}",
}
LABEL = (
    r"(?i:\bpassports?|\bdriv(?:er|ing)(?:['\u2019]?s)? licen[cs]e|\bpasaporte|\breisepass"
    r"|\bpersonalausweis|\bnational insurance"
    r"|\bnational id(?:entity|entification)?|\bidentity card|\bid card|\bcodice fiscale|\baadha+r|\bpesel"
    r"|\bhenkilötunnus"
    r"|\bpersonnummer|\bfødselsnummer|주민등록번호|\bnuméro de sécurité sociale|\bsocial (?:security|insurance)"
    r"|\bmy social"
    r"|\btax (?:file|id|identification)|\bsteuer-?id(?:entifikationsnummer)?|\bnhs|\bmedicare"
    r"|\bburgerservicenummer|\bimei"
    r"|\bcpf|\bcurp|\bssn|\bitin|身份证号?码?|マイナンバー|\bsort code|\brouting|\baccount (?:number|no\b|#)|\biban)"
    r"|\b(?:DNI|NIF|NIE|NI(?:NO?)?|NRIC|FIN|PAN|SIN|TFN|BSN|TIN|AHV|NIR|RFC|CNIC)"
)
FILLER = (
    r"(?:['\u2019]s|[ \t]{0,2}(?:\b(?:card|number|num|no|nr|id|code|is|was|es|ist|est|è|just|it['\u2019]s|account)\b"
    r"|[:=#.,-]))"
)
IDS = {
    "after its name": rf"(?<=(?:{LABEL}){FILLER}{{0,5}}[ \t]{{0,2}}[\"']?)(?<![\w])"
    rf"(?=(?:[A-Z .\-/]*\d){{5}}|[A-Z]{{5}}\d{{4}})"
    r"[A-Z\d](?:[ .\-/]?[A-Z\d]){5,23}(?![\w])"
}
"""Numbers of papers and accounts right after their name; they look like any other number."""
KEYS = {
    "OpenAI, Anthropic, OpenRouter": r"\bsk-(?:ant-|proj-|svcacct-|or-)?[\w-]{20,}",
    "GitHub": r"\b(?:gh[pousr]_[A-Za-z0-9]{36,}|github_pat_\w{22,})",
    "GitLab": r"\bglpat-[\w-]{20,}",
    "AWS": r"\b(?:AKIA|ASIA|AROA|AIDA|AGPA)[A-Z0-9]{16}\b",
    "Google": r"\b(?:AIza[\w-]{35}|GOCSPX-[\w-]{20,}|ya29\.[\w-]{20,})",
    "Slack": r"\b(?:xox[abeoprs]|xapp)-[A-Za-z0-9-]{10,}|(?<=hooks\.slack\.com/services/)[A-Za-z0-9/]{20,}",
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
    "Discord": r"\b[MNO][A-Za-z0-9_-]{23,27}\.[\w-]{6}\.[\w-]{27,40}"
    r"|(?<=discord(?:app)?\.com/api/webhooks/)\d{17,20}/[\w-]{60,80}",
    "Mailgun, Mailchimp": r"\bkey-[0-9a-f]{32}\b|\b[0-9a-f]{32}-us\d{1,2}\b",
    "Vault, Terraform": r"\bhv[sbr]\.[\w-]{20,}|\b[A-Za-z0-9]{14}\.atlasv1\.[\w-]{60,}",
    "Supabase": r"\bsbp_[0-9a-f]{40}\b|\bsb_secret_[\w-]{20,}",
    "AWS secret": r"(?<=\b(?:AKIA|ASIA)[A-Z0-9]{16}[^A-Za-z0-9+/]{1,24})[A-Za-z0-9+/]{40}(?![A-Za-z0-9+/=])",
    "Basic": r"(?<=\bBasic )[A-Za-z0-9+/]{16,}={0,2}(?![\w+/=])",
    "Heroku, New Relic, Postman": r"\bHRKU-[\w-]{36,}|\bNRAK-[A-Z0-9]{27}\b|\bPMAK-[0-9a-f]{24}-[0-9a-f]{34}\b",
    "Grafana, HubSpot, Sentry": r"\bgl(?:sa|c)_[\w-]{32,}"
    r"|\bpat-[a-z]{2}\d-[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}\b|\bsntrys_[\w+/=-]{40,}",
    "JSON web token": r"\beyJ[\w-]{10,}\.eyJ[\w-]{10,}\.[\w-]{10,}",
}
PEM = {
    "private key": r"-----BEGIN [A-Z ]{0,30}PRIVATE KEY(?: BLOCK)?-----"
    r"(?:.{0,20000}?-----END [A-Z ]{0,30}PRIVATE KEY(?: BLOCK)?-----|.{0,20000})",
    "PuTTY": r"PuTTY-User-Key-File-\d:(?:.{0,20000}?Private-MAC: [0-9a-f]{40,64}|.{0,20000})",
}
SECRETS = {"random string": r"(?<![\w+/.~-])[\w+/.~-]{20,200}={0,2}(?<!\.)(?![\w+/=~-])"}
LOGINS = {"link": r"(?<=://)[^\s/:@]{1,64}:[^\s/@]{1,128}(?=@)"}
AT = r"(?: ?(?:\[(?:at|AT)\]|\((?:at|AT)\)) ?|&#64;|%40)"
DOT = r"(?:\.| ?[\[(](?:dot|DOT)[\])] ?| (?:dot|DOT) )"
EMAILS = {
    "spelled": rf"(?<![\w.+-])[\w.+-]{{1,64}}{AT}[\w-]{{1,63}}(?:{DOT}[\w-]{{2,63}}){{1,4}}",
    "in words": r"(?<![\w.+-])(?:[\w.+-]{1,64}(?: (?:dot|DOT) [\w-]{1,64}){1,3}"
    r"|[\w.+-]{0,64}[\d_.][\w.+-]{0,64}) (?:at|AT)"
    r" [\w-]{2,63}(?: (?:dot|DOT) [\w-]{2,20}){1,3}",
    "after mail": r"(?<=\b[Ee]?-?[Mm]ail(?: address)?(?: is|:|['\u2019]s| me)? )[\w.+-]{1,64} at [\w-]{2,63}"
    r"(?: dot [\w-]{2,20}){1,3}",
}
ETHERS = {"address": r"(?<![\w])0x[0-9a-fA-F]{40}(?!\w)"}
CARDS = {
    "gaps": r"(?<!\d)[2-6]\d{3}[- .]{0,2}\d{4}[- .]{0,2}\d{4}[- .]{0,2}\d{4}(?!\d)",
    "Mastercard 2": r"\b2[2-7]\d\d[- .]?\d{4}[- .]?\d{4}[- .]?\d{4}\b",
    "19 digits": r"\b[4-6]\d{3}[- .]?\d{4}[- .]?\d{4}[- .]?\d{4}[- .]?\d{3}\b",
    "dots": r"\b[3-6]\d{3}\.\d{4}\.\d{4}\.\d{4}\b|\b3\d{3}\.\d{6}\.\d{5}\b",
}

CAPITALS = str.maketrans(string.ascii_lowercase, string.ascii_uppercase)
_suffixes = TLDExtract(suffix_list_urls=(), cache_dir=None)


class OfflineEmail(EmailRecognizer):
    def validate_result(self, pattern_text: str) -> bool:
        """Checks the domain only; the local part may look like a domain too."""
        return bool(_suffixes(pattern_text.rpartition("@")[2]).fqdn)


class AnyCaseIban(IbanRecognizer):
    def analyze(self, text: str, *args: Any, **kwargs: Any) -> Any:
        """Matches lower-case IBANs too, by upper-casing the text."""
        return super().analyze(text.translate(CAPITALS), *args, **kwargs)


def _patterns(named: dict[str, str]) -> list[Pattern]:
    return [Pattern(name, pattern, 0.5) for name, pattern in named.items()]


@cache
def recognizers() -> dict[str, LocalRecognizer]:
    dashes = [("-", ""), (" ", ""), (".", "")]
    cards = [*CreditCardRecognizer.PATTERNS, *_patterns(CARDS)]
    return {
        "EMAIL": OfflineEmail(),
        "IBAN": AnyCaseIban(),
        "CARD": CreditCardRecognizer(patterns=cards, replacement_pairs=dashes),
        "WALLET": CryptoRecognizer(),
        "MAC": MacAddressRecognizer(patterns=MacAddressRecognizer.PATTERNS[:1]),
        "IP": IpRecognizer(),
        "SSN": UsSsnRecognizer(),
        "PHONE": PhoneRecognizer(supported_regions=REGIONS),
        "ABROAD": PhoneRecognizer(supported_regions=REGIONS[:1]),
    }


@cache
def own_patterns() -> dict[str, tuple[Any, ...]]:
    """Returns the patterns of kinds without a recogniser. They are case-sensitive, and $ is the end of the text."""
    kinds = {
        "PEM": PEM,
        "KEY": KEYS,
        "SECRET": SECRETS,
        "LOGIN": LOGINS,
        "SPELLED": EMAILS,
        "ETHER": ETHERS,
        "ID": IDS,
        "HANDLE": HANDLES,
        "HOME": HOMES,
        "NAME": NAMES,
    }
    return {
        kind: tuple(regex.compile(pattern, regex.DOTALL) for pattern in named.values())
        for kind, named in kinds.items()
    }


def is_address(spelled: str) -> bool:
    """Returns whether `name [at] example [dot] org` has a domain with a public suffix."""
    domain = regex.split(rf"{AT}| (?:at|AT) ", spelled)[-1]
    return bool(_suffixes(regex.sub(DOT, ".", domain)).fqdn)


SHORT = 1000


def read(kind: str, text: str) -> Iterable[Span]:
    """Returns every match of the recogniser of a kind. Short texts are cached."""
    return _read_short(kind, text) if len(text) <= SHORT else _read(kind, text)


def _read(kind: str, text: str) -> tuple[Span, ...]:
    if patterns := own_patterns().get(kind):
        spans = dict.fromkeys(match.span() for pattern in patterns for match in pattern.finditer(text))
        return tuple(span for span in spans if kind != "SPELLED" or is_address(text[slice(*span)]))
    recognizer = recognizers()[kind]
    # None of these recognisers needs the artefacts of a language model.
    results = recognizer.analyze(text, recognizer.supported_entities, None)  # type: ignore[arg-type]
    return tuple({(int(match.start), int(match.end)): None for match in results})


_read_short = lru_cache(maxsize=8192)(_read)
"""Cached reader: people and assistants repeat themselves and each other."""
