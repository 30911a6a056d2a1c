import json
from pathlib import Path

import pytest

from eval.next_turn.prefixes import prefixes_of
from eval.next_turn.simulators.draw import SHORTENED, draw_turns, main
from eval.next_turn.simulators.specifications import DrawSettings, Simulator, simulator_from
from eval.next_turn.turns import NextTurn, SimulatedTurns, read_turns, write_turns
from tests.fake_endpoint import Reply, endpoint
from usersim.errors import BackendError, ConfigError, ContextOverflowError, DataError
from usersim.storage.records import write_records
from usersim.types import Conversation, Turn, UserProfile, UserTurn

TEXTS = (
    "how do i boil an egg",
    "Seven minutes in water.",
    "and a soft one",
    "Five minutes.",
    "thanks",
    "Enjoy!",
)


def talk(name="a", turns=6, **fields):
    made = tuple(Turn(role=("user", "assistant")[i % 2], text=t) for i, t in enumerate(TEXTS[:turns]))
    return Conversation(id=name, origin="human", source="t", turns=made, ended_by="user", **fields)


class Speaker:
    """Says its seed; what it was asked is kept."""

    def __init__(self, probability=0.5, fails=lambda turns: None):
        self.probability, self.fails, self.heard = probability, fails, []

    async def __call__(self, profile, turns, *, seed=None):
        self.heard.append((profile, tuple(turns), seed))
        if (error := self.fails(turns)) is not None:
            raise error
        return UserTurn(
            text=f"say {seed}",
            ends=False,
            end_probability=self.probability,
            finish="stop",
            logprob=0.0,
            tokens=2,
        )


def simulator(speaker, *, tells_end=True, **settings):
    return Simulator(
        "s", "userlm", "m", {"weights": "w"}, tells_end, lambda: speaker, DrawSettings(**settings)
    )


def test_every_prefix_has_words_and_its_own_p_of_the_end(tmp_path):
    prefixes = [p for name in "ab" for p in prefixes_of(talk(name))]
    drawn = draw_turns(simulator(Speaker(1.0)), prefixes, tmp_path)
    assert [turn.ends for turn in drawn.turns.values()] == [
        False,
        True,
        True,
        True,
    ] * 2  # nothing to leave at 1
    assert all(turn.text and turn.end_probability == 1.0 for turn in drawn.turns.values())
    assert not any(
        t.ends for t in draw_turns(simulator(Speaker(0.0)), prefixes, tmp_path / "b").turns.values()
    )


def test_a_simulator_without_p_leaves_as_drawn(tmp_path):
    prefixes = prefixes_of(talk())
    drawn = draw_turns(simulator(Speaker(1.0), tells_end=False), prefixes, tmp_path)
    assert [(t.ends, t.end_probability) for t in drawn.turns.values()] == [(False, None)] * 4


def test_the_decision_follows_p_and_the_seed(tmp_path):
    prefixes = [p for i in range(400) for p in prefixes_of(talk(f"c{i}", turns=2)) if p.position == 2]
    first = draw_turns(simulator(Speaker(0.25)), prefixes, tmp_path / "0").turns
    again = draw_turns(simulator(Speaker(0.25)), prefixes, tmp_path / "1").turns
    other = draw_turns(simulator(Speaker(0.25), seed=1), prefixes, tmp_path / "2").turns
    assert first == again
    assert first != other
    assert 70 < sum(turn.ends for turn in first.values()) < 130  # 100 expected, sd 8.7


def test_a_turn_does_not_depend_on_what_else_is_drawn(tmp_path):
    a, b = prefixes_of(talk("a")), prefixes_of(talk("b"))
    alone = draw_turns(simulator(Speaker()), b, tmp_path / "0").turns
    together = draw_turns(simulator(Speaker()), [*a, *b], tmp_path / "1").turns
    assert alone == {name: turn for name, turn in together.items() if name.startswith("b@")}


def test_prefixes_of_one_conversation_are_asked_in_order(tmp_path):
    a, b = prefixes_of(talk("a")), prefixes_of(talk("b"))
    speaker = Speaker()
    draw_turns(simulator(speaker), [a[2], b[1], a[0], b[0], a[1]], tmp_path, concurrency=1)
    assert [len(turns) for _, turns, _ in speaker.heard] == [0, 2, 4, 0, 2]


def test_a_second_run_asks_only_for_what_failed(tmp_path):
    prefixes = prefixes_of(talk())
    failing = Speaker(fails=lambda turns: BackendError("engine: no answer") if len(turns) == 4 else None)
    first = draw_turns(simulator(failing), prefixes, tmp_path)
    assert dict(first.failed) == {"BackendError": 1}
    assert set(first.turns) == {"a@1", "a@2", "a@4"}
    speaker = Speaker()
    second = draw_turns(simulator(speaker), prefixes, tmp_path)
    assert [len(turns) for _, turns, _ in speaker.heard] == [4]
    assert len(second.turns) == 4
    assert not second.failed


def test_another_goal_is_another_ask_of_the_same_journal(tmp_path):
    prefixes = prefixes_of(talk(profile=UserProfile(goal="boil an egg")))
    draw_turns(simulator(Speaker()), prefixes, tmp_path)
    speaker = Speaker()
    draw_turns(simulator(speaker), [p.model_copy(update={"goal": None}) for p in prefixes], tmp_path)
    assert [profile.goal for profile, _, _ in speaker.heard] == [None] * 4


def test_a_simulator_that_fails_everywhere_is_an_error(tmp_path):
    down = Speaker(fails=lambda turns: BackendError("engine: connection refused"))
    with pytest.raises(BackendError, match=r"s: failed at every prefix .*connection refused"):
        draw_turns(simulator(down), prefixes_of(talk()), tmp_path)


def test_a_simulator_that_goes_down_is_not_asked_for_the_rest(tmp_path):
    prefixes = [p for i in range(40) for p in prefixes_of(talk(f"c{i}"))]
    speaker = Speaker()
    speaker.fails = lambda turns: BackendError("gone") if len(speaker.heard) > 3 else None
    with pytest.raises(BackendError, match="stopped answering"):
        draw_turns(simulator(speaker), prefixes, tmp_path, concurrency=1)
    assert len(speaker.heard) == 53


def test_a_history_that_is_too_long_loses_its_oldest_exchange(tmp_path):
    speaker = Speaker(fails=lambda turns: ContextOverflowError("window") if len(turns) > 2 else None)
    drawn = draw_turns(simulator(speaker), prefixes_of(talk()), tmp_path)
    assert len(drawn.turns) == 4
    assert f"{SHORTENED.replace('_', ' ')}: 2" in drawn.note
    assert {turns for _, turns, _ in speaker.heard if len(turns) == 2} == {
        talk().turns[:2],
        talk().turns[2:4],
        talk().turns[4:6],
    }


def test_precomputed_turns_come_back_as_they_are(tmp_path):
    path = tmp_path / "turns.jsonl"
    write_turns(path, [NextTurn(prefix="a@1", text="hello")])
    given = simulator_from(f"mine=file:{path}")
    assert isinstance(given, SimulatedTurns)
    assert draw_turns(given, prefixes_of(talk()), tmp_path) is given


@pytest.mark.parametrize(
    "specification",
    [
        "userlm-135m",
        "a=b",
        "a=magic:x",
        "a=userlm:",
        "a=endpoint:nowhere",
        "a=userlm:x;prompt=plain",
        "a=policy:impatient",
    ],
)
def test_specifications_that_cannot_be_used(specification):
    with pytest.raises(ConfigError):
        simulator_from(specification)


def test_user_lm_in_this_process(tiny_userlm, tmp_path):
    settings = DrawSettings(max_tokens=8)
    prefixes = prefixes_of(talk())
    ours = simulator_from(f"ours=userlm:{tiny_userlm}", settings)
    drawn = draw_turns(ours, prefixes, tmp_path)
    for turn in drawn.turns.values():
        assert turn.text
        assert 0 < turn.end_probability < 1
    warmer = simulator_from(f"ours=userlm:{tiny_userlm}", DrawSettings(max_tokens=8, temperature=0.5))
    with pytest.raises(DataError, match="another model or seed"):
        draw_turns(warmer, prefixes, tmp_path)


def test_policy_over_a_user_lm(tiny_userlm, tmp_path):
    specification = f"hasty=policy:impatient:most_turns=2+userlm:{tiny_userlm}"
    drawn = draw_turns(
        simulator_from(specification, DrawSettings(max_tokens=8)), prefixes_of(talk()), tmp_path
    )
    assert [drawn.turns[f"a@{n}"].end_probability == 1.0 for n in (1, 2, 3, 4)] == [False, False, True, True]


def test_base_unprompted_and_prompted_in_this_process(tiny_base, tmp_path):
    settings, prefixes = DrawSettings(max_tokens=8), prefixes_of(talk(turns=2))
    bare = draw_turns(simulator_from(f"bare=base:{tiny_base}", settings), prefixes, tmp_path)
    assert set(bare.turns) == {"a@1", "a@2"}
    assert 0 < bare.turns["a@2"].end_probability < 1
    prompted = draw_turns(simulator_from(f"told=chat:{tiny_base};prompt=plain", settings), prefixes, tmp_path)
    assert [turn.end_probability for turn in prompted.turns.values()] == [None] * len(prompted.turns)
    assert prompted.turns


def test_prompted_endpoint_leaves_by_its_word(tmp_path):
    def answer(body, number):
        assert (body["temperature"], body["max_tokens"], body["model"]) == (1.0, 192, "m")
        return Reply("[DONE]" if len(body["messages"]) > 5 else "User: next")

    with endpoint(answer) as fake:
        specification = f"told=chat:{fake.url}#m;prompt=careful"
        drawn = draw_turns(simulator_from(specification), prefixes_of(talk()), tmp_path)
    assert [(t.text, t.ends) for t in drawn.turns.values()] == [("next", False)] * 2 + [(None, True)] * 2


def test_guards_redraw_the_same_for_all(tmp_path):
    replies = iter(["how do i boil an egg?", "soft please"])
    with endpoint(lambda body, number: Reply(next(replies))) as fake:
        guarded = simulator_from(f"told=chat:{fake.url}#m", DrawSettings(guards="on"))
        drawn = draw_turns(guarded, prefixes_of(talk())[1:2], tmp_path)
    assert drawn.turns["a@2"].text == "soft please"
    assert "repeat: 1" in drawn.note


def test_command(tiny_userlm, tmp_path):
    human = tmp_path / "human.jsonl"
    write_records(human, [talk("a"), talk("b")])
    out = tmp_path / "out"
    argv = [str(human), "--simulator", f"ours=userlm:{tiny_userlm}", "--out", str(out), "--max-tokens", "4"]
    assert main([*argv, "--goals", "none", "--language", "any"]) == 0
    assert len(read_turns(out / "ours.none.turns.jsonl", "ours").turns) == 8
    head = json.loads(Path(out / "drawn" / "ours.jsonl").read_text().splitlines()[0])
    assert head["max_tokens"] == "4"
