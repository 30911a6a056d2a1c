"""Fine-tuning of a User LM through TRL's SFTTrainer: full or LoRA, one pass per conversation, resumable.

usersim train configs/train/userlm-135m.toml lora.rank=16 out=runs/trial
"""

from __future__ import annotations

import argparse
import logging
import math
import os
import sys
import time
from pathlib import Path
from typing import Any, Literal

import torch
from datasets import Dataset  # type: ignore[import-untyped]
from peft import LoraConfig, PeftModel, get_peft_model
from pydantic import Field
from torch.utils.data import SequentialSampler
from transformers import AutoTokenizer, ProgressCallback, set_seed
from transformers.trainer_utils import get_last_checkpoint
from trl.trainer.sft_config import SFTConfig
from trl.trainer.sft_trainer import SFTTrainer

from usersim.base import UserBase, load_user_base
from usersim.cli import console, emit_json
from usersim.config import Config, load_config
from usersim.errors import BackendError, ConfigError
from usersim.model import BASE_NAME, build_base
from usersim.packed import register
from usersim.render import SETTINGS_FILE, Limits, RenderSettings
from usersim.runs import RunDir
from usersim.train_data import IGNORED, Corpus, collate, load_corpus, training_rows
from usersim.train_result import load_checkpoint, plan, save_result
from usersim.train_samples import write_samples
from usersim.types import Conversation

logger = logging.getLogger(__name__)


class LoraSettings(Config):
    rank: int = Field(default=32, ge=1)
    alpha: int = Field(default=64, ge=1)
    dropout: float = Field(default=0.0, ge=0, lt=1)


class TrainConfig(Config):
    out: str = "runs/userlm"
    base: str = BASE_NAME
    """The default base by name, or a folder of a transformers causal LM with ChatML or Llama-3 tokens."""
    train: tuple[str, ...] = ("data/sharegpt/train.jsonl",)
    dev: tuple[str, ...] = ("data/sharegpt/dev.jsonl",)
    dev_conversations: int = Field(default=60, ge=1)
    method: Literal["lora", "full"] = "lora"
    start: str | None = None
    """An adapter to go on from (method lora): its rank counts, `lora` is not read."""
    lora: LoraSettings = LoraSettings()
    limits: Limits = Limits()
    max_tokens: int = Field(default=768, ge=128)
    """Training window; longer conversations are cut at turn boundaries."""
    windows_per_conversation: int | None = Field(default=None, ge=1)
    context_tokens: int = Field(default=4096, ge=256)
    """Longest prompt plus turn when serving."""
    keep_without_goal: float = Field(default=1.0, ge=0, le=1)
    epochs: int = Field(default=1, ge=1)
    max_steps: int | None = Field(default=None, ge=1)
    batch: int = Field(default=8, ge=1)
    """Windows per optimiser step."""
    micro_batch: int = Field(default=1, ge=1)
    """Windows per forward pass, concatenated without padding."""
    lr: float = Field(default=6e-4, gt=0)
    warmup: float = Field(default=0.04, ge=0, lt=1)
    """Share of the steps."""
    weight_decay: float = Field(default=0.0, ge=0)
    eval_every: int = Field(default=100, ge=1)
    """Steps between dev losses, sample openings and checkpoints."""
    wandb: Literal["offline", "online", "disabled"] = "offline"
    seed: int = 0


class UserTrainer(SFTTrainer):
    """SFTTrainer with logits only where there is a label, rows in the order given, and a dev loss per token."""

    def compute_loss(
        self, model: Any, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        labels = inputs.pop("labels")[0, 1:]
        positions = (labels != IGNORED).nonzero().squeeze(1)
        # TRL's fused head would score every position and compute two more figures; a tenth is supervised.
        outputs = model(**inputs, logits_to_keep=positions, use_cache=False)
        loss = torch.nn.functional.cross_entropy(
            outputs.logits[0].float(), labels[positions], reduction="sum"
        )
        loss = loss / (len(positions) if num_items_in_batch is None else num_items_in_batch)
        if not torch.isfinite(loss):
            raise BackendError("the loss is not finite; lower lr (the last checkpoint is kept)")
        return (loss, outputs) if return_outputs else loss

    def _get_train_sampler(self, train_dataset: Any = None) -> Any:
        return SequentialSampler(train_dataset or self.train_dataset)  # type: ignore[arg-type]

    @torch.no_grad()
    def evaluate(self, *args: Any, **kwargs: Any) -> dict[str, float]:
        """NLL per supervised token over all dev windows, nats (a mean of batch means would weigh short windows up)."""
        model: Any = self.model
        model.eval()
        total, tokens = 0.0, 0
        for inputs in self.get_eval_dataloader():
            inputs = self._prepare_inputs(inputs)
            count = int((inputs["labels"][0, 1:] != IGNORED).sum())
            with self.compute_loss_context_manager():
                total += float(self.compute_loss(model, inputs)) * count
            tokens += count
        metrics = {"eval_loss": total / tokens, "eval_perplexity": math.exp(min(total / tokens, 50))}
        self.log(dict(metrics))
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics


class RunLog(ProgressCallback):
    """The progress bar on stderr, numbers to metrics.jsonl (the original prints them to stdout).

    After each dev loss sampled openings go to samples.jsonl and wandb.
    """

    def __init__(self, run: RunDir, base: UserBase, dev: list[Conversation], config: TrainConfig) -> None:
        super().__init__()
        self.run, self.base, self.dev, self.config = run, base, dev, config
        self.started, self.tokens_per_step = time.monotonic(), 0.0

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        elapsed = time.monotonic() - self.started
        logs["tokens_per_s"] = round(self.tokens_per_step * state.global_step / max(elapsed, 1e-9), 1)
        self.run.metric(step=state.global_step, elapsed_s=round(elapsed, 1), **logs)

    def on_evaluate(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:
        write_samples(
            self.run, model, self.base.renderer, self.dev, step=state.global_step, config=self.config
        )


def train(config: TrainConfig, *, export: bool = False) -> Path:
    """Runs or resumes `config`; returns the folder of the adapter (LoRA) or model (full).

    With `export` nothing is trained: the last checkpoint of an unfinished run becomes its result.
    """
    base = load_user_base(
        build_base() if config.base == BASE_NAME else config.base,
        dtype=_weights_dtype(config),
        context_tokens=config.context_tokens,
        limits=config.limits,
        attention=register(),
    )
    corpus = load_corpus(config.train, keep_without_goal=config.keep_without_goal, seed=config.seed)
    dev = load_corpus(config.dev, keep_without_goal=1.0, seed=config.seed).conversations
    run = RunDir(config.out, config)
    rows, dev_rows = _datasets(config, base, corpus, dev)
    set_seed(config.seed)  # the adapter starts from random numbers, before the trainer seeds anything
    model = _trainable(config, base)
    log = RunLog(run, base, dev, config)
    trainer = UserTrainer(
        model=model,
        args=_arguments(config),
        train_dataset=rows,
        eval_dataset=dev_rows,
        data_collator=collate,
        processing_class=AutoTokenizer.from_pretrained(base.source),
    )
    trainer.remove_callback(ProgressCallback)
    trainer.add_callback(log)
    log.tokens_per_step = sum(map(len, rows["input_ids"])) / len(rows) * config.batch
    checkpoints = run.path / "checkpoints"
    last = get_last_checkpoint(str(checkpoints)) if checkpoints.is_dir() else None  # type: ignore[no-untyped-call]
    if export:
        load_checkpoint(trainer, last)
    else:
        trainer.train(resume_from_checkpoint=last)
    final = _last_dev_loss(trainer) or trainer.evaluate()
    facts = {**final, **plan(corpus, rows, steps=trainer.state.global_step, batch=config.batch)}
    return save_result(run, base, trainer.model, named_base=config.base, facts=facts)


def _last_dev_loss(trainer: UserTrainer) -> dict[str, float] | None:
    """The dev loss already taken at the last step, if it was."""
    for logged in reversed(trainer.state.log_history):
        if logged["step"] == trainer.state.global_step and "eval_loss" in logged:
            return {key: logged[key] for key in ("eval_loss", "eval_perplexity")}
    return None


def _weights_dtype(config: TrainConfig) -> torch.dtype:
    # Frozen weights need no fp32 copy; trained ones do, under autocast.
    return torch.bfloat16 if config.method == "lora" else torch.float32


def _datasets(
    config: TrainConfig, base: UserBase, corpus: Corpus, dev: list[Conversation]
) -> tuple[Dataset, Dataset]:
    renderer = base.renderer
    rows = training_rows(
        corpus.conversations,
        renderer,
        max_tokens=config.max_tokens,
        epochs=config.epochs,
        seed=config.seed,
        windows_per_conversation=config.windows_per_conversation,
    )
    every = max(1, len(dev) // config.dev_conversations)
    dev_rows = training_rows(
        dev[::every][: config.dev_conversations],
        renderer,
        max_tokens=config.max_tokens,
        epochs=1,
        seed=config.seed,
        windows_per_conversation=2,
    )
    return Dataset.from_list(list(rows)), Dataset.from_list(list(dev_rows))


def _trainable(config: TrainConfig, base: UserBase) -> Any:
    if config.method == "full":
        return base.model
    if config.start is not None:
        return _started(config.start, base)
    settings = config.lora
    return get_peft_model(
        base.model,
        LoraConfig(
            r=settings.rank,
            lora_alpha=settings.alpha,
            lora_dropout=settings.dropout,
            target_modules="all-linear",
            # The end-of-conversation row alone is trained: a full embedding would be 57 MB of adapter.
            trainable_token_indices={"embed_tokens": [base.settings.end_of_conversation_id]},
            task_type="CAUSAL_LM",
        ),
    )


def _started(start: str, base: UserBase) -> Any:
    folder = Path(start)
    if not (folder / "adapter_model.safetensors").is_file():
        raise ConfigError(f"start={start}: no adapter there; give the folder of one, or leave `start` out")
    trained = RenderSettings.model_validate_json((folder / SETTINGS_FILE).read_text(encoding="utf-8"))
    if trained.model_copy(update={"limits": base.settings.limits}) != base.settings:
        raise ConfigError(f"start={start}: trained on another base (control tokens or template differ)")
    return PeftModel.from_pretrained(base.model, folder, is_trainable=True)


def _arguments(config: TrainConfig) -> SFTConfig:
    out = Path(config.out)
    os.environ["WANDB_MODE"] = config.wandb
    os.environ.setdefault("WANDB_DIR", str(out))
    os.environ.setdefault("WANDB_PROJECT", "usersim")
    os.environ.setdefault("WANDB_SILENT", "true")
    cuda = torch.cuda.is_available()
    return SFTConfig(
        output_dir=str(out / "checkpoints"),
        run_name=out.name,
        report_to=[] if config.wandb == "disabled" else ["wandb"],
        use_cpu=not cuda,
        bf16=True,
        per_device_train_batch_size=config.micro_batch,
        per_device_eval_batch_size=1,
        gradient_accumulation_steps=max(1, config.batch // config.micro_batch),
        gradient_checkpointing=False,
        num_train_epochs=1,  # the rows already hold every epoch
        max_steps=config.max_steps or -1,
        learning_rate=config.lr,
        lr_scheduler_type="cosine",
        warmup_steps=config.warmup,
        weight_decay=config.weight_decay,
        max_grad_norm=1.0,
        logging_steps=10,
        eval_strategy="steps",
        eval_steps=config.eval_every,
        save_steps=config.eval_every,
        save_total_limit=2,
        seed=config.seed,
        data_seed=config.seed,
        max_length=None,  # windows are cut at turn boundaries already; cutting here would lose ends
        remove_unused_columns=False,
        dataset_kwargs={"skip_prepare_dataset": True},
        dataloader_num_workers=0,
    )


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="usersim train", description="Fine-tune a User LM.")
    parser.add_argument("config", help="a TOML file; see configs/train/")
    parser.add_argument("overrides", nargs="*", metavar="key=value")
    parser.add_argument("--dry-run", action="store_true", help="print the plan and stop")
    parser.add_argument(
        "--export", action="store_true", help="make the last checkpoint the result; train no further"
    )
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--json-out", metavar="FILE")
    args = parser.parse_args(argv)
    config = load_config(TrainConfig, args.config, args.overrides)
    if config.batch % config.micro_batch:
        raise ConfigError(f"batch={config.batch} is not a multiple of micro_batch={config.micro_batch}")
    if args.dry_run:
        base = load_user_base(
            build_base() if config.base == BASE_NAME else config.base,
            dtype=torch.bfloat16,
            limits=config.limits,
        )
        corpus = load_corpus(config.train, keep_without_goal=config.keep_without_goal, seed=config.seed)
        rows, _ = _datasets(config, base, corpus, corpus.conversations[:1])
        steps = config.max_steps or math.ceil(len(rows) / config.batch)
        summary = plan(corpus, rows, steps=steps, batch=config.batch)
    else:
        summary = {"out": str(train(config, export=args.export))}
    emit_json(summary, stdout=args.json, path=args.json_out)
    if not args.json:
        console.print(summary)
    return 0


if __name__ == "__main__":
    from usersim.cli import run_main

    sys.exit(run_main(main))
