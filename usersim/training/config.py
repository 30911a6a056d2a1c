"""Config of a training run: defaults; configs/train holds overrides."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field

from usersim.errors import ConfigError
from usersim.rendering.renderer import Limits
from usersim.storage.toml_config import Config
from usersim.weights.default_model import BASE_NAME, SHIPPED_ADAPTER, USERLM_NAME
from usersim.weights.precision import torch_dtype

if TYPE_CHECKING:
    import torch


class LoraSettings(Config):
    rank: int = Field(default=32, ge=1)
    alpha: int = Field(default=64, ge=1)
    """The adapter is scaled by alpha / rank."""
    dropout: float = Field(default=0.0, ge=0, lt=1)


class TrainConfig(Config):
    out: str = "runs/userlm"
    """Folder of the run; the same command there resumes it."""
    base: str = BASE_NAME
    """The default base by name, or a folder of a transformers causal LM with ChatML or Llama-3 tokens."""
    train: tuple[str, ...] = ("data/sharegpt/train.jsonl",)
    """Files of training conversations."""
    dev: tuple[str, ...] = ("data/sharegpt/dev.jsonl",)
    dev_conversations: int = Field(default=60, ge=1)
    """Number of dev conversations used, evenly spaced."""
    method: Literal["lora", "full"] = "lora"
    start: str | None = None
    """Adapter to continue from: userlm-135m, a run or a folder (method lora; its rank is used, `lora` is ignored)."""
    lora: LoraSettings = LoraSettings()
    weights: Literal["fp32", "bf16"] = "fp32"
    """Data type of the weights in a full fine-tune. bf16 halves the memory and loses updates below 1/256 of a
    weight."""
    limits: Limits = Limits()
    max_tokens: int = Field(default=768, ge=128)
    """Training window in tokens; longer conversations are cut at turn boundaries."""
    windows_per_conversation: int | None = Field(default=None, ge=1)
    """Maximum windows per conversation; the opening is always included."""
    openings: float = Field(default=0.0, ge=0, le=1)
    """Share of conversations reduced to their opening, with the style measured on it alone."""
    emphasis: float = Field(default=0.0, ge=0)
    """Extra weight of each turn's first token and of stopping or going on, where style and length show."""
    emphasis_end: float | None = Field(default=None, ge=0)
    """Value of `emphasis` at the last step, reached linearly; none: constant."""
    borrow_facets: bool = False
    """Use facets of the nearest other goal as unsaid wishes where none are annotated."""
    acts: bool = False
    """Note the act before some turns of some conversations: object, correct, ask, answer, thank."""
    context_tokens: int = Field(default=4096, ge=256)
    """Context window in tokens when serving: prompt plus turn."""
    keep_without_goal: float = Field(default=1.0, ge=0, le=1)
    """Share of the conversations without a goal that are trained on."""
    epochs: int = Field(default=1, ge=1)
    skip: Annotated[int, Field(ge=0)] | Literal["ledger"] = 0
    """Number of windows skipped at the start of the pass; ledger: those that the start adapter was trained on."""
    max_steps: int | None = Field(default=None, ge=1)
    """Optimiser steps; none: as many as the epochs take."""
    batch: int = Field(default=8, ge=1)
    """Windows per optimiser step, over all processes."""
    micro_batch: int = Field(default=1, ge=1)
    """Windows per forward pass of one process, concatenated without padding."""
    attention: Literal["packed", "flash_attention_2"] = "packed"
    """packed: PyTorch kernels, one window at a time. flash_attention_2 needs a GPU and the package flash-attn."""
    gradient_checkpointing: bool = False
    """Recompute activations: far less memory, about a third slower."""
    lr: float = Field(default=6e-4, gt=0)
    """Highest learning rate."""
    schedule: Literal["cosine", "constant", "linear"] = "cosine"
    """Learning-rate schedule after the warm-up. constant suits a run that a later one continues."""
    warmup: float = Field(default=0.04, ge=0, lt=1)
    """Share of the steps with a rising learning rate."""
    weight_decay: float = Field(default=0.0, ge=0)
    average: int = Field(default=1, ge=1)
    """Number of last checkpoints averaged into the result, if that lowers the dev loss."""
    eval_every: int = Field(default=100, ge=1)
    """Steps between evaluations (dev loss and samples), and between checkpoints unless `save_every` is set."""
    save_every: int | None = Field(default=None, ge=1)
    """Steps between checkpoints."""
    wandb: Literal["offline", "online", "disabled"] = "offline"
    seed: int = 0

    @property
    def weights_dtype(self) -> torch.dtype:
        import torch  # not for a help text

        # Frozen weights need no fp32 copy where products are in bf16; trained ones do, under autocast.
        if self.method == "lora":
            return torch_dtype()
        return torch.bfloat16 if self.weights == "bf16" else torch.float32

    @property
    def steps_between_saves(self) -> int:
        return self.save_every or self.eval_every

    @property
    def emphases(self) -> tuple[float, float]:
        """Emphasis at the first step and at the last."""
        return self.emphasis, self.emphasis if self.emphasis_end is None else self.emphasis_end

    @property
    def accumulation(self) -> int:
        """Forward passes of one process per optimiser step."""
        return max(1, self.batch // (self.micro_batch * processes()))


def start_folder(start: str) -> Path:
    """Returns the adapter folder of `start`: the name of the shipped one, a folder, or a run.

    Raises ConfigError if there is none.
    """
    named = SHIPPED_ADAPTER if start == USERLM_NAME else Path(start)
    for folder in (named / "adapter", named):
        if (folder / "adapter_model.safetensors").is_file():
            return folder
    raise ConfigError(
        f"start={start}: no adapter there; give {USERLM_NAME}, the folder of a run or of an adapter, "
        "or leave `start` out"
    )


def processes() -> int:
    """Returns the number of training processes, set by `accelerate launch` or torchrun."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def check(config: TrainConfig) -> None:
    """Raises ConfigError for a config that cannot be trained on this machine. Loads and writes nothing."""
    import torch

    if config.batch % (config.micro_batch * processes()):
        together = f" times {processes()} processes" if processes() > 1 else ""
        raise ConfigError(
            f"batch={config.batch} is not a multiple of micro_batch={config.micro_batch}{together}"
        )
    if config.start is not None and config.method == "full":
        raise ConfigError(
            f"start={config.start} is an adapter and needs method=lora; "
            "a full fine-tune goes on from a folder given as base=…"
        )
    if config.skip == "ledger" and config.start is None:
        raise ConfigError("skip=ledger needs an adapter with a ledger; give it as start=…")
    sharded = os.environ.get("ACCELERATE_USE_FSDP", "").lower() == "true"
    if sharded and config.average > 1:
        raise ConfigError(f"average={config.average}: sharded checkpoints cannot be averaged; leave it out")
    if processes() == 1 and torch.cuda.device_count() > 1:
        raise ConfigError(
            f"{torch.cuda.device_count()} GPUs are visible to one process; "
            "launch with `accelerate launch --config_file configs/accelerate/ddp.yaml -m usersim train …`, "
            "or choose one with CUDA_VISIBLE_DEVICES=0"
        )
    if config.method == "lora" and sharded:
        raise ConfigError("method=lora does not shard; launch it with configs/accelerate/ddp.yaml")
