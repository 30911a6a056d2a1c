"""What the LoRA fine-tunings of an assistant share: config, data, TRL arguments, before and after, the adapter."""

from __future__ import annotations

import json
import math
import os
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from peft import LoraConfig, PeftModel
from pydantic import Field
from transformers.trainer_callback import ProgressCallback
from transformers.trainer_utils import get_last_checkpoint

from collab_train.margins import Reply, change, greedy_replies, margins
from collab_train.pairs import Pair
from collab_train.rewards import count_tokens
from collab_train.speakers import base_of, load_assistant
from usersim.config import Config
from usersim.errors import ConfigError
from usersim.records import read_records, write_json, write_records
from usersim.runs import RunDir


class Tuning(Config):
    out: str
    train: str = "runs/collab-pairs/train.jsonl"
    heldout: str | None = None
    """Pairs that are only measured on."""
    assistant: str = "local"
    """`local` (the base model), a model folder, or an earlier sft or dpo run: its adapter is trained on."""
    rank: int = Field(default=16, ge=1)
    alpha: int = Field(default=32, ge=1)
    lr: float = Field(default=1e-4, gt=0)
    epochs: int = Field(default=1, ge=1)
    max_steps: int | None = Field(default=None, ge=1)
    batch: int = Field(default=8, ge=1)
    """Pairs per optimiser step."""
    micro_batch: int = Field(default=2, ge=1)
    max_length: int = Field(default=1024, ge=32)
    """Longest prompt plus reply in tokens; a longer one is cut at its end."""
    bf16: bool = True
    """Frozen weights in bf16, adapters in fp32, bf16 autocast; otherwise fp32 throughout."""
    save_every: int = Field(default=50, ge=1)
    show: int = Field(default=4, ge=0)
    """Prompts answered greedily before and after, to read in replies.jsonl."""
    show_tokens: int = Field(default=64, ge=1)
    wandb: Literal["offline", "online", "disabled"] = "offline"
    seed: int = 0


@dataclass(frozen=True)
class PairFiles:
    train: list[Pair]
    heldout: list[Pair]


MakeTrainer = Callable[[Any, Any, LoraConfig | None], Any]
"""(model, tokenizer, LoRA where the model has no adapter yet) → a TRL trainer."""


def read_pairs(config: Tuning) -> PairFiles:
    if config.batch % config.micro_batch:
        raise ConfigError(f"batch={config.batch} is not a multiple of micro_batch={config.micro_batch}")
    train = list(read_records(config.train, Pair))
    if not train:
        raise ConfigError(
            f"train: {config.train} holds no pairs; run `usersim collab pairs` with a smaller margin"
        )
    return PairFiles(train, list(read_records(config.heldout, Pair)) if config.heldout else [])


def plan(config: Tuning, pairs: PairFiles) -> dict[str, Any]:
    per_epoch = math.ceil(len(pairs.train) / config.batch)
    texts = [m.content for p in pairs.train for m in (*p.prompt, *p.chosen, *p.prompt, *p.rejected)]
    steps = config.max_steps or per_epoch * config.epochs
    return {
        "pairs": len(pairs.train),
        "heldout_pairs": len(pairs.heldout),
        "steps": steps,
        "words_and_marks_per_epoch": sum(map(count_tokens, texts)),
        "passes_over_the_pairs": round(steps / per_epoch, 2),
        "out": config.out,
    }


def tune(config: Tuning, pairs: PairFiles, make_trainer: MakeTrainer) -> dict[str, Any]:
    """Trains, or resumes; saves the adapter and what it changed, and returns the summary."""
    started = time.monotonic()
    run = RunDir(config.out, config)
    dtype = "bfloat16" if config.bf16 else "float32"
    model, tokenizer = load_assistant(config.assistant, trainable=True, dtype=dtype)
    lora = None if isinstance(model, PeftModel) else _lora(config)
    trainer = make_trainer(model, tokenizer, lora)
    trainer.remove_callback(ProgressCallback)
    trainer.add_callback(RunLog(run))
    before = _before(config, pairs, trainer.model, tokenizer, run)
    checkpoints = run.path / "checkpoints"
    last = get_last_checkpoint(str(checkpoints)) if checkpoints.is_dir() else None  # type: ignore[no-untyped-call]
    trainer.train(resume_from_checkpoint=last)
    after = _measure(config, pairs, trainer.model, tokenizer)
    _save_adapter(trainer.model, run, base_of(config.assistant))
    summary = {
        "steps": trainer.state.global_step,
        "loss": _last_loss(trainer),
        "wall_s": round(time.monotonic() - started, 1),
        **_compare(before, after, run),
        "out": str(run.path / "adapter"),
    }
    write_json(run.path / "summary.json", summary)
    run.metric(**summary)
    return summary


def _lora(config: Tuning) -> LoraConfig:
    return LoraConfig(
        r=config.rank,
        lora_alpha=config.alpha,
        lora_dropout=0.0,
        target_modules="all-linear",
        task_type="CAUSAL_LM",
    )


def arguments(config: Tuning) -> dict[str, Any]:
    """TRL's settings that SFT and DPO have in common."""
    out = Path(config.out)
    os.environ["WANDB_MODE"] = config.wandb
    os.environ.setdefault("WANDB_DIR", str(out))
    os.environ.setdefault("WANDB_PROJECT", "usersim-collab")
    os.environ.setdefault("WANDB_SILENT", "true")
    return {
        "output_dir": str(out / "checkpoints"),
        "run_name": out.name,
        "report_to": [] if config.wandb == "disabled" else ["wandb"],
        "use_cpu": not torch.cuda.is_available(),
        "bf16": config.bf16,
        "per_device_train_batch_size": config.micro_batch,
        "gradient_accumulation_steps": config.batch // config.micro_batch,
        "gradient_checkpointing": False,
        "num_train_epochs": config.epochs,
        "max_steps": config.max_steps or -1,
        "learning_rate": config.lr,
        "lr_scheduler_type": "linear",
        "max_length": config.max_length,
        "logging_steps": 1,
        "save_steps": config.save_every,
        "save_total_limit": 1,
        "seed": config.seed,
        "data_seed": config.seed,
        "dataloader_num_workers": 0,
    }


class RunLog(ProgressCallback):
    """The progress bar on stderr, numbers to metrics.jsonl; the original prints them to stdout."""

    def __init__(self, run: RunDir) -> None:
        super().__init__()
        self.run, self.started = run, time.monotonic()

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        elapsed = round(time.monotonic() - self.started, 1)
        self.run.metric(step=state.global_step, elapsed_s=elapsed, **(logs or {}))


def _measure(config: Tuning, pairs: PairFiles, model: Any, tokenizer: Any) -> dict[str, Any]:
    """Log-prob margins of both files, and greedy replies to the first prompts (held-out ones first)."""
    shown = [*pairs.heldout, *pairs.train][: config.show]
    return {
        "train": margins(model, tokenizer, pairs.train, max_length=config.max_length),
        "heldout": margins(model, tokenizer, pairs.heldout, max_length=config.max_length),
        "contexts": [pair.context for pair in shown],
        "replies": greedy_replies(model, tokenizer, shown, max_tokens=config.show_tokens),
    }


def _before(config: Tuning, pairs: PairFiles, model: Any, tokenizer: Any, run: RunDir) -> dict[str, Any]:
    """Measured once: a resumed run no longer has the weights it started from."""
    path = run.path / "before.json"
    if path.is_file():
        kept: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        return kept
    measured = _measure(config, pairs, model, tokenizer)
    write_json(path, measured)
    return measured


def _compare(before: dict[str, Any], after: dict[str, Any], run: RunDir) -> dict[str, Any]:
    replies = [
        Reply(context=context, before=old, after=new)
        for context, old, new in zip(after["contexts"], before["replies"], after["replies"], strict=True)
    ]
    write_records(run.path / "replies.jsonl", replies)
    return {
        "train_margin": change(before["train"], after["train"]),
        "heldout_margin": change(before["heldout"], after["heldout"]),
        "replies": len(replies),
        "replies_changed": sum(reply.before != reply.after for reply in replies),
    }


def _last_loss(trainer: Any) -> float | None:
    losses = [logged["loss"] for logged in trainer.state.log_history if "loss" in logged]
    return losses[-1] if losses else None


def _save_adapter(model: Any, run: RunDir, base: str) -> None:
    """Under a temporary name first, so that `adapter` is complete or absent; the base by name, not by path."""
    folder, target = run.path / ".adapter", run.path / "adapter"
    shutil.rmtree(folder, ignore_errors=True)
    model.peft_config["default"].base_model_name_or_path = base
    model.save_pretrained(folder, selected_adapters=["default"])
    (folder / "README.md").unlink(missing_ok=True)  # PEFT's template, which names a path of this machine
    shutil.rmtree(target, ignore_errors=True)
    folder.rename(target)
