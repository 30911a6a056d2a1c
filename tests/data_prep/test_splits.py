"""Groups stay whole; where a group falls depends on its name and the seed alone."""

from __future__ import annotations

from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_prep.chats import RawChat, RawTurn
from data_prep.splits import Groups, labels, parse_fractions, split_of
from usersim.errors import ConfigError

label_sets = st.lists(
    st.tuples(st.sampled_from("abcdefgh"), st.sampled_from("stuvwxyz")), min_size=1, max_size=30
)


def chat(opening: str, *, person: str | None = None) -> RawChat:
    turns = (RawTurn(role="assistant", text="Welcome"), RawTurn(role="user", text=opening))
    return RawChat(id="c", source="test", place="f:1", turns=turns, user_key=person)


def test_same_opening_or_same_person_is_one_group_also_through_a_third() -> None:
    one, two = chat("Plan a trip", person="p1"), chat("fix my code", person="p1")
    three, alone = chat("Fix  my code", person="p2"), chat("something else", person="p3")
    groups = Groups()
    for each in (one, three, alone, two):
        groups.add(labels(each))
    roots = [groups.root(labels(each)[0]) for each in (one, two, three, alone)]
    assert roots[0] == roots[1] == roots[2] != roots[3]


@given(label_sets, st.randoms())
def test_groups_do_not_depend_on_order(pairs: list[tuple[str, str]], random: Random) -> None:
    shuffled = list(pairs)
    random.shuffle(shuffled)
    first, second = Groups(), Groups()
    for pair in pairs:
        first.add(pair)
    for pair in shuffled:
        second.add(pair)
    for left, right in pairs:
        assert first.root(left) == first.root(right) == second.root(left)


@given(st.text(max_size=20), st.integers(0, 9))
def test_no_share_means_no_group_there(group: str, seed: int) -> None:
    assert split_of(group, seed=seed, fractions=(1.0, 0.0, 0.0)) == "train"
    assert split_of(group, seed=seed, fractions=(0.0, 1.0, 0.0)) == "dev"
    assert split_of(group, seed=seed, fractions=(0.0, 0.0, 1.0)) == "test"


def test_shares_come_out_about_right_and_follow_the_seed() -> None:
    names = [f"group {i}" for i in range(4000)]
    drawn = [split_of(name, seed=0, fractions=(0.8, 0.05, 0.15)) for name in names]
    # Three standard deviations of a binomial: 76 of 3,200 and 68 of 600.
    assert abs(drawn.count("train") - 3200) < 76
    assert abs(drawn.count("test") - 600) < 68
    assert drawn == [split_of(name, seed=0, fractions=(0.8, 0.05, 0.15)) for name in names]
    assert drawn != [split_of(name, seed=1, fractions=(0.8, 0.05, 0.15)) for name in names]


def test_fractions_are_read_or_refused() -> None:
    assert parse_fractions("0.87,0.03,0.10") == (0.87, 0.03, 0.1)
    for wrong in ("0.9,0.1", "0.9,0.1,x", "0.9,0.2,-0.1", "0.5,0.1,0.1"):
        with pytest.raises(ConfigError, match="--split-fractions"):
            parse_fractions(wrong)
