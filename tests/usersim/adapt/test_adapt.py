"""`usersim adapt`: stages that resume and are skipped, plans on bad logs, and command lines that parse."""

from __future__ import annotations

import argparse
import importlib
import json
import os
import signal
import subprocess
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from usersim.adapt import stage_runner as adapt_run
from usersim.adapt.command import main
from usersim.adapt.config import AdaptConfig
from usersim.adapt.facts import Lengths, SplitFacts, feasibility, split_facts
from usersim.adapt.plan import Plan, estimates, make_plan, plan_lines, training_load, training_memory
from usersim.adapt.stage_runner import run_command, run_stages
from usersim.adapt.stages import Pipeline, copy_model, toml_lines
from usersim.adapt.state import FileHashes, read_state
from usersim.decoding.parameters import Sampling
from usersim.errors import ConfigError, DataError, UsersimError
from usersim.rendering.renderer import read_settings
from usersim.storage.records import write_json, write_records
from usersim.storage.toml_config import load_config
from usersim.training.config import TrainConfig
from usersim.types import Conversation, Turn, UserProfile

ROOT = Path(__file__).parents[3]
GPU = {"gpus": 1, "tflops": 1.0, "parameters": 1e9}


def talk(name: str, turns: int = 4, **fields: Any) -> Conversation:
    """Alternating turns of 42 characters, which count as ten tokens."""
    texts = tuple(Turn(role=("user", "assistant")[i % 2], text=f"{i:042d}") for i in range(turns))
    given = {"origin": "human", "source": "logs", "ended_by": "user", **fields}
    return Conversation(id=name, turns=texts, **given)


def chats(prefix: str, count: int, **fields: Any) -> list[Conversation]:
    return [talk(f"{prefix}{i}", **fields) for i in range(count)]


USERLM = {
    "chat_format": "chatml",
    "end_of_turn_id": 2,
    "end_of_conversation_id": 3,
    "context_tokens": 4096,
}


class Stubs:
    """Small stand-ins for the commands, by their first words; what was asked is kept."""

    def __init__(self, splits: dict[str, list[Conversation]] | None = None) -> None:
        self.splits = splits or {"train": chats("a", 120), "dev": chats("b", 30), "test": chats("c", 60)}
        self.read = sum(map(len, self.splits.values()))
        self.asked: list[str] = []
        self.fails: Callable[[str], int] = lambda name: 0

    def __call__(self, argv: tuple[str, ...]) -> int:
        words = list(argv[argv.index("usersim") + 1 :])
        name = " ".join(words[:2]) if words[0] in ("data", "eval", "population") else words[0]
        self.asked.append(name)
        getattr(self, name.replace(" ", "_").replace("-", "_"))(words)
        return self.fails(name)

    def option(self, words: list[str], name: str) -> Path:
        return Path(words[words.index(name) + 1])

    def prep(self, words: list[str]) -> None:
        out, has_goals = self.option(words, "--out"), "--goals" in words
        sheet: dict[str, Any] = {"steps": [{"in": self.read}], "splits": {}}
        for name, conversations in self.splits.items():
            kept = [
                c.model_copy(update={"profile": UserProfile(goal="find it")}) if has_goals else c
                for c in conversations
            ]
            write_records(out / f"{name}.jsonl", kept)
            sheet["splits"][name] = {
                "conversations": len(kept),
                "user_turns": 2 * len(kept),
                "with_goal": len(kept) * has_goals,
                "ended_by": {"user": len(kept)},
                "sources": {"logs": len(kept)},
            }
        write_json(out / "datasheet.json", sheet)

    def data_goals(self, words: list[str]) -> None:
        self.option(words, "--out").write_text('{"id": "a0", "goal": "find it"}\n')

    def train(self, words: list[str]) -> None:
        config = load_config(TrainConfig, words[1])
        out = Path(config.out)
        out.mkdir(parents=True, exist_ok=True)
        (out / "checkpoint").write_text("half way")
        if self.fails("train"):
            return
        write_json(out / "adapter" / "userlm.json", USERLM)
        weights = Path(config.train[0]).read_text() + str(config.start)
        (out / "adapter" / "adapter_model.safetensors").write_text(weights)
        facts = {
            "steps": 5,
            "tokens": 1234,
            "supervised_tokens": 321,
            "windows_seen": 60,
            "pass_windows": 120,
        }
        write_json(out / "summary.json", {**facts, "eval_loss": 2.5})

    def calibrate(self, words: list[str]) -> None:
        write_json(Path(words[1]) / "userlm.json", {**USERLM, "calibration": {"slope": 0.5}})
        numbers = dict.fromkeys(("left", "brier", "brier_calibrated", "brier_of_a_constant"), 0.25)
        write_json(self.option(words, "--json-out"), {"conversations": 30, "decisions": 60, **numbers})

    def eval_choose_decoding(self, words: list[str]) -> None:
        row = {
            "temperature": 0.8,
            "top_p": 0.9,
            "told_apart": {"value": 0.6, "low": 0.5, "high": 0.7},
            "words": 9.0,
        }
        choice = {"temperature": 0.8, "top_p": 0.9, "max_tokens": 192, "table": [row]}
        out = self.option(words, "--out")
        write_json(out / "decoding.json", {**choice, "prefixes": 90, "conversations": 30})

    def population_fit(self, words: list[str]) -> None:
        write_json(self.option(words, "--out"), {})

    def population_compare(self, words: list[str]) -> None:
        numbers = {"users": 5000, "people": 30, "mean_ks": 0.1, "mean_ks_by_chance": 0.05}
        write_json(self.option(words, "--json-out"), {**numbers, "distances": {"least_users": 0.75}})

    def eval_next_turn(self, words: list[str]) -> None:
        out = self.option(words, "--out")
        assert self.option(words, "--top-p") == Path("0.9")
        claim = {"label": "thanks", "reading": "like people"}
        simulators = [{"name": "mine", "claims": [claim]}]
        write_json(
            out / "report.json",
            {"prefixes": 120, "conversations": 60, "family_b_use": 1, "simulators": simulators},
        )
        (out / "report.html").write_text("<h1>mine</h1>")


@pytest.fixture
def logs(tmp_path: Path) -> Path:
    file = tmp_path / "logs.jsonl"
    file.write_text('{"messages": []}\n' * 3)
    return file


def pipeline(logs: Path, **tables: Any) -> Pipeline:
    values = {
        "out": str(logs.parent / "mine"),
        "data": {"sources": [f"messages:{logs}"]},
        "machine": GPU,
        **tables,
    }
    return Pipeline(AdaptConfig.model_validate(values))


def asked(stubs: Stubs) -> list[str]:
    """Commands since it was last asked for."""
    names, stubs.asked = stubs.asked, []
    return names


POPULATION = ["population fit", "population compare"]
ALL = ["prep", "train", "calibrate", "eval choose-decoding", *POPULATION, "eval next-turn"]


def test_a_run_ends_in_a_folder_with_everything(logs: Path) -> None:
    stubs, pipe = Stubs(), pipeline(logs)
    result = run_stages(pipe, execute=stubs)
    assert asked(stubs) == ALL
    assert result == logs.parent / "mine" / "userlm"
    assert {file.name for file in result.iterdir()} == {
        *("adapter_model.safetensors", "userlm.json", "population.json"),
        *("README.md", "certificate.json", "certificate.html"),
    }
    settings = read_settings(result)
    assert settings.calibration is not None
    assert settings.calibration.slope == 0.5
    assert settings.decoding == Sampling(temperature=0.8, top_p=0.9, max_tokens=192)
    assert read_settings(pipe.trained).calibration is None  # what was trained stays as it was
    card = (result / "README.md").read_text()
    for fact in (
        "| train | 120 |",
        "1,234",
        "50%",
        "0.600 [0.500, 0.700]",
        "Like people: thanks.",
        "Use 1 of",
    ):
        assert fact in card


def test_a_second_run_does_nothing(logs: Path) -> None:
    stubs = Stubs()
    run_stages(pipeline(logs), execute=stubs)
    asked(stubs)
    run_stages(pipeline(logs), execute=stubs)
    assert asked(stubs) == []


def test_a_changed_setting_runs_its_stage_and_what_depends_on_it(logs: Path) -> None:
    stubs = Stubs()
    run_stages(pipeline(logs), execute=stubs)
    asked(stubs)
    run_stages(pipeline(logs, decoding={"top_p": [0.9]}), execute=stubs)
    # The same choice came of it, byte for byte, so nothing after it is outdated.
    assert asked(stubs) == ["eval choose-decoding"]
    assert (logs.parent / "mine" / "replaced" / "decoding-1" / "decoding.json").is_file()
    run_stages(pipeline(logs, decoding={"top_p": [0.9]}, certificate={"conversations": 50}), execute=stubs)
    assert asked(stubs) == ["eval next-turn"]


def test_new_logs_run_everything_and_earlier_training_is_set_aside(logs: Path) -> None:
    stubs, folder = Stubs(), logs.parent / "mine"
    run_stages(pipeline(logs), execute=stubs)
    asked(stubs)
    logs.write_text('{"messages": []}\n' * 4)
    stubs.splits["train"] = chats("z", 130)
    run_stages(pipeline(logs), execute=stubs)
    assert asked(stubs) == ALL
    assert (folder / "replaced" / "train-1-1" / "adapter" / "adapter_model.safetensors").is_file()


def test_a_new_version_of_usersim_runs_everything(logs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stubs = Stubs()
    run_stages(pipeline(logs), execute=stubs)
    asked(stubs)
    monkeypatch.setattr(adapt_run.usersim, "__version__", "99")
    run_stages(pipeline(logs), execute=stubs)
    assert asked(stubs) == ALL


def test_a_stage_that_fails_is_resumed_where_it_was(logs: Path) -> None:
    stubs, folder = Stubs(), logs.parent / "mine"
    stubs.fails = lambda name: 2 * (name == "train")
    with pytest.raises(
        UsersimError, match=r"train-1: stopped with exit status 2 .*run the same command again"
    ):
        run_stages(pipeline(logs), execute=stubs)
    assert asked(stubs) == ["prep", "train"]
    stubs.fails = lambda name: 0
    run_stages(pipeline(logs), execute=stubs)
    assert asked(stubs) == ALL[1:]
    assert (folder / "train-1" / "checkpoint").is_file()
    assert not (folder / "replaced").exists()


def test_an_interrupt_goes_on_as_one(logs: Path) -> None:
    stubs = Stubs()
    stubs.fails = lambda name: 130 * (name == "calibrate")
    with pytest.raises(KeyboardInterrupt):
        run_stages(pipeline(logs), execute=stubs)
    state = read_state(logs.parent / "mine", "calibrate")
    assert state is not None
    assert state.status == "started"


KILLED = """
import os, signal, sys
from pathlib import Path
from tests.usersim.adapt.test_adapt import Stubs, pipeline, run_stages

class Killed(Stubs):
    def train(self, words):
        self.fails = lambda name: 1
        super().train(words)
        os.kill(os.getpid(), signal.SIGKILL)

run_stages(pipeline(Path(sys.argv[1])), execute=Killed())
"""


def test_a_killed_run_resumes_the_stage_it_was_in(logs: Path) -> None:
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    killed = subprocess.run([sys.executable, "-c", KILLED, str(logs)], env=env, cwd=ROOT, capture_output=True)
    assert killed.returncode == -signal.SIGKILL, killed.stderr.decode()
    stubs, folder = Stubs(), logs.parent / "mine"
    assert (folder / "train-1" / "checkpoint").is_file()
    assert not pipeline(logs).result.exists()
    run_stages(pipeline(logs), execute=stubs)
    assert asked(stubs) == ALL[1:]
    assert not (folder / "replaced").exists()


def test_a_damaged_or_missing_result_is_made_again(logs: Path) -> None:
    stubs, pipe = Stubs(), pipeline(logs)
    run_stages(pipe, execute=stubs)
    asked(stubs)
    (pipe.trained / "adapter_model.safetensors").unlink()
    run_stages(pipeline(logs), execute=stubs)
    assert asked(stubs) == ["train"]  # the same bytes came of it
    (pipe.run / "certificate" / "report.html").write_text("<h1>edited</h1>")
    run_stages(pipeline(logs), execute=stubs)
    assert asked(stubs) == ["eval next-turn"]


def test_a_stage_can_be_run_again(logs: Path) -> None:
    stubs = Stubs()
    run_stages(pipeline(logs), execute=stubs)
    asked(stubs)
    run_stages(pipeline(logs), execute=stubs, again="decoding")
    assert asked(stubs) == ["eval choose-decoding"]


def test_goals_are_written_for_chats_without_one_and_joined(logs: Path) -> None:
    stubs, pipe = Stubs(), pipeline(logs, goals={"writer": "local"})
    stubs.splits["dev"][0] = talk("goal", profile=UserProfile(goal="known"))
    run_stages(pipe, execute=stubs)
    assert asked(stubs) == ["prep", "data goals", "prep", *ALL[1:]]
    missing = (pipe.run / "goals" / "without_goal.jsonl").read_text().splitlines()
    assert len(missing) == 120 + 29 + 60
    assert "with a goal" in (pipe.result / "README.md").read_text()
    assert [stage.name for stage in pipe.stages][:3] == ["prep", "goals", "join"]


def test_legs_follow_one_another(logs: Path) -> None:
    legs = [{"max_steps": 10, "schedule": "constant"}, {"schedule": "linear"}]
    stubs, pipe = Stubs(), pipeline(logs, train={"values": {"lr": 1e-4}, "legs": legs})
    run_stages(pipe, execute=stubs)
    assert stubs.asked.count("train") == 2
    first, second = (load_config(TrainConfig, pipe.run / "configs" / f"train-{n}.toml") for n in (1, 2))
    assert (first.lr, first.max_steps, first.schedule, first.start, first.skip) == (
        1e-4,
        10,
        "constant",
        None,
        0,
    )
    assert (second.lr, second.schedule, second.skip) == (1e-4, "linear", "ledger")
    assert second.start == str(pipe.run / "train-1")
    asked(stubs)
    changed = [legs[0], {"schedule": "cosine"}]
    run_stages(pipeline(logs, train={"values": {"lr": 1e-4}, "legs": changed}), execute=stubs)
    assert stubs.asked[0] == "train"
    assert stubs.asked.count("train") == 1  # the first leg stays


def test_two_runs_in_one_folder_do_not_meet(logs: Path) -> None:
    with (
        adapt_run.locked(logs.parent / "mine"),
        pytest.raises(UsersimError, match="another process is writing"),
    ):
        run_stages(pipeline(logs), execute=Stubs())


# -- commands as processes -------------------------------------------------------------------------


def test_exit_statuses_are_those_of_a_shell() -> None:
    assert run_command((sys.executable, "-c", "raise SystemExit(3)")) == 3
    assert run_command((sys.executable, "-c", "import os; os.kill(os.getpid(), 9)")) == 137


STOPS = """
import os, pathlib, signal, sys
def stop(*_):
    pathlib.Path(sys.argv[1]).write_text("saved")
    raise SystemExit(0)
signal.signal(signal.SIGTERM, stop)
os.kill(os.getppid(), signal.SIGTERM)
while True:
    signal.pause()
"""


def test_sigterm_reaches_the_command_and_ends_the_run(tmp_path: Path) -> None:
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(KeyboardInterrupt):
        run_command((sys.executable, "-c", STOPS, str(tmp_path / "mark")))
    assert (tmp_path / "mark").read_text() == "saved"
    assert signal.getsignal(signal.SIGTERM) is before


# -- plans -----------------------------------------------------------------------------------------


def facts(**splits: list[Conversation]) -> dict[str, SplitFacts]:
    return {name: _facts_of(conversations) for name, conversations in splits.items()}


def _facts_of(conversations: list[Conversation]) -> SplitFacts:
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "split.jsonl"
        write_records(file, conversations)
        return split_facts(file, user_limit=160, assistant_limit=56)


def plan_of(logs: Path, splits: dict[str, list[Conversation]], **tables: Any) -> Plan:
    return make_plan(pipeline(logs, **tables), execute=Stubs(splits))


def test_counts_of_a_split() -> None:
    split = _facts_of([talk("a"), talk("b", turns=3), talk("c", turns=1, user="p"), talk("d", user="p")])
    # Two of them end with the assistant; a and d have a second user turn, and so has b.
    assert (split.conversations, split.people, split.user_turns) == (4, 3, 7)
    assert (split.answered, split.left, split.went_on, split.with_goal) == (3, 2, 3, 0)
    # 40 tokens of profile, and 15 of each turn of 42 characters.
    assert split.lengths[0] == Lengths(opening=55, whole=100, user_turns=2, has_goal=False)


def test_a_large_split_is_counted_by_a_sample(tmp_path: Path) -> None:
    file = tmp_path / "split.jsonl"
    write_records(file, chats("a", 40))
    split = split_facts(file, user_limit=160, assistant_limit=56, sampled=10)
    assert (split.conversations, split.user_turns, len(split.lengths)) == (40, 80, 10)
    assert split_facts(tmp_path / "none.jsonl", user_limit=1, assistant_limit=1) == SplitFacts()


GOOD = {"train": chats("a", 120), "dev": chats("b", 30), "test": chats("c", 60)}


def changed(**fields: Any) -> dict[str, list[Conversation]]:
    return {name: [c.model_copy(update=fields) for c in own] for name, own in GOOD.items()}


def test_logs_without_ends(logs: Path) -> None:
    plan = plan_of(logs, changed(ended_by="cut"))
    assert plan.stop is None
    assert any("learns no ends" in warning and "end.mode=never" in warning for warning in plan.warnings)
    by_name = {stage.stage: stage for stage in plan.stages}
    assert "0 ends" in str(by_name["calibrate"].left_out)
    assert by_name["decoding"].left_out is by_name["certificate"].left_out is None


def test_logs_without_assistants(logs: Path) -> None:
    plan = plan_of(logs, changed(turns=(Turn(role="user", text="hello"),), ended_by="unknown"))
    assert plan.stop is None
    assert any("No chat has an assistant message" in warning for warning in plan.warnings)
    left_out = {stage.stage for stage in plan.stages if stage.left_out}
    assert left_out == {"calibrate", "decoding", "certificate"}


def test_logs_of_one_person(logs: Path) -> None:
    own = [talk(f"a{i}", user="one", group="one") for i in range(200)]
    plan = plan_of(logs, {"train": own, "dev": [], "test": []})
    assert plan.stop is not None
    assert "All 200 chats are of one person" in plan.stop
    assert "Take the person's id out" in plan.stop
    with pytest.raises(DataError, match="of one person"):
        run_stages(pipeline(logs), execute=(stubs := Stubs({"train": own, "dev": [], "test": []})))
    assert asked(stubs) == ["prep"]


def test_thirty_chats(logs: Path) -> None:
    plan = plan_of(logs, {"train": chats("a", 26), "dev": chats("b", 2), "test": chats("c", 2)})
    assert plan.stop is None
    assert any('start = "userlm-135m"' in warning for warning in plan.warnings)
    reasons = {stage.stage: stage.left_out for stage in plan.stages}
    assert "dev has 2 ends" in str(reasons["calibrate"])
    assert "stay at their defaults" in str(reasons["decoding"])
    assert "the model is not measured" in str(reasons["certificate"])
    stubs = Stubs({"train": chats("a", 26), "dev": chats("b", 2), "test": chats("c", 2)})
    result = run_stages(pipeline(logs), execute=stubs)
    assert asked(stubs) == ["prep", "train"]
    assert read_settings(result).calibration is None
    assert read_settings(result).decoding is None
    assert "Only 26 training chats" in (result / "README.md").read_text()


def test_a_dev_split_that_came_out_empty_names_the_remedy() -> None:
    judged = feasibility(facts(train=chats("a", 9), dev=[], test=chats("c", 1)))
    assert judged.stop is not None
    assert "No chat of 10 falls into dev" in judged.stop
    assert "split_fractions" in judged.stop
    assert "No chat is left" in str(feasibility({}).stop)


def test_good_logs_have_nothing_to_complain_of_but_goals(logs: Path) -> None:
    plan = plan_of(logs, GOOD)
    assert [warning for warning in plan.warnings if "No chat has a goal" not in warning] == []
    lines = "\n".join(plan_lines(plan))
    assert "train 120 chats of 120 people, 240 user turns, 120 known ends" in lines
    assert "usersim eval choose-decoding" in lines
    assert not (logs.parent / "mine").exists()


def test_hours_tokens_and_memory_by_hand(logs: Path) -> None:
    train = {"values": {"batch": 8, "max_steps": 5, "micro_batch": 1, "eval_every": 100}}
    pipe = pipeline(logs, train=train)
    counted = facts(**GOOD)
    load = training_load(pipe, counted)
    # 120 chats, each one window of 100 tokens; five steps of eight windows see a third of them.
    assert (load.pass_windows, load.pass_tokens, load.tokens) == (120, 12_000, (4_000,))
    seconds = estimates(pipe, counted)
    # 1e9 parameters: 4 FLOPs a token trained on, 2 for each of 60 dev chats of 100 tokens, at 1e12 a second.
    assert seconds["train-1"] == pytest.approx(15 + 1e9 * (4 * 4_000 + 2 * 6_000) / 1e12)
    # 8 settings, 30 chats with two prefixes; half of 100 tokens read, 25 written at a fiftieth of the rate.
    draw = 2e9 * (50 / 1e12 + 25 / 2e10)
    assert seconds["decoding"] == pytest.approx(8 * 15 + 8 * 60 * draw)
    full = pipeline(logs, train={"values": {**train["values"], "method": "full"}})
    half = pipeline(logs, train={"values": {**train["values"], "method": "full", "weights": "bf16"}})
    memory, less = training_memory(full), training_memory(half)
    assert memory is not None
    assert less is not None
    assert memory - less == pytest.approx(8e9)  # 16 bytes a parameter against 8


def probed(read: int) -> Stubs:
    """A preparation that has read so many chats and kept the good ones."""
    stubs = Stubs(GOOD)
    stubs.read = read
    return stubs


def test_a_probe_is_scaled_to_the_lines_of_the_logs(logs: Path) -> None:
    logs.write_text('{"messages": []}\n' * 1000)
    plan = make_plan(pipeline(logs), execute=probed(400))
    assert plan.splits["train"].conversations == 300  # 120 · 1000 / 400
    assert "scaled by about 2.5" in plan.counted_in


def test_a_probe_of_logs_that_cannot_be_counted_concludes_nothing_from_few(logs: Path) -> None:
    table = logs.with_name("logs.parquet")
    table.write_bytes(b"PAR1")
    pipe = pipeline(logs, data={"sources": [f"messages:{table}"]})
    few = {"train": chats("a", 26), "dev": chats("b", 2), "test": chats("c", 2)}
    stubs = Stubs(few)
    stubs.read = 400
    plan = make_plan(pipe, execute=stubs)
    assert "there are more" in plan.counted_in
    assert [warning.partition(":")[0] for warning in plan.warnings] == ["No chat has a goal"]
    assert [stage.stage for stage in plan.stages if stage.left_out] == []


def test_a_leg_without_anything_left_is_told(logs: Path) -> None:
    legs = [{"max_steps": 15}, {"max_steps": 5}]
    plan = plan_of(logs, GOOD, train={"values": {"batch": 8}, "legs": legs})
    assert any("Leg 2 of the training has nothing left" in warning for warning in plan.warnings)
    plan = plan_of(logs, GOOD, train={"values": {"batch": 8}, "legs": [{"max_steps": 14}, {"max_steps": 5}]})
    assert not any("Leg 2" in warning for warning in plan.warnings)


def test_a_failed_probe_is_an_error(logs: Path) -> None:
    stubs = Stubs(GOOD)
    stubs.fails = lambda name: 2
    with pytest.raises(UsersimError, match="could not be prepared"):
        make_plan(pipeline(logs), execute=stubs)


def test_the_command_takes_options_and_overrides_in_any_order(
    logs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = logs.with_name("adapt.toml")
    file.write_text(
        f'out = "{logs.parent}/mine"\n[data]\nsources = ["messages:{logs}"]\n[machine]\ngpus = 8\n'
    )
    main([str(file), "--dry-run", "--no-probe", "--json", "machine.gpu_gib=40", "machine.parameters=1e9"])
    plan = json.loads(capsys.readouterr().out)
    assert plan["machine_gib"] == 40
    assert [stage["stage"] for stage in plan["stages"]][-2:] == ["certificate", "userlm"]
    with pytest.raises(ConfigError, match="no such stage; one of prep, train-1"):
        main([str(file), "--again", "bake"])


def test_a_plan_knows_what_is_done(logs: Path) -> None:
    run_stages(pipeline(logs), execute=Stubs())
    stubs = Stubs()
    plan = make_plan(pipeline(logs, certificate={"conversations": 50}), execute=stubs)
    assert stubs.asked == []  # counted in the prepared splits
    kinds = {stage.stage: stage.standing for stage in plan.stages}
    assert kinds["prep"] == kinds["train-1"] == kinds["decoding"] == "done"
    assert kinds["certificate"] == "anew: its config changed"
    assert plan.counted_in == "the prepared splits"
    both = {"decoding": {"top_p": [0.9]}, "certificate": {"conversations": 50}}
    kinds = {stage.stage: stage.standing for stage in make_plan(pipeline(logs, **both), execute=stubs).stages}
    assert kinds["decoding"] == kinds["certificate"] == "anew: its config changed"
    assert kinds["population"] == kinds["userlm"] == "done, unless what it reads changes"


# -- configs and command lines ---------------------------------------------------------------------


CONFIGS = sorted(path.name for path in (ROOT / "configs" / "adapt").glob("*.toml"))


@pytest.mark.parametrize("name", CONFIGS)
def test_command_lines_of_the_shipped_configs_parse(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    pipe = Pipeline(load_config(AdaptConfig, ROOT / "configs" / "adapt" / name, [f"out={tmp_path / 'run'}"]))
    for stage in pipe.stages:
        for argv in stage.commands():
            words = list(argv[argv.index("usersim") + 1 :])
            if words[0] == "train":
                stage.prepare()
            PARSERS[words[0]](words[1:])


def _parse_prep(words: list[str]) -> None:
    from data_prep.__main__ import parser, read_settings

    read_settings(parser().parse_args(words))


def _parse_data(words: list[str]) -> None:
    from data_prep.goals.command import _parser

    assert words[0] == "goals"
    _parser().parse_args(words[1:])


def _parse_train(words: list[str]) -> None:
    load_config(TrainConfig, words[0])


def _parse_calibrate(words: list[str]) -> None:
    from usersim.commands.calibrate import main

    with pytest.raises(UsersimError, match="no such file"):  # past the parser
        main(words)


def _parse_eval(words: list[str]) -> None:
    from eval.__main__ import COMMANDS

    parser = argparse.ArgumentParser()
    importlib.import_module(COMMANDS[words[0]][0]).add_arguments(parser)
    parser.parse_args(words[1:])


def _parse_population(words: list[str]) -> None:
    main = pytest.importorskip("usersim.commands.population").main
    with pytest.raises(UsersimError, match=r"no such file|no population there"):
        main(words)


PARSERS: dict[str, Callable[[list[str]], None]] = {
    "prep": _parse_prep,
    "data": _parse_data,
    "train": _parse_train,
    "calibrate": _parse_calibrate,
    "eval": _parse_eval,
    "population": _parse_population,
}


def test_a_config_is_written_as_the_toml_it_came_from() -> None:
    values = {"out": 'a "b" \\ ü', "lr": 1e-05, "train": ["x"], "acts": True, "limits": {"user_head": 9}}
    assert tomllib.loads("\n".join(toml_lines(values))) == values


@pytest.mark.parametrize(
    ("tables", "why"),
    [
        ({"data": {"ends": "cut"}}, "give `recipe`, or `sources`"),
        ({"data": {"recipe": "r.toml", "sources": ["a"]}}, "not both"),
        ({"goals": {"writer": "teacher"}}, "teacher_url"),
        ({"train": {"values": {"train": ["x.jsonl"]}}}, "follows from the run directory"),
        ({"train": {"values": {"lr": -1}}}, "train: lr"),
        ({"train": {"values": {"lrr": 1}}}, "train: lrr"),
        ({"train": {"values": {"method": "full"}, "legs": [{}, {}]}}, "only an adapter"),
        ({"train": {"legs": [{}, {"start": "x"}]}}, "no start"),
        ({"train": {"values": {"start": "nowhere"}}}, "no adapter there"),
        ({"train": {"config": "nowhere.toml"}}, "no such config file"),
    ],
)
def test_a_config_that_cannot_be_run_is_refused_at_once(tables: dict[str, Any], why: str, logs: Path) -> None:
    values = {"out": "mine", "data": {"sources": ["sharegpt"]}, **tables}
    file = logs.parent / "adapt.toml"
    file.write_text("\n".join(toml_lines({k: v for k, v in values.items() if k != "train"})))
    overrides = [f"train={_inline(values['train'])}"] if "train" in values else []
    with pytest.raises(ConfigError, match=why):
        Pipeline(load_config(AdaptConfig, file, overrides))


def _inline(value: Any) -> str:
    """A TOML inline table or value."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key} = {_inline(own)}" for key, own in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(_inline, value)) + "]"
    return json.dumps(value)


def test_weights_are_linked_and_settings_are_copied(tmp_path: Path) -> None:
    source, target = tmp_path / "a", tmp_path / "b"
    source.mkdir()
    (source / "adapter_model.safetensors").write_text("w")
    (source / "userlm.json").write_text("{}")
    copy_model(source, target)
    (target / "userlm.json").write_text("[]")
    assert (source / "userlm.json").read_text() == "{}"
    assert (target / "adapter_model.safetensors").samefile(source / "adapter_model.safetensors")


def test_a_hash_is_kept_until_the_file_changes(tmp_path: Path) -> None:
    file, cache = tmp_path / "f", tmp_path / "hashes.json"
    file.write_text("one")
    hashes = FileHashes(cache)
    first = hashes.of(file)
    hashes.keep()
    assert FileHashes(cache).of(file) == first
    file.write_text("three")
    assert FileHashes(cache).of(file) != first
    assert hashes.of(tmp_path / "none") == "missing"
