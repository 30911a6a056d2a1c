from collections.abc import Sequence
from pathlib import Path

import pytest

from eval.next_turn.prefixes import language_model_prefixes, prefixes_of, stratified, usable
from eval.next_turn.turns import NextTurn, SimulatedTurns, read_turns, shared_prefixes, write_turns
from usersim.errors import DataError
from usersim.types import Conversation, EndedBy, Goal, Turn, UserProfile


def conversation(
    *texts: str, id_: str = "c", ended_by: EndedBy = "user", source: str = "invented", user: str | None = None
) -> Conversation:
    roles: Sequence[str] = ("user", "assistant")
    turns = tuple(Turn.model_validate({"role": roles[i % 2], "text": t}) for i, t in enumerate(texts))
    return Conversation(
        id=id_,
        origin="human",
        source=source,
        turns=turns,
        ended_by=ended_by,
        user=user,
        profile=UserProfile(goal=Goal("bake bread")),
    )


def test_a_prefix_before_every_user_turn_and_one_where_the_person_left() -> None:
    found = prefixes_of(conversation("how do I bake", "like so", "and rye", "slower"))
    assert [(p.id, p.position, p.text) for p in found] == [
        ("c@1", 1, "how do I bake"),
        ("c@2", 2, "and rye"),
        ("c@3", 3, None),
    ]
    assert [len(p.history) for p in found] == [0, 2, 4]
    assert [p.answer for p in found] == [None, "like so", "slower"]
    assert found[2].has_left
    assert not found[1].has_left


@pytest.mark.parametrize("ended_by", ["cut", "turn_cap", "unknown"])
def test_nobody_is_said_to_have_left_where_it_is_not_known(ended_by: EndedBy) -> None:
    found = prefixes_of(conversation("how do I bake", "like so", ended_by=ended_by))
    assert [p.id for p in found] == ["c@1"]


def test_an_end_after_the_persons_own_words_is_no_prefix() -> None:
    assert [p.id for p in prefixes_of(conversation("how do I bake", "like so", "thanks"))] == ["c@1", "c@2"]


def test_what_is_left_out_is_counted_by_reason() -> None:
    given = [
        conversation("how do I bake this bread in the oven", "like so"),
        conversation("how do I bake this bread in the oven"),
        conversation("how do I bake this bread in the oven", "  ", "hm"),
        conversation("wie backe ich dieses Brot im Ofen, und wie lange muss es dann ruhen", "so"),
        Conversation(
            id="a",
            origin="human",
            source="s",
            turns=(Turn(role="assistant", text="hello"), Turn(role="user", text="hi")),
        ),
    ]
    kept, excluded = usable(given)
    assert kept == given[:1]
    assert excluded == {
        "no assistant turn": 1,
        "an empty turn": 1,
        "not in en": 1,
        "does not begin with the user": 1,
    }


def test_costly_numbers_see_the_first_two_turns_and_one_later() -> None:
    texts = [word for number in range(1, 7) for word in (f"question {number}", f"answer {number}")]
    found = prefixes_of(conversation(*texts))
    chosen = language_model_prefixes(found, seed=3)
    assert [p.position for p in chosen][:2] == [1, 2]
    assert len(chosen) == 3
    assert chosen[2].position in {3, 4, 5, 6}
    assert chosen == language_model_prefixes(found, seed=3)


def test_sources_in_equal_parts_as_far_as_they_reach() -> None:
    many = [conversation("a", "b", id_=f"m{i}", source="many") for i in range(20)]
    few = [conversation("a", "b", id_=f"f{i}", source="few") for i in range(3)]
    chosen = stratified([*many, *few], 10, seed=0)
    assert sum(c.source == "few" for c in chosen) == 3
    assert len({c.id for c in chosen}) == 10


def test_all_simulators_are_measured_where_all_of_them_and_the_person_wrote(
    tmp_path: Path,
) -> None:
    found = prefixes_of(conversation("one", "a", "two", "b", "three", "c"))
    one = SimulatedTurns("one", {p.id: NextTurn(prefix=p.id, text="x") for p in found})
    two = SimulatedTurns(
        "two", {"c@1": NextTurn(prefix="c@1", text="y"), "c@2": NextTurn(prefix="c@2", ends=True)}
    )
    assert [p.id for p in shared_prefixes(found, [one, two])] == ["c@1"]
    path = tmp_path / "turns.jsonl"
    write_turns(path, two.turns.values())
    assert read_turns(path, "two").turns == two.turns


def test_a_prefix_that_occurs_twice_is_refused_with_its_line(
    tmp_path: Path,
) -> None:
    path = tmp_path / "turns.jsonl"
    path.write_text('{"prefix": "c@1", "text": "a"}\n{"prefix": "c@1", "text": "b"}\n', encoding="utf-8")
    with pytest.raises(DataError, match=r":2: duplicate prefix 'c@1'"):
        read_turns(path, "two")


def test_a_turn_that_neither_says_anything_nor_leaves_is_no_turn() -> None:
    with pytest.raises(ValueError, match="must have ends"):
        NextTurn(prefix="c@1", text=" ")
