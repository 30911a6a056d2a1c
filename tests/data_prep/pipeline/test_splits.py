"""Groups stay whole; splits have their shares and are alike in length; what is frozen stays test."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_prep.frozen import frozen_ids
from data_prep.pipeline.splits import SPLITS, assign, lengths, parse_fractions
from usersim.errors import ConfigError

TRAIN, DEV, TEST = range(3)
Array = np.ndarray[Any, Any]


def split(
    groups: Array,
    turns: Array | None = None,
    source: Array | None = None,
    *,
    fractions: tuple[tuple[float, float, float], ...] = ((0.8, 0.1, 0.1),),
    frozen: Array | None = None,
    has_frozen: tuple[bool, ...] | None = None,
    seed: int = 0,
) -> Array:
    count = len(groups)
    return assign(
        groups.astype(np.uint64),
        np.ones(count, dtype=np.int64) if turns is None else turns,
        np.zeros(count, dtype=np.int64) if source is None else source,
        fractions=fractions,
        frozen=np.zeros(count, dtype=bool) if frozen is None else frozen,
        has_frozen=has_frozen or (False,) * len(fractions),
        seed=seed,
    )


def corpus(count: int, seed: int = 0) -> tuple[Array, Array]:
    """Names of groups of one chat or a few, and user turns with a long tail."""
    random = np.random.default_rng(seed)
    names = random.integers(0, 2**63, count, dtype=np.uint64)
    names[count // 2 :] = names[count // 2 :][random.integers(0, count // 5, count - count // 2)]
    return names, random.geometric(0.25, count)


@given(
    st.lists(st.tuples(st.integers(0, 9), st.integers(1, 30), st.integers(0, 1), st.booleans()), min_size=1),
    st.randoms(),
    st.integers(0, 3),
)
def test_no_group_crosses_and_the_order_of_chats_does_not_matter(
    chats: list[Any], random: Any, seed: int
) -> None:
    order = list(range(len(chats)))
    random.shuffle(order)
    groups, turns, source, frozen = (np.array(values) for values in zip(*chats, strict=True))
    options: Any = {
        "fractions": ((0.6, 0.2, 0.2), (0.5, 0.0, 0.5)),
        "has_frozen": (True, False),
        "seed": seed,
    }
    codes = split(groups, turns, source, frozen=frozen, **options)
    again = split(groups[order], turns[order], source[order], frozen=frozen[order], **options)
    assert again.tolist() == codes[order].tolist()
    for name in set(groups.tolist()):
        (code,) = set(codes[groups == name].tolist())
        if frozen[groups == name].any():
            assert code == TEST
        elif (source[groups == name] == 0).any():
            # Only train is open to both: a frozen list closes the first one's test, the second has no dev.
            assert code in ((TRAIN,) if (source[groups == name] == 1).any() else (TRAIN, DEV))
        else:
            assert code in (TRAIN, TEST)


def test_shares_come_out_and_follow_the_seed() -> None:
    names, turns = corpus(5000)
    codes = split(names, turns)
    assert np.bincount(codes) / 5000 == pytest.approx([0.8, 0.1, 0.1], abs=0.002)
    assert (split(names, turns, seed=0) == codes).all()
    assert (split(names, turns, seed=1) != codes).mean() > 0.2


def test_splits_are_alike_in_length() -> None:
    names, turns = corpus(5000)
    by_split = lengths(split(names, turns), turns)
    assert set(by_split) == set(SPLITS)
    for name, each in by_split.items():
        assert each["turn_bins_distance"] < 0.05, name
        assert each["mean_user_turns"] == pytest.approx(turns.mean(), rel=0.05)


def test_lengths_by_hand() -> None:
    codes, turns = np.array([0, 0, 0, 1], dtype=np.int8), np.array([1, 1, 3, 3])
    assert lengths(codes, turns) == {
        # All: a half each. Train: two thirds and a third; dev: nothing and all.
        "train": {"mean_user_turns": 5 / 3, "turn_bins_distance": pytest.approx(1 / 6)},
        "dev": {"mean_user_turns": 3.0, "turn_bins_distance": 0.5},
    }


def test_more_data_moves_few_of_the_groups() -> None:
    names, turns = corpus(5000)
    more, longer = corpus(500, seed=1)
    before, after = split(names, turns), split(np.concatenate([names, more]), np.concatenate([turns, longer]))
    assert (before != after[:5000]).mean() < 0.05


@pytest.mark.parametrize("fractions", [(1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0)])
def test_no_share_means_no_group_there(fractions: tuple[float, float, float]) -> None:
    names, turns = corpus(200)
    assert set(split(names, turns, fractions=(fractions,)).tolist()) == {fractions.index(1.0)}


def test_each_source_has_its_own_shares() -> None:
    names, source = np.arange(4000), np.arange(4000) % 2
    codes = split(names, source=source, fractions=((0.5, 0.5, 0.0), (0.0, 0.5, 0.5)))
    assert np.bincount(codes[source == 0]).tolist() == [1000, 1000]
    assert np.bincount(codes[source == 1]).tolist() == [0, 1000, 1000]


def test_a_group_of_two_sources_goes_where_both_may_go_else_to_the_last_of_either() -> None:
    pairs, source = np.arange(400) // 2, np.arange(400) % 2
    assert set(split(pairs, source=source, fractions=((0.5, 0.5, 0.0), (0.0, 0.5, 0.5))).tolist()) == {DEV}
    assert set(split(pairs, source=source, fractions=((1.0, 0.0, 0.0), (0.0, 0.0, 1.0))).tolist()) == {TEST}


def test_a_frozen_chat_takes_its_group_to_test_and_nothing_else_goes_there() -> None:
    names = np.arange(1000) // 2
    frozen = np.zeros(1000, dtype=bool)
    frozen[[0, 100, 101]] = True
    codes = split(names, frozen=frozen, has_frozen=(True,))
    assert np.flatnonzero(codes == TEST).tolist() == [0, 1, 100, 101]
    assert (codes == DEV).sum() == pytest.approx(1000 / 9, abs=3)
    with pytest.raises(ConfigError, match="needs a train or dev share"):
        split(names, fractions=((0.0, 0.0, 1.0),), frozen=frozen, has_frozen=(True,))


def test_a_group_larger_than_a_split_does_not_fill_it() -> None:
    names = np.concatenate([np.zeros(300), np.arange(1, 701)])
    codes = split(names)
    assert set(codes[:300].tolist()) == {TRAIN}
    assert np.bincount(codes[300:]).tolist() == [560, 70, 70]


def test_nothing_is_split_into_nothing() -> None:
    assert split(np.zeros(0)).tolist() == []


def test_fractions_are_read_or_refused() -> None:
    assert parse_fractions("0.87,0.03,0.10") == (0.87, 0.03, 0.1)
    for wrong in ("0.9,0.1", "0.9,0.1,x", "0.9,0.2,-0.1", "0.5,0.1,0.1"):
        with pytest.raises(ConfigError, match="--split-fractions"):
            parse_fractions(wrong)


@pytest.mark.parametrize(("name", "count"), [("sharegpt", 490), ("chatbot_arena", 220)])
def test_the_packaged_lists_are_whole(name: str, count: int) -> None:
    assert len(frozen_ids(name)) == count


def test_a_team_freezes_a_list_or_an_earlier_test_split(tmp_path: Path) -> None:
    ids, records, empty = tmp_path / "ids.txt", tmp_path / "test.jsonl", tmp_path / "empty.txt"
    ids.write_text("# ours\n\na\n b\n")
    records.write_text("".join(json.dumps({"id": id_, "turns": []}) + "\n" for id_ in "cd"))
    empty.write_text("# nothing\n")
    assert frozen_ids(ids) == {"a", "b"}
    assert frozen_ids(str(records)) == {"c", "d"}
    with pytest.raises(ConfigError, match="holds no id"):
        frozen_ids(empty)
    with pytest.raises(ConfigError, match="no frozen list of that name"):
        frozen_ids("wildchat")
    records.write_text('{"name": 1}\n')
    with pytest.raises(ConfigError, match=r"test\.jsonl:1: no `id`"):
        frozen_ids(records)
