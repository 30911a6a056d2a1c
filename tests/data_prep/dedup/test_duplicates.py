"""Duplicates that are kept, reasons of the dropped ones, and groups."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from random import Random
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_prep.dedup.duplicates import REASONS, DuplicateVerdict, judge
from data_prep.dedup.groups import name_groups
from data_prep.dedup.near_duplicates import clusters, leaders, near_any
from data_prep.dedup.signatures import Signatures, sign
from data_prep.raw_chats import RawChat, RawTurn

Array = np.ndarray[Any, Any]
TOPICS = ("bread", "bikes", "tax", "maths", "poems", "cats", "rivers", "chess", "tea", "maps")


def chat(*texts: str, id_: str | None = None, person: str | None = None, source: str = "test") -> RawChat:
    turns = tuple(RawTurn(role="user", text=text) for text in texts)
    return RawChat(id=id_ or " / ".join(texts), source=source, place="f:1", turns=turns, user_key=person)


def essay(topic: str, words: int = 40) -> str:
    return " ".join(f"{topic}{number}" for number in range(words))


def judged(
    chats: Sequence[RawChat],
    held_out: Sequence[RawChat] = (),
    *,
    template_count: int | None = None,
    near_duplicate: float | None = 0.6,
    first: Array | None = None,
    shard: int = 3,
) -> DuplicateVerdict:
    parts: list[Signatures] = [sign(chats[start : start + shard]) for start in range(0, len(chats), shard)]
    return judge(
        [partial(Signatures.concat, [part]) for part in parts],
        template_count=template_count,
        near_duplicate=near_duplicate,
        held_out=[lambda: sign(held_out)],
        first=first,
    )


def reasons(verdict: DuplicateVerdict) -> list[str | None]:
    return [None if not code else REASONS[code - 1] for code in verdict.reason]


def test_the_first_of_the_same_id_in_a_source_and_of_the_same_user_turns_stays() -> None:
    verdict = judged(
        [
            chat("plan a trip", "thanks", id_="1"),
            chat("fix my code", id_="1"),
            chat("fix my code", id_="1", source="other"),
            chat("Plan a  TRIP", "Thanks", id_="2"),
            chat("plan a trip", "thanks a lot", id_="3"),
        ]
    )
    assert reasons(verdict) == [None, "id seen before", None, "same user turns as another", None]
    assert verdict.like.tolist() == [0, 0, 2, 0, 4]
    assert verdict.stats["dropped"] == dict(zip(REASONS, (1, 1, 0, 0), strict=True))


def test_one_of_more_than_so_many_openings_from_a_template_stays() -> None:
    chats = [
        chat(f"{essay('template', 30)} {essay(topic, 10)}", essay(f"{topic}-later")) for topic in TOPICS[:5]
    ]
    kept_one = judged(chats, template_count=4)
    assert reasons(kept_one) == [None, *["template opening"] * 4]
    assert kept_one.like.tolist() == [0] * 5
    assert reasons(judged(chats, template_count=5)) == [None] * 5


def test_short_openings_are_templates_too_and_a_prompt_that_repeats_itself_is_none() -> None:
    greetings = [
        chat(hello, essay(topic)) for hello, topic in zip(("Hi", "hi!", "hi", "HI."), TOPICS, strict=False)
    ]
    repeats = chat("again and again and again and again and again " * 4, essay("tea"))
    verdict = judged([*greetings, repeats], template_count=3)
    assert reasons(verdict) == [None, *["template opening"] * 3, None]


def test_a_stock_phrase_before_a_text_of_its_own_is_no_template() -> None:
    chats = [chat(f"I want you to act as a {essay(topic, 20)}") for topic in TOPICS]
    assert reasons(judged(chats, template_count=3)) == [None] * 10


def test_a_template_within_a_larger_family_keeps_its_own_representative() -> None:
    start = "I want you to act as a linux terminal and"
    family = [chat(f"{start} {essay(topic, 3)}", essay(topic)) for topic in TOPICS[:4]]
    inner = [chat(f"{start} {essay('inner', 30)} {topic}", essay(topic)) for topic in TOPICS[4:8]]
    verdict = judged([*family, *inner], template_count=3)
    assert verdict.like.tolist() == [0, 0, 0, 0, 4, 4, 4, 4]


def test_exact_copies_do_not_make_a_template() -> None:
    copies = [chat(essay("copy"), id_=str(number)) for number in range(8)]
    assert reasons(judged([*copies, chat(essay("copy"), "more")], template_count=3))[8] in (
        None,
        "near-duplicate",
    )
    assert judged([*copies, chat(essay("copy"), "more")], template_count=3).stats["template_ngrams"] == 0


def test_the_first_of_near_duplicates_stays_and_those_marked_come_first() -> None:
    original, edited = essay("tea"), essay("tea").replace("tea20", "coffee")
    chats = [
        chat(original, "thanks"),
        chat(essay("maps")),
        chat(edited, "thanks"),
        chat(original.upper(), "Thanks!"),
    ]
    verdict = judged(chats)
    assert reasons(verdict) == [None, None, "near-duplicate", "near-duplicate"]
    assert verdict.like.tolist() == [0, 1, 0, 0]
    marked = judged(chats, first=np.array([False, False, True, False]))
    assert marked.like.tolist() == [2, 1, 2, 2]
    assert marked.group[0] == marked.group[2] != marked.group[1]


def test_chats_that_begin_alike_and_go_on_differently_are_no_duplicates() -> None:
    chats = [
        chat(essay("page", 400), *(essay(f"{topic}{turn}x", 12) for turn in range(6))) for topic in TOPICS
    ]
    assert reasons(judged(chats)) == [None] * 10
    short = [chat("write a poem", f"about {topic}") for topic in TOPICS]
    assert reasons(judged(short)) == [None] * 10


def sketches(*rows: Sequence[int]) -> Array:
    """Sketches of 128 values each; rows of 32 quarters are enough to state which are shared."""
    return np.repeat(np.array(rows, dtype=np.uint32), 4, axis=1)


def test_a_chat_goes_only_for_one_that_stays_and_is_tied_through_those_that_went() -> None:
    one = list(range(32))
    two = one[:24] + list(range(100, 108))  # three quarters in common with one
    three = two[:16] + list(range(200, 208)) + two[24:]  # three quarters with two, half with one
    rows = sketches(one, two, three, range(900, 932))
    labels = clusters(rows, 0.6)
    assert labels[0] == labels[1] == labels[2] != labels[3]
    like, left = leaders(rows, labels, np.arange(4), 0.6)
    assert like.tolist() == [0, 0, 2, 3]
    assert left == 0
    # By another rank the middle one stays, and both others go for it.
    assert leaders(rows, labels, np.array([1, 0, 2, 3]), 0.6)[0].tolist() == [1, 1, 1, 3]


def test_a_cluster_larger_than_the_neighbours_compared_is_found_whole() -> None:
    random = np.random.default_rng(0)
    one = random.integers(0, 2**32, 128, dtype=np.uint32)
    copies = np.repeat(one[None], 400, axis=0)
    changed = random.random(copies.shape) < 0.1
    copies[changed] = random.integers(0, 2**32, int(changed.sum()), dtype=np.uint32)
    rows = np.concatenate([copies, random.integers(0, 2**32, (400, 128), dtype=np.uint32)])
    labels = clusters(rows, 0.6)
    assert len(set(labels[:400].tolist())) == 1
    assert len(set(labels.tolist())) == 401
    assert near_any(rows, copies[:1], 0.6).tolist() == [True] * 400 + [False] * 400


def test_what_is_close_to_a_test_only_chat_is_marked_and_counted() -> None:
    held_out = [
        chat("hi", essay("one")),
        chat(essay("tea"), "thanks"),
        chat("another", essay("x"), person="p"),
    ]
    chats = [
        chat("Hi", essay("two")),
        chat(essay("tea").replace("tea20", "coffee"), "thanks"),
        chat("something else", essay("three"), person="p"),
        chat("something else", essay("four")),
    ]
    verdict = judged(chats, held_out)
    assert verdict.held_out.tolist() == [True, True, True, False]
    assert verdict.stats["close_to_held_out"] == {
        "same opening": 1,
        "same front": 0,
        "same person": 1,
        "near-duplicate": 1,
    }
    assert reasons(verdict) == [None] * 4


def test_shards_make_no_difference() -> None:
    chats = [chat(f"{essay('start', 10)} {topic}", essay(topic, 9), person=topic[0]) for topic in TOPICS] * 2
    whole, parts = judged(chats, template_count=3, shard=100), judged(chats, template_count=3, shard=1)
    for name in ("reason", "like", "group", "held_out"):
        assert (getattr(whole, name) == getattr(parts, name)).all()
    assert whole.stats == parts.stats


@pytest.mark.parametrize("held_out", [[], [chat("hi")]])
def test_no_chats_are_no_trouble(held_out: list[RawChat]) -> None:
    assert judged([], held_out, template_count=3).stats["groups"] == 0


def test_same_opening_person_or_cluster_is_one_group_also_through_others() -> None:
    #            0  1  2  3  4
    opening = [50, 50, 70, 20, 90]
    person = [0, 1, 1, 0, 0]
    near = [0, 1, 2, 2, 3]
    front = [0, 0, 0, 7, 7]
    one, other = (np.array(keys, np.uint64) for keys in (opening, person))
    assert name_groups(one, other, np.zeros(5, np.uint64), np.array(near)).tolist() == [20, 20, 20, 20, 90]
    assert name_groups(one, other, np.array(front, np.uint64), np.array(near)).tolist() == [20] * 5


labels = st.lists(st.tuples(st.integers(1, 6), st.integers(0, 6), st.integers(0, 9)), min_size=1, max_size=14)


@given(labels, st.randoms())
def test_groups_are_what_pairwise_search_finds_in_any_order(
    chats: list[tuple[int, int, int]], random: Random
) -> None:
    shuffled = list(range(len(chats)))
    random.shuffle(shuffled)
    opening, person, near = (np.array(values) for values in zip(*chats, strict=True))
    one, other, unknown = opening.astype(np.uint64), person.astype(np.uint64), np.zeros(len(near), np.uint64)
    named = name_groups(one, other, unknown, near)
    again = name_groups(one[shuffled], other[shuffled], unknown, near[shuffled])
    assert again.tolist() == named[shuffled].tolist()
    group = list(range(len(chats)))
    for _ in chats:
        for i, one in enumerate(chats):
            for j, other in enumerate(chats):
                if one[0] == other[0] or one[1] == other[1] != 0 or one[2] == other[2]:
                    group[i] = min(group[i], group[j])
    for i in range(len(chats)):
        assert named[i] == min(chats[j][0] for j in range(len(chats)) if group[j] == group[i])


def test_two_who_begin_with_the_same_200_characters_are_one_group_and_kept_from_a_held_out_one() -> None:
    front = essay("bread")[:150]
    first, other = (
        chat(f"{front}! {essay('bikes', 90)}"),
        chat(front.upper(), f"{essay('bikes', 12)}, then"),
    )
    shorter = chat(essay("bread")[:120] + " and " + essay("cats", 90))
    verdict = judged([first, other, shorter], near_duplicate=None)
    assert verdict.reason.tolist() == [0, 0, 0]
    assert verdict.group[0] == verdict.group[1] != verdict.group[2]
    alone = judged([first, shorter], [other], near_duplicate=None)
    assert alone.held_out.tolist() == [True, False]
