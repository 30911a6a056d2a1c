"""Personal data becomes a typed placeholder; ordinary numbers stay."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_prep.pii import scrub_text


def scrubbed(text: str) -> tuple[str, dict[str, int]]:
    found: Counter[str] = Counter()
    return scrub_text(text, found), dict(found)


@pytest.mark.parametrize(
    ("text", "left", "kind"),
    [
        ("write to jo.doe+x@mail.example.org.", "write to [EMAIL].", "EMAIL"),
        ("<a@b.co>", "<[EMAIL]>", "EMAIL"),
        ("call (212) 555-0143 now", "call [PHONE] now", "PHONE"),
        ("call 212-555-0143", "call [PHONE]", "PHONE"),
        ("or 1-800-555-0199.", "or [PHONE].", "PHONE"),
        ("ring +44 20 7946 0958", "ring [PHONE]", "PHONE"),
        ("tel:+919812345678", "tel:[PHONE]", "PHONE"),
        ("my card 4111 1111 1111 1111 ok", "my card [CARD] ok", "CARD"),
        ("amex 3782 822463 10005", "amex [CARD]", "CARD"),
        ("ssh root@host at 93.184.216.34:22", "ssh root@host at [IP]:22", "IP"),
        ("key sk-" + "a1B2" * 6, "key [KEY]", "KEY"),
        ("AKIA" + "ABCD1234" * 2, "[KEY]", "KEY"),
        ("ghp_" + "x" * 36, "[KEY]", "KEY"),
        ("-----BEGIN PRIVATE KEY-----\nMIIE\n-----END PRIVATE KEY-----\nhm", "[KEY]\nhm", "KEY"),
    ],
)
def test_typed_placeholders(text: str, left: str, kind: str) -> None:
    assert scrubbed(text) == (left, {kind: 1})


@pytest.mark.parametrize(
    "text",
    [
        "order 4111 1111 1111 1112",  # fails Luhn
        "0000000000000000",
        "412 232 2751 385 904",  # a row of a table
        "5 10 15 20 25 30 40 50 60 70 80 90",
        "192.168.0.12 and 127.0.0.1",
        "see 1.1.2.1 and ping 8.8.8.8",
        "version 3.11.4.2.1",
        "999.1.1.256",
        "2023-11-21 12:30:00, pages 100-200",
        "pi is 3.14159265358979",
        "user@localhost, @handle, a@b",
        "git-commit sk-learn",
        "f(x) = 1200 + 3400 - 560",
    ],
)
def test_ordinary_numbers_and_names_stay(text: str) -> None:
    assert scrubbed(text) == (text, {})


def test_every_kind_is_counted_once_per_occurrence() -> None:
    left, found = scrubbed("a@b.org, c@d.org, 212-555-0143")
    assert left == "[EMAIL], [EMAIL], [PHONE]"
    assert found == {"EMAIL": 2, "PHONE": 1}


@given(st.text(max_size=80))
def test_scrubbing_twice_changes_nothing_more(text: str) -> None:
    once, _ = scrubbed(text)
    assert scrubbed(once) == (once, {})
