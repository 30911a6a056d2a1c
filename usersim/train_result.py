"""What a training run leaves: the adapter or model, complete or absent, and a summary of what went into it."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset  # type: ignore[import-untyped]
from peft import PeftModel
from safetensors.torch import load_file
from transformers import TrainerState

from usersim.base import UserBase, save_user_lm
from usersim.errors import ConfigError
from usersim.records import write_json
from usersim.render import SETTINGS_FILE
from usersim.runs import RunDir
from usersim.train_data import IGNORED, Corpus


def save_result(run: RunDir, base: UserBase, model: Any, *, named_base: str, facts: dict[str, Any]) -> Path:
    """`adapter/` in bf16 (LoRA) or `model/` (full), first under a temporary name; then summary.json."""
    kind = "adapter" if isinstance(model, PeftModel) else "model"
    folder, target = run.path / f".{kind}", run.path / kind
    shutil.rmtree(folder, ignore_errors=True)
    if isinstance(model, PeftModel):
        model.to(torch.bfloat16)
        model.peft_config["default"].base_model_name_or_path = named_base
        model.save_pretrained(str(folder), save_embedding_layers=False)
        (folder / "README.md").unlink(missing_ok=True)  # an empty template; a model card is written by hand
        write_json(folder / SETTINGS_FILE, base.settings.model_dump(mode="json"))
    else:
        save_user_lm(base, model, folder)
    shutil.rmtree(target, ignore_errors=True)
    folder.rename(target)
    write_json(run.path / "summary.json", {**facts, "out": str(target)})
    return target


def plan(corpus: Corpus, rows: Dataset, *, steps: int, batch: int) -> dict[str, Any]:
    """What `steps` steps amount to, for `--dry-run` and for the summary; tokens are those trained on."""
    seen = rows.select(range(min(len(rows), steps * batch)))
    return {
        "conversations": len(corpus.conversations),
        "with_goal": sum(c.profile.goal is not None for c in corpus.conversations),
        "without_goal_left_out": corpus.without_goal_left_out,
        "windows": len(rows),
        "steps": steps,
        "windows_seen": len(seen),
        "tokens": sum(map(len, seen["input_ids"])),
        "supervised_tokens": sum(sum(label != IGNORED for label in labels) for labels in seen["labels"]),
    }


def load_checkpoint(trainer: Any, checkpoint: str | None) -> None:
    """The weights and the log of `checkpoint` into `trainer`; raises ConfigError where there is none."""
    if checkpoint is None:
        raise ConfigError(f"{trainer.args.output_dir}: no checkpoint to export yet")
    folder = Path(checkpoint)
    trainer.state = TrainerState.load_from_json(str(folder / "trainer_state.json"))
    if isinstance(trainer.model, PeftModel):
        trainer.model.load_adapter(checkpoint, "default", is_trainable=False)
    else:
        trainer.model.load_state_dict(load_file(folder / "model.safetensors"), strict=False)
