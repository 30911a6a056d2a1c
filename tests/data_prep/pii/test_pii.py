"""Personal data becomes a typed placeholder; ordinary numbers and words stay."""

from __future__ import annotations

import random
import socket
import time
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks._planted import VARIANTS, planted, recall
from data_prep.pii.scrub import find, scrub, scrub_text
from data_prep.raw_chats import RawChat, RawTurn


def scrubbed(text: str) -> tuple[str, dict[str, int]]:
    counts: Counter[str] = Counter()
    return scrub_text(text, counts), dict(counts)


@pytest.mark.parametrize(
    ("text", "left", "kind"),
    [
        ("write to jo.doe+x@mail.example.org.", "write to [EMAIL].", "EMAIL"),
        ("<a@b.co>", "<[EMAIL]>", "EMAIL"),
        ("see https://b.example.org/?to=jo@example.org", "see https://b.example.org/?to=[EMAIL]", "EMAIL"),
        ("call (212) 555-0143 now", "call [PHONE] now", "PHONE"),
        ("call 212-555-0143", "call [PHONE]", "PHONE"),
        ("or 1-800-555-0199.", "or [PHONE].", "PHONE"),
        ("ring +44 20 7946 0958", "ring [PHONE]", "PHONE"),
        ("tel:+919812345678", "tel:[PHONE]", "PHONE"),
        ("appelle le 06 12 34 56 78", "appelle le [PHONE]", "PHONE"),
        ("my number is 4155550143", "my number is [PHONE]", "PHONE"),
        ("my card 4111 1111 1111 1111 ok", "my card [CARD] ok", "CARD"),
        ("amex 3782 822463 10005", "amex [CARD]", "CARD"),
        ("2223003122003222", "[CARD]", "CARD"),
        ("to GB29 NWBK 6016 1331 9268 19 please", "to [IBAN] please", "IBAN"),
        ("DE89370400440532013000", "[IBAN]", "IBAN"),
        ("ssh root@host at 93.184.216.34:22", "ssh root@host at [IP]:22", "IP"),
        ("ping 2a00:1450:4009:81f::200e", "ping [IP]", "IP"),
        ("key sk-" + "a1B2" * 6, "key [KEY]", "KEY"),
        ("AKIA" + "ABCD1234" * 2, "[KEY]", "KEY"),
        ("ghp_" + "x" * 36, "[KEY]", "KEY"),
        ("DB_TOKEN=" + "9f8c2d41" * 4, "DB_TOKEN=[KEY]", "KEY"),
        ("-----BEGIN PRIVATE KEY-----\nMIIE\n-----END PRIVATE KEY-----\nhm", "[KEY]\nhm", "KEY"),
        ("-----BEGIN PRIVATE KEY-----\nMIIE", "[KEY]", "KEY"),
        ("https://ida:k3yb0ard@db.example.org/x", "https://[LOGIN]@db.example.org/x", "LOGIN"),
        ("pay 1BoatSLRHtKNngkdXEeobR76b53LETtpyT", "pay [WALLET]", "WALLET"),
        ("my ssn is 219-09-9998", "my ssn is [SSN]", "SSN"),
        ("Hi, my name is Ida Holm and", "Hi, my name is [NAME] and", "NAME"),
        ("see you.\n\nBest regards,\nIda", "see you.\n\nBest regards,\n[NAME]", "NAME"),
        ("Dear Mr. Holm,\n\nthe roof", "Dear Mr. [NAME],\n\nthe roof", "NAME"),
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
        "GB28 NWBK 6016 1331 9268 19",  # fails mod 97
        "192.168.0.12 and 127.0.0.1",
        "see 1.1.2.1 and ping 8.8.8.8",
        "version 3.11.4.2.1",
        "Chrome/110.0.5481.177 and version 2.6.8.205",
        "999.1.1.256",
        "std::vector<int> a; b[::2]; 12:30:45",
        "2023-11-21 12:30:00, pages 100-200",
        "created_at 1679000000, id 4155550143",  # bare digits, and nobody says that they are to be called
        "Control Eng. 20 (2014) 145-158",
        "02/2014 - 03/2014",
        "pi is 3.14159265358979",
        "user@localhost, @handle, a@b",
        "npm i react@16.7.0 and git@github.com:a/b.git",
        "git-commit sk-learn sk-your-key-goes-in-this-place_here",
        "api_key = settings.PAYMENTS_2_API_KEY",
        "tokenizer = GPT2Tokenizer.from_pretrained('gpt2')",
        "postgresql://user:password@localhost/db",
        "219-09-9998 units",
        "f(x) = 1200 + 3400 - 560",
        "Dear Hiring Manager,\n\nI bake.",
        "my name is not important",
    ],
)
def test_ordinary_numbers_and_names_stay(text: str) -> None:
    assert scrubbed(text) == (text, {})


def test_every_kind_is_counted_once_per_occurrence() -> None:
    left, counts = scrubbed("a@b.org, c@d.org, 212-555-0143")
    assert left == "[EMAIL], [EMAIL], [PHONE]"
    assert counts == {"EMAIL": 2, "PHONE": 1}


def test_both_sides_and_the_system_prompt_are_scrubbed_and_a_clean_chat_is_not_copied() -> None:
    def chat(*texts: str, system: str) -> RawChat:
        turns = (RawTurn(role="user", text=texts[0]), RawTurn(role="assistant", text=texts[1]))
        return RawChat(id="c", source="test", place="f:1", turns=turns, system=system)

    counts: Counter[str] = Counter()
    left = scrub(
        chat("I am ida@holm.example.org", "Hello ida@holm.example.org", system="Help +442079460958"), counts
    )
    assert [turn.text for turn in left.turns] == ["I am [EMAIL]", "Hello [EMAIL]"]
    assert left.system == "Help [PHONE]"
    assert counts == {"EMAIL": 2, "PHONE": 1}
    clean = chat("add 1234567 and 7654321 @home", "it is 8888888", system="Help.")
    assert scrub(clean, counts) is clean


@pytest.mark.parametrize("kind", sorted(VARIANTS))
def test_planted_data_is_found(kind: str) -> None:
    share, _ = recall(kind, seed=0, count=200)
    assert share >= 0.95


@pytest.mark.parametrize("kind", sorted(VARIANTS))
def test_looking_only_where_it_may_be_finds_the_same_as_reading_everything(kind: str) -> None:
    rng = random.Random(2)
    for _ in range(8):
        text = f"At 12:30 on 2023-11-21, v1.2.3: {planted(rng, kind).text}\nthen 100 of 250 (std::max)."
        assert find(text) == find(text, everywhere=True) != []


def test_nothing_is_fetched(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("network")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    assert scrubbed("never-seen-before@mail.example.co.uk")[1] == {"EMAIL": 1}


@pytest.mark.parametrize(
    "unit", ["a", "7", "@", "1-", "1 ", "12:", "(2", "key=", "-----BEGIN PRIVATE KEY", "\u00e91."]
)
def test_a_turn_of_3_mb_takes_no_time(unit: str) -> None:
    started = time.process_time()
    scrub_text(unit * (3_000_000 // len(unit)), Counter())
    assert time.process_time() - started < 5


@given(st.text(max_size=80))
@settings(deadline=None)
def test_scrubbing_twice_changes_nothing_more(text: str) -> None:
    once, _ = scrubbed(text)
    assert scrubbed(once) == (once, {})


@given(
    st.lists(
        st.sampled_from(("@", "+44", "1.2.", "my name is ", "call ", "7946 0958", "sk-", "Ida", "\n", "::"))
    )
)
@settings(deadline=None)
def test_scrubbing_pieces_of_personal_data_twice_changes_nothing_more(pieces: list[str]) -> None:
    once, _ = scrubbed("".join(pieces))
    assert scrubbed(once) == (once, {})
