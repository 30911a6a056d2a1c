"""Tables 3 to 5 and memorisation: planted effects are found, absent ones are not."""

import asyncio
import json
import resource
import signal
from contextlib import contextmanager

import numpy as np
import pytest

from eval.__main__ import main
from eval.fidelity.samples.invented import invented
from eval.likelihood import control, memory
from eval.likelihood.drawing import Ask, Batch, DrawJournal, draw, openings, replies
from eval.likelihood.figures import draws
from eval.likelihood.goals import annotated, choose_threshold, disclosure, nearest_goal, overlap, wording
from eval.likelihood.markdown import main as markdown
from eval.likelihood.roles import Said, Voice, people, slips
from tests.usersim.rendering.test_render import renderer, talk
from usersim.cli import run_main
from usersim.errors import BackendError, DataError
from usersim.rendering.conditioning import style_level
from usersim.storage.locks import locked
from usersim.storage.records import write_records
from usersim.testing import ScriptedUser
from usersim.text.style_bins import LEVELS
from usersim.types import Facet, Goal, Turn, UserProfile, UserTurn


def said(text: str, p: float = 0.1) -> UserTurn:
    return UserTurn(text=text, ends=False, end_probability=p, finish="stop", logprob=0.0, tokens=1)


def with_goal(conversation, summary, *facets):
    goal = Goal(summary=summary, facets=tuple(Facet(text=t, turn=n) for t, n in facets))
    return conversation.model_copy(update={"id": summary, "profile": UserProfile(goal=goal)})


# -- drawing ---------------------------------------------------------------------------------------


def test_a_killed_drawing_goes_on_where_it_stopped(tmp_path):
    asks = [Ask(f"k{i}", UserProfile()) for i in range(4)]
    first = asyncio.run(
        draw(ScriptedUser("one"), asks[:2], DrawJournal(tmp_path / "d.jsonl", {"m": "a"}), seed=0)
    )
    with (tmp_path / "d.jsonl").open("a") as stream:
        stream.write('{"key": "k2", "tu')
    user = ScriptedUser("two")
    again = asyncio.run(draw(user, asks, DrawJournal(tmp_path / "d.jsonl", {"m": "a"}), seed=0))
    assert first.text("k0") == again.text("k0") == "one"
    assert (again.text("k2"), len(user.heard)) == ("two", 2)
    with pytest.raises(DataError, match="another model or seed"):
        DrawJournal(tmp_path / "d.jsonl", {"m": "b"})


def test_what_cannot_be_drawn_is_counted(tmp_path):
    async def broken(profile, turns, *, seed=None):
        raise BackendError("no engine")

    batch = asyncio.run(draw(broken, [Ask("a", UserProfile())], DrawJournal(tmp_path / "d", {}), seed=0))
    assert (dict(batch.failed), batch.text("a")) == ({"BackendError": 1}, None)


def test_later_turns_are_asked_after_the_real_history():
    conversation = with_goal(talk("a", "b", "c", "d", "e", "f", "g", "h"), "x")
    asks = replies([conversation], 2)
    assert [len(ask.turns) for ask in asks] == [2, 4]
    assert asks[0].turns == conversation.turns[:2]
    assert openings([conversation], [None])[0].turns == ()


# -- persona control -------------------------------------------------------------------------------


def test_the_value_asked_for_has_the_words_of_its_level():
    for attribute in control.ATTRIBUTES:
        values = [control.level_value(attribute, level) for level in LEVELS]
        assert values == sorted(values)
        if attribute not in control.COUNTS:
            assert [style_level(attribute, v) for v in values] == list(LEVELS)


def obedient(ask: Ask) -> UserTurn:
    """Obeys capitals, and writes more when asked for questions: control of one, leakage of the other."""
    style = ask.profile.persona.style
    text = "please tell me of gardens" if style.lowercase_starts == 1 else "Tell me of gardens"
    return said(text + " and soups and trips" * int(2 * (style.questions or 0)))


def test_control_and_leakage_are_told_apart():
    conversations = [with_goal(talk("a", "b", "c", "d"), f"g{i}") for i in range(12)]
    batch = Batch({ask.key: obedient(ask) for ask in control.asks(conversations)})
    report = control.report(conversations, batch, bootstrap=50, seed=0)
    rows = {asked.attribute: asked for asked in report.attributes}
    assert rows["lowercase_starts"].spearman.value > 0.8
    assert rows["lowercase_starts"].means == (0.0, 0.0, 1.0)
    assert rows["questions"].spearman.value == 0
    assert rows["questions"].moved["words_per_turn"].value > 0.9
    assert rows["politeness"].moved["words_per_turn"].value == 0


def test_staying_is_read_from_the_probability_of_the_end():
    conversations = [with_goal(talk("a", "b", "c", "d"), f"g{i}") for i in range(5)]
    turns = {}
    for ask in control.asks(conversations):
        wanted = ask.profile.persona.style.turns
        turns[ask.key] = said("x", 1 / wanted if wanted else 0.3)
    rows = {
        a.attribute: a for a in control.report(conversations, Batch(turns), bootstrap=20, seed=0).attributes
    }
    assert rows["turns"].spearman.value == pytest.approx(1)


def test_spearman_agrees_with_scipy_and_leaves_out_what_is_unknown():
    from scipy.stats import spearmanr

    rng = np.random.default_rng(0)
    table = rng.normal(size=(3, 20)) + np.arange(3)[:, None]
    every = np.arange(20)[None]
    expected = spearmanr(np.repeat(np.arange(3), 20), table.ravel()).statistic
    assert control.spearman(table, every).value == pytest.approx(expected)
    holes = table.copy()
    holes[:, :5] = np.nan
    expected = spearmanr(np.repeat(np.arange(3), 15), table[:, 5:].ravel()).statistic
    assert control.spearman(holes, every).value == pytest.approx(expected)
    assert control.spearman(np.full((3, 4), np.nan), every) is None
    assert control.spearman(np.ones((3, 4)), every[:, :4]).value == 0


# -- goals -----------------------------------------------------------------------------------------


def test_wording_counts_content_words_only():
    assert overlap("How do I plan the trip?", "plan a trip to the sea") == 1.0
    assert overlap("Which train is cheap?", "plan a trip to the sea") == 0.0
    assert overlap("how is it", "plan a trip") is None
    one = with_goal(talk("a", "b"), "plan a trip")
    found = wording({one.id: "plan something"}, {one.id: ["a cheap train", "trip"]}, [one], draws(1, 20, 0))
    assert (found.first.value, found.later.value) == (1.0, 0.5)


TOPICS = ("bake sourdough bread", "repair a bicycle tyre", "learn Spanish verbs", "install a python package")


def test_an_opening_on_topic_finds_its_goal():
    conversations = [with_goal(talk("a", "b"), topic) for topic in TOPICS]
    texts = {topic: f"can you help me {topic}" for topic in TOPICS}
    assert nearest_goal(texts, conversations, seed=0).value == 1
    crossed = dict(zip(TOPICS, [texts[t] for t in (*TOPICS[1:], TOPICS[0])], strict=True))
    assert nearest_goal(crossed, conversations, seed=0).value == 0


def test_facets_are_revealed_when_they_are_said():
    conversation = with_goal(
        talk("help me with a trip", "sure", "I want to go by train", "ok", "we are two adults", "fine"),
        "plan a trip",
        ("travel by train", 2),
        ("two adults travel", 3),
    )
    threshold, agreement = choose_threshold([conversation])
    assert agreement == 1
    curve = disclosure([conversation], threshold, draws(1, 20, 0)).by_turn
    assert [e.value for e in curve] == [0, 0.5, 1, 1, 1]
    assert annotated([conversation], draws(1, 20, 0)).by_turn == curve


# -- roles -----------------------------------------------------------------------------------------


def voices():
    rng = np.random.default_rng(0)
    asks = ("how do i {}", "what about {}", "write {}", "and {}?")
    things = ("soup", "a garden", "my table", "this code", "the trip", "a letter")
    made = []
    for i in range(60):
        turns = []
        for _ in range(3):
            thing = things[rng.integers(len(things))]
            turns.append(str(rng.choice(asks)).format(thing))
            turns.append(f"Certainly! Here is an overview of {thing}. First, consider the following steps.")
        made.append(talk(*turns).model_copy(update={"id": str(i)}))
    return made


def test_the_voice_of_the_assistant_is_recognised_at_equal_length():
    voice = Voice(voices(), seed=0)
    assert voice.sensitivity > 0.8
    before = (
        Turn(role="user", text="how do i soup"),
        Turn(role="assistant", text="You boil " + "water " * 14),
    )
    turns = [
        Said(0, "what about my garden", ()),
        Said(0, "Certainly! Here is an overview of soup. First, consider", ()),
        Said(1, "How do I soup?", before),
        Said(1, "boil " + "water " * 12, before),
    ]
    found = slips(turns, voice, draws(2, 50, 0))
    own, assistants = voice.scores([turns[0].text, turns[1].text])
    assert own < voice.threshold < assistants
    assert 0.25 <= found.assistant_voice.value <= 0.5
    assert (found.repeats.value, found.copies_answer.value, found.turns) == (0.25, 0.25, 4)
    assert slips([Said(0, "As an AI I cannot", ())], voice, draws(1, 20, 0)).assistant_phrases.value == 1


def test_people_are_read_at_the_places_where_turns_are_drawn():
    conversation = talk("a", "b", "c", "d", "e", "f", "g", "h")
    assert [turn.text for turn in people([conversation], 2)] == ["a", "c", "e"]


# -- memorisation ----------------------------------------------------------------------------------


def test_a_run_of_thirty_tokens_of_the_training_set_is_found_and_one_of_29_is_not():
    r = renderer()
    secret = "the quick brown fox jumps over the lazy dog again and again"
    training = [talk(secret, "yes")]
    drawn = [
        "say " + secret[5:35],
        "say " + secret[5:34],
        "nothing of the kind was ever said to anybody here",
    ]
    found = memory.report(drawn, ["hi"], training, r)
    assert found.drawn[30].value == pytest.approx(1 / 3)
    assert found.drawn[15].value == pytest.approx(2 / 3)
    assert found.people[30].value == 0
    assert found.long_enough == {"drawn": 3, "people": 0}


# -- all of it -------------------------------------------------------------------------------------


def test_the_command_draws_all_tables(tiny_userlm, tmp_path, capsys):
    human, dev = invented(6, 1), invented(24, 2)
    human = [with_goal(c, f"settle matter {i}", ("cheap train", 1)) for i, c in enumerate(human)]
    dev = [with_goal(c, f"settle case {i}", ("cheap train", 1)) for i, c in enumerate(dev)]
    write_records(tmp_path / "human.jsonl", human)
    write_records(tmp_path / "dev.jsonl", dev)
    simulated = [c.model_copy(update={"origin": "simulated"}) for c in human]
    write_records(tmp_path / "sim.jsonl", simulated)
    arguments = [
        "model",
        str(tiny_userlm),
        "--human",
        f"{tmp_path}/human.jsonl",
        "--dev",
        f"{tmp_path}/dev.jsonl",
    ]
    arguments += ["--out", f"{tmp_path}/out", "--bootstrap", "30", "--draws", "3", "--control", "1", "--json"]
    arguments += [
        "--train",
        f"{tmp_path}/dev.jsonl",
        "--simulated",
        f"sim={tmp_path}/sim.jsonl",
        "--dev-limit",
        "24",
    ]
    assert run_main(main, arguments) == 0
    report = json.loads(capsys.readouterr().out)
    assert {a["attribute"] for a in report["control"]["attributes"]} == set(control.ATTRIBUTES)
    assert set(report["roles"]["speakers"]) == {"people", "tiny-userlm"}
    assert set(report["goals"]["disclosure"]) == {"people", "sim", "people, as annotated"}
    assert report["memory"]["training_conversations"] == 24
    page = (tmp_path / "out" / "report.html").read_text()
    assert all(f"<h2>{k} · " in page for k in range(1, 6))
    assert "settle matter" not in page
    assert run_main(markdown, [f"Invented={tmp_path}/out/report.json"]) == 0
    text = capsys.readouterr().out
    assert text.count("\n**") + text.startswith("**") == 8
    assert "| Invented | tiny-userlm | own goal |" in text


def test_a_journal_cut_at_any_byte_goes_on(tmp_path):
    path, identity = tmp_path / "d.jsonl", {"model": "größe"}
    journal = DrawJournal(path, identity)
    turns = {f"a{n}": UserTurn(text=f"ünï\u2028{n}\u0085", ends=False, end_probability=0.0, finish="end", logprob=0.0,
                              tokens=1, prompt_tokens=1) for n in range(3)}  # fmt: skip
    for key, turn in turns.items():
        journal.add(key, turn)
    whole = path.read_bytes()
    ends = [place for place, byte in enumerate(whole) if byte == 10]
    for size in range(len(whole) + 1):
        path.write_bytes(whole[:size])
        again = DrawJournal(path, identity)
        kept = sum(end < size for end in ends[1:])
        assert list(again.turns) == list(turns)[:kept]
        for key in list(turns)[kept:]:
            again.add(key, turns[key])
        assert DrawJournal(path, identity).turns == turns


def drawn_turn(text):
    return said(text).model_copy(update={"prompt_tokens": 1})


@contextmanager
def files_end_at(size):
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, before)


def test_a_full_disk_takes_nothing_from_the_drawn_turns(tmp_path):
    path, identity = tmp_path / "d.jsonl", {"model": "größe"}
    with files_end_at(10), pytest.raises(BackendError, match=r"d\.jsonl cannot be written \(.*make room"):
        DrawJournal(path, identity)
    journal = DrawJournal(path, identity)
    journal.add("a", drawn_turn("eins"))
    before = path.read_bytes()
    for room in (1, 20, 60):
        with files_end_at(len(before) + room), pytest.raises(BackendError, match="make room") as failed:
            journal.add("b", drawn_turn("zwei\u2028zwei"))
        assert "\n" not in str(failed.value)
        assert path.read_bytes() == before
    journal.add("b", drawn_turn("zwei\u2028zwei"))  # there is room again, in the same process
    assert list(DrawJournal(path, identity).turns) == ["a", "b"]


def test_the_place_of_drawn_turns_is_for_one_process(tmp_path, capsys, tiny_userlm):
    write_records(tmp_path / "h.jsonl", invented(12, 1))
    common = ["--human", str(tmp_path / "h.jsonl"), "--out", str(tmp_path / "out")]
    write_records(
        tmp_path / "s.jsonl", [c.model_copy(update={"origin": "simulated"}) for c in invented(4, 2)]
    )
    commands = (
        ["model", str(tiny_userlm), *common],
        ["userlm", *common, "--simulated", f"s={tmp_path / 's.jsonl'}"],
    )
    with locked(tmp_path / "out" / "drawn"):
        for arguments in commands:
            assert run_main(main, arguments) == 2
            assert "another process is writing to" in capsys.readouterr().err
