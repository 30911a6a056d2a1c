"""Each stage by itself, on chats written out by hand."""

from __future__ import annotations

import time
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from data_prep.cleaning.stages import Rejected, cap_user_turns, drop_empty, repair_roles
from data_prep.cleaning.stages_in_order import apply_bounds, drop_flagged, local_stages
from data_prep.raw_chats import ROLES, RawChat, RawTurn
from data_prep.settings import PrepSettings


def chat(*turns: str, **more: Any) -> RawChat:
    """`u:`, `a:`, `s:` and `t:` stand for the roles."""
    names = {"u": "user", "a": "assistant", "s": "system", "t": "tool"}
    raw_turns = tuple(RawTurn(role=ROLES[names[turn[0]]], text=turn[2:]) for turn in turns)
    fields = {"id": "c", "source": "test", "place": "f:1", "turns": raw_turns, "ended_by": "user"} | more
    return RawChat.model_validate(fields)


def texts(result: RawChat | Rejected) -> list[str]:
    assert isinstance(result, RawChat)
    return [turn.text for turn in result.turns]


def test_a_chat_with_nothing_to_repair_is_not_copied() -> None:
    fine = chat("u:hi", "a:hello", system="Be kind.")
    assert repair_roles(fine) is fine
    assert drop_empty(fine) is fine
    assert cap_user_turns(fine, 10) is fine


def test_leading_system_messages_become_the_system_prompt() -> None:
    result = repair_roles(chat("s:Be kind.", "s:Be brief.", "u:hi", "a:hello"))
    assert isinstance(result, RawChat)
    assert result.system == "Be kind.\n\nBe brief."
    assert texts(result) == ["hi", "hello"]


def test_an_assistant_may_greet_first() -> None:
    assert texts(repair_roles(chat("a:Welcome!", "u:hi"))) == ["Welcome!", "hi"]


@pytest.mark.parametrize(
    ("turns", "reason"),
    [
        (("u:hi", "u:anyone?"), "turns do not alternate"),
        (("u:hi", "a:yes", "a:and?"), "turns do not alternate"),
        (("u:hi", "s:note", "a:yes"), "system message inside"),
        (("u:hi", "a:", "t:42", "a:it is 42"), "tool messages"),
    ],
)
def test_other_orders_are_rejected_by_name(turns: tuple[str, ...], reason: str) -> None:
    assert repair_roles(chat(*turns)) == Rejected(reason)


def test_an_empty_last_turn_goes_and_the_end_is_then_unknown() -> None:
    result = drop_empty(chat("u:hi", "a:hello", "u: \n"))
    assert isinstance(result, RawChat)
    assert texts(result) == ["hi", "hello"]
    assert result.ended_by == "unknown"


def test_an_unanswered_last_turn_says_nothing_about_leaving() -> None:
    result = drop_empty(chat("u:hi", "a:hello", "u:more"))
    assert isinstance(result, RawChat)
    assert result.ended_by == "unknown"
    cut = drop_empty(chat("u:hi", ended_by="cut"))
    assert isinstance(cut, RawChat)
    assert cut.ended_by == "cut"


def test_empty_turns_inside_and_chats_without_a_user_are_rejected() -> None:
    assert drop_empty(chat("u:", "a:hello", "u:hi")) == Rejected("empty turn")
    assert drop_empty(chat("a:hello", "u:")) == Rejected("no user turn")
    assert drop_empty(chat()) == Rejected("no user turn")


def test_a_chat_is_cut_before_an_overlong_user_turn() -> None:
    long = chat("u:hi", "a:" + "x" * 50, "u:" + "y" * 11, "a:ok")
    result = cap_user_turns(long, 10)
    assert isinstance(result, RawChat)
    assert texts(result) == ["hi", "x" * 50]
    assert result.ended_by == "cut"
    assert cap_user_turns(long, 11) == long
    assert cap_user_turns(chat("a:hello", "u:too long"), 3) == Rejected("first user turn too long")


def test_bounds_cut_before_a_long_user_turn_and_reject_what_is_too_much() -> None:
    long = chat("u:short", "a:yes", "u:" + "x" * 50, "a:no")
    cut = apply_bounds(20, None, None, long)
    assert texts(cut) == ["short", "yes"]
    assert isinstance(cut, RawChat)
    assert cut.ended_by == "cut"
    assert apply_bounds(None, 3, None, long) == Rejected("too many turns")
    assert apply_bounds(None, None, 59, long) == Rejected("too long")
    # short 5, yes 3, x 50, no 2
    assert apply_bounds(None, 4, 60, long) == long


def test_flagged_chats_go_only_when_asked() -> None:
    toxic = chat("u:hi", "a:hello", flags=("redacted", "toxic"))
    assert drop_flagged(frozenset({"toxic"}), toxic) == Rejected("flagged toxic")
    assert drop_flagged(frozenset({"other"}), toxic) == toxic
    settings = PrepSettings.model_validate({"sources": [{"spec": "x"}], "out": "y"})
    assert "flags" not in local_stages(settings)
    assert "flags" in local_stages(settings.model_copy(update={"drop_flagged": ("toxic",)}))


@pytest.mark.parametrize("huge", ["a" * 50_000_000, "1-" * 25_000_000, "@" * 50_000_000, "é " * 25_000_000])
def test_a_turn_of_50_mb_is_cut_off_at_once(huge: str) -> None:
    settings = PrepSettings.model_validate({"sources": [{"spec": "x"}], "out": "y"})
    batch = [chat("u:how deep is the harbour at low tide", "a:" + "Deep. " * 20, "u:" + huge)]
    started = time.perf_counter()
    for stage in local_stages(settings).values():
        (result,) = stage(batch).chats
        assert isinstance(result, RawChat)
        batch = [result]
    assert texts(batch[0])[0] == "how deep is the harbour at low tide"
    assert len(batch[0].turns) == 2
    assert time.perf_counter() - started < 10


@given(st.lists(st.text(max_size=300), min_size=1, max_size=6))
@example(["\u0000\ud7ff", "​", " / 2 / 3", "Share Prompt"])
@settings(max_examples=60, deadline=None)
def test_no_stage_fails_on_any_text(user_texts: list[str]) -> None:
    settings = PrepSettings.model_validate({"sources": [{"spec": "x"}], "out": "y", "language": "any"})
    batch = [chat(*(f"{'ua'[i % 2]}:{text}" for i, text in enumerate(user_texts)))]
    for stage in local_stages(settings).values():
        (result,) = stage(batch).chats
        if isinstance(result, Rejected):
            return
        batch = [result]
