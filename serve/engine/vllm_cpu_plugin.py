"""vLLM plugin that speeds up engines on few CPU cores; active only in engines that `usersim` starts."""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING

from serve.engine.command import CPU_ENGINE
from usersim.training.malloc import keep_pages

if TYPE_CHECKING:
    import torch

BUSY_S = 2.0
"""Seconds after a message in which the shorter recheck interval applies."""
BUSY_RECHECK_MS, IDLE_RECHECK_MS = 5, 50
"""Longest sleep in milliseconds before shared memory is checked without a notification."""


def register() -> None:
    """Entry point `vllm.general_plugins`, called by vLLM in each of its processes, possibly more than once."""
    if os.environ.get(CPU_ENGINE) == "1":
        patch_top_p()
        patch_shared_memory_wait()
        keep_pages()  # glibc would map and clear the megabytes of a batch's logits at every step


def patch_top_p() -> None:
    """Replaces vLLM's sort in top-k and top-p by `usersim.decoding.top_p`."""
    from vllm.v1.sample.ops import topk_topp_sampler as sampler

    from usersim.decoding.top_p import nucleus

    vllm_top_k_top_p = sampler.apply_top_k_top_p

    def apply_top_k_top_p(
        logits: torch.Tensor, k: torch.Tensor | None, p: torch.Tensor | None
    ) -> torch.Tensor:
        return vllm_top_k_top_p(logits, k, p) if p is None else nucleus(logits, k, p)

    if vllm_top_k_top_p.__module__ != __name__:
        sampler.apply_top_k_top_p = apply_top_k_top_p


def patch_shared_memory_wait() -> None:
    """Makes scheduler and worker sleep, not busy-wait, until a message arrives.

    vLLM (0.32, `SpinCondition`) polls shared memory for a second before it sleeps. So the scheduler of a busy engine
    keeps one core busy that the worker, the API server or another engine needs. Notifications are sometimes lost, and
    vLLM rechecks only after seconds. Its second of polling hides that; the short recheck intervals here do the same.
    """
    from vllm.distributed.device_communicators import shm_broadcast

    class SleepingCondition(shm_broadcast.SpinCondition):
        def wait(self, timeout_ms: int | None = None) -> None:
            is_busy = time.monotonic() < self.last_read + BUSY_S
            recheck_ms = BUSY_RECHECK_MS if is_busy else IDLE_RECHECK_MS
            self.busy_loop_s = -1.0  # to the socket at once
            super().wait(recheck_ms if timeout_ms is None else min(timeout_ms, recheck_ms))

    if shm_broadcast.SpinCondition.__module__ != __name__:
        vars(shm_broadcast)["SpinCondition"] = SleepingCondition
