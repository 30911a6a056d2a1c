"""Assistant acts and the user's reaction, by rules for English text.

An exchange is an answer after which the person speaks or leaves. The rules read the beginning and the end of an
answer, where assistants refuse, apologise and ask. `exchanges` leaves out conversations that are not in English
(`is_english`).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

from eval.fidelity.samples.features import user_texts
from usersim.text.code_blocks import split
from usersim.text.style import is_foreign, marks_of
from usersim.text.user_acts import is_pushback
from usersim.types import Conversation

AssistantAct = Literal["asks", "refuses", "errs", "offers", "answers"]
ASSISTANT_ACTS: tuple[AssistantAct, ...] = ("asks", "refuses", "errs", "offers", "answers")
"""An answer may have several of the first four acts; "answers" means none of them."""
ACT_LABELS: dict[AssistantAct, str] = {
    "asks": "asks",
    "refuses": "refuses",
    "errs": "apologises or is corrected",
    "offers": "offers a choice",
    "answers": "just answers",
}
BEGINNING, END = 300, 300
"""Characters of an answer that are read at either end."""
REMEMBERED = 4000


def any_of(*phrases: str) -> re.Pattern[str]:
    return re.compile(rf"\b(?:{'|'.join(phrases)})")


A_MODEL = r"as an? (?:ai|language|large language|text-based|machine)\b[^.]{0,60}?,? i"
NOT_ABLE = (
    r"(?:can(?:no|')t|can not|won't|will not be able to|am (?:not able|unable) to"
    r"|am not (?:allowed|capable|programmed))\b(?! help but)"
)
LACKED = (
    r"(?:access|abilit(?:y|ies)|capabilit(?:y|ies)|feelings|emotions|opinions|beliefs|preferences|experiences"
    r"|consciousness|information (?:about|on))\b"
)
REFUSES = any_of(
    rf"(?:i|we) (?:\w+ ){{0,2}}?{NOT_ABLE}",
    r"i'm (?:not able|unable) to\b",
    r"i'm not (?:allowed|capable|programmed|comfortable)\b",
    rf"i (?:\w+ )?(?:do not|don't) have (?:\w+ ){{0,3}}?{LACKED}",
    r"i (?:must|have to) (?:\w+ )?(?:decline|refuse)\b",
    r"(?:against|violates?) (?:\w+ ){0,3}?(?:polic(?:y|ies)|guidelines|rules|terms)\b",
    r"not (?:appropriate|ethical) (?:for me )?to\b",
    rf"{A_MODEL} (?:do not|don't|am not|cannot|can't)\b",
    r"sorry, (?:but )?i (?:do not|don't) (?:know|have)\b",
)
ERRS = any_of(
    r"i apologi[sz]e (?:for|if)\b",
    r"apologies\b",
    r"i (?:deeply |sincerely )?apologi[sz]e[.!]",
    r"sorry (?:for|about) (?:the|that|any|my|this)\b",
    r"you(?:'re| are) (?:absolutely |quite |completely )?(?:right|correct)\b",
    r"my (?:mistake|bad|error)\b",
    r"i (?:made|see) (?:a|an|my|the) (?:\w+ )?(?:mistake|error)\b",
    r"i (?:misunderstood|misread|misspoke|was wrong|was mistaken)\b",
    r"thank(?:s| you) for (?:pointing|catching|the correction|correcting)\b",
    r"oops\b",
)
CLOSES = any_of(
    r"(?:anything|something) else\b",
    r"(?:any|have) (?:other|more|further|additional) (?:questions?|requests?|concerns?)\b",
)
"""Questions that only close an answer."""
SEND = r"(?:provide|share|clarify|specify|tell me|give me|describe|paste|send)\b"
ASKS = any_of(
    rf"please (?:\w+ )?{SEND}",
    r"please let me know (?:what|which|how|if you mean)",
    r"let me know (?:what|which|where|whether|your)\b",
    rf"(?:could|can) you (?:please )?{SEND}",
    r"i(?:'d| would)? need (?:more|some|to know|additional|a (?:bit|little) more)\b",
)
IF_YOU_LIKE = r"if you(?:'d| would)? (?:like|want|prefer|wish)\b"
OFFERS = any_of(
    r"(?:would you like|do you want|shall|should) (?:me|i)\b",
    r"(?:would|do) you (?:like|want|prefer)\b[^.?]{0,120}? or\b",
    rf"{IF_YOU_LIKE},? i (?:can|could)\b",
    rf"i can (?:also )?(?:\w+ ){{1,12}}?{IF_YOU_LIKE}",
    r"let me know if you(?:'d| would)? (?:like|want|prefer) (?:me|to|a|an|more|any)\b",
    r"which (?:one|of these|of the|option)\b[^.]*\?",
)
THINGS = r"(?:options|alternatives|suggestions|ideas|choices|possibilities)\b"
CHOICE = any_of(
    rf"(?:here (?:are|'re)|these are|consider|below are)\b[^.:]{{0,60}}?\b{THINGS}",
    r"there are (?:a few|several|many|multiple|various|different|other) (?:\w+ ){0,2}?"
    rf"(?:ways|methods|approaches|{THINGS})",
    r"option (?:1|a|one)\b",
    r"you (?:can|could) (?:either|choose)\b",
)
"""Phrases that announce options."""
LISTED = re.compile(r"\s*(?:\d+[.)]|[-*•])\s")
"""Beginning of a list item: a question there belongs to quoted material, not to the user."""
SENTENCE = re.compile(r"(?<=[.!?])\s+|\n+")


@dataclass(frozen=True)
class Exchange:
    """An answer of the assistant and the reaction to it."""

    user_turns: tuple[str, ...]
    """The person's turns so far; the last one is the answered one."""
    answers: tuple[str, ...]
    """The answers so far; the last one is this answer."""
    acts: frozenset[AssistantAct]
    reply: str | None
    """None: the person wrote no further turn."""
    is_left: bool | None
    """True where the person left after this answer; None where a cap or the corpus cut the conversation here."""


@lru_cache(maxsize=REMEMBERED)
def is_english(conversation: Conversation) -> bool:
    """Tells English by the persona's language where it is another one, else by the share of dictionary words in the
    prose."""
    persona = conversation.profile.persona
    if persona is not None and persona.language.lower().split("-")[0] != "en":
        return False
    return not is_foreign("".join(marks_of(split(text).prose) for text in user_texts(conversation)))


@lru_cache(maxsize=REMEMBERED)
def exchanges(conversation: Conversation) -> tuple[Exchange, ...]:
    """Returns the exchanges of an English conversation in order, from the first user turn on; none for another
    language."""
    if not is_english(conversation):
        return ()
    user_turns, answers, exchange_list = list[str](), list[str](), []
    for index, turn in enumerate(conversation.turns):
        if turn.role == "user":
            user_turns.append(turn.text)
        elif user_turns:
            is_last = index + 1 == len(conversation.turns)
            answers.append(turn.text)
            exchange_list.append(
                Exchange(
                    user_turns=tuple(user_turns),
                    answers=tuple(answers),
                    acts=assistant_acts(
                        turn.text, corrected=len(user_turns) > 1 and is_pushback(user_turns[-1])
                    ),
                    reply=None if is_last else conversation.turns[index + 1].text,
                    is_left=False if not is_last else True if conversation.ended_by == "user" else None,
                )
            )
    return tuple(exchange_list)


def assistant_acts(text: str, *, corrected: bool = False) -> frozenset[AssistantAct]:
    """Returns the acts of an answer. `corrected`: the person had just objected, so that the answer is a second
    attempt."""
    plain = " ".join(text.replace("’", "'").split()).lower()  # noqa: RUF001
    beginning, end = plain[:BEGINNING], plain[-END:]
    acts: set[AssistantAct] = set()
    if REFUSES.search(beginning):
        acts.add("refuses")
    if ERRS.search(beginning) or corrected:
        acts.add("errs")
    if OFFERS.search(end) or CHOICE.search(beginning):
        acts.add("offers")
    if _asks(text, end):
        acts.add("asks")
    return frozenset(acts or {"answers"})


def _asks(text: str, end: str) -> bool:
    """Tests whether the last sentence is a question to the person, or the end asks for information."""
    last = SENTENCE.split(text.strip())[-1].lower()
    if LISTED.match(text.rstrip().rpartition("\n")[2]):
        return False
    if last.rstrip("*_) ").endswith("?") and not CLOSES.search(last):
        return True
    return ASKS.search(end) is not None and not last.endswith(('"', "”"))
