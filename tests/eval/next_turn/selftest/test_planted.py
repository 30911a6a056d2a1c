import re
from collections import Counter

import pytest

from eval.next_turn.prefixes import prefixes_of
from eval.next_turn.selftest.planted_leaving import ends_on_content
from eval.next_turn.selftest.planted_material import Material
from eval.next_turn.selftest.planted_table import TABLE
from eval.next_turn.selftest.planted_text import ACKNOWLEDGEMENTS, THANKS
from eval.next_turn.selftest.planted_users import NAMES, PLANTERS, plant
from eval.next_turn.turns import write_turns
from usersim.errors import DataError
from usersim.types import Conversation, Facet, Goal, Turn, UserProfile

TOPICS = ("bread", "trains", "gardens", "taxes", "violins", "lizards", "bridges", "comets", "spoons", "caves")


def conversation(
    number: int, *turns: str, goal: Goal | None = None, ended: str = "user", source: str = "forum"
) -> Conversation:
    topic = TOPICS[number % len(TOPICS)]
    said = []
    for place, text in enumerate(turns):
        said.append(Turn(role="user", text=text))
        said.append(
            Turn(role="assistant", text=f"Here is part {place} about {topic}. It costs {number} coins. Fine.")
        )
    return Conversation(
        id=f"c{number}",
        origin="human",
        source=source,
        turns=tuple(said),
        profile=UserProfile(goal=goal),
        ended_by=ended,
    )


def people(count: int = 10, length: int = 4) -> list[Conversation]:
    found = []
    for number in range(count):
        topic = TOPICS[number % len(TOPICS)]
        turns = [f"tell me about {topic} for Monday {number}", f"what do the {topic} in Oslo cost, 25 or 30"]
        turns += [f"and more on {topic} number {place}" for place in range(2, length)]
        goal = Goal(f"learn about {topic}", facets=(Facet(f"basics of {topic}"), Facet(f"price of {topic}")))
        found.append(conversation(number, *turns[:length], goal=goal))
    return found


def material(conversations: list[Conversation], **given) -> Material:
    return Material(tuple(p for c in conversations for p in prefixes_of(c)), **given)


PEOPLE = material(people())


def planted(name: str, of: Material = PEOPLE, seed: int = 0):
    return plant(name, of.prefixes, of, seed)


def by_position(name: str, position: int, of: Material = PEOPLE):
    one = planted(name, of)
    return [(p, one.turns.text(p)) for p in one.prefixes if p.position == position and p.text]


def test_every_user_of_the_table_can_be_made_and_no_other() -> None:
    assert set(NAMES) == set(PLANTERS) | {"ends_on_content"}
    assert len(NAMES) == len(set(NAMES)) == len(TABLE)


@pytest.mark.parametrize("name", [name for name in NAMES if name != "prompted_base"])
def test_each_is_the_same_for_a_seed_and_for_any_other_prefixes_asked_for(name: str) -> None:
    first, second = planted(name), planted(name)
    assert first.turns.turns == second.turns.turns
    # The positive control's word and the clocks' hazards are of the prefixes given.
    if name not in ("ends_on_content", "leaves_by_turn_number", "leaves_by_facets"):
        few = plant(name, PEOPLE.prefixes[:7], PEOPLE, 0)
        assert few.turns.turns == {p.id: first.turns.turns[p.id] for p in PEOPLE.prefixes[:7]}


@pytest.mark.parametrize("user", [u for u in TABLE if u.name != "prompted_base"], ids=lambda u: u.name)
def test_text_users_leave_as_people_and_leaving_users_write_as_people(user) -> None:
    one = planted(user.name)
    for prefix in one.prefixes:
        turn = one.turns.turns[prefix.id]
        if user.changes == "text":
            assert turn.ends == prefix.has_left
        elif prefix.text is not None:
            assert turn.text == prefix.text
            assert turn.end_probability is not None


def test_shuffled_words_are_the_same_words_and_none_in_its_place() -> None:
    for prefix, text in by_position("shuffled_words", 1):
        assert Counter(text.split()) == Counter(prefix.text.split())
        assert all(a != b for a, b in zip(text.split(), prefix.text.split(), strict=True))
    for prefix, text in by_position("shuffled_some", 1):  # 2 of 6 words
        assert sum(a != b for a, b in zip(text.split(), prefix.text.split(), strict=True)) == 2


def test_gibberish_has_the_persons_length_and_other_peoples_words() -> None:
    vocabulary = {word for chat in PEOPLE.chats.values() for turn in chat.turns for word in turn.split()}
    for prefix, text in by_position("gibberish_words", 2):
        assert len(text.split()) == len(prefix.text.split())
        assert set(text.split()) <= vocabulary
        assert TOPICS[int(prefix.conversation[1:])] not in text
    for prefix, text in by_position("gibberish_characters", 1):
        assert 0 < len(text) <= len(prefix.text)


def test_the_deaf_user_says_what_another_person_said_at_that_turn() -> None:
    for prefix, text in by_position("deaf", 2):
        donors = [chat for chat in PEOPLE.chats.values() if text in chat.turns]
        assert [chat.turns.index(text) for chat in donors] == [1]
        assert donors[0].name != prefix.conversation


def test_the_thread_is_lost_from_turn_3_to_one_other_conversation() -> None:
    one = planted("thread_lost")
    for prefix in one.prefixes:
        if prefix.text and prefix.position < 3:
            assert one.turns.text(prefix) == prefix.text
    lost = {(p.conversation, text.split()[3]) for at in (3, 4) for p, text in by_position("thread_lost", at)}
    assert len(lost) == 10  # one topic a conversation
    assert all(TOPICS[int(name[1:])] != topic for name, topic in lost)


def test_replay_takes_the_training_chat_with_the_nearest_opening() -> None:
    training = (
        conversation(91, "my tell me about lizards", "are lizards shy", "and geckos"),
        conversation(92, "what is a violin", "who plays it"),
    )
    of = material(people(), training=training)
    texts = [planted("replay", of).turns.turns[f"c5@{n}"].text for n in (1, 2, 3, 4)]
    # A chat that is over begins anew after its opening.
    assert texts == ["my tell me about lizards", "are lizards shy", "and geckos", "are lizards shy"]


def test_a_swapped_goal_is_the_nearest_other_one_and_undefined_without_goals() -> None:
    people_ = [
        conversation(0, "one", goal=Goal("bake rye bread at home")),
        conversation(1, "two", goal=Goal("bake white bread at home")),
        conversation(2, "three", goal=Goal("repair a violin")),
        conversation(3, "four"),
    ]
    one = planted("goal_swapped", material(people_))
    assert one.turns.turns["c0@1"].text == "two"
    assert one.turns.turns["c1@1"].text == "one"
    assert "c3@1" not in one.turns.turns
    assert one.turns.failed == {"no goal": 1}
    with pytest.raises(DataError, match="no goal"):
        planted("goal_swapped", material([conversation(4, "four"), conversation(5, "five")]))


def test_a_goal_is_read_out_facet_by_facet_and_then_its_summary() -> None:
    texts = [planted("goal_read_out").turns.turns[f"c0@{n}"].text for n in (1, 2, 3)]
    assert texts == ["basics of bread", "price of bread", "learn about bread"]


def test_everything_is_said_at_once_and_then_acknowledged() -> None:
    for prefix, text in by_position("everything_at_once", 1):
        assert text == "\n".join(PEOPLE.chats[prefix.conversation].turns)
    assert {text for _, text in by_position("everything_at_once", 3)} <= set(ACKNOWLEDGEMENTS)


def test_numbers_and_names_drift_after_the_opening_only() -> None:
    assert all(text == prefix.text for prefix, text in by_position("drifting", 1))
    for _, text in by_position("drifting", 2):
        one, two = re.findall(r"\d\d", text)
        assert one[0] != "2"
        assert one[1] != "5"
        assert two[0] != "3"
        assert two[1] != "0"


def test_objecting_turns_become_calm_ones_of_others() -> None:
    objecting = conversation(20, "tell me about spoons", "no, that's wrong", "you forgot the ladles")
    of = material([*people(), objecting])
    one = planted("no_objections", of)
    for position in (2, 3):
        assert one.turns.turns[f"c20@{position}"].text in {c.turns[position - 1] for c in of.chats.values()}
        assert one.turns.turns[f"c20@{position}"].text not in ("no, that's wrong", "you forgot the ladles")
    assert one.changed == pytest.approx(2 / 43)


def test_four_in_ten_later_turns_begin_with_thanks() -> None:
    one = planted("thanks_added", material(people(60)))
    later = [(p.text, one.turns.text(p)) for p in one.prefixes if p.text and p.position > 1]
    changed = [text for own, text in later if text != own]
    assert 0.3 < len(changed) / len(later) < 0.5
    assert all(text.startswith(THANKS) for text in changed)


def test_a_fifth_of_the_later_turns_are_another_conversations_assistant() -> None:
    of = material(people(60))
    one = planted("assistant_voice", of)
    later = [(p, one.turns.text(p)) for p in one.prefixes if p.text and p.position > 1]
    changed = [(p, text) for p, text in later if text != p.text]
    assert 0.1 < len(changed) / len(later) < 0.3
    for prefix, text in changed:
        own = of.chats[prefix.conversation].answers
        assert any(text in answer for chat in of.chats.values() for answer in chat.answers)
        assert "costs" not in text or not any(text in answer for answer in own)


def test_a_near_copy_differs_in_one_or_two_words() -> None:
    for position, count in ((1, 1), (2, 2)):
        for prefix, text in by_position("near_copies", position):
            assert sum(a != b for a, b in zip(text.split(), prefix.text.split(), strict=True)) == count


def test_clocks_know_the_turn_number_and_the_facets_of_other_folds_and_nothing_else() -> None:
    # Half of the people leave after 2 turns, half after 4; the number of facets says which.
    mixed = []
    for number in range(100):
        turns = 2 if number % 2 else 4
        goal = Goal("learn", facets=tuple(Facet(f"part {i}") for i in range(turns)))
        mixed.append(conversation(number, *[f"turn {i} of {number}" for i in range(turns)], goal=goal))
    of = material(mixed)
    by_turn, by_facet = (
        [planted(name, of).turns.turns[f"c0@{n}"].end_probability for n in (1, 2, 3, 4, 5)]
        for name in ("leaves_by_turn_number", "leaves_by_facets")
    )
    assert by_turn[0] == by_facet[0] == 0
    assert by_turn[2] == pytest.approx(0.5, abs=0.1)
    assert by_turn[4] > 0.8
    assert max(by_turn[1], by_turn[3]) < 0.15
    assert max(by_facet[1:4]) < 0.15
    assert by_facet[4] > 0.9
    never = planted("never_leaves", of).turns.turns
    assert all(turn.end_probability == 0 and turn.text for turn in never.values())


def test_the_positive_control_leaves_on_a_word_and_knows_it() -> None:
    answers = ["Take the golden road.", "Take any road.", "Take another road."]
    rows = []
    for number in range(120):
        turns = []
        for place in range(4):
            turns.append(Turn(role="user", text=f"question {place}"))
            turns.append(Turn(role="assistant", text=answers[(number + place) % 3]))
        rows.append(
            Conversation(id=f"c{number}", origin="human", source="s", turns=tuple(turns), ended_by="user")
        )
    of = material(rows)
    prefixes, user = ends_on_content(of.prefixes, of, 0)
    later = [p for p in prefixes if p.position > 1]
    rates = Counter((p.has_left, round(user.turns[p.id].end_probability, 2)) for p in later)
    assert 0.8 < rates[True, 0.9] / (rates[True, 0.9] + rates[False, 0.9]) < 0.97
    assert rates[True, 0.05] / (rates[True, 0.05] + rates[False, 0.05]) < 0.12
    # After a person has left nothing follows.
    for conversation_ in {p.conversation for p in prefixes}:
        own = [p for p in prefixes if p.conversation == conversation_]
        assert all(not p.has_left for p in own[:-1])


def test_what_cannot_be_made_says_why(tmp_path) -> None:
    unknown = material([conversation(n, "hello there", ended="unknown") for n in range(3)])
    with pytest.raises(DataError, match="ended by the person"):
        planted("leaves_by_turn_number", unknown)
    with pytest.raises(DataError, match="no other person has a turn"):
        planted("deaf", material(people(1)))
    with pytest.raises(DataError, match="no file"):
        planted("prompted_base")
    drawn = tmp_path / "drawn.jsonl"
    write_turns(drawn, [planted("deaf").turns.turns["c0@1"]])
    one = planted("prompted_base", material(people(), prompted=drawn))
    assert list(one.turns.turns) == ["c0@1"]
    assert one.turns.failed == {"no turn in the file": 39}
