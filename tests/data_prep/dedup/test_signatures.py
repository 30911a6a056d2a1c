"""Differences that signatures see, and those that they ignore."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from data_prep.dedup.signatures import READ_CHARS, Signatures, sign
from data_prep.raw_chats import RawChat, RawTurn

REPLY = RawTurn(role="assistant", text="Ok")


def chat(*texts: str, id_: str = "c", person: str | None = None, source: str = "test") -> RawChat:
    turns = [turn for text in texts for turn in (RawTurn(role="user", text=text), REPLY)]
    return RawChat(id=id_, source=source, place="f:1", turns=tuple(turns), user_key=person)


def numbered(count: int, word: str = "word") -> str:
    return " ".join(f"{word}{number}" for number in range(count))


def alike(one: RawChat, other: RawChat) -> float:
    """Estimated Jaccard similarity."""
    first, second = sign([one, other]).table["minhash"]
    return float(np.mean(first == second))


def column(name: str, *chats: RawChat) -> list[int]:
    values: list[int] = sign(chats).table[name].tolist()
    return values


def test_case_and_spacing_do_not_make_user_turns_different_but_words_and_turns_do() -> None:
    same, also, word, cut = column(
        "said", chat("Plan a TRIP", "thanks"), chat(" plan a\n trip", "Thanks"), chat("plan a trip", "thank"),
        chat("plan a", "trip thanks"),
    )  # fmt: skip
    assert same == also
    assert len({same, word, cut}) == 3


def test_an_opening_is_the_first_user_turn_also_after_a_greeting_by_the_assistant() -> None:
    greeted = chat("Plan a trip").model_copy(
        update={"turns": (RawTurn(role="assistant", text="Hello"), RawTurn(role="user", text="plan a trip"))}
    )
    one, other = column("opening", chat("Plan a trip", "to Rome"), greeted)
    assert one == other


def test_a_person_is_the_same_in_every_source_and_0_where_not_known() -> None:
    nobody, one, again = column(
        "person", chat("a"), chat("b", person="p"), chat("c", person="p", source="other")
    )
    assert nobody == 0
    assert one == again != 0


@pytest.mark.parametrize(
    ("opening", "ngrams"),
    [
        (numbered(10), 4),  # words 0-6, 1-7, 2-8, 3-9
        (numbered(7), 1),
        (numbered(3), 1),  # the whole opening
        ("???", 1),
        (numbered(500), 58),  # of the first 64 words
        ("one two three four five six seven " * 3, 7),  # each of the 7 rotations once
    ],
)
def test_opening_ngrams_are_distinct_and_of_its_beginning(opening: str, ngrams: int) -> None:
    signed = sign([chat(opening, numbered(30, "later"))])
    assert signed.table["ngrams"].tolist() == [ngrams]
    assert len(signed.ngrams) == ngrams


def test_short_openings_are_one_ngram_whatever_their_case_and_punctuation() -> None:
    first, second, third = sign([chat("Hello!"), chat("hello"), chat("hello you")]).ngrams.tolist()
    assert first == second != third


def test_the_sketch_estimates_the_share_of_common_three_word_runs() -> None:
    one = numbered(20)
    # 18 runs each; another last word leaves 17 in common, of 19 in all.
    assert alike(chat(one), chat(one.replace("word19", "else"))) == pytest.approx(17 / 19, abs=0.09)
    # One in the middle is in three runs: 15 of 21.
    assert alike(chat(one), chat(one.replace("word9", "else"))) == pytest.approx(15 / 21, abs=0.13)
    assert alike(chat(one), chat(numbered(20, "other"))) < 0.05
    assert alike(chat(one), chat(one.upper().replace(" ", ", "))) == 1


def test_a_pasted_page_does_not_drown_what_is_said_about_it() -> None:
    page = numbered(2000)
    first = chat(page, *(numbered(12, f"one{turn}x") for turn in range(6)))
    second = chat(page, *(numbered(12, f"two{turn}x") for turn in range(6)))
    # 64 runs of the page in common, and 60 of each one's own: 64 of 184.
    assert alike(first, second) == pytest.approx(64 / 184, abs=0.13)


def test_chats_of_a_few_words_are_alike_only_if_they_are_the_same() -> None:
    assert alike(chat("tell me a joke", "thanks"), chat("tell me a joke", "thanks!")) < 0.05
    assert alike(chat("tell me a joke", "thanks"), chat("Tell me a  joke", "thanks")) == 1


def test_a_script_without_spaces_is_compared_by_its_characters() -> None:
    text = "".join(chr(0x4E00 + number) for number in range(30))
    # 28 runs each, 27 in common: 27 of 29.
    assert alike(chat(text), chat(text[:-1] + "龍")) == pytest.approx(27 / 29, abs=0.08)


def test_of_an_endless_turn_the_beginning_is_compared_and_all_of_it_for_exact_copies() -> None:
    text = "word " * (READ_CHARS // 5 + 1)
    assert alike(chat(text + "one"), chat(text + "two")) == 1
    one, two = column("said", chat(text + "one"), chat(text + "two"))
    assert one != two


def test_batches_make_no_difference_and_signatures_come_back_from_a_file(tmp_path: Path) -> None:
    chats = [chat("hi"), chat(numbered(30), "thanks", person="p"), chat("???", "", numbered(100))]
    whole = sign(chats)
    joined = Signatures.concat([sign([each]) for each in chats])
    whole.save(tmp_path / "0.npz")
    for signatures in (joined, Signatures.load(tmp_path / "0.npz")):
        assert (signatures.table == whole.table).all()
        assert (signatures.ngrams == whole.ngrams).all()
    assert whole.table["turns"].tolist() == [1, 2, 3]
    assert len(Signatures.concat([]).table) == len(sign([]).table) == 0
