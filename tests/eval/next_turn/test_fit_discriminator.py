"""A discriminator fitted by the command, and the journals of turns that it chooses among."""

import json
import shutil
from pathlib import Path

import pytest

from eval.__main__ import main
from eval.next_turn.choose_decoding import chosen
from eval.next_turn.simulators.specifications import DrawSettings, simulator_from
from tests.eval.next_turn.test_decoding import TOPICS, row, talk
from usersim.errors import ConfigError
from usersim.storage.records import write_records
from usersim.users.discriminator import read_discriminator


def test_the_command_fits_and_then_decoding_is_chosen_with_it(tiny_userlm: Path, tmp_path: Path, capsys):
    folder, human = tmp_path / "model", tmp_path / "train.jsonl"
    shutil.copytree(tiny_userlm, folder)
    write_records(human, [talk(topic) for topic in TOPICS[:6]])
    common = ["--model", str(folder), "--human", str(human), "--language", "any", "--max-tokens", "8"]
    with pytest.raises(ConfigError, match="fit-discriminator"):
        simulator_from(f"s=userlm:{folder}", DrawSettings(best_of=4))
    assert main(["fit-discriminator", *common, "--drawn", str(tmp_path / "drawn"), "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["pairs"] == 12
    assert 0 <= facts["found"]["low"] <= facts["found"]["value"] <= facts["found"]["high"] <= 1
    assert read_discriminator(folder / "discriminator.npz").facts["pairs"] == 12
    words = ["--top-p", "1", "--temperature", "1", "--best-of", "1,2", "--out", str(tmp_path / "out")]
    assert main(["choose-decoding", *common, *words]) == 0
    choice = json.loads((tmp_path / "out" / "decoding.json").read_text())
    assert [result["best_of"] for result in choice["table"]] == [1, 2]
    one, two = (result["tokens_drawn"] for result in choice["table"])
    assert one < two <= 16
    plain, several = (simulator_from(f"s=userlm:{folder}", DrawSettings(best_of=n)).identity for n in (1, 2))
    assert several.keys() - plain.keys() == {"best_of", "discriminator"}


def test_at_a_tie_fewer_candidates_are_chosen():
    four = row(0.6).model_copy(update={"best_of": 4})
    assert chosen([four, row(0.6)]) == (1.0, 0.95, 1)
    assert chosen([four, row(0.7)]) == (1.0, 0.95, 4)
