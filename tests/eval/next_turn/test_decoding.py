"""Choice of decoding: the setting that family A tells from people least, and what the model carries of it."""

import json
import shutil
from pathlib import Path

import pytest

from eval.__main__ import main
from eval.next_turn.choose_decoding import SettingResult, chosen, compare_settings
from eval.next_turn.prefixes import prefixes_of
from eval.next_turn.simulators.specifications import simulator_from
from eval.next_turn.turns import NextTurn, SimulatedTurns, people_as_simulator
from usersim.decoding.end_calibration import Calibration
from usersim.errors import ConfigError, DataError
from usersim.rendering.renderer import read_settings, write_settings
from usersim.stats.estimates import Estimate
from usersim.storage.records import write_records
from usersim.types import Conversation, Turn

TOPICS = "bread soup chess music rivers bikes stars birds tents lamps".split()  # noqa: SIM905


def talk(topic):
    texts = (f"how do i find {topic}", f"Look for {topic}.", f"which {topic} are good", "All of them.")
    turns = tuple(Turn(role=("user", "assistant")[i % 2], text=text) for i, text in enumerate(texts))
    return Conversation(id=topic, origin="human", source="t", turns=turns, ended_by="user")


PREFIXES = [prefix for topic in TOPICS for prefix in prefixes_of(talk(topic))]


def row(value, *, temperature=1.0, top_p=0.95):
    accuracy = Estimate(value=value, low=value - 0.05, high=value + 0.05, n=9)
    return SettingResult(
        temperature=temperature, top_p=top_p, told_apart=accuracy, words=3, words_of_people=3
    )


def test_the_setting_nearest_a_half_is_chosen_from_either_side():
    assert chosen([row(0.7), row(0.58, top_p=0.8), row(0.45, temperature=0.8, top_p=1.0)]) == (0.8, 1.0, 1)
    assert chosen([row(0.7), row(0.58, top_p=0.8)]) == (1.0, 0.8, 1)


def test_a_tie_goes_to_the_default():
    assert chosen([row(0.6, top_p=0.8), row(0.4), row(0.6, top_p=1.0)]) == (1.0, 0.95, 1)
    assert chosen([row(0.6, top_p=0.8), row(0.6, top_p=0.9)]) == (1.0, 0.9, 1)  # the nearest to it


def test_people_are_not_told_from_themselves_and_another_voice_is():
    marked = {
        p.id: NextTurn(prefix=p.id, text=f"Certainly! {p.text} Certainly!")
        for p in PREFIXES
        if p.text is not None
    }
    drawn = {(1.0, 0.95, 1): SimulatedTurns("marked", marked), (0.8, 1.0, 1): people_as_simulator(PREFIXES)}
    table, shared = compare_settings(PREFIXES, drawn)
    assert len(shared) == 20
    assert [round(result.told_apart.value, 3) for result in table] == [1.0, 0.5]
    assert table[0].words == table[0].words_of_people + 2
    assert chosen(table) == (0.8, 1.0, 1)


def test_one_person_is_not_enough():
    own = prefixes_of(talk("bread"))
    with pytest.raises(DataError, match="two people"):
        compare_settings(own, {(1.0, 0.95, 1): people_as_simulator(own)})


@pytest.fixture
def dev(tmp_path):
    file = tmp_path / "dev.jsonl"
    write_records(file, [talk(topic) for topic in TOPICS[:5]])
    return file


def test_the_command_draws_judges_and_writes(dev: Path, tiny_userlm: Path, tmp_path: Path):
    out = tmp_path / "out"
    words = ["choose-decoding", "--model", tiny_userlm, "--human", dev, "--out", out, "--max-tokens", 8]
    words += ["--top-p", "0.9,1", "--temperature", "1", "--language", "any"]
    assert main([*map(str, words), "--dry-run"]) == 0
    assert not out.exists()
    assert main([*map(str, words)]) == 0
    choice = json.loads((out / "decoding.json").read_text())
    assert choice["temperature"] == 1.0
    assert choice["top_p"] in (0.9, 1.0)
    assert choice["max_tokens"] == 8
    assert [(r["temperature"], r["top_p"]) for r in choice["table"]] == [(1.0, 0.9), (1.0, 1.0)]
    assert len(list((out / "drawn").iterdir())) == 2


def test_turns_drawn_before_a_calibration_are_not_taken_for_those_after_it(tiny_userlm: Path, tmp_path: Path):
    folder = tmp_path / "model"
    shutil.copytree(tiny_userlm, folder)
    before = simulator_from(f"s=userlm:{folder}").identity
    settings = read_settings(folder)
    write_settings(settings.model_copy(update={"calibration": Calibration(slope=0.5)}), folder)
    after = simulator_from(f"s=userlm:{folder}").identity
    assert "calibration" not in before
    assert {key: value for key, value in after.items() if key != "calibration"} == before
    assert after != before


@pytest.mark.parametrize(
    ("option", "value", "why"),
    [("--top-p", "0.9,x", "numbers"), ("--top-p", "1.5", "at most 1"), ("--temperature", "0", "above 0")],
)
def test_a_value_that_cannot_be_sampled_with_is_named(option, value, why, dev, tiny_userlm, tmp_path):
    words = [
        "choose-decoding",
        "--model",
        str(tiny_userlm),
        "--human",
        str(dev),
        "--out",
        str(tmp_path / "o"),
    ]
    with pytest.raises(ConfigError, match=why):
        main([*words, option, value])
