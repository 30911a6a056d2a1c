"""Reward for the right final answer of a conversation."""

from __future__ import annotations

from collections.abc import Sequence

from collab_train.rewards.answers import (
    explicit_answer,
    first_speaker_part,
    last_number,
    revealed_answer,
    same,
    worded_answer,
)
from collab_train.rewards.registry import Episode, extrinsic
from usersim.types import Turn


@extrinsic(
    "accuracy",
    lacks=lambda context: None if context.metadata.get("answer") else "an answer (metadata.answer)",
    blocking=True,
)
def accuracy(episode: Episode) -> float:
    """1 if the assistant's last answer in the conversation is `metadata.answer`, else 0.

    Only the assistant's turns count, and a later turn without an answer ("You're welcome!") changes nothing. A reply
    that continues as another speaker ("Question: …") counts up to that point. An answer that the user reveals first
    ("I got 12, is that right?") scores 0. A number of the problem ("i get 18 eggs a day") is not an answer.
    """
    reference, turns = episode.context.metadata["answer"], episode.conversation.turns
    answer = _answer([turn.text for turn in turns if turn.role == "assistant"])
    if answer is None or not same(answer, reference):
        return 0.0
    return 0.0 if _leaked(turns, reference) else 1.0


def _answer(replies: Sequence[str]) -> str | None:
    """Returns the last explicit answer of the replies, or else their last number."""
    for extract in (explicit_answer, worded_answer, last_number):
        for text in reversed(replies):
            if (answer := extract(first_speaker_part(text))) is not None:
                return answer
    return None


def _leaked(turns: Sequence[Turn], reference: str) -> bool:
    """True if the user states the answer before the assistant does."""
    for turn in turns:
        if turn.role == "user":
            claim = revealed_answer(turn.text)
            if claim is not None and same(claim, reference):
                return True
        elif (answer := _answer([turn.text])) is not None and same(answer, reference):
            return False
    return False
