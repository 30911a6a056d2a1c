"""Questions to a judge, or to a person who labels. The rubrics are our own; the source of a text is never shown."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from pydantic import Field

from eval.fidelity.metrics.interaction.user_acts import USER_ACTS, UserAct
from usersim.types import Conversation, Record

Task = Literal["which", "natural", "act"]
TASKS: tuple[Task, ...] = ("which", "natural", "act")
CHARS, REPLY_CHARS = 1000, 300
"""Most characters of a message and of an assistant's reply; longer text is cut, on every side alike."""

WHICH = """\
You see two chats with an AI assistant, of the same number of messages. Only the user's messages matter. A chat's
user is either a person or a program that imitates one; both kinds, or one kind twice, may be before you.
Decide which user is more likely a person. Go by how things are put, what is left unsaid, and how each message takes up
the reply before it. Do not go by the subject, by the quality of the replies, or by mistakes alone: programs can make
mistakes on purpose and many people write without any. If you cannot tell, guess.
Answer "first" or "second"."""
NATURAL = """\
You see the user's side of a chat with an AI assistant. Rate how natural it is as something that a person typed.
5: nothing in it would make me doubt that a person wrote this
4: small oddities, as people have them
3: could be either
2: several messages sound written to order: too complete, too polite, too even, or without reaction to the replies
1: no person writes like this: speaks as the assistant, repeats itself, recites a task, or makes no sense
Judge form and behaviour, not the subject and not correctness."""
ACT = """\
You see a user's message in a chat, what the user said before, and the assistant's reply in between. Say what the
message does with that reply. Take the first that fits:
acknowledgement: does nothing but show that the reply was received or understood (thanks, ok, got it)
repair: says or implies that the reply got something wrong or missed what was meant, and corrects it
repeat: asks for the same as before in nearly the same words, since it was not done
clarification: asks what something in the reply means, or whether it was understood rightly
topic switch: turns to another matter that neither side had touched
followup: asks for more of, a change to, or the next step after what the reply gave
next turn: anything else, such as an answer to the assistant's question"""


class Which(Record):
    human: Literal["first", "second"]


class Natural(Record):
    score: int = Field(ge=1, le=5)


class Act(Record):
    act: UserAct


PROMPTS: dict[Task, str] = {"which": WHICH, "natural": NATURAL, "act": ACT}
ANSWERS: dict[Task, type[Record]] = {"which": Which, "natural": Natural, "act": Act}
LABELS: dict[str, tuple[str, ...]] = {
    "which": ("first", "second"),
    "natural": ("1", "2", "3", "4", "5"),
    "act": USER_ACTS,
}


@dataclass(frozen=True)
class Item:
    """One question. Its key names the task and the text, so that labels of people can be matched to it."""

    task: Task
    text: str

    @property
    def key(self) -> str:
        return f"{self.task}:{hashlib.sha256(self.text.encode()).hexdigest()[:16]}"

    def messages(self) -> list[dict[str, str]]:
        return [
            {"role": "system", "content": PROMPTS[self.task]},
            {"role": "user", "content": self.text},
        ]


def label_of(answer: Record) -> str:
    """Returns the single field of an answer, as text."""
    (value,) = answer.model_dump().values()
    return str(value)


def chat_text(conversation: Conversation, *, user_turns: int | None = None, replies: bool = False) -> str:
    """Returns the chat up to `user_turns`, without names, source, system prompt or ending.

    Replies appear as "(reply)" unless `replies`: assistants differ between corpora and would identify the sides.
    """
    lines, turn_count = list[str](), 0
    for turn in conversation.turns:
        if turn.role == "user":
            if turn_count == user_turns:
                break
            turn_count += 1
            lines.append(f"User: {clip(turn.text, CHARS)}")
        else:
            lines.append(f"Assistant: {clip(turn.text, REPLY_CHARS)}" if replies else "(reply)")
    while lines and not lines[-1].startswith("User: "):
        lines.pop()
    return "\n\n".join(lines)


def clip(text: str, chars: int) -> str:
    return text if len(text) <= chars else f"{text[:chars].rstrip()} […]"


def which_item(first: str, second: str) -> Item:
    return Item("which", f"CHAT 1\n\n{first}\n\n\nCHAT 2\n\n{second}")


def natural_item(conversation: Conversation, *, user_turns: int | None, replies: bool) -> Item:
    return Item("natural", chat_text(conversation, user_turns=user_turns, replies=replies))


def act_item(earlier_turns: Sequence[str], reply: str, message: str) -> Item:
    last_turn = clip(earlier_turns[-1], CHARS)
    return Item(
        "act",
        f"The user said:\n{last_turn}\n\nThe assistant replied:\n{clip(reply, 2 * REPLY_CHARS)}\n\n"
        f"The user's message:\n{clip(message, CHARS)}",
    )
