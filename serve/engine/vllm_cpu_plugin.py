"""A vLLM plugin that makes engines on few CPU cores faster; on in those that `usersim` starts, and in no others."""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING

from serve.engine.command import CPU_ENGINE
from usersim.training.malloc import keep_pages

if TYPE_CHECKING:
    import torch

BUSY_S = 2.0
"""Seconds after a message for which the next one is expected soon."""
BUSY_RECHECK_MS, IDLE_RECHECK_MS = 5, 50
"""Longest sleep before shared memory is looked at without a notification."""


def register() -> None:
    """Called by vLLM in each of its processes (entry point `vllm.general_plugins`). May be called again."""
    if os.environ.get(CPU_ENGINE) == "1":
        patch_top_p()
        patch_shared_memory_wait()
        keep_pages()  # logits of a batch are megabytes, which glibc would map and clear anew at every step


def patch_top_p() -> None:
    """`usersim.decoding.top_p` in the place of vLLM's sort."""
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
    """Scheduler and worker wait for each other's messages asleep.

    vLLM (0.32, `SpinCondition`) polls shared memory for a second before it sleeps, so that the scheduler of a busy
    engine keeps a whole core at waiting: one that the worker, the front or another engine lacks. A notification is lost
    at times, and vLLM then looks again after seconds only; a second of polling hides that, and sleep must not show it.
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
