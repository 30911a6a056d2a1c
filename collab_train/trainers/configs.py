"""Configs of everything that trains an assistant, importable without what trains it."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from collab_train.rollout.command import MRConfig
from usersim.storage.toml_config import Config
from usersim.training.config import processes


class Tuning(Config):
    out: str
    assistant: str = "local"
    """`local` (the base model), a model folder, or an earlier run of training: its adapter is trained on."""
    rank: int = Field(default=16, ge=1)
    alpha: int = Field(default=32, ge=1)
    lr: float = Field(default=1e-4, gt=0)
    epochs: int = Field(default=1, ge=1)
    max_steps: int | None = Field(default=None, ge=1)
    batch: int = Field(default=8, ge=1)
    """Rows (pairs, conversations, contexts) per optimiser step, over all processes."""
    micro_batch: int = Field(default=2, ge=1)
    """Sequences per forward and backward pass of one process."""
    max_length: int = Field(default=1024, ge=32)
    """Longest prompt plus reply in tokens; a longer one is cut at its end."""
    gradient_checkpointing: bool = False
    save_every: int = Field(default=50, ge=1)
    show: int = Field(default=4, ge=0)
    """Prompts answered greedily before and after, to read in replies.jsonl."""
    show_tokens: int = Field(default=64, ge=1)
    wandb: Literal["offline", "online", "disabled"] = "offline"
    seed: int = 0

    @property
    def sequences_per_step(self) -> int:
        """Sequences per optimiser step, over all processes; the unit of `micro_batch`."""
        return self.batch

    @property
    def accumulation(self) -> int:
        return max(1, self.sequences_per_step // (self.micro_batch * processes()))


class PairTuning(Tuning):
    train: str = "runs/collab-pairs/train.jsonl"
    heldout: str | None = None
    """Pairs that are only measured on."""


class SFT(PairTuning):
    out: str = "runs/collab-sft"
    paths: str | None = None
    """Best conversations (paths.jsonl of `collab pairs`), trained on instead of the chosen replies of `train`."""


class DPO(PairTuning):
    out: str = "runs/collab-dpo"
    beta: float = Field(default=0.1, gt=0)


class Online(Tuning, MRConfig):
    """`user`, `task`, `w`, `n`, `rewards` and the like are those of `collab mr`; `batch` counts contexts."""

    out: str = "runs/collab-online"
    split: Literal["train", "heldout", "all"] = "train"
    sample_candidates: int = Field(default=4, ge=2)
    """Replies per context and step: TRL's num_generations."""
    micro_batch: int = Field(default=8, ge=1)
    """Replies per forward and backward pass of one process."""
    temperature: float = Field(default=0.8, gt=0, le=2)
    """Sampling temperature of the replies that are trained on and of the assistant in the futures."""
    beta: float = Field(default=0.0, ge=0)
    """Weight of the KL divergence from the starting point."""
    vllm: str | None = None
    """URL of the vLLM server that TRL pushes the weights to (docs/train-assistants.md); the assistant in the futures
    is then that server. Without: both sample from the live module."""

    @property
    def sequences_per_step(self) -> int:
        return self.batch * self.sample_candidates


class GRPO(Online):
    out: str = "runs/collab-grpo"
    iterations: int = Field(default=1, ge=1)
    """Optimiser steps on the replies of one step of sampling."""


class RLOO(Online):
    out: str = "runs/collab-rloo"
    beta: float = Field(default=0.05, ge=0)
    """Weight of the KL divergence from the starting point, taken off the reward."""


class OnlineDPO(Online):
    out: str = "runs/collab-online-dpo"
    sample_candidates: Literal[2] = 2
    micro_batch: int = Field(default=16, ge=2, multiple_of=2)
    """Replies sampled, rewarded and trained on at once in one process; fewer save memory and leave less to batch."""
    beta: float = Field(default=0.1, gt=0)
    """Strength of the pull towards the starting point."""
    margin: float = Field(default=0.02, ge=0)
    """Pairs whose rewards lie closer are left out, like those with a reply that has no reward."""

    @model_validator(mode="after")
    def _has_room(self) -> OnlineDPO:
        if self.assistant_tokens >= self.max_length:
            raise ValueError("assistant_tokens: must be below max_length, which is prompt and reply together")
        return self
