"""Training speed of a User LM beside TRL's SFTTrainer, on the same tokens and at the same loss.

    python benchmarks/train.py --json-out train.json           # half an hour on two idle cores

    python benchmarks/train.py --quick --json-out train.json   # under five minutes

    python benchmarks/train.py --mfu --json-out mfu.json       # on a GPU: model FLOPs utilisation at 1B parameters

Both get the same windows (token ids and labels), base, LoRA, optimiser, order, batch and device. TRL pads with its own
collator. It runs with gradient checkpointing, its default, and without; the faster one is compared. Runs alternate,
because the speed of a machine drifts. Every run starts from the same weights, and its first steps are not timed.
Padding does not count as tokens. `…_cpu` is per second of CPU time, less sensitive to other work on the machine.
"""

from __future__ import annotations

import argparse
import platform
import statistics
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset  # type: ignore[import-untyped]
from peft import LoraConfig, get_peft_model
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    LlamaConfig,
    PrinterCallback,
    TrainerCallback,
    set_seed,
)
from trl.trainer.sft_config import SFTConfig
from trl.trainer.sft_trainer import SFTTrainer

from usersim.cli import console, emit_json, run_main
from usersim.errors import ConfigError
from usersim.storage.records import read_records
from usersim.training.data import IGNORED, Row, collate, training_rows
from usersim.training.finetune import LoraSettings, UserTrainer
from usersim.training.packed_attention import register
from usersim.types import Conversation, Goal, Turn, UserProfile
from usersim.weights.base_model import load_user_base
from usersim.weights.default_model import build_base
from usersim.weights.precision import precision, torch_dtype

DEFAULT_DATA = Path("data/sharegpt/train.jsonl")
SIDES = ("ours", "trl", "trl_checkpointing")
PACKAGES = ("usersim-lm", "torch", "transformers", "trl", "peft", "accelerate")
PEAK_TFLOPS = {"H100": 989, "H200": 989, "A100": 312, "L40S": 362, "A6000": 155, "4090": 165}
"""Dense bf16 peak from the data sheets."""


@dataclass(frozen=True)
class TimedRun:
    tokens: int
    seconds: float
    cpu_s: float
    loss: float
    """Mean loss per supervised token over the timed steps."""


class StepTimer(TrainerCallback):
    def __init__(self, warmup: int) -> None:
        self.warmup, self.marks, self.losses = warmup, list[tuple[float, float]](), list[float]()

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        if state.global_step >= self.warmup:
            self.marks.append((time.monotonic(), time.process_time()))

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        if "loss" in logs and state.global_step > self.warmup:
            self.losses.append(logs["loss"])

    def run(self, tokens: int) -> TimedRun:
        (start, cpu), (end, cpu_ended) = self.marks[0], self.marks[-1]
        return TimedRun(tokens, end - start, cpu_ended - cpu, statistics.fmean(self.losses))


def main(argv: list[str]) -> int:
    args = _parser().parse_args(argv)
    if args.quick:
        args.batch, args.steps, args.warmup, args.repeats = 4, 3, 1, 2
    figures = _mfu(args) if args.mfu else _against_trl(args)
    emit_json(figures, stdout=not args.json_out, path=args.json_out)
    return 0


def _against_trl(args: argparse.Namespace) -> dict[str, Any]:
    rows = _windows(args)
    runs: dict[str, list[TimedRun]] = defaultdict(list)
    for repeat in range(args.repeats):
        for side in SIDES:
            runs[side].append(_train(side, rows, args))
            console.print(f"{repeat + 1}/{args.repeats} {side}: {_per_s(runs[side][-1]):.0f} tokens/s")
    faster = max(SIDES[1:], key=lambda side: statistics.median(map(_per_s, runs[side])))
    # Runs of the same round are compared, so that a slow hour of the machine slows both.
    pairs = list(zip(runs["ours"], runs[faster], strict=True))
    wall = [_per_s(ours) / _per_s(trl) for ours, trl in pairs]
    cpu = [trl.cpu_s / ours.cpu_s for ours, trl in pairs]
    return {
        "speedup_vs_trl": statistics.median(wall),
        "speedup_vs_trl_range": [min(wall), max(wall)],
        "speedup_vs_trl_cpu": statistics.median(cpu),
        "speedup_vs_trl_cpu_range": [min(cpu), max(cpu)],
        "rival": faster,
        "loss_ours": statistics.median(run.loss for run in runs["ours"]),
        "loss_trl": statistics.median(run.loss for run in runs[faster]),
        "tokens_per_s": statistics.median(map(_per_s, runs["ours"])),
        "tokens_per_s_trl": statistics.median(map(_per_s, runs["trl"])),
        "tokens_per_s_trl_checkpointing": statistics.median(map(_per_s, runs["trl_checkpointing"])),
        "runs": {side: [vars(run) | {"tokens_per_s": _per_s(run)} for run in runs[side]] for side in SIDES},
        "n": args.repeats,
        "windows": len(rows),
        "tokens_of_a_run": sum(len(row["input_ids"]) for row in rows),
        "supervised_share": _supervised(rows) / sum(len(row["input_ids"]) for row in rows),
        **_environment(args),
    }


def _train(side: str, rows: list[Row], args: argparse.Namespace) -> TimedRun:
    set_seed(0)
    attention = register() if side == "ours" else "sdpa"
    base = load_user_base(build_base(), dtype=torch_dtype(), attention=attention)
    timer = StepTimer(args.warmup)
    with tempfile.TemporaryDirectory() as out:
        trainer_settings: dict[str, Any] = {
            "model": get_peft_model(base.model, _lora()),
            "args": _arguments(Path(out), args, gradient_checkpointing=side == "trl_checkpointing"),
            "train_dataset": Dataset.from_list(rows),
            "processing_class": AutoTokenizer.from_pretrained(base.source),
            "callbacks": [timer],
        }
        trainer = (
            UserTrainer(**trainer_settings, data_collator=collate)
            if side == "ours"
            else SFTTrainer(**trainer_settings)
        )
        trainer.remove_callback(PrinterCallback)  # stdout holds the result only
        trainer.train()
    return timer.run(sum(len(row["input_ids"]) for row in rows[args.warmup * args.batch :]))


def _lora() -> LoraConfig:
    """LoRA settings without the trained row of the end token, on which the fused head of TRL 1.16 fails."""
    settings = LoraSettings()
    return LoraConfig(
        r=settings.rank, lora_alpha=settings.alpha, target_modules="all-linear", task_type="CAUSAL_LM"
    )


def _arguments(out: Path, args: argparse.Namespace, *, gradient_checkpointing: bool) -> SFTConfig:
    return SFTConfig(
        output_dir=str(out),
        report_to=[],
        use_cpu=not torch.cuda.is_available(),
        bf16=precision() == "bf16",
        per_device_train_batch_size=args.micro_batch or args.batch,
        gradient_accumulation_steps=args.batch // (args.micro_batch or args.batch),
        gradient_checkpointing=gradient_checkpointing,
        max_steps=args.steps,
        learning_rate=6e-4,
        lr_scheduler_type="constant",
        logging_steps=1,
        save_strategy="no",
        train_sampling_strategy="sequential",
        max_length=None,
        remove_unused_columns=False,
        dataset_kwargs={"skip_prepare_dataset": True},
        disable_tqdm=True,
    )


def _windows(args: argparse.Namespace) -> list[Row]:
    """Returns the training windows that the steps need."""
    renderer = load_user_base(build_base(), dtype=torch_dtype()).renderer
    needed = args.steps * args.batch
    chats = list(_chats(args.data, needed))
    rows = training_rows(chats, renderer, max_tokens=args.max_tokens, epochs=1, seed=0)
    windows = [row for row, _ in zip(rows, range(needed), strict=False)]
    if len(windows) < needed:
        raise ConfigError(
            f"{len(windows)} windows in the data, {needed} needed; give more conversations with --data"
        )
    return windows


def _chats(file: Path | None, count: int) -> Iterator[Conversation]:
    file = file or (DEFAULT_DATA if DEFAULT_DATA.is_file() else None)
    if file is not None:
        for chat, _ in zip(read_records(file, Conversation), range(count), strict=False):
            yield chat
        return
    console.print("no --data: invented chats", style="dim")
    for i in range(count):
        question = f"how do i keep number {i} apart from the others in my list, it sorts them as text"
        reply = "Turn each entry into a number before you compare. " * (3 + i % 9)
        turns = [Turn(role="user", text=question), Turn(role="assistant", text=reply)] * (1 + i % 4)
        goal = Goal(summary=f"sort a list with number {i} in it")
        yield Conversation(
            id=f"invented-{i}",
            origin="human",
            source="invented",
            turns=tuple(turns),
            profile=UserProfile(goal=goal),
            ended_by="user",
        )


def _mfu(args: argparse.Namespace) -> dict[str, Any]:
    """Measures a full fine-tune of Llama-3.2-1B's shape with random weights and tokens, a tenth of them supervised."""
    if not torch.cuda.is_available():
        console.print("no CUDA device: model FLOPs utilisation is not measured")
        return {"mfu": None, "skipped": "no CUDA device", **_environment(args)}
    shape = LlamaConfig(
        vocab_size=128_256,
        hidden_size=2048,
        intermediate_size=8192,
        num_hidden_layers=16,
        num_attention_heads=32,
        num_key_value_heads=8,
        head_dim=64,
        tie_word_embeddings=True,
    )
    set_seed(0)
    model: Any = AutoModelForCausalLM.from_config(shape, attn_implementation=register())  # type: ignore[no-untyped-call]
    length, batch = 2048, args.micro_batch or 8
    ids = torch.randint(0, 128_000, (args.steps * batch, length)).tolist()
    rows = [
        {"input_ids": row, "labels": [token if i % 10 == 9 else IGNORED for i, token in enumerate(row)]}
        for row in ids
    ]
    timer = StepTimer(args.warmup)
    args.batch = args.micro_batch = batch
    with tempfile.TemporaryDirectory() as out:
        trainer = UserTrainer(
            model=model,
            args=_arguments(Path(out), args, gradient_checkpointing=args.gradient_checkpointing),
            train_dataset=Dataset.from_list(rows),
            processing_class=AutoTokenizer.from_pretrained(build_base()),
            data_collator=collate,
            callbacks=[timer],
        )
        trainer.remove_callback(PrinterCallback)  # stdout holds the result only
        trainer.train()
    timed = rows[args.warmup * batch :]
    run = timer.run(len(timed) * length)
    flops = model_flops(shape, tokens=run.tokens, supervised=_supervised(timed), length=length)
    peak = args.peak_tflops or _peak()
    return {
        "mfu": flops / run.seconds / (peak * 1e12),
        "parameters": model.num_parameters(),
        "tokens_per_s": _per_s(run),
        "tflops": flops / run.seconds / 1e12,
        "peak_tflops": peak,
        "n": args.steps - args.warmup,
        **_environment(args),
    }


def model_flops(shape: LlamaConfig, *, tokens: int, supervised: int, length: int) -> float:
    """Returns the FLOPs of forward and backward pass: 6 per weight and token, the head at supervised tokens only.

    Causal attention counts half of T² (12·L·d·T per token in full). Recomputation does not count.
    """
    width, layers = shape.hidden_size, shape.num_hidden_layers
    keys = (shape.num_key_value_heads or 0) * (shape.head_dim or 0)
    weights = layers * (2 * width * width + 2 * width * keys + 3 * width * shape.intermediate_size)
    attention = 6 * layers * width * length
    return float(tokens * (6 * weights + attention) + supervised * 6 * width * shape.vocab_size)


def _peak() -> float:
    name = torch.cuda.get_device_name()
    for part, tflops in PEAK_TFLOPS.items():
        if part in name:
            return tflops
    raise ConfigError(f"{name}: unknown peak; give --peak-tflops (dense bf16)")


def _per_s(run: TimedRun) -> float:
    return run.tokens / run.seconds


def _supervised(rows: list[Row]) -> int:
    return sum(label != IGNORED for row in rows for label in row["labels"])


def _environment(args: argparse.Namespace) -> dict[str, Any]:
    device = (
        torch.cuda.get_device_name()
        if torch.cuda.is_available()
        else f"cpu, {torch.get_num_threads()} threads"
    )
    versions = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    settings = {key: str(value) if isinstance(value, Path) else value for key, value in vars(args).items()}
    return {"device": device, "precision": precision(), "config": settings, "versions": versions}


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="batches of 4, 2 timed steps, 2 rounds")
    parser.add_argument("--data", type=Path, help=f"JSON Lines of conversations (default: {DEFAULT_DATA})")
    parser.add_argument("--batch", type=int, default=8, help="windows per optimiser step (default: 8)")
    parser.add_argument("--micro-batch", type=int, help="windows per forward pass (default: the batch)")
    parser.add_argument("--max-tokens", type=int, default=512, help="tokens of a window (default: 512)")
    parser.add_argument("--steps", type=int, default=8, help="optimiser steps of a run (default: 8)")
    parser.add_argument(
        "--warmup", type=int, default=2, help="steps of each run that are not timed (default: 2)"
    )
    parser.add_argument("--repeats", type=int, default=3, help="runs of each trainer (default: 3)")
    parser.add_argument(
        "--mfu", action="store_true", help="model FLOPs utilisation of a 1B model instead (CUDA)"
    )
    parser.add_argument(
        "--gradient-checkpointing", action="store_true", help="use gradient checkpointing with --mfu"
    )
    parser.add_argument(
        "--peak-tflops", type=float, help="dense bf16 peak of the GPU in TFLOPS, if it is unknown"
    )
    parser.add_argument("--json-out", metavar="FILE", help="write the result to FILE")
    return parser


if __name__ == "__main__":
    sys.exit(run_main(main))
