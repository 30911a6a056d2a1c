"""Traces of web pages and browser extensions go, what people wrote stays."""

from __future__ import annotations

import time
from collections import Counter

import pytest

from data_prep.cleaning.artefacts import clean_artefacts, clean_user_text
from data_prep.raw_chats import RawChat, RawTurn

TRANSLATE = "\uc9c0\uae08 \ubc88\uc5ed\ud558\uae30"
"""A button of an extension: translate now."""


def chat(user: str, assistant: str, system: str | None = None) -> RawChat:
    turns = (RawTurn(role="user", text=user), RawTurn(role="assistant", text=assistant))
    return RawChat(id="c", source="test", place="f:1", turns=turns, system=system, from_page=True)


@pytest.mark.parametrize(
    ("text", "left", "kind"),
    [
        ("shorten itShare Prompt", "shorten it", "page button"),
        ("new text\nSave & SubmitCancel", "new text", "page button"),
        ("try again\n2 / 3", "try again", "edit pager"),
        ("try again2 / 2", "try again", "edit pager"),
        ("try again? 1 / 1", "try again?", "edit pager"),
        ("list my\\_files\\*", "list my_files*", "markdown escape"),
        ("python\nCopy code\nprint(1)", "python\nprint(1)", "copy-code button"),
        ("a\u200bb", "ab", "zero-width mark"),
        ("go onThis content may violate our content policy. If …", "go on", "policy notice"),
        (f"name ten birds\n \n \n {TRANSLATE}", "name ten birds", "translate button"),
        ("name ten birds\n\nPlease write in English language.", "name ten birds", "added by an extension"),
        (
            "name ten birds 3 words 14 char Copy Text Copy HTML Export PDF Bulgarian Chinese Czech",
            "name ten birds",
            "editor buttons",
        ),
        (
            'Web search results:\n\n[1] "Birds sing."\nURL: http://b.example\n\nInstructions: cite them.\n'
            "Query: why do birds sing?\nReply in English",
            "why do birds sing?",
            "search results of an extension",
        ),
    ],
)
def test_traces_of_pages_and_extensions_go(text: str, left: str, kind: str) -> None:
    counts: Counter[str] = Counter()
    assert clean_user_text(text, counts) == left
    assert counts == {kind: 1}


def test_traces_one_behind_the_other_go_together() -> None:
    counts: Counter[str] = Counter()
    button = f"{TRANSLATE}CopyCopy HTMLRead Aloud7 chars | 2 words"
    text = f"name ten birds\n\nPlease write in English language.\n \n{button}"
    assert clean_user_text(text, counts) == "name ten birds"
    assert counts == {"added by an extension": 1, "translate button": 1, "editor buttons": 1}


@pytest.mark.parametrize(
    "text",
    [
        "what is 9 / 4",
        "What is the value of\n1 / 2",
        "```python\nre.sub(r'\\*+', '', s)\n```\nand $x\\_1$, C:\\_tmp",
        "why does `a\\_b` escape",
        "```\na\u200bb\n```",
        "what is 3 / 4",
        "3 + 2 / 2",
        "<div class='a'>why is this not centred?</div>",
        "if a < b and c > d:\n    pass",
        "how do I copy code from a page?",
        "please share prompt ideas",
        "what do web search results mean?",
        "Please write in English language.",
    ],
)
def test_what_people_write_themselves_stays(text: str) -> None:
    counts: Counter[str] = Counter()
    assert clean_user_text(text, counts) == text
    assert not counts


def test_markdown_of_assistants_stays_and_the_sharing_footer_is_no_system_prompt() -> None:
    shared = chat("hi\\_there", "x\\_y 1 / 1", "*This conversation is shared from [X](http://x)*")
    cleaned = clean_artefacts(shared, Counter())
    assert [turn.text for turn in cleaned.turns] == ["hi_there", "x\\_y 1 / 1"]
    assert cleaned.system is None


def test_a_chat_without_traces_is_not_copied() -> None:
    clean = chat("hi", "hello", "Be kind.")
    counts: Counter[str] = Counter()
    assert clean_artefacts(clean, counts) is clean
    assert not counts


@pytest.mark.parametrize(
    "unit", ["a", "1 / ", "\\", "Copy code\n", "Web search results\nQuery: ", ",\n", "\u200b"]
)
def test_a_turn_of_3_mb_takes_no_time(unit: str) -> None:
    started = time.process_time()
    clean_user_text(unit * (3_000_000 // len(unit)), Counter())
    assert time.process_time() - started < 5


def test_a_chat_that_is_from_no_page_is_left_alone() -> None:
    own = chat("list my\\_files\nShare Prompt", "python\nCopy code\nx").model_copy(
        update={"from_page": False}
    )
    counts: Counter[str] = Counter()
    assert clean_artefacts(own, counts) is own
    assert not counts
