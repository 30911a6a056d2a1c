"""Assistant that samples from the model in training, for simulating futures."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from collab_train.decoding.dynamic_batching import BatchedSampler
from usersim.backends.transformers_local import LocalSampler
from usersim.chat_models.local_chat import LocalChat
from usersim.chat_models.openai_chat import ChatSettings


class LivePolicy(LocalChat):
    """`Assistant` over a model whose weights change between calls; it does not copy them.

    Requests are batched, one batch at a time in one thread. TRL waits in its own thread for the rewards, so no training
    happens meanwhile. Call it inside `in_eval_mode`.
    """

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        *,
        settings: ChatSettings,
        rows: int = 32,
        beside: LocalSampler | None = None,
    ) -> None:
        super().__init__(model, tokenizer, settings=settings)
        self.model = model
        self.sampler = BatchedSampler(model, rows=rows, beside=beside)

    @contextmanager
    def in_eval_mode(self) -> Iterator[None]:
        """Context manager that puts the model in evaluation mode.

        Dropout would sample from another policy, and a layer with gradient checkpointing has no KV cache in training
        mode.
        """
        was_training = self.model.training
        self.model.eval()
        try:
            yield
        finally:
            self.model.train(was_training)


def fingerprint(model: Any) -> str:
    """Returns a hash of the trainable weights, for the cache keys of futures."""
    digest = hashlib.blake2b(digest_size=12)
    for name, weight in model.named_parameters():
        if weight.requires_grad:
            digest.update(name.encode())
            digest.update(weight.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
