"""P(end) calibrated: the curve, its fit, and what a User LM does with it."""

from __future__ import annotations

import asyncio
import json
import math
import random
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import CHATML, byte_tokenizer
from tests.usersim.rendering.test_render import END, LEFT, renderer, talk
from usersim.commands.calibrate import main
from usersim.decoding.end_calibration import Calibration, Decision, brier, fit
from usersim.errors import ConfigError, DataError
from usersim.rendering.renderer import Renderer, read_settings
from usersim.storage.records import write_records
from usersim.testing import ScriptedSampler
from usersim.types import Turn, UserTurn
from usersim.users.protocols import EndPolicy, TurnPiece, as_profile
from usersim.users.userlm import UserLM
from usersim.weights.default_model import resolve

HISTORY = [Turn(role="user", text="Book me a table"), Turn(role="assistant", text="Where?")]


def logit(p: float) -> float:
    return math.log(p / (1 - p))


def test_the_curve_is_this() -> None:
    curve = Calibration(slope=0.5, bias=-1, log_turns=2, first=0.3)
    assert logit(curve(0.2, user_turns=3)) == pytest.approx(0.5 * math.log(0.25) - 1 + 2 * math.log(3))
    assert logit(curve(0.2, user_turns=1)) == pytest.approx(0.5 * math.log(0.25) - 1 + 0.3)
    assert curve(0.2, user_turns=0) == curve(0.2, user_turns=1)
    assert Calibration()(0.37, user_turns=4) == pytest.approx(0.37)
    assert 0 < Calibration(bias=-99)(0.0, user_turns=2) < 1e-9
    assert Calibration(bias=99)(1.0, user_turns=2) == pytest.approx(1)


def drawn(curve: Calibration, count: int, seed: int) -> list[Decision]:
    """People who leave by `curve` of what a model says."""
    rng = random.Random(seed)
    made = []
    for _ in range(count):
        raw, turns = rng.uniform(0.02, 0.98), rng.randint(1, 8)
        made.append(Decision(raw, turns, rng.random() < curve(raw, user_turns=turns)))
    return made


def test_a_fit_finds_the_curve_that_people_leave_by_and_scores_better() -> None:
    true = Calibration(slope=0.6, bias=-1.5, log_turns=0.8, first=-1.0)
    found = fit(drawn(true, 8000, seed=0))
    assert found.slope == pytest.approx(true.slope, abs=0.08)
    assert found.bias == pytest.approx(true.bias, abs=0.3)
    assert found.log_turns == pytest.approx(true.log_turns, abs=0.2)
    assert found.first == pytest.approx(true.first, abs=0.4)
    others = drawn(true, 4000, seed=1)
    assert brier(others, found) < brier(others) - 0.02
    assert brier([Decision(0.25, 2, True), Decision(0.5, 2, False)]) == pytest.approx((0.75**2 + 0.5**2) / 2)


def test_where_nothing_can_be_learnt_nothing_changes() -> None:
    assert fit([]) == fit([Decision(0.4, 2, True)] * 9) == fit([Decision(0.4, 2, False)] * 9) == Calibration()
    few = fit([Decision(0.5, 2, True), Decision(0.5, 2, False)])
    assert few.model_dump() == pytest.approx({"slope": 1, "bias": 0, "log_turns": 0, "first": 0}, abs=1e-6)
    separable = fit([Decision(0.9, 2, True), Decision(0.1, 2, False)] * 500)
    assert 1 < separable.slope < 20


def user(curve: Calibration | None, *texts: str, raw: float) -> tuple[UserLM, ScriptedSampler]:
    settings = renderer().settings.model_copy(update={"calibration": curve})
    r = Renderer(byte_tokenizer(CHATML), settings)
    scripted = ScriptedSampler(*[[*r.encode(text), END] for text in texts], end_probability=raw)
    return UserLM(r, scripted), scripted


def test_leaving_is_sampled_from_the_calibrated_share_and_told() -> None:
    curve = Calibration(bias=logit(0.3) - logit(0.1))  # 0.1 becomes 0.3
    speaker, scripted = user(curve, *["rome"] * 800, raw=0.1)
    turns = [asyncio.run(speaker.sample(as_profile("eat"), HISTORY, seed=seed))[0] for seed in range(800)]
    assert sum(turn.ends for turn in turns) / 800 == pytest.approx(0.3, abs=0.05)
    assert [turn.end_probability for turn in turns] == pytest.approx([0.3] * 800)
    left = next(turn for turn in turns if turn.ends)
    assert (left.text, left.finish, left.logprob) == ("", "end", pytest.approx(math.log(0.3)))
    assert set(map(tuple, scripted.banned)) == {(LEFT,)}  # no second chance to leave among the words


def test_a_seed_decides_leaving_the_same_and_other_prompts_otherwise() -> None:
    curve = Calibration(bias=logit(0.5) - logit(0.1))

    def leaves(goal: str) -> list[bool]:
        speaker, _ = user(curve, *["rome"] * 60, raw=0.1)
        return [asyncio.run(speaker.sample(as_profile(goal), HISTORY, seed=s))[0].ends for s in range(60)]

    assert leaves("eat") == leaves("eat") != leaves("sleep")


@pytest.mark.parametrize(("mode", "ends"), [("never", False), ("threshold", True)])
def test_other_policies_go_by_the_calibrated_share(mode: Any, ends: bool) -> None:
    speaker, _ = user(Calibration(bias=logit(0.6) - logit(0.1)), "rome", "rome", raw=0.1)
    turn = asyncio.run(speaker.sample(as_profile("eat"), HISTORY, end=EndPolicy(mode=mode)))[0]
    assert (turn.ends, turn.end_probability) == (ends, pytest.approx(0.6))
    first = asyncio.run(speaker.sample(as_profile("eat"), [], end=EndPolicy(mode=mode)))[0]
    assert not first.ends  # nobody leaves before a word


def test_a_streamed_turn_decides_as_a_whole_one() -> None:
    curve = Calibration(bias=logit(0.5) - logit(0.1))

    async def streamed(seed: int) -> UserTurn:
        speaker, _ = user(curve, "rome", raw=0.1)
        pieces = [piece async for piece in speaker.stream(as_profile("eat"), HISTORY, seed=seed)]
        assert isinstance(pieces[0], TurnPiece)
        assert pieces[0].end_probability == pytest.approx(0.5)
        assert isinstance(pieces[-1], UserTurn)
        return pieces[-1]

    for seed in range(12):
        speaker, _ = user(curve, "rome", raw=0.1)
        whole = asyncio.run(speaker.sample(as_profile("eat"), HISTORY, seed=seed))[0]
        part = asyncio.run(streamed(seed))
        assert (part.ends, part.text) == (whole.ends, whole.text)


def test_rendering_is_the_same_with_and_without() -> None:
    plain, _ = user(None, "a", raw=0.1)
    curved, _ = user(Calibration(bias=1), "a", raw=0.1)
    assert plain.renderer.fingerprint == curved.renderer.fingerprint


@pytest.fixture
def model(tiny_userlm: Path, tmp_path: Path) -> Path:
    folder = tmp_path / "model"
    folder.mkdir()
    for file in tiny_userlm.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    return folder


def test_the_command_writes_what_it_found_and_a_user_reads_it(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    people = [
        talk("hi", "hello", "more", "so", "and", "that is it").model_copy(update={"id": f"c{i}"})
        for i in range(30)
    ]
    write_records(tmp_path / "dev.jsonl", people)
    assert main([str(model), str(tmp_path / "dev.jsonl"), "--dry-run", "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    # Three user turns and the end: the opening decides nothing, two went on, one left.
    assert (facts["decisions"], facts["left"]) == (90, pytest.approx(1 / 3))
    assert facts["brier_calibrated"] < facts["brier_of_a_constant"] < facts["brier"]
    assert read_settings(model).calibration is None
    assert main([str(model), str(tmp_path / "dev.jsonl"), "--json"]) == 0
    assert read_settings(resolve(model)).calibration == Calibration(**facts["calibration"])
    assert Renderer.from_pretrained(model).settings.end_probability(0.5, user_turns=3) != 0.5


def test_what_cannot_be_fitted_is_said(model: Path, tmp_path: Path) -> None:
    write_records(tmp_path / "cut.jsonl", [talk("hi", "hello", "more", "so", ended_by="cut")])
    with pytest.raises(DataError, match="no person leaves in 1 conversations"):
        main([str(model), str(tmp_path / "cut.jsonl")])
    write_records(tmp_path / "cut.jsonl", [talk("hi", "hello")])
    with pytest.raises(DataError, match="no person continues in 1 conversations"):
        main([str(model), str(tmp_path / "cut.jsonl")])
    with pytest.raises(ConfigError, match=r"no userlm\.json there"):
        main([str(tmp_path / "nothing"), str(tmp_path / "cut.jsonl")])
