"""Synthetic personal data planted in chat-like sentences, to measure the recall of its detection.

The data follow the specifications of their issuers (check digits, number plans, documented key formats), not the
patterns of `data_prep`. Some stand where no word names them.

    python -m benchmarks._planted        recall by kind, and the variants that were missed
"""

from __future__ import annotations

import base64
import ipaddress
import json
import random
import string
import sys
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

PER_KIND = 400

FIRST = (
    "anna", "bruno", "chidi", "dana", "emil", "fatima", "george", "hana", "ivo", "jun", "kofi", "lena",
    "mehmet", "nina", "olu", "petra", "quinn", "rosa", "sven", "tara",
)  # fmt: skip
LAST = (
    "abara", "bauer", "castro", "dubois", "eriksson", "fischer", "garcia", "haddad", "ivanova", "jensen",
    "kowalski", "lopez", "mbeki", "novak", "oneill",
)  # fmt: skip
DOMAINS = (
    "gmail.com", "outlook.com", "yahoo.co.uk", "web.de", "orange.fr", "libero.it", "uni-koeln.de",
    "cs.stanford.edu", "proton.me", "mail.ru", "qq.com", "naver.com", "uol.com.br", "rediffmail.com",
    "icloud.com", "acme-tools.io", "city.gov.au", "studio.design", "example.org", "bücher.de",
)  # fmt: skip

CARRIERS: dict[str, tuple[str, ...]] = {
    "EMAIL": (
        "you can write to {} about the garden plan",
        "{}",
        "From: {}\nSubject: invoice for March",
        "my login is {} and the reset link never comes",
        "rewrite this politely: please reply to {}, not to me.",
        "contact = {{'name': 'Ida', 'email': '{}'}}",
        "Ida Holm <{}> wrote last week:",
        "[our desk](mailto:{}) is open until five",
        "cc both of us ({})",
        "id,name,mail\n17,Ida Holm,{}\n",
    ),
    "PHONE": (
        "call me on {} after six",
        "Phone: {}",
        "my number is {} if that helps",
        "Ida Holm | Oslo | {} | ida.holm@example.org",
        "text me at {} please",
        "WhatsApp {} for the address",
        "rewrite as a resume:\nIda Holm\n{}\nBaker, ten years",
        "Best,\nIda\nTel. {}",
        '{{"name": "Ida", "mobile": "{}"}}',
        "who do I ring? the card says {}",
        "Fax {}, attn. Ida",
        "make a flyer for my bakery, orders at {}",
    ),
    "CARD": (
        "they charged {} twice",
        "card number {}, expires next May",
        "{}",
        "why is my test payment with {} declined?",
        "Visa: {}",
        '{{"pan": "{}", "cvc": "123"}}',
        "I paid by card ({}) on Monday.",
        "write an angry letter, my account was {} and they closed it",
    ),
    "IBAN": (
        "send the deposit to {} by Friday",
        "IBAN: {}",
        "{}",
        "the landlord's account is {}, please write the transfer text",
        "Bank details\nIda Holm\n{}\nThank you",
        "is {} a real account?",
        'payee,iban\n"Ida Holm","{}"\n',
    ),
    "IP": (
        "why can't I reach my server at {}?",
        "ssh root@{}",
        "{} - - [10/Oct/2023:13:55:36] \"GET /index.html\" 200",
        "failed login from {} again",
        "ALLOWED_HOSTS = ['{}']",
        "ping {} times out",
        "is {} in Germany?",
        "{}",
        "block {}, it is a bot",
        "the panel at http://{}/admin is down",
        "psql -h {} -p 5432",
    ),
    "KEY": (
        "API_KEY={}",
        'api_key = "{}"',
        "here is my key: {}",
        'curl -H "Authorization: Bearer {}" $URL',
        '{{"token": "{}"}}',
        "client_secret: {}",
        "I used {} and got a 401, what is wrong?",
        "export SERVICE_TOKEN='{}'",
        "const secret = `{}`;",
        "{}",
    ),
}  # fmt: skip


BARE = {"{}", "I used {} and got a 401, what is wrong?"}


@dataclass(frozen=True)
class PlantedData:
    text: str
    start: int
    end: int
    variant: str
    carrier: str


def plant_pii(rng: random.Random, kind: str) -> str:
    return VARIANTS[kind][rng.choice(sorted(VARIANTS[kind]))](rng)


def planted(rng: random.Random, kind: str) -> PlantedData:
    """Returns data of a kind planted in a sentence; the variants of the kind are equally likely."""
    variant = rng.choice(sorted(VARIANTS[kind]))
    data = VARIANTS[kind][variant](rng)
    carriers = [text for text in CARRIERS[kind] if variant not in SECRETS or text not in BARE]
    carrier = rng.choice(carriers)
    start = carrier.replace("{{", "{").index("{}")
    return PlantedData(carrier.format(data), start, start + len(data), variant, carrier)


def _some(rng: random.Random, alphabet: str, count: int) -> str:
    return "".join(rng.choice(alphabet) for _ in range(count))


LETTERS = string.ascii_letters
WORD = string.ascii_letters + string.digits
HEX = "0123456789abcdef"
URL64 = WORD + "-_"
BASE64 = WORD + "+/"


def _address(local: Callable[[random.Random], str]) -> Callable[[random.Random], str]:
    return lambda rng: f"{local(rng)}@{rng.choice(DOMAINS)}"


EMAILS = {
    "first.last": _address(lambda rng: f"{rng.choice(FIRST)}.{rng.choice(LAST)}"),
    "initial": _address(lambda rng: f"{rng.choice(FIRST)[0]}{rng.choice(LAST)}{rng.randrange(100)}"),
    "tag": _address(lambda rng: f"{rng.choice(FIRST)}+{rng.choice(LAST)}"),
    "underscores": _address(
        lambda rng: f"{rng.choice(FIRST)}_{rng.choice(LAST)}_{rng.randrange(1950, 2010)}"
    ),
    "capitals": lambda rng: f"{rng.choice(FIRST)}.{rng.choice(LAST)}@Mail.Example.COM".title(),
    "dashes": _address(lambda rng: f"{rng.choice(FIRST)}-{rng.choice(LAST)}"),
    "department": lambda rng: f"{rng.choice(FIRST)}@{rng.choice(LAST)}.dept-{rng.randrange(9)}.example.ac.jp",
}

COUNTRIES = (
    "US", "IN", "CN", "BR", "ID", "JP", "RU", "MX", "DE", "PH", "NG", "VN", "GB", "TR", "PK", "FR", "EG",
    "IT", "KR", "TH", "BD", "ES", "UA", "CO", "AR", "PL", "CA", "ZA", "MY", "SA", "MA", "NL", "VE", "PE",
    "TW", "KE", "AU", "CL", "RO", "BE", "SE", "GH", "CZ", "PT", "GR", "CH", "AT", "HU", "IL", "DK", "FI",
    "NO", "IE", "NZ", "SG", "HK", "AE",
)  # fmt: skip
"""Countries by internet users, then others where English is written."""


def _number(rng: random.Random) -> Any:
    """Returns a valid number: the example of a country's number plan with random last digits."""
    import phonenumbers

    while True:
        type_ = rng.choice((phonenumbers.PhoneNumberType.FIXED_LINE, phonenumbers.PhoneNumberType.MOBILE))
        example = phonenumbers.example_number_for_type(rng.choice(COUNTRIES), type_)
        if example is not None:
            national_number = (example.national_number or 0) // 10_000 * 10_000 + rng.randrange(10_000)
            number = phonenumbers.PhoneNumber(
                country_code=example.country_code,
                national_number=national_number,
                italian_leading_zero=example.italian_leading_zero,
                number_of_leading_zeros=example.number_of_leading_zeros,
            )
            if phonenumbers.is_valid_number(number):
                return number


def _phone(style: str, change: Callable[[str], str] = str) -> Callable[[random.Random], str]:
    def write(rng: random.Random) -> str:
        import phonenumbers

        return change(
            str(phonenumbers.format_number(_number(rng), getattr(phonenumbers.PhoneNumberFormat, style)))
        )

    return write


def _only_digits(text: str) -> str:
    return "".join(filter(str.isdigit, text))


PHONES = {
    "+44 20 7946 0958": _phone("INTERNATIONAL"),
    "+442079460958": _phone("E164"),
    "+44-20-7946-0958": _phone("INTERNATIONAL", lambda text: text.replace(" ", "-")),
    "+44.20.7946.0958": _phone("INTERNATIONAL", lambda text: text.replace(" ", ".").replace("-", ".")),
    "0044 20 7946 0958": _phone("INTERNATIONAL", lambda text: "00" + text[1:]),
    "020 7946 0958": _phone("NATIONAL"),
    "020-7946-0958": _phone("NATIONAL", lambda text: text.replace(") ", ")").replace(" ", "-")),
    "02079460958": _phone("NATIONAL", _only_digits),
    "(+44) 20 7946 0958": _phone(
        "INTERNATIONAL", lambda text: f"({text.split()[0]}) {text.partition(' ')[2]}"
    ),
}


def _check_digit(digits: str) -> str:
    total = 0
    for place, digit in enumerate(reversed(digits)):
        doubled = int(digit) * (2 if place % 2 == 0 else 1)
        total += doubled - 9 if doubled > 9 else doubled
    return str(-total % 10)


def _card(prefixes: tuple[str, ...], length: int, groups: tuple[int, ...]) -> Callable[[random.Random], str]:
    def write(rng: random.Random) -> str:
        prefix = rng.choice(prefixes)
        digits = prefix + _some(rng, string.digits, length - 1 - len(prefix))
        digits += _check_digit(digits)
        separator = rng.choice(("", " ", "-"))
        pieces, start = [], 0
        for size in groups:
            pieces.append(digits[start : start + size])
            start += size
        return separator.join(pieces)

    return write


FOURS = (4, 4, 4, 4)
CARDS = {
    "Visa": _card(("4",), 16, FOURS),
    "Mastercard": _card(("51", "52", "53", "54", "55"), 16, FOURS),
    "Mastercard, 2 series": _card(("2221", "2305", "2550", "2719"), 16, FOURS),
    "American Express": _card(("34", "37"), 15, (4, 6, 5)),
    "Discover": _card(("6011", "645", "65"), 16, FOURS),
    "JCB": _card(("3528", "3555", "3589"), 16, FOURS),
    "Diners Club": _card(("300", "305", "36", "38"), 14, (4, 6, 4)),
    "UnionPay": _card(("62",), 16, FOURS),
    "UnionPay, 19 digits": _card(("62",), 19, (4, 4, 4, 4, 3)),
    "Maestro": _card(("5018", "5020", "6304", "6759"), 16, FOURS),
}

ACCOUNTS = {
    "AT": "n16", "BE": "n12", "CH": "n5c12", "CZ": "n20", "DE": "n18", "DK": "n14", "EE": "n16", "ES": "n20",
    "FI": "n14", "FR": "n10c11n2", "GB": "a4n14", "GR": "n7c16", "IE": "a4n14", "IT": "a1n10c12", "LT": "n16",
    "NL": "a4n10", "NO": "n11", "PL": "n24", "PT": "n21", "RO": "a4c16", "SA": "n2c18", "SE": "n20", "TR": "n6c16",
}  # fmt: skip
"""Account formats of the IBAN registry: digits (n), capitals (a), either (c)."""
ALPHABETS = {"n": string.digits, "a": string.ascii_uppercase, "c": string.digits + string.ascii_uppercase}


def _iban(country: str, between: str) -> Callable[[random.Random], str]:
    def write(rng: random.Random) -> str:
        account, form = "", ACCOUNTS[country]
        while form:
            size = "".join(c for c in form[1:3] if c.isdigit())
            # Letters are allowed here, but nearly all banks use digits.
            alphabet = "n" if form[0] == "c" and rng.random() < 0.8 else form[0]
            account, form = account + _some(rng, ALPHABETS[alphabet], int(size)), form[1 + len(size) :]
        if country == "TR":
            account = account[:5] + "0" + account[6:]
        as_number = "".join(str(int(c, 36)) for c in account + country + "00")
        whole = f"{country}{98 - int(as_number) % 97:02d}{account}"
        return between.join(whole[start : start + 4] for start in range(0, len(whole), 4))

    return write


IBANS = {f"{country}{between}": _iban(country, between) for country in ACCOUNTS for between in ("", " ")}


def _v4(rng: random.Random) -> str:
    while True:
        address = ipaddress.IPv4Address(rng.getrandbits(32))
        if address.is_global and not address.is_multicast:
            return str(address)


def _v6(rng: random.Random, zeros: int) -> ipaddress.IPv6Address:
    groups = [rng.choice((0x2600, 0x2A00, 0x2A02, 0x2400, 0x2804, 0x2003, 0x240E))]
    groups += [rng.randrange(1, 0x10000) for _ in range(7)]
    groups[7 - zeros : 7] = [0] * zeros
    return ipaddress.IPv6Address(":".join(f"{group:x}" for group in groups))


IPS = {
    "v4": _v4,
    "v4 of a small network": lambda rng: f"{_v4(rng)}/{rng.choice((24, 28, 32))}",
    "v6 of a host": lambda rng: str(_v6(rng, 0)),
    "v6 of a server": lambda rng: str(_v6(rng, rng.randrange(2, 6))),
    "v6 in capitals": lambda rng: str(_v6(rng, 3)).upper(),
    "v6 written out": lambda rng: _v6(rng, 3).exploded,
    "v6 network": lambda rng: f"{_v6(rng, 4)}/64",
}


def _web_token(rng: random.Random) -> str:
    def part(content: dict[str, object]) -> str:
        return base64.urlsafe_b64encode(json.dumps(content).encode()).decode().rstrip("=")

    claims = {
        "sub": str(rng.randrange(10**9)),
        "name": rng.choice(FIRST),
        "iat": rng.randrange(10**9, 2 * 10**9),
    }
    return f"{part({'alg': 'HS256', 'typ': 'JWT'})}.{part(claims)}.{_some(rng, URL64, 43)}"


def _pem(rng: random.Random) -> str:
    lines = "\n".join(_some(rng, BASE64, 64) for _ in range(6))
    kind = rng.choice(("", "RSA ", "EC ", "OPENSSH "))
    return f"-----BEGIN {kind}PRIVATE KEY-----\n{lines}\n-----END {kind}PRIVATE KEY-----"


def _key(prefix: str, alphabet: str, count: int, suffix: str = "") -> Callable[[random.Random], str]:
    return lambda rng: prefix + _some(rng, alphabet, count) + suffix


CAPITALS = string.ascii_uppercase + string.digits
KEYS = {
    "OpenAI": _key("sk-", WORD, 48),
    "OpenAI, of a project": _key("sk-proj-", URL64, 120),
    "Anthropic": _key("sk-ant-api03-", URL64, 93, "AA"),
    "GitHub": _key("ghp_", WORD, 36),
    "GitHub, fine-grained": lambda rng: f"github_pat_{_some(rng, WORD, 22)}_{_some(rng, WORD, 59)}",
    "GitLab": _key("glpat-", URL64, 20),
    "AWS id": _key("AKIA", CAPITALS, 16),
    "Google": _key("AIza", URL64, 35),
    "Slack": lambda rng: (
        f"xoxb-{_some(rng, '123456789', 12)}-{_some(rng, '123456789', 12)}-{_some(rng, WORD, 24)}"
    ),
    "Stripe": _key("sk_live_", WORD, 24),
    "Hugging Face": _key("hf_", LETTERS, 34),
    "npm": _key("npm_", WORD, 36),
    "SendGrid": lambda rng: f"SG.{_some(rng, URL64, 22)}.{_some(rng, URL64, 43)}",
    "Telegram": lambda rng: f"{rng.randrange(10**9, 10**10)}:AA{_some(rng, URL64, 33)}",
    "DigitalOcean": _key("dop_v1_", HEX, 64),
    "Shopify": _key("shpat_", HEX, 32),
    "Databricks": _key("dapi", HEX, 32),
    "Groq": _key("gsk_", WORD, 52),
    "JSON web token": _web_token,
    "private key": _pem,
}
SECRETS = {
    "AWS secret": _key("", BASE64, 40),
    "Azure": _key("", BASE64, 86, "=="),
    "hex, 32": _key("", HEX, 32),
    "hex, 64": _key("", HEX, 64),
    "letters and digits, 40": _key("", WORD, 40),
}
"""Secrets without a form of their own. They are planted only beside their name, since a bare one is unrecognisable."""

VARIANTS: dict[str, dict[str, Callable[[random.Random], str]]] = {
    "EMAIL": EMAILS,
    "PHONE": PHONES,
    "CARD": CARDS,
    "IBAN": IBANS,
    "IP": IPS,
    "KEY": KEYS | SECRETS,
}


def pii_recall_report(*, seed: int, per_kind: int = PER_KIND) -> dict[str, Any]:
    """Returns the share of planted data whose every character is covered by a match of its kind."""
    by_kind = {kind: recall(kind, seed=seed, count=per_kind) for kind in VARIANTS}
    missed = Counter[str]()
    for kind, (_, missed_data) in by_kind.items():
        missed.update(f"{kind}: {data.variant}" for data in missed_data)
    shares = {kind: share for kind, (share, _) in by_kind.items()}
    return {
        "pii_recall": sum(shares.values()) / len(shares),
        "pii_recall_by_kind": shares,
        "pii_planted_per_kind": per_kind,
        "pii_missed": dict(missed.most_common()),
    }


def recall(kind: str, *, seed: int, count: int) -> tuple[float, list[PlantedData]]:
    from data_prep.pii.scrub import find

    rng = random.Random(f"{seed} {kind}")
    missed = []
    for _ in range(count):
        data = planted(rng, kind)
        covered = {
            position
            for span in find(data.text)
            if span.kind == kind
            for position in range(span.start, span.end)
        }
        if not covered.issuperset(range(data.start, data.end)):
            missed.append(data)
    return 1 - len(missed) / count, missed


def main() -> None:
    sys.stdout.write(json.dumps(pii_recall_report(seed=0), indent=2, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main()
