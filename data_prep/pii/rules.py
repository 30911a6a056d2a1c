"""Rules that decide whether a Presidio match is personal data: each returns the personal span, or None.

Presidio is made for forms and letters; chats are full of ids, tables, versions and code.
"""

from __future__ import annotations

import ipaddress
import re
from collections import Counter
from collections.abc import Callable
from math import log2

Span = tuple[int, int]
Rule = Callable[[str, int, int], Span | None]

BEFORE, AFTER = 48, 24
"""Characters read before and after a match for a word that names its kind."""

PHONE_WORD = re.compile(
    r"(?i)(?<!\[)(?:phone|\btele?(?:fon\w*|f)?\b|\bmob(?:ile?)?\b|\bcell(?:phone|ular)?\b|\bcall(?:s|ing)?\b"
    r"(?! (?:last|stack|to\b))|whats\s?app|\bfax|\bcontact|\bdial|hotline|helpline|\bsms\b|\bring\b|\bph\b"
    r"|\btext(?:ing)? (?:me|us|him|her|(?=[+(\d]))|reach (?:me|us|him|her|them|my)\b|\b(?:my|his|her|their"
    r"|your|our)(?: new| old| work| home)? number"
    r"|handy\b|rufnummer|tel[eé]fono|t[eé]l[eé]phone|\bt[eé]l\b|m[oó]vil|celular|telefone|cellulare|telefon"
    r"|телефон|тел\.|电话|電話|手机|手機|携帯|전화|फ़?ोन|मोबाइल|هاتف|اتصل|جوال|טלפון|\w@\w)"
)
"""Words near a phone number. An e-mail address counts too: it marks a block of contact data."""
SOCIAL = re.compile(r"(?i)(?<!\[)(?:\bssns?\b|social[\s-]sec|tax(?:payer)? id|\bitin\b)")
SECRET = re.compile(
    r"(?i)(?:key|secret|token(?!i[sz])|passw(?:or)?d|pwd|credential|bearer|signature|\bsig)\w{0,20}[\"'\]]{0,2}"
    r"(?:[ \t\xa0]{0,2}(?:=>|:=|[:=(,]|\bis\b|\bbearer\b)[ \t\xa0]{0,2}[\"'`<]{0,2}|(?<=bearer)[ \t\xa0]+)\Z"
)
DATE = re.compile(
    r"\D{0,2}(?:(?:19|20)\d\d ?[-/.\u2013 ] ?(?:0?[1-9]|1[0-2])(?!\d)"
    r"|(?:\d\d? ?[-/. ] ?){1,2}(?:19|20)\d\d(?!\d)|\d\d/\d\d ?[-\u2013]"
    r"|(?:19|20)\d\d\)? ?[-/\u2013] ?(?:19|20)\d\d(?!\d))"
)
"""Date at the start of a run of digits."""
VERSION = re.compile(r"(?i)[\w.-]\Z|\w/\Z|\b(?:v|ver|version|release)\b[^\n]{0,14}\Z")
QUAD = re.compile(r"\d{1,3}(?:\.\d{1,3}){3}")
BINARY = re.compile(r"\D*(\d)(?:\D|\1)*(?:(\d)(?:\D|\1|\2)*)?")
"""Run with at most two different digits."""
DAY = re.compile(r"\d\d?[-/.] ?\d\d?[-/.] ?(?:19|20)\d\d|(?:19|20)\d\d-\d\d-\d\d")
YEAR = re.compile(r"\((?:19|20)\d\d[a-z]?\)")
PHONE_FORM = re.compile(
    r"(?<![\d)])\+\(?[1-9]|\(0?\d{2,5}\)|(?<![\d.,/-])00\d|(?<![\d.,:/-])0\d"
    r"|(?<![\d.,-])(?:1[ .-])?\d{3}([ .-])\d{3}[ .-]\d{4}(?!\d)"
)
"""Country code, area code in brackets, trunk zero, or North American groups."""
ISSUERS: tuple[tuple[re.Pattern[str], tuple[int, ...]], ...] = (
    (re.compile("4"), (13, 16, 19)),
    (re.compile("5[1-5]|222[1-9]|22[3-9]|2[3-6]|27[01]|2720"), (16,)),
    (re.compile("3[47]"), (15,)),
    (re.compile("6011|64[4-9]|65|62"), (16, 17, 18, 19)),
    (re.compile("35(?:2[89]|[3-8])"), (16, 17, 18, 19)),
    (re.compile("30[0-5]|3095|36|38|39"), (14, 16)),
    (re.compile("50|5[6-9]|63|67|60"), (13, 14, 15, 16, 17, 18, 19)),
)
"""Card issuers by first digits and lengths: Visa, Mastercard, Amex, Discover and UnionPay, JCB, Diners, Maestro."""
THOUSANDS = re.compile(r"[1-9]\d{0,2}(?:[ .,]\d{3}){2,}")
"""Thousands groups of one large number; some phone numbers are written alike."""
CARD_GROUPS = {(4, 4, 4, 4), (4, 6, 5), (4, 6, 4), (4, 4, 4, 4, 3)}
PASSWORD_OF_MANUALS = re.compile(
    r"(?i)\w{0,4}pass\w{0,5}|pwd|secret|admin|root|postgres|test|guest|demo|changeme|your\W?\w*|\d{1,6}|x+|\*+|\.+"
    r"|[\[<{$%].*|.*:\d{2,5}/.*"
)
NOT_A_NAME = re.compile(
    r"(?i)^(?:sir|madam|all|valued|future|fellow|senior|new|the|your|dear|diary|journal|god|lord|santa|mom|mum|dad|please"
    r"|thanks?|best|kind|warm|yours|regards|sincerely|cheers|and|but|so|then|what|how|can|write|make|i|we|it|this|that"
    r"|here|there|now|also|if|in|on|for|to|a|an|my|not|just|hello|hi|hey|name|dr|mr|mrs|ms|prof|github|linkedin"
    r"|python|java|javascript|typescript|rust|excel|windows|linux|react|node|docker|php|html|css|sql|google|microsoft|amazon"
    r"|facebook|meta|openai|wikipedia|reddit|youtube|twitter|gpt|claude|bard|gemini|siri|alexa|ai)\b"
    r"|\b(?:teams?|hiring|human|recruit\w*|admissions?|customers?|friends?|editors?|readers?|members?|colleagues?"
    r"|everyone|everybody|students?|parents?|managers?|committee|consul\w*|officers?|analysts?|assistants?|chat\w*|bot"
    r"|sales|support|clients?|users?|guests?|neighbou?rs?|departments?|staff|director|board|employees?|engineers?"
    r"|developers?|designers?|lovers?|fans?|marketing|experts?|specialists?|agents?|service|office|group|community|family"
    r"|ladies|gentlemen|folks|investors?|partners?|applicants?|candidates?|subscribers?|followers?|company|university)\b"
)
"""Words, also roles, that stand where a name would."""
INTRODUCES = re.compile(r"(?i)\b(?:i['\u2019]?m|i am|this is|call me) \Z")
NOT_A_NAME_AFTER_I_AM = re.compile(
    r"(?i)^(?:sorry|very|really|sure|happy|glad|ready|back|good|great|fine|ok(?:ay)?|interested|from|at|with|by|as|too|still"
    r"|always|only|over|under|out|up|off|done|open|available|certified|currently|chief|vice|head|lead|junior|mid|full|freelance"
    r"|self|born|male|female|single|married|muslim|christian|catholic|jewish|hindu|buddhist|atheist|vegan|vegetarian|german"
    r"|french|dutch|greek|swiss|thai|czech|iraqi|pakistani|israeli|saudi|afghan|arab|black|white|native|tomorrow|today|tonight"
    r"|maybe|later|when|ceo|cto|cfo|hr|pm|qa|day|part|step|chapter|where|why|who|which|one|our|his|her|its|true|false|no|yes)\b"
    r"|^\w+(?:ing|ish|ese|ean|ian|ed|ly)\b"
)
"""Words after "I am" that are no name."""
CARD_WORD = re.compile(r"(?i)card|visa|amex|master|debit|credit")
WORDS = re.compile(
    r"(?:(?:[A-Z]?[a-z]+|[A-Z]+)\d{0,3}|\d{1,4})(?:[_-]+(?:(?:[A-Z]?[a-z]+|[A-Z]+)\d{0,3}|\d{1,4})){2,}"
)
"""Identifier of three or more words, such as `hmac_sha256_of_payload_v2`."""
NO_HOME_NAME = re.compile(
    r"(?i)\W*(?:(?:your|my|the|current)?[ _-]?user[ _-]?(?:name)?\d{0,2}|you|your\w*|me|name|shared|public"
    r"|default|all users|defaultapp\w*"
    r"|admin\w*|root|ubuntu|debian|centos|fedora|pi|vagrant|ec2-user|azureuser|runner|jovyan|node|app|apps|git|www|web|work"
    r"|test\w*|demo|dev|guest|home|index|about|login|products?|dashboard|profile|settings|main|src|lib|bin|opt|data|share"
    r"|%\w+%|x+|\w*example\w*|someone|person\w*|account\w*|project\w*|images?|contact|news|search|page\w*|assets|static)\W*"
)
NO_HANDLE = re.compile(
    r"(?i)(?:groups?|pages?|events?|watch|marketplace|help|business|profile\.php|sharer\S*|share|intent|home|login|explore|people"
    r"|hashtag|search|photos?|reels?|stories|dialog|tr|plugins|policies|settings|legal|privacy|terms|about|ads?|developers?|docs"
    r"|example\S*|user(?:name)?\d*|your\S*|name|handle|status|media|import|param|override|gmail\S*|v\d+\.\d+|p|i|jobs)"
)
PLACEHOLDER_CODE = re.compile(r"(?i)your[_-]|[_-]here\b|insert |<|\{")
COORDINATES = re.compile(r"\d\.\d+\s+[+-]?\d+\.\d")


def has_word_near(word: re.Pattern[str], text: str, start: int, end: int) -> bool:
    """Returns whether `word` occurs within BEFORE and AFTER characters of the span, or in it."""
    return bool(word.search(text[max(0, start - BEFORE) : end + AFTER]))


def within_word(text: str, start: int) -> bool:
    """Returns whether the span begins inside a word, a path, an identifier or a time of day."""
    return bool(
        re.search(
            r"[^\W\d\u0e00-\u0eff\u3040-\u30ff\u3400-\u9fff\uac00-\ud7a3][/_-]?\Z|\S[/\\]\Z|\d:\Z",
            text[max(0, start - 2) : start],
        )
    )


def always(text: str, start: int, end: int) -> Span | None:
    return start, end


def email(text: str, start: int, end: int) -> Span | None:
    """Removes the link, query or markdown before an address; it is valid in a local part but never meant."""
    at = text.index("@", start, end)
    local = text[start:at]
    local = re.sub(r"^.*[/=?&|{}'`*#!$%^~]|^[.-]+", "", local, flags=re.DOTALL)
    start = at - len(local)
    if not local or local == "git" or re.search(r"://[^\s/@]{1,64}:\Z", text[max(0, start - 70) : start]):
        return None
    return start, end


def phone(text: str, start: int, end: int) -> Span | None:
    """Accepts a phone number by its form. Ungrouped or unusual digits need a word such as "call" nearby."""
    while text[start] not in "+(" and not text[start].isdigit():
        start += 1
    value = text[start:end]
    digits = sum(map(str.isdigit, value))
    if (
        not 7 <= digits <= 22
        or DATE.match(value)
        or DAY.search(value)
        or YEAR.search(value)
        or BINARY.fullmatch(value)
    ):
        return None
    if (
        QUAD.fullmatch(value)
        or COORDINATES.search(value)
        or (value[0] == "(" and text[start - 1 : start].isalnum())
    ):
        return None
    if value[0] not in "+(" and within_word(text, start):
        return None
    form = PHONE_FORM.search(text, start, end)
    longest = 16 if value.startswith("00") else 12
    has_form = (
        form is not None
        and not THOUSANDS.fullmatch(value)
        and (value[0] in "+(" or (not value.isdigit() and 9 <= digits <= longest))
    )
    if not has_form and not has_word_near(PHONE_WORD, text, start, end):
        return None
    return (start + 1 if value[0] == "(" and ")" not in value else start), end


def card(text: str, start: int, end: int) -> Span | None:
    """Accepts a card number without gaps or in printed groups, with the first digits of an issuer."""
    groups = re.split(r"\D+", text[start:end])
    digits = "".join(groups)
    if len(groups) > 1 and tuple(map(len, groups)) not in CARD_GROUPS:
        return None
    is_glued = text[start - 1 : start].isalpha() or text[end : end + 1].isalpha()
    if is_glued and not has_word_near(CARD_WORD, text, start, end):
        return None
    if re.search(r"\w[.,-]\Z|[.]\Z", text[max(0, start - 2) : start]) or re.match(
        r"[.,-]?\d", text[end : end + 2]
    ):
        return None
    has_issuer = any(first.match(digits) and len(digits) in lengths for first, lengths in ISSUERS)
    return (start, end) if has_issuer and len(set(digits)) > 1 else None


def ip(text: str, start: int, end: int) -> Span | None:
    """Accepts public addresses of single machines.

    Private addresses say nothing about a person. Short ones are headings or 8.8.8.8; those that end in .0 are networks
    or versions.
    """
    value = text[start:end]
    if VERSION.search(text[max(0, start - 24) : start]):
        return None
    if re.match(r"\.\d|[-:]?[a-z_]" if "." in value else r"[\w:]|\.\d", text[end : end + 2]):
        return None
    try:
        network = ipaddress.ip_interface(value.partition("%")[0])
    except ValueError:
        return None
    address = network.ip
    if isinstance(address, ipaddress.IPv4Address):
        block = network.network
        is_host = not str(address).endswith(".0") and (
            block.num_addresses == 1 or address != block.network_address
        )
        return (start, end) if is_host and address.is_global and len(str(address)) > len("8.8.8.8") else None
    mapped = address.ipv4_mapped
    is_public = mapped.is_global if mapped else address.is_global and address.packed[0] >> 5 == 1
    return (start, end) if is_public else None


def social(text: str, start: int, end: int) -> Span | None:
    return (start, end) if has_word_near(SOCIAL, text, start, end) else None


def entropy(text: str) -> float:
    """Returns the entropy in bits per character."""
    return -sum(n / len(text) * log2(n / len(text)) for n in Counter(text).values())


def secret(text: str, start: int, end: int) -> Span | None:
    """Accepts a long random string right after `key =`, `token:`, `password is` …"""
    if not SECRET.search(text[max(0, start - BEFORE) : start]):
        return None
    value = text[start:end]
    words = max(map(len, re.findall(r"[a-z]+|[A-Z]+", value)), default=0)
    quote = text[start - 1 : start]
    closing = text.find(quote, end, end + 120) if quote in ("'", '"', "`") else -1
    if closing > end and not re.search(r"\s", text[end:closing]):
        end = closing
    if (
        re.match(r"(?:[A-Za-z_]{3,}\.)+[A-Za-z_]", value)
        or WORDS.fullmatch(value)
        or PLACEHOLDER_CODE.search(value)
        or text[end : end + 1] in ("(", "[")
    ):
        return None
    is_mixed = any(map(str.isdigit, value)) and 1 <= words <= 12
    return (start, end) if is_mixed and entropy(value) >= 3 else None


def key(text: str, start: int, end: int) -> Span | None:
    """Accepts a key of a known form, except `sk-your-key-here` or `secret_santa_of_2024`."""
    is_invented = PLACEHOLDER_CODE.search(text, start, end) or WORDS.fullmatch(text, start, end)
    return None if is_invented else (start, end)


def ether(text: str, start: int, end: int) -> Span | None:
    """Rejects addresses with few different digits, such as `0x000…dead`."""
    return (start, end) if len(set(text[start + 2 : end].lower())) > 8 else None


def mac(text: str, start: int, end: int) -> Span | None:
    """Rejects unset, broadcast and textbook MAC addresses."""
    digits = re.sub(r"\W", "", text[start:end]).lower()
    is_inside = re.match(r"[:-]?\w", text[end : end + 2]) or re.search(
        r"\w[:-]\Z", text[max(0, start - 2) : start]
    )
    return (
        None
        if is_inside or len(set(digits)) < 4 or digits in ("001122334455", "aabbccddeeff", "123456789abc")
        else (start, end)
    )


def id_number(text: str, start: int, end: int) -> Span | None:
    """Rejects spans of years and placeholders of forms."""
    value = text[start:end]
    return None if DATE.fullmatch(value) or DAY.fullmatch(value) or BINARY.fullmatch(value) else (start, end)


def handle(text: str, start: int, end: int) -> Span | None:
    value = text[start:end]
    if NO_HANDLE.fullmatch(value):
        return None
    return start, start + len(value.rstrip("."))


def home(text: str, start: int, end: int) -> Span | None:
    """Rejects default accounts, services and routes of web pages."""
    return None if NO_HOME_NAME.fullmatch(text, start, end) else (start, end)


def login(text: str, start: int, end: int) -> Span | None:
    """Accepts `user:password` of a link, unless it is a textbook example."""
    password = text[start:end].partition(":")[2]
    return None if PASSWORD_OF_MANUALS.fullmatch(password) else (start, end)


def name(text: str, start: int, end: int) -> Span | None:
    value = text[start:end]
    is_other = INTRODUCES.search(text[max(0, start - 10) : start]) and NOT_A_NAME_AFTER_I_AM.search(value)
    return None if is_other or NOT_A_NAME.search(value) else (start, end)


RULES: dict[str, Rule] = {
    "PEM": key,
    "KEY": key,
    "SECRET": secret,
    "LOGIN": login,
    "EMAIL": email,
    "IBAN": always,
    "CARD": card,
    "WALLET": always,
    "ETHER": ether,
    "MAC": mac,
    "SPELLED": always,
    "ID": id_number,
    "HANDLE": handle,
    "HOME": home,
    "IP": ip,
    "SSN": social,
    "PHONE": phone,
    "ABROAD": phone,
    "NAME": name,
}
