import json

import pytest

from eval.next_turn.prefixes import prefixes_of
from eval.next_turn.simulators.ceiling import CEILING, OWN, UNKNOWN, by_person, pooled, read_annotated
from eval.next_turn.turns import people_as_simulator, shared_prefixes
from usersim.errors import DataError
from usersim.types import Conversation, Turn

CONVERSATION = Conversation(
    id="c",
    origin="human",
    source="invented",
    user="ida",
    turns=(
        Turn(role="user", text="plan a trip"),
        Turn(role="assistant", text="Where to?"),
        Turn(role="user", text="rome"),
        Turn(role="assistant", text="Take the train."),
    ),
    ended_by="user",
)
PREFIXES = prefixes_of(CONVERSATION)
LINES = (
    {"prefix": "c@1", "person": "ann", "text": "I need a holiday"},
    {"prefix": "c@1", "person": "bob", "text": "trip ideas?"},
    {"prefix": "c@2", "person": "ann", "text": "to the sea"},
    {"prefix": "c@3", "person": "bob", "ends": True},
    {"prefix": "c@2", "person": "ida", "text": "rome please"},
    {"prefix": "x@1", "person": "bob", "text": "hello"},
)


def written(folder, *lines):
    path = folder / "ceiling.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    return path


def test_other_people_stand_beside_the_person_like_a_simulator(tmp_path):
    found = pooled(read_annotated(written(tmp_path, *LINES)), PREFIXES, seed=0)
    assert found.name == CEILING
    # c@1 has two annotators and one turn; the person's own turn and the prefix that is not measured are counted.
    assert sorted(found.turns) == ["c@1", "c@2", "c@3"]
    assert found.text(PREFIXES[0]) in ("I need a holiday", "trip ideas?")
    assert found.text(PREFIXES[1]) == "to the sea"
    assert found.turns["c@3"].ends
    assert found.failed == {OWN: 1, UNKNOWN: 1}
    assert "2 annotators, 4 turns at 3 prefixes" in found.note
    people = people_as_simulator(PREFIXES)
    assert [prefix.id for prefix in shared_prefixes(PREFIXES, [people, found])] == ["c@1", "c@2"]


def test_the_annotator_drawn_at_a_prefix_follows_from_the_seed_and_not_from_the_order(tmp_path):
    turns = read_annotated(written(tmp_path, *LINES))
    drawn = [pooled(turns, PREFIXES, seed=seed).turns["c@1"].person for seed in range(20)]
    assert set(drawn) == {"ann", "bob"}
    assert drawn == [pooled(turns[::-1], PREFIXES, seed=seed).turns["c@1"].person for seed in range(20)]


def test_each_person_by_itself(tmp_path):
    ann, bob = by_person(read_annotated(written(tmp_path, *LINES)), PREFIXES)
    assert (ann.name, sorted(ann.turns), ann.failed) == ("ann", ["c@1", "c@2"], {})
    assert (bob.name, sorted(bob.turns), bob.failed) == ("bob", ["c@1", "c@3"], {UNKNOWN: 1})


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ([], "no turns in it"),
        ([LINES[0], LINES[0]], r"ceiling\.jsonl:2: a second turn of 'ann' at prefix 'c@1'"),
        ([{"prefix": "c@1", "text": "hello"}], r"ceiling\.jsonl:1: person"),
        ([{"prefix": "c@1", "person": "ann"}], "a turn without text must have ends = true"),
    ],
)
def test_a_file_that_is_no_ceiling_says_why(tmp_path, lines, message):
    with pytest.raises(DataError, match=message):
        read_annotated(written(tmp_path, *lines))


def test_nothing_left_is_an_error_and_never_an_empty_ceiling(tmp_path):
    turns = read_annotated(written(tmp_path, *LINES[4:]))
    for merge in (lambda: pooled(turns, PREFIXES, seed=0), lambda: by_person(turns, PREFIXES)):
        with pytest.raises(DataError, match=f"1 {OWN}, 1 {UNKNOWN}"):
            merge()
