"""Whether the conversation arrives at the right answer."""

from __future__ import annotations

from collections.abc import Sequence

from collab_train.rewards.answers import claimed, last_number, marked, own_part, remarked, same
from collab_train.rewards.registry import Episode, extrinsic
from usersim.types import Turn


@extrinsic(
    "accuracy",
    lacks=lambda context: None if context.metadata.get("answer") else "an answer (metadata.answer)",
    blocking=True,
)
def accuracy(episode: Episode) -> float:
    """1 if the assistant's last answer in the conversation is `metadata.answer`, else 0.

    Only what the assistant says counts; "You're welcome!" takes nothing back, and of a reply that writes on as somebody
    else ("Question: …") only what comes before. An answer that the user gave away first ("I got 12, is that right?")
    earns nothing; a number of the problem ("i get 18 eggs a day") is no answer.
    """
    wanted, turns = episode.context.metadata["answer"], episode.conversation.turns
    given = _answer([turn.text for turn in turns if turn.role == "assistant"])
    if given is None or not same(given, wanted):
        return 0.0
    return 0.0 if _leaked(turns, wanted) else 1.0


def _answer(replies: Sequence[str]) -> str | None:
    """The last one that is marked as an answer; the last number where none is."""
    for find in (marked, remarked, last_number):
        for text in reversed(replies):
            if (answer := find(own_part(text))) is not None:
                return answer
    return None


def _leaked(turns: Sequence[Turn], wanted: str) -> bool:
    """Whether the user says the answer before the assistant does."""
    for turn in turns:
        if turn.role == "user":
            claim = claimed(turn.text)
            if claim is not None and same(claim, wanted):
                return True
        elif (answer := _answer([turn.text])) is not None and same(answer, wanted):
            return False
    return False
