"""Results of a training run: checkpoints, the adapter or model (written atomically), and a summary."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from safetensors import SafetensorError
from transformers import AutoModelForCausalLM, TrainerState

from usersim.errors import BackendError, ConfigError
from usersim.rendering.renderer import write_settings
from usersim.storage.records import write_json
from usersim.storage.runs import BASE, RunDir, has_come_of_it
from usersim.training.ledger import Stretch, write_ledger
from usersim.weights.base_model import UserBase, save_user_lm

STATE = "trainer_state.json"


@contextmanager
def saving(folder: Path) -> Iterator[None]:
    """Removes `folder` if saving to it fails. Raises BackendError."""
    try:
        yield
    # A full disk is an OSError in Python, a RuntimeError in torch.save and its own error in safetensors.
    except (OSError, RuntimeError, SafetensorError) as error:
        shutil.rmtree(folder, ignore_errors=True)
        reason = str(error).strip().splitlines()[0]
        raise BackendError(
            f"{folder} could not be saved ({reason}); make room on the disk and run the same command again; "
            "earlier checkpoints are kept"
        ) from error


def last_checkpoint(folder: Path) -> Path | None:
    """Returns the newest complete checkpoint."""
    return next(iter(complete_checkpoints(folder)), None)


def complete_checkpoints(folder: Path) -> list[Path]:
    """Returns the complete checkpoints, newest first."""
    complete = [path for path in _checkpoints(folder) if _is_complete(path)]
    return sorted(complete, key=step_of, reverse=True)


def drop_incomplete(folder: Path) -> None:
    """Removes checkpoints cut off by a kill. Not safe beside a run that is saving."""
    for path in _checkpoints(folder):
        if not _is_complete(path):
            shutil.rmtree(path)


def step_of(checkpoint: Path | None) -> int:
    return int(checkpoint.name.rpartition("-")[2]) if checkpoint else 0


def _checkpoints(folder: Path) -> list[Path]:
    return [path for path in folder.glob("checkpoint-*") if re.fullmatch(r"checkpoint-\d+", path.name)]


def _is_complete(checkpoint: Path) -> bool:
    """Returns True if the trainer state, which is written last, is there."""
    try:
        state = json.loads((checkpoint / STATE).read_text(encoding="utf-8"))
        return bool(state["global_step"] == step_of(checkpoint))
    except (OSError, ValueError, KeyError):
        return False


def check_base(run: RunDir, base: UserBase, *, named: str) -> None:
    """Checks that a resumed run has the base weights it started with, and stores their fingerprint."""
    facts = refuse_other_base(run.path, base, named=named)
    write_json(run.path / BASE, facts)


def refuse_other_base(folder: Path, base: UserBase, *, named: str) -> dict[str, Any]:
    """Returns the fingerprint of `base`. Raises ConfigError if a run in `folder` started from another base."""
    facts = {"parameters": base.model.num_parameters(), "sample_sha256": _sample_hash(base.model)}
    file = folder / BASE
    if (
        any(has_come_of_it(folder))
        and file.is_file()
        and json.loads(file.read_text(encoding="utf-8")) != facts
    ):
        raise ConfigError(
            f"{folder} holds a run on another base than {named} is now; "
            "put that base back or choose another out=…"
        )
    return facts


def _sample_hash(model: Any) -> str:
    """Returns a hash of the first rows of two matrices, enough to tell weights apart."""
    digest, matrices = hashlib.sha256(), list(model.parameters())
    for matrix in (matrices[0], matrices[len(matrices) // 2]):
        digest.update(matrix.detach()[:64].to("cpu", torch.float32).numpy().tobytes())
    return digest.hexdigest()


def average(trainer: Any, count: int, last: Mapping[str, float]) -> dict[str, Any]:
    """Loads the mean weights of the last `count` checkpoints into the model if their dev loss is below `last`'s.

    For a LoRA the means of A and of B are taken separately. Checkpoints of one run lie close together, so this differs
    from the mean of the products only by products of their differences. Returns the dev loss of the weights used.
    """
    trainer.accelerator.wait_for_everyone()  # the main process may still be saving
    checkpoints = complete_checkpoints(Path(trainer.args.output_dir))[:count]
    if len(checkpoints) < 2:
        return {**last, "averaged": 1}
    model = trainer.accelerator.unwrap_model(trainer.model)
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    last_weights = {name: p.detach().clone() for name, p in trained.items()}
    sums = {name: torch.zeros_like(p, dtype=torch.float64) for name, p in last_weights.items()}
    for checkpoint in checkpoints:
        _load_weights(trainer, checkpoint)
        for name, p in trained.items():
            sums[name] += p.detach()
    _set_weights(trained, {name: total / len(checkpoints) for name, total in sums.items()})
    mean = trainer.dev_loss()
    if mean["eval_loss"] < last["eval_loss"]:
        return {**mean, "averaged": len(checkpoints), "eval_loss_last": last["eval_loss"]}
    _set_weights(trained, last_weights)
    return {**last, "averaged": 1, "eval_loss_averaged": mean["eval_loss"]}


@torch.no_grad()
def _set_weights(parameters: Mapping[str, Any], values: Mapping[str, torch.Tensor]) -> None:
    for name, parameter in parameters.items():
        parameter.copy_(values[name])


def save_result(
    run: RunDir,
    base: UserBase,
    trainer: Any,
    *,
    named_base: str,
    facts: dict[str, Any],
    ledger: Sequence[Stretch] = (),
) -> Path:
    """Writes `adapter/` in bf16 (LoRA) or `model/` (full) with its ledger atomically, then summary.json.

    Every process has to call it; only the main one writes. Returns the folder.
    """
    model = trainer.model
    kind = "adapter" if isinstance(model, PeftModel) else "model"
    folder, target = run.path / f".{kind}", run.path / kind
    if trainer.is_fsdp_enabled:
        model = unsharded(base, trainer.accelerator.get_state_dict(model))
    if not trainer.is_world_process_zero():
        return target
    shutil.rmtree(folder, ignore_errors=True)
    with saving(folder):
        if isinstance(model, PeftModel):
            _save_adapter(base, model, folder, named_base=named_base)
        else:
            save_user_lm(base, model, folder)
        write_ledger(folder, ledger)
    _replace(target, folder)
    write_json(run.path / "summary.json", {**facts, "out": str(target)})
    return target


def unsharded(base: UserBase, state: dict[str, torch.Tensor]) -> Any:
    """Returns the model of `base` with gathered weights. `state` is empty except on the main process."""
    with torch.device("meta"):
        whole: Any = AutoModelForCausalLM.from_config(base.model.config)  # type: ignore[no-untyped-call]
    whole.load_state_dict(state, assign=True, strict=False)
    whole.tie_weights()
    return whole


def _save_adapter(base: UserBase, model: PeftModel, folder: Path, *, named_base: str) -> None:
    model.to(torch.bfloat16)
    model.peft_config["default"].base_model_name_or_path = named_base
    model.save_pretrained(str(folder), save_embedding_layers=False)
    (folder / "README.md").unlink(missing_ok=True)  # an empty template; a model card is written by hand
    write_settings(base.settings, folder)


def _replace(target: Path, folder: Path) -> None:
    """Replaces the previous result by a complete one."""
    old = target.with_name(f".{target.name}-before")
    shutil.rmtree(old, ignore_errors=True)
    if target.exists():
        target.rename(old)
    folder.rename(target)
    shutil.rmtree(old, ignore_errors=True)


def load_checkpoint(trainer: Any, checkpoint: Path | None) -> None:
    """Loads weights and log of `checkpoint` into `trainer`. Raises ConfigError without a checkpoint."""
    if checkpoint is None:
        raise ConfigError(f"{trainer.args.output_dir}: no checkpoint to export yet")
    trainer.state = TrainerState.load_from_json(str(checkpoint / STATE))
    _load_weights(trainer, checkpoint)


def _load_weights(trainer: Any, checkpoint: Path) -> None:
    if isinstance(trainer.model, PeftModel):
        trainer.model.load_adapter(str(checkpoint), "default", is_trainable=False)
        return
    try:
        trainer._load_from_checkpoint(str(checkpoint))
    except ValueError as error:
        raise ConfigError(
            f"{checkpoint}: sharded weights cannot be exported; let the run finish ({error})"
        ) from error
