"""Training of the local goal model on annotated goals: LoRA with the trainer of the User LM, resumable.

python -m data_prep.goals.training configs/train/goals-135m.toml out=runs/trial
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset  # type: ignore[import-untyped]
from peft import LoraConfig, get_peft_model
from pydantic import Field
from transformers import AutoTokenizer, ProgressCallback, set_seed
from transformers.trainer_utils import get_last_checkpoint
from trl.trainer.sft_config import SFTConfig

from data_prep.goals.format import FORMAT_FILE, GoalFormat, GoalRenderer, annotated
from usersim.cli import console
from usersim.errors import ConfigError
from usersim.storage.records import write_json
from usersim.storage.runs import RunDir
from usersim.storage.toml_config import Config, load_config
from usersim.training.data import IGNORED, collate, row
from usersim.training.finetune import LoraSettings, UserTrainer
from usersim.types import Conversation
from usersim.weights.base_model import load_user_base
from usersim.weights.default_model import BASE_NAME, build_base
from usersim.weights.precision import precision, torch_dtype

Rows = list[dict[str, list[int]]]


class GoalTraining(Config):
    out: str = "runs/goals"
    base: str = BASE_NAME
    train: tuple[str, ...]
    dev: tuple[str, ...]
    dev_conversations: int = Field(default=80, ge=1)
    format: GoalFormat = GoalFormat()
    lora: LoraSettings = LoraSettings(rank=16, alpha=32)
    epochs: int = Field(default=1, ge=1)
    max_steps: int | None = Field(default=None, ge=1)
    batch: int = Field(default=8, ge=1)
    """Conversations per optimiser step."""
    micro_batch: int = Field(default=4, ge=1)
    """Conversations per forward pass, concatenated without padding."""
    lr: float = Field(default=8e-4, gt=0)
    warmup: float = Field(default=0.04, ge=0, lt=1)
    """Warm-up share of the steps."""
    eval_every: int = Field(default=100, ge=1)
    """Steps between dev losses and checkpoints."""
    seed: int = 0


class TrainingLog(ProgressCallback):
    """Progress bar on stderr that also writes the numbers to metrics.jsonl."""

    def __init__(self, run: RunDir) -> None:
        super().__init__()
        self.run, self.started = run, time.monotonic()

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        elapsed = round(time.monotonic() - self.started, 1)
        self.run.metric(step=state.global_step, elapsed_s=elapsed, **(logs or {}))


def train(config: GoalTraining) -> Path:
    """Runs or resumes a training; returns the folder of the adapter with the lowest dev loss."""
    base = load_user_base(build_base() if config.base == BASE_NAME else config.base, dtype=torch_dtype())
    renderer = GoalRenderer(base.renderer, base.tokenizer_json, config.format)
    rows = training_rows(annotated(config.train), renderer, epochs=config.epochs, seed=config.seed)
    dev = annotated(config.dev)
    dev_rows = training_rows(dev, renderer, epochs=1, seed=config.seed)[: config.dev_conversations]
    run = RunDir(config.out, config)
    set_seed(config.seed)
    lora = LoraConfig(
        r=config.lora.rank,
        lora_alpha=config.lora.alpha,
        lora_dropout=config.lora.dropout,
        target_modules="all-linear",
        task_type="CAUSAL_LM",
    )
    trainer = UserTrainer(
        model=get_peft_model(base.model, lora),
        args=_arguments(config),
        train_dataset=Dataset.from_list(rows),
        eval_dataset=Dataset.from_list(dev_rows),
        data_collator=collate,
        processing_class=AutoTokenizer.from_pretrained(base.source),
    )
    trainer.remove_callback(ProgressCallback)
    trainer.add_callback(TrainingLog(run))
    checkpoints = run.path / "checkpoints"
    checkpoint = get_last_checkpoint(str(checkpoints)) if checkpoints.is_dir() else None  # type: ignore[no-untyped-call]
    trainer.train(resume_from_checkpoint=checkpoint)
    trained_rows = rows[: trainer.state.global_step * config.batch]
    return _save(
        run, config, trainer, {"conversations": len(rows) // config.epochs, **_token_counts(trained_rows)}
    )


def training_rows(
    conversations: Sequence[Conversation], renderer: GoalRenderer, *, epochs: int, seed: int
) -> Rows:
    """Returns `epochs` passes over the conversations in a row, each shuffled by itself."""
    rows = []
    for epoch in range(epochs):
        order = list(conversations)
        random.Random(f"{seed}:{epoch}").shuffle(order)
        for conversation in order:
            goal = conversation.profile.goal
            if goal is not None and renderer.has_user_text(conversation):
                rows.append(row(renderer.example(conversation, goal)))
    return rows


def _token_counts(rows: Rows) -> dict[str, int]:
    return {
        "examples_seen": len(rows),
        "tokens": sum(len(row["input_ids"]) for row in rows),
        "supervised_tokens": sum(label != IGNORED for row in rows for label in row["labels"]),
    }


def _arguments(config: GoalTraining) -> SFTConfig:
    cuda = torch.cuda.is_available()
    os.environ["WANDB_MODE"] = "disabled"
    return SFTConfig(
        output_dir=str(Path(config.out) / "checkpoints"),
        report_to=[],
        use_cpu=not cuda,
        bf16=precision() == "bf16",
        per_device_train_batch_size=config.micro_batch,
        per_device_eval_batch_size=1,
        gradient_accumulation_steps=max(1, config.batch // config.micro_batch),
        gradient_checkpointing=False,
        num_train_epochs=1,  # the rows already hold every epoch
        max_steps=config.max_steps or -1,
        learning_rate=config.lr,
        lr_scheduler_type="cosine",
        warmup_steps=config.warmup,
        max_grad_norm=1.0,
        logging_steps=10,
        eval_strategy="steps",
        eval_steps=config.eval_every,
        save_steps=config.eval_every,
        save_total_limit=2,
        load_best_model_at_end=True,
        metric_for_best_model="eval_loss",
        greater_is_better=False,
        seed=config.seed,
        data_seed=config.seed,
        max_length=None,
        remove_unused_columns=False,
        dataset_kwargs={"skip_prepare_dataset": True},
        dataloader_num_workers=0,
    )


def _save(run: RunDir, config: GoalTraining, trainer: Any, facts: dict[str, Any]) -> Path:
    """Writes `adapter/` in bf16, first under a temporary name, then summary.json."""
    folder, target = run.path / ".adapter", run.path / "adapter"
    shutil.rmtree(folder, ignore_errors=True)
    model = trainer.model.to(torch.bfloat16)
    model.peft_config["default"].base_model_name_or_path = config.base
    model.save_pretrained(str(folder), save_embedding_layers=False)
    (folder / "README.md").unlink(missing_ok=True)  # an empty template; a model card is written by hand
    write_json(folder / FORMAT_FILE, config.format.model_dump(mode="json"))
    shutil.rmtree(target, ignore_errors=True)
    folder.rename(target)
    state = trainer.state
    losses = {str(log["step"]): log["eval_loss"] for log in state.log_history if "eval_loss" in log}
    best = {"dev_loss": state.best_metric, "best_step": state.best_global_step, "dev_losses": losses}
    write_json(run.path / "summary.json", {**facts, **best, "steps": state.global_step, "out": str(target)})
    return target


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m data_prep.goals.training", description=__doc__)
    parser.add_argument("config", help="a TOML file; see configs/train/goals-135m.toml")
    parser.add_argument(
        "overrides", nargs="*", metavar="key=value", help="settings that differ from the file"
    )
    args = parser.parse_args(argv)
    config = load_config(GoalTraining, args.config, args.overrides)
    if config.batch % config.micro_batch:
        raise ConfigError(f"batch={config.batch} is not a multiple of micro_batch={config.micro_batch}")
    console.print(f"the goal model is in {train(config)}")
    return 0


if __name__ == "__main__":
    from usersim.cli import run_main

    sys.exit(run_main(main))
