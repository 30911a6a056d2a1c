"""A vLLM plugin that makes engines on few CPU cores faster; on in those that `usersim` starts, and in no others."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from serve.command import CPU_ENGINE

if TYPE_CHECKING:
    import torch


def register() -> None:
    """Called by vLLM in each of its processes (entry point `vllm.general_plugins`). May be called again."""
    if os.environ.get(CPU_ENGINE) == "1":
        limit_without_sorting()
        wait_without_spinning()


def limit_without_sorting() -> None:
    """`usersim.nucleus` in the place of vLLM's sort."""
    from vllm.v1.sample.ops import topk_topp_sampler as sampler

    from usersim.nucleus import nucleus

    plain = sampler.apply_top_k_top_p

    def apply_top_k_top_p(
        logits: torch.Tensor, k: torch.Tensor | None, p: torch.Tensor | None
    ) -> torch.Tensor:
        return plain(logits, k, p) if p is None else nucleus(logits, k, p)

    if plain.__module__ != __name__:
        sampler.apply_top_k_top_p = apply_top_k_top_p


def wait_without_spinning() -> None:
    """Scheduler and worker wait for each other's messages asleep.

    vLLM (0.32, `SpinCondition`) polls shared memory for a second before it sleeps, so that the scheduler of a busy
    engine keeps a whole core at waiting: one that the worker, the front or another engine lacks.
    """
    from vllm.distributed.device_communicators import shm_broadcast

    class Asleep(shm_broadcast.SpinCondition):
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **kwargs)
            self.busy_loop_s = 0

    if shm_broadcast.SpinCondition.__module__ != __name__:
        vars(shm_broadcast)["SpinCondition"] = Asleep
