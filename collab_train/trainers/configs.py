"""Configs of the trainers, importable without torch and TRL."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from collab_train.rollout.command import MRConfig
from usersim.storage.toml_config import Config
from usersim.training.config import processes


class Tuning(Config):
    out: str
    assistant: str = "local"
    """Model to train: `local` (the base model), a model folder, or a training run, whose adapter is trained further."""
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
    """Maximum tokens of prompt plus reply; longer ones are cut at the end."""
    gradient_checkpointing: bool = False
    save_every: int = Field(default=50, ge=1)
    show: int = Field(default=4, ge=0)
    """Number of prompts answered greedily before and after training, for replies.jsonl."""
    show_tokens: int = Field(default=64, ge=1)
    wandb: Literal["offline", "online", "disabled"] = "offline"
    seed: int = 0

    @property
    def sequences_per_step(self) -> int:
        """Sequences per optimiser step, over all processes, in the unit of `micro_batch`."""
        return self.batch

    @property
    def accumulation(self) -> int:
        return max(1, self.sequences_per_step // (self.micro_batch * processes()))


class PairTuning(Tuning):
    train: str = "runs/collab-pairs/train.jsonl"
    heldout: str | None = None
    """File of pairs for measurement only."""


class SFT(PairTuning):
    out: str = "runs/collab-sft"
    paths: str | None = None
    """File of best conversations (paths.jsonl of `collab pairs`), instead of the chosen replies of `train`."""


class DPO(PairTuning):
    out: str = "runs/collab-dpo"
    beta: float = Field(default=0.1, gt=0)


class Online(Tuning, MRConfig):
    """Config of online training; rollout settings are those of `collab mr`, and `batch` counts contexts."""

    out: str = "runs/collab-online"
    split: Literal["train", "heldout", "all"] = "train"
    sample_candidates: int = Field(default=4, ge=2)
    """Replies per context and step (num_generations of TRL)."""
    micro_batch: int = Field(default=8, ge=1)
    """Replies per forward and backward pass of one process."""
    temperature: float = Field(default=0.8, gt=0, le=2)
    """Sampling temperature of the assistant, for the replies to train on and in the futures."""
    beta: float = Field(default=0.0, ge=0)
    """Weight of the KL divergence from the initial policy."""
    vllm: str | None = None
    """URL of the vLLM server to which TRL sends the weights (docs/train-assistants.md); also the assistant in futures.
    None: both sample from the model in training."""

    @property
    def sequences_per_step(self) -> int:
        return self.batch * self.sample_candidates


class GRPO(Online):
    out: str = "runs/collab-grpo"
    iterations: int = Field(default=1, ge=1)
    """Optimiser steps per sampling step."""


class RLOO(Online):
    out: str = "runs/collab-rloo"
    beta: float = Field(default=0.05, ge=0)
    """Weight of the KL divergence from the initial policy, subtracted from the reward."""


class OnlineDPO(Online):
    out: str = "runs/collab-online-dpo"
    sample_candidates: Literal[2] = 2
    micro_batch: int = Field(default=16, ge=2, multiple_of=2)
    """Replies per process in one batch of sampling, rewards and training. Fewer save memory but batch less."""
    beta: float = Field(default=0.1, gt=0)
    """DPO beta: strength of the pull towards the initial policy."""
    margin: float = Field(default=0.02, ge=0)
    """Minimum difference of the two rewards; closer pairs, and pairs without both rewards, are left out."""

    @model_validator(mode="after")
    def _prompt_has_room(self) -> OnlineDPO:
        if self.assistant_tokens >= self.max_length:
            raise ValueError("assistant_tokens: must be below max_length, which bounds prompt plus reply")
        return self
