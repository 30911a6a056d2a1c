"""What goes wrong in training: kills, bad numbers, full disks, other bases, no wandb. The last good state is kept."""

from __future__ import annotations

import json
import logging
import os
import resource
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from tests.conftest import make_base
from tests.usersim.training.test_train import chats, config
from usersim.errors import BackendError, ConfigError, DataError
from usersim.storage.locks import locked
from usersim.storage.records import whole_lines, write_records
from usersim.storage.runs import RunDir
from usersim.training.checkpoints import last_checkpoint
from usersim.training.config import start_folder
from usersim.training.finetune import LoraSettings, TrainConfig, UserTrainer, dry_run, train
from usersim.weights.default_model import SHIPPED_ADAPTER

# Trains each config given and dies by SIGKILL before step 5; the checkpoints are those of step 2 and 4.
KILLED = """
import os, signal, sys
from usersim.training.finetune import TrainConfig, UserTrainer, train

step = UserTrainer.training_step
def dying(self, *args, **kwargs):
    if self.state.global_step == 5:
        os.kill(os.getpid(), signal.SIGKILL)
    return step(self, *args, **kwargs)
UserTrainer.training_step = dying

for path in sys.argv[1:]:
    child = os.fork()
    if not child:
        train(TrainConfig.model_validate_json(open(path).read()))
        os._exit(0)
    status = os.waitpid(child, 0)[1]
    assert os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL, status
"""
KINDS = ("lora", "full", "start")


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """Two threads on matrices of 32 columns mostly wait for each other."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    write_records(folder / "train.jsonl", chats(32))
    write_records(folder / "dev.jsonl", chats(3))
    return folder


def settings(base: Path, data: Path, out: Path, kind: str = "lora", **changes: Any) -> TrainConfig:
    values: dict[str, Any] = {"max_steps": 8, "eval_every": 4, "save_every": 2, **changes}
    values["method"] = "full" if kind == "full" else "lora"
    if kind == "lora":
        values["lora"] = LoraSettings(
            rank=4, alpha=8, dropout=0.2
        )  # so that the state of the generator counts
    if kind == "start":
        values["start"] = str(data / "first")  # a run as well as its adapter
    return config(base, data, out, **values)


def logged(out: Path) -> list[dict[str, Any]]:
    """metrics.jsonl without what depends on the clock."""
    lines = [values for _, _, values in whole_lines(out / "metrics.jsonl")]
    return [{k: v for k, v in line.items() if k not in ("elapsed_s", "tokens_per_s")} for line in lines]


def sampled(out: Path) -> list[str]:
    return [values["id"] for _, _, values in whole_lines(out / "samples.jsonl")]


@pytest.fixture(scope="module")
def killed(tiny_base: Path, data: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A run of each kind, killed between checkpoints."""
    folder = tmp_path_factory.mktemp("killed")
    train(config(tiny_base, data, data / "first", max_steps=2, eval_every=2))
    for kind in KINDS:
        (folder / f"{kind}.json").write_text(
            settings(tiny_base, data, folder / kind, kind).model_dump_json(exclude_none=True)
        )
    (folder / "killed.py").write_text(KILLED)
    done = subprocess.run(
        [sys.executable, str(folder / "killed.py"), *(str(folder / f"{kind}.json") for kind in KINDS)],
        env={**os.environ, "PYTHONPATH": str(Path.cwd()), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return {kind: folder / kind for kind in KINDS}


@pytest.mark.parametrize("kind", KINDS)
def test_a_killed_run_goes_on_exactly(
    kind: str, killed: dict[str, Path], tiny_base: Path, data: Path, tmp_path: Path
) -> None:
    out = killed[kind]
    # As if it had been killed while saving as well, and while writing a line.
    half = out / "checkpoints" / "checkpoint-6"
    shutil.copytree(out / "checkpoints" / "checkpoint-4", half)
    (half / "trainer_state.json").write_text('{"global_step": 6, "log_his')
    with (out / "metrics.jsonl").open("ab") as stream:
        stream.write('{"step": 5, "loss": 1.0}\n{"step": 6, "é'.encode()[:-1])  # in the midst of a character
    train(settings(tiny_base, data, out, kind))
    straight = tmp_path / "straight"
    train(settings(tiny_base, data, straight, kind))
    assert logged(out) == logged(straight)  # to the last bit, and no step twice
    assert [line["step"] for line in logged(out)] == [2, 4, 4, 6, 8, 8]
    assert sampled(out) == sampled(straight)
    assert len(set(sampled(out))) == len(sampled(out)) > 0


@pytest.fixture
def poison() -> Iterator[Any]:
    """`poison(step, how)`: at that step the gradients are spoilt."""
    original = UserTrainer.compute_loss

    def at(step: int, value: float) -> None:
        def spoilt(self: Any, model: Any, inputs: Any, *args: Any, **kwargs: Any) -> Any:
            loss = original(self, model, inputs, *args, **kwargs)
            return loss * value if self.state.global_step == step - 1 else loss

        UserTrainer.compute_loss = spoilt  # type: ignore[method-assign]

    yield at
    UserTrainer.compute_loss = original  # type: ignore[method-assign]


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_loss_that_is_not_finite_stops_the_run_before_it_is_saved(
    value: float, poison: Any, tiny_base: Path, data: Path, tmp_path: Path
) -> None:
    run = settings(tiny_base, data, tmp_path / "run")
    poison(4, value)  # a step that saves: weights spoilt by it must not get into a checkpoint
    with pytest.raises(BackendError, match=r"not finite at step 4; lower lr \(checkpoint-2 is kept\)"):
        train(run)
    last = last_checkpoint(tmp_path / "run" / "checkpoints")
    assert last is not None
    assert last.name == "checkpoint-2"
    weights = load_file(last / "adapter_model.safetensors")
    assert all(bool(torch.isfinite(weight).all()) for weight in weights.values())


def test_a_disk_that_fills_up_while_saving_keeps_what_was_saved(
    tiny_base: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = settings(tiny_base, data, tmp_path / "run")
    save = UserTrainer._save_optimizer_and_scheduler  # type: ignore[attr-defined]

    def without_room(self: Any, folder: str) -> None:
        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (2000 if self.state.global_step == 4 else soft, hard))
        try:
            save(self, folder)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))

    monkeypatch.setattr(UserTrainer, "_save_optimizer_and_scheduler", without_room)
    with pytest.raises(BackendError, match=r"checkpoint-4 could not be saved .*make room") as failed:
        train(run)
    assert "\n" not in str(failed.value)
    assert [path.name for path in (tmp_path / "run/checkpoints").glob("checkpoint-*")] == ["checkpoint-2"]
    monkeypatch.undo()
    train(run)
    assert [line["step"] for line in logged(tmp_path / "run")] == [2, 4, 4, 6, 8, 8]


def test_a_result_that_cannot_be_saved_leaves_the_previous_one(
    tiny_base: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = settings(tiny_base, data, tmp_path / "run", max_steps=2)
    before = (train(run) / "adapter_model.safetensors").read_bytes()
    full = OSError(28, "No space left on device")
    monkeypatch.setattr("peft.peft_model.safe_save_file", lambda *a, **k: (_ for _ in ()).throw(full))
    with pytest.raises(BackendError, match="No space left on device"):
        train(run, export=True)
    assert (tmp_path / "run/adapter/adapter_model.safetensors").read_bytes() == before
    assert not (tmp_path / "run/.adapter").exists()


def test_a_run_does_not_go_on_with_another_base_or_config(
    tiny_base: Path, data: Path, tmp_path: Path
) -> None:
    base, out = tmp_path / "base", tmp_path / "run"
    shutil.copytree(tiny_base, base)
    run = settings(base, data, out, max_steps=2)
    train(run)
    with pytest.raises(ConfigError, match="another config \\(differs in: lr\\)"):
        train(run.model_copy(update={"lr": 1e-3}))
    make_other(base)
    with pytest.raises(ConfigError, match="another base"):
        train(run)
    (out / "config.json").unlink()
    with pytest.raises(ConfigError, match="unknown run"):
        train(run)


def make_other(base: Path) -> None:
    """Weights of the same shape under the same path."""
    from safetensors.torch import save_file

    file = base / "model.safetensors"
    save_file({k: v + 0.01 for k, v in load_file(file).items()}, file, metadata={"format": "pt"})


def test_a_field_added_since_does_not_make_a_run_another(tiny_base: Path, data: Path, tmp_path: Path) -> None:
    run = settings(tiny_base, data, tmp_path)
    old = {k: v for k, v in run.model_dump(mode="json").items() if k not in ("attention", "weights")}
    (tmp_path / "config.json").write_text(json.dumps(old))
    RunDir(tmp_path, run).metric(step=1)
    with pytest.raises(ConfigError, match="weights"):
        RunDir(tmp_path, run.model_copy(update={"weights": "bf16"}))


def test_what_cannot_be_trained_is_refused_before_anything_is_written(
    tiny_base: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "run"
    with pytest.raises(ConfigError, match="needs method=lora"):
        train(config(tiny_base, data, out, method="full", start="runs/x/adapter"))
    with pytest.raises(ConfigError, match="batch=4 is not a multiple of micro_batch=3"):
        train(config(tiny_base, data, out, micro_batch=3))
    monkeypatch.setenv("WORLD_SIZE", "4")
    with pytest.raises(ConfigError, match="micro_batch=2 times 4 processes"):
        train(config(tiny_base, data, out))
    assert not out.exists()


def test_a_run_that_failed_before_its_first_step_refuses_no_corrected_one(
    tiny_base: Path, data: Path, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    wrong = config(tiny_base, data, out, train=(str(tmp_path / "nowhere.jsonl"),), max_steps=2)
    with pytest.raises(DataError, match="no such file"):
        train(wrong)
    right = wrong.model_copy(update={"train": (str(data / "train.jsonl"),)})
    assert train(right) == out / "adapter"
    assert json.loads((out / "config.json").read_text())["train"] == [str(data / "train.jsonl")]
    with pytest.raises(ConfigError, match="differs in: train"):
        train(wrong)


def test_the_adapter_to_go_on_from_is_found_by_name_run_or_folder(tmp_path: Path) -> None:
    for folder in (tmp_path / "run" / "adapter", tmp_path / "alone"):
        folder.mkdir(parents=True)
        (folder / "adapter_model.safetensors").touch()
    assert start_folder("userlm-135m") == SHIPPED_ADAPTER
    assert start_folder(str(tmp_path / "run")) == tmp_path / "run" / "adapter"
    assert start_folder(str(tmp_path / "run" / "adapter")) == tmp_path / "run" / "adapter"
    assert start_folder(str(tmp_path / "alone")) == tmp_path / "alone"
    with pytest.raises(ConfigError, match="start=userlm-13m: no adapter there; give userlm-135m"):
        start_folder("userlm-13m")


def test_a_dry_run_approves_only_what_will_run(tiny_base: Path, data: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    good = config(tiny_base, data, out)
    assert dry_run(good)["steps"] == 6
    wrong: list[tuple[dict[str, Any], str]] = [
        ({"train": ("nowhere.jsonl",)}, "no such file"),
        ({"dev": ("nowhere.jsonl",)}, "no such file"),
        ({"start": "nowhere"}, "no adapter there"),
        ({"base": str(tmp_path)}, "no tokenizer.json"),
    ]
    for changes, why in wrong:
        with pytest.raises((ConfigError, DataError), match=why):
            dry_run(good.model_copy(update=changes))
    assert not out.exists()
    RunDir(out, good).metric(step=1)
    with pytest.raises(ConfigError, match="differs in: lr"):
        dry_run(good.model_copy(update={"lr": 1e-3}))


def test_two_runs_in_one_folder_are_refused(tiny_base: Path, data: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    with locked(out), pytest.raises(BackendError, match="another process is writing to"):
        train(config(tiny_base, data, out))
    assert not out.exists()


def test_the_end_token_of_an_untied_base_is_trained_where_it_is_said(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from usersim.weights.base_model import load_user_base
    from usersim.weights.default_model import resolve

    base = make_base(tmp_path / "untied", tied=False)
    monkeypatch.setenv("USERSIM_HOME", str(tmp_path / "home"))
    adapter = train(settings(base, data, tmp_path / "run", max_steps=4, lr=2e-2))
    rows = [name for name in load_file(adapter / "adapter_model.safetensors") if "trainable_tokens" in name]
    assert {name.split(".token_adapter")[0].rpartition(".")[2] for name in rows} == {
        "embed_tokens",
        "lm_head",
    }
    after, before = load_user_base(resolve(tmp_path / "run")), load_user_base(base)
    old, new = (b.model.get_output_embeddings().weight for b in (before, after))
    changed = ((new - old).abs().amax(1) > 5e-3).nonzero().squeeze(1).tolist()
    assert changed == [before.settings.end_of_conversation_id]


def test_gathered_weights_make_the_whole_model(tiny_base: Path) -> None:
    from usersim.training.checkpoints import unsharded
    from usersim.weights.base_model import load_user_base

    base = load_user_base(tiny_base)
    ids = torch.tensor([[5, 6, 7]])
    expected = base.model(input_ids=ids).logits
    state = {name: weight.clone() for name, weight in base.model.state_dict().items()}
    saved = unsharded(base, state).to(torch.bfloat16).state_dict()
    assert not any(weight.is_meta for weight in saved.values())
    base.model.load_state_dict(saved)
    torch.testing.assert_close(base.model(input_ids=ids).logits, expected, atol=5e-2, rtol=5e-2)


def test_wandb_gets_the_numbers_and_the_conversations(tiny_base: Path, data: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    train(settings(tiny_base, data, out, max_steps=4, wandb="offline"))
    (table,) = out.glob("wandb/offline-run-*/files/media/table/samples_*.table.json")
    content = json.loads(table.read_text())
    assert content["columns"][:4] == ["step", "conversation", "turn", "goal"]
    people = {turn.text for chat in chats(3) for turn in chat.turns if turn.role == "user"}
    column = content["columns"].index("human")
    assert {row[column] for row in content["data"]} <= people | {"(left)"}
    assert {row[2] for row in content["data"]} >= {1, 2}
    assert next(out.glob("wandb/offline-run-*/run-*.wandb")).stat().st_size > 0


def test_a_failing_wandb_does_not_stop_the_run(
    tiny_base: Path,
    data: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    import wandb

    def fail(*args: Any, **kwargs: Any) -> None:
        raise wandb.errors.CommError("no route to host")

    monkeypatch.setattr(wandb, "init", fail)
    with caplog.at_level(logging.WARNING):
        train(settings(tiny_base, data, tmp_path / "run", max_steps=2, wandb="online"))
    assert "wandb failed (no route to host)" in caplog.text
    assert (tmp_path / "run/adapter").is_dir()
