"""Measurements before and after fine-tuning: log-probability margins of pairs, and greedy replies."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean
from typing import Any

import torch

from collab_train.rollout.accounting.results import interval
from collab_train.rollout.simulation.best_path import Message
from collab_train.trainers.masks import common_length, template_ids
from collab_train.trainers.pairs import Pair
from usersim.api import run as run_async
from usersim.chat_models.local_chat import LocalChat
from usersim.chat_models.openai_chat import ChatSettings
from usersim.errors import UsersimError
from usersim.storage.records import write_records
from usersim.storage.runs import RunDir
from usersim.types import NonEmpty, Record


class Reply(Record):
    context: NonEmpty
    before: str
    after: str


def margins(model: Any, tokenizer: Any, pairs: Sequence[Pair], *, max_length: int) -> list[float]:
    """Returns log p(chosen | prompt) - log p(rejected | prompt) of each pair, in nats, end of turn included."""
    model.eval()
    return [
        reply_logprob(model, tokenizer, pair.prompt, pair.chosen, max_length=max_length)
        - reply_logprob(model, tokenizer, pair.prompt, pair.rejected, max_length=max_length)
        for pair in pairs
    ]


@torch.inference_mode()
def reply_logprob(
    model: Any, tokenizer: Any, prompt: Sequence[Message], reply: Sequence[Message], *, max_length: int
) -> float:
    """Returns log p(reply | prompt), on tokens as TRL makes them.

    The chat template is cut at `max_length`. The reply starts where prompt and conversation diverge.
    """
    prompt_ids = template_ids(tokenizer, prompt, add_generation_prompt=True)
    ids = template_ids(tokenizer, [*prompt, *reply], add_generation_prompt=False)[:max_length]
    start = common_length(prompt_ids, ids)
    ids_T = torch.tensor(ids, device=model.device)
    logits_TV = model(input_ids=ids_T[None]).logits[0, start - 1 : -1].float()
    logprobs_T = torch.log_softmax(logits_TV, -1).gather(1, ids_T[start:, None])
    return float(logprobs_T.sum())


def greedy_replies(
    model: Any, tokenizer: Any, prompts: Sequence[Sequence[Message]], *, max_tokens: int
) -> list[str]:
    model.eval()
    chat = LocalChat(model, tokenizer, settings=ChatSettings(temperature=0.0, max_tokens=max_tokens))
    return [_reply(chat, prompt) for prompt in prompts]


def _reply(chat: LocalChat, prompt: Sequence[Message]) -> str:
    try:
        return run_async(chat.complete([message.model_dump() for message in prompt]))
    except UsersimError:
        return ""  # an empty reply is reported, not an error


def compare_replies(before: dict[str, Any], after: dict[str, Any], run: RunDir) -> dict[str, Any]:
    """Writes replies.jsonl and counts changed replies; both arguments hold `contexts` and `replies`."""
    replies = [
        Reply(context=context, before=old, after=new)
        for context, old, new in zip(after["contexts"], before["replies"], after["replies"], strict=True)
    ]
    write_records(run.path / "replies.jsonl", replies)
    changed = sum(reply.before != reply.after for reply in replies)
    return {"replies": len(replies), "replies_changed": changed}


def change(before: Sequence[float], after: Sequence[float]) -> dict[str, Any] | None:
    """Returns mean margins before and after, and the paired change with its 95 % interval; None without pairs."""
    if not before:
        return None
    changes = [new - old for old, new in zip(before, after, strict=True)]
    return {
        "n": len(changes),
        "before": fmean(before),
        "after": fmean(after),
        "change": fmean(changes),
        "interval": interval(changes),
    }
