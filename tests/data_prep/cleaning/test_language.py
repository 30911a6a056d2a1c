"""The language is that of the person's own words."""

from __future__ import annotations

import socket

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_prep.cleaning.language import detect, english_only, name_language, named_english
from data_prep.cleaning.stages import Rejected
from data_prep.raw_chats import RawChat, RawTurn


def chat(text: str, language: str | None) -> RawChat:
    turns = (RawTurn(role="user", text=text), RawTurn(role="assistant", text="claro"))
    return RawChat(id="c", source="test", place="f:1", turns=turns, language=language)


@pytest.mark.parametrize(
    ("texts", "code"),
    [
        (("can you help me write a short letter to my landlord about the heating?",), "en"),
        (("puedes ayudarme a escribir una carta breve al dueño sobre la calefacción?",), "es"),
        (("请把这句话翻译成英文 今天天气很好 我们去公园散步吧",), "zh"),
        # Terse, misspelt, in capitals, sums, code.
        (("ok",), "en"),
        (("hey wats up", "tel me a joke pls"), "en"),
        (("WHY IS MY PRINTER NOT WORKING",), "en"),
        (("12 + 30",), "en"),
        (("for i in range(10):\n    print(i ** 2)\nwhat does this do",), "en"),
        (("",), "en"),
        # The person speaks German; the English they paste is longer.
        (
            (
                "Kannst du diesen Text bitte für mich auf Deutsch zusammenfassen? Ich brauche nur die "
                "wichtigsten Punkte, am besten als Liste mit kurzen Sätzen. Der Text stammt aus einem "
                "Buch über Gärten: "
                + "The garden was full of roses and the old gate was never closed. "
                * 40,
                "Danke, und jetzt bitte noch etwas kürzer.",
            ),
            "de",
        ),
    ],
)
def test_language_is_that_of_the_persons_own_words(texts: tuple[str, ...], code: str) -> None:
    assert detect(texts) == code


def test_the_corpus_is_believed_about_language() -> None:
    spanish = chat("hola, necesito ayuda con una carta", "en")
    assert named_english(spanish) is spanish
    english = chat("could you please help me with this letter today", "other")
    assert english_only(name_language(english)) == Rejected("not English")
    assert name_language(chat("hola, necesito ayuda con una carta para mi madre", None)).language == "es"


def test_nothing_is_fetched(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("network")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    assert detect(("bonjour, pouvez-vous m'aider à écrire une lettre ?",)) == "fr"


@given(st.lists(st.text(max_size=100), max_size=4))
@settings(deadline=None)
def test_any_text_has_a_language(texts: list[str]) -> None:
    assert detect(tuple(texts))
