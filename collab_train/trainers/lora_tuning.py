"""LoRA fine-tuning of an assistant: common checks, TRL arguments, measurements and saving of the adapter."""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftModel
from transformers.trainer_callback import PrinterCallback
from trl.trainer import utils as trl_utils

from collab_train.rollout.engines.models import base_of, load_assistant
from collab_train.trainers.configs import Tuning
from collab_train.trainers.run_log import Bars, Rows, TrainLog
from usersim.errors import ConfigError, UsersimError
from usersim.storage.records import write_json
from usersim.storage.runs import RunDir
from usersim.training.checkpoints import drop_incomplete, last_checkpoint, saving
from usersim.training.config import processes
from usersim.training.malloc import keep_pages
from usersim.weights.precision import precision


@dataclass(frozen=True)
class TrainingRecipe:
    """Functions that define one kind of training."""

    trainer: Callable[[Any, Any, LoraConfig | None, RunDir, Bars], Any]
    """(model, tokenizer, LoRA or None if the model has an adapter, run, bars) → a TRL trainer."""
    measure: Callable[[Any, Any], dict[str, Any]]
    """(model, tokenizer) → JSON values, measured before and after training."""
    compare: Callable[[dict[str, Any], dict[str, Any], RunDir], dict[str, Any]]
    """(before, after, run) → entries of the summary."""
    rows: Rows = lambda: ()


def check(config: Tuning) -> None:
    """Checks the config before anything is loaded or written.

    Raises:
        ConfigError: the batch sizes, GPUs or launcher do not fit.
    """
    if config.sequences_per_step % (config.micro_batch * processes()):
        factor = f" times {processes()} processes" if processes() > 1 else ""
        per_step = (
            "" if config.sequences_per_step == config.batch else f" ({config.sequences_per_step} replies)"
        )
        raise ConfigError(
            f"batch={config.batch}{per_step} is not a multiple of micro_batch={config.micro_batch}{factor}"
        )
    if processes() == 1 and torch.cuda.device_count() > 1:
        raise ConfigError(
            f"{torch.cuda.device_count()} GPUs are visible to one process; launch with `accelerate launch "
            "--config_file configs/accelerate/collab.yaml -m usersim collab …`, or choose one with "
            "CUDA_VISIBLE_DEVICES=0"
        )
    if os.environ.get("ACCELERATE_USE_FSDP", "").lower() == "true":
        raise ConfigError("LoRA does not shard; launch it with configs/accelerate/collab.yaml (DDP)")


def tune(config: Tuning, recipe: TrainingRecipe) -> dict[str, Any]:
    """Trains or resumes, saves the adapter and the measured changes, and returns the summary."""
    check(config)
    if not torch.cuda.is_available():
        keep_pages()
        project_replies_only()
    started = time.monotonic()
    is_new = not (Path(config.out) / "config.json").exists()
    run, bars = RunDir(config.out, config), Bars()
    checkpoints = run.path / "checkpoints"
    drop_incomplete(checkpoints)
    # In bf16: frozen weights in bf16, adapters in fp32, autocast. In fp32: no autocast.
    model, tokenizer = load_assistant(config.assistant, trainable=True)
    lora = None if isinstance(model, PeftModel) else _lora(config)
    try:
        trainer = recipe.trainer(model, tokenizer, lora, run, bars)
    except UsersimError:
        if is_new:
            (run.path / "config.json").unlink(
                missing_ok=True
            )  # its config would refuse the corrected command
        raise
    trainer.remove_callback(PrinterCallback)  # it prints to stdout
    trainer.add_callback(TrainLog(run, config, bars, recipe.rows))
    before = _before(run, recipe, trainer, tokenizer)
    last = last_checkpoint(checkpoints)
    try:
        trainer.train(resume_from_checkpoint=str(last) if last else None)
    finally:
        bars.stop()
    after = recipe.measure(trainer.model, tokenizer)
    summary = {
        "steps": trainer.state.global_step,
        "loss": _last_loss(trainer),
        "wall_s": round(time.monotonic() - started, 1),
        "out": str(run.path / "adapter"),
    }
    if trainer.is_world_process_zero():
        _save_adapter(trainer.model, run, base_of(config.assistant))
        summary |= recipe.compare(before, after, run)
        write_json(run.path / "summary.json", summary)
    return summary


def project_replies_only() -> None:
    """Makes new TRL trainers skip prompts and padding in the output layer, as on GPUs.

    Without Triton, TRL 1.16 projects every position, because varying sizes make some devices recompile. A CPU does not
    compile. The losses are the same.
    """
    if hasattr(trl_utils, "_use_triton"):
        setattr(trl_utils, "_use_triton", lambda device: True)  # noqa: B010 - TRL uses it for nothing else


def _lora(config: Tuning) -> LoraConfig:
    return LoraConfig(
        r=config.rank,
        lora_alpha=config.alpha,
        lora_dropout=0.0,
        target_modules="all-linear",
        task_type="CAUSAL_LM",
    )


def arguments(config: Tuning) -> dict[str, Any]:
    """Returns the TRL arguments common to all trainers. `run_log` handles wandb instead of TRL."""
    return {
        "output_dir": str(Path(config.out) / "checkpoints"),
        "report_to": [],
        "disable_tqdm": True,
        "use_cpu": not torch.cuda.is_available(),
        "bf16": precision() == "bf16",
        "per_device_train_batch_size": config.micro_batch,
        "gradient_accumulation_steps": config.accumulation,
        "gradient_checkpointing": config.gradient_checkpointing,
        "num_train_epochs": config.epochs,
        "max_steps": config.max_steps or -1,
        "learning_rate": config.lr,
        "lr_scheduler_type": "linear",
        "logging_steps": 1,
        "save_steps": config.save_every,
        "save_total_limit": 1,
        "seed": config.seed,
        "data_seed": config.seed,
        "dataloader_num_workers": 0,
    }


def _before(run: RunDir, recipe: TrainingRecipe, trainer: Any, tokenizer: Any) -> dict[str, Any]:
    """Returns the measurements before training. They are stored, as a resumed run lacks the initial weights."""
    path = run.path / "before.json"
    if path.is_file():
        try:
            stored: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        except ValueError as error:
            raise ConfigError(
                f"{path} is damaged, so the run cannot be compared to its start; choose another out=…"
            ) from error
        return stored
    measured = recipe.measure(trainer.model, tokenizer)
    trainer.accelerator.wait_for_everyone()  # so that all processes agree whether the file exists
    if trainer.is_world_process_zero():
        write_json(path, measured)
    return measured


def _last_loss(trainer: Any) -> float | None:
    losses = [logged["loss"] for logged in trainer.state.log_history if "loss" in logged]
    return losses[-1] if losses else None


def _save_adapter(model: Any, run: RunDir, base: str) -> None:
    """Saves the adapter under a temporary name, then renames it. It refers to the base by name, not by path."""
    folder, target = run.path / ".adapter", run.path / "adapter"
    shutil.rmtree(folder, ignore_errors=True)
    model.peft_config["default"].base_model_name_or_path = base
    with saving(folder):
        # Otherwise PEFT queries the Hugging Face Hub to see if the vocabulary grew.
        model.save_pretrained(folder, selected_adapters=["default"], save_embedding_layers=False)
    (folder / "README.md").unlink(missing_ok=True)  # PEFT's template contains a local path
    shutil.rmtree(target, ignore_errors=True)
    folder.rename(target)
