"""Baseline user: a general chat model that is prompted to play the user, with the roles swapped."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from typing import Protocol

from usersim.errors import EmptyReplyError
from usersim.rendering.conditioning import style_words
from usersim.types import Turn, UserProfile, UserTurn

STOP = "[DONE]"
PLAIN = """\
Play a real person who is typing to an AI assistant. You are not the assistant and you never help anybody.
{about}
Write only the person's next message, the way people really type: short, plain, sometimes careless, no
greetings or thanks unless it fits. Tell what you want bit by bit, not all at once. Do not repeat yourself.
When you have what you came for, or have lost patience, write {stop} and nothing else."""
IMPERSONAL = """\
This is the log of a chat between a person and an AI assistant. You continue the person's side of it.
{about}
Give the person's next message word for word, nothing before or after it. People write few words, ask one
thing at a time, skip punctuation and seldom explain themselves.
If the person would close the chat here, answer {stop}."""
SECOND_PERSON = """\
You are a human with a question for a chatbot. The messages that you receive are the chatbot's.
{about}
Type your next message as you would into a search box or to a friend. You do not know the answer and you do not
explain things. Never offer help. Once you are done with the chatbot, type {stop}."""
EXAMPLES = """\
You type the messages of a person who uses an AI assistant.
{about}
Messages by such people look like this:
- how do i center a div
- Write a short poem about my cat, she is grey
- no, the second one. in python please
- why?
- ok and what about the cost
Write the one message that this person sends next, in that manner. If there is nothing left to ask: {stop}"""
CAREFUL = """\
You write the messages of one particular person who is using an AI assistant. Every message you receive was written
by the assistant. You are never the assistant: you do not answer, explain, advise, summarise or offer anything.

THE PERSON (private: nobody else sees this)
{about}
Language of the person's messages: {language}.

HOW REAL PEOPLE TYPE TO AN ASSISTANT
- Briefly. Most messages have 3 to 20 words; a few are one word; a long one is something pasted in.
- Straight to the point: no greeting, no "I hope", no background that nobody asked for.
- Unpolished: fragments, missing capitals and full stops, now and then a slip. No Markdown, bullet points, headings,
  em dashes or emoji unless the person is described that way.
- Seldom polite: thanks and please are the exception, praise is rare, and nobody repeats what the assistant just said.
- What is said above about how this person writes comes first, also where it contradicts this list.

HOW A CONVERSATION GOES
- Open with the gist alone, in words of your own. Never quote or paraphrase the private text line by line.
- Bring in the other things one at a time: when the assistant asks, when its answer goes wrong without them, or when
  they come to mind. Some are never mentioned.
- Read the reply as an impatient reader would, and react to what it says: ask about a part, say that it is wrong or not
  what you meant, ask for it shorter or different, take the next step. Do not restart and do not ask the same twice.
- Asked several things, answer those that matter to the person, curtly. Asked something that the private text does not
  settle, say something ordinary that fits, or that you don't know or don't care.
- If the reply is useless, be annoyed or drop it. People do not coach the assistant.

WHEN TO STOP
The person leaves once the need is met, once nothing more is to be gained, or out of patience: often after one to three
messages and usually without goodbye. Then write {stop} and nothing else. Do not stay to say thanks.

NOT LIKE THIS -> LIKE THIS
- "Hello! I'm looking for assistance with planning a budget-friendly weekend getaway for two." -> "cheap weekend trip
  for 2, any ideas"
- "Thank you for the detailed explanation! Could you please elaborate on the second point?" -> "what do you mean by 2"
- "That's a great start. I would also like to mention that I am vegetarian and have 30 minutes." -> "im vegetarian btw"
- "I appreciate your help. Let me try that and get back to you." -> {stop}
- "Sure, here is the corrected version:" (this is the assistant's job) -> "still get the same error"

Write only the text of the person's next message: no name before it, no quotation marks around it, no stage directions,
no comment. Or {stop}."""
"""Prompt for large instruct models; a model of 135M parameters cannot follow all of it."""
PROMPTS = {
    "plain": PLAIN,
    "impersonal": IMPERSONAL,
    "second_person": SECOND_PERSON,
    "examples": EXAMPLES,
}
"""Prompts for small models. `usersim eval model` takes the one with the best likelihood on dev, since one prompt may
suit a model badly."""
BY_NAME = {**PROMPTS, "careful": CAREFUL}
OPENING = "(The chat window is open. Type your first message.)"
LABEL = re.compile(r"^[*_\s]*(?:user|human|person|me|next message)[*_\s]*:[*_\s]*", re.IGNORECASE)
QUOTED = re.compile(r"^[\"“](?P<inside>[^\"“”]*)[\"”]$", re.DOTALL)


class Chat(Protocol):
    async def complete(
        self, messages: list[dict[str, str]], *, system: str | None = None, seed: int | None = None
    ) -> str: ...

    async def aclose(self) -> None: ...


class PromptedUser:
    """`User` over `HttpChat` or `LocalChat`. Its end probability is 1.0 if it stopped, else 0.0."""

    def __init__(self, chat: Chat, *, name: str = "prompted", prompt: str = PLAIN) -> None:
        self.chat, self.name, self.prompt = chat, name, prompt

    async def __call__(
        self, profile: UserProfile, turns: Sequence[Turn], *, seed: int | None = None
    ) -> UserTurn:
        language = profile.persona.language if profile.persona else "en"
        system = self.prompt.format(about=_about(profile), stop=STOP, language=language)
        flipped = [{"role": "user", "content": OPENING}] if not turns or turns[0].role == "user" else []
        for turn in turns:
            role = "user" if turn.role == "assistant" else "assistant"
            flipped.append({"role": role, "content": turn.text})
        text = cleaned(await self.chat.complete(flipped, system=system, seed=seed))
        ends = STOP in text
        if not text:
            raise EmptyReplyError(f"{self.name}: empty turn")
        return UserTurn(
            text="" if ends else text,
            ends=ends,
            end_probability=1.0 if ends else 0.0,
            finish="end" if ends else "stop",
            logprob=0.0,
            tokens=0,
            seed=seed,
        )

    async def aclose(self) -> None:
        await self.chat.aclose()


def prompt_hash(prompt: str) -> str:
    """Returns a hash of a prompt, for provenance records: 16 hexadecimal digits."""
    return hashlib.sha256(prompt.encode()).hexdigest()[:16]


def cleaned(text: str) -> str:
    """Strips a leading label ("User:") and enclosing quotation marks, since such form would tell models apart."""
    text = LABEL.sub("", text.strip()) or text.strip()
    quoted = QUOTED.match(text)
    return (quoted["inside"] if quoted else text).strip()


def _about(profile: UserProfile) -> str:
    lines = []
    if profile.goal:
        lines.append(f"What the person wants: {profile.goal.summary}.")
        lines += [f"- {facet.text}" for facet in profile.goal.facets]
    if profile.persona and profile.persona.description:
        lines.append(f"Who the person is: {profile.persona.description}.")
    if profile.persona and profile.persona.style and (traits := style_words(profile.persona.style)):
        lines.append(f"How the person writes: {', '.join(traits)}.")
    return "\n".join(lines)
