"""Grounding acts of the person, by rules for English, after Rifts (Shaikh et al. 2025, 2503.13975).

The labels are theirs for the person's side. A turn has the first label that holds: followup ("continue"), repeat,
repair, acknowledgement, clarification, topic switch, followup, next turn. Agreement, disagreement that corrects
nothing, and answers to a question are "next turn", as in their analysis.

One reader agreed with 70 of 80 turns of ShareGPT and Chatbot Arena; by act with 17 of 18 repairs, 15 of 18 topic
switches and 12 of 16 clarifications. The rules for repeats and topic switches were changed after that reading and
have no untouched sample. "next turn" misses requests without a question mark or a verb of the list.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache
from typing import Literal

from eval.fidelity.metrics.texts.lexical import REMEMBERED, stems
from eval.fidelity.samples.events import Exchange, any_of
from usersim.text.spelling import word_set
from usersim.text.style import words
from usersim.text.user_acts import is_order, is_pushback

UserAct = Literal[
    "followup", "clarification", "repair", "repeat", "topic switch", "acknowledgement", "next turn"
]
USER_ACTS: tuple[UserAct, ...] = (
    "followup",
    "clarification",
    "repair",
    "repeat",
    "topic switch",
    "acknowledgement",
    "next turn",
)
REPEATED_WORDS = 3
REPEATED = 0.6
"""Share of all words of two turns that both have, from which the later one may repeat the earlier …"""
NEW_WORDS = 0.15
"""… if at most this share of its content words is new, and no number is."""
SWITCH_STEMS = 4
"""Content words from which a turn without words of earlier turns is a topic switch …"""
SWITCH_STEMS_OF_QUESTION = 3
"""… and of a question, which is less often about the answer itself than "add a vegetarian version" is."""
FRAGMENT = 6
"""Words up to which a turn without a verdict, such as "with examples", asks for more."""
OPENING = 200
"""Characters of a turn in which its beginning is matched."""

LEAD = (
    r"\W*(?:(?:and|but|so|ok|okay|now|then|also|well|hi|hello|hey|please|pls|great|thanks|yes|no|sorry|wait|hmm|oh"
    r"|cool|alright|good|nice|perfect)\b[-, .!]*)*"
)
"""Words before the content itself."""
LEADING = re.compile(LEAD)


def opening(*phrases: str) -> re.Pattern[str]:
    """Returns a pattern for `match`: one of the phrases, after any number of leading words."""
    return re.compile(rf"{LEAD}(?:{'|'.join(phrases)})")


CONTINUES = opening(
    r"(?:(?:can|could) you )?(?:continue|go on|go ahead|keep going|carry on|proceed|next|more)\b"
)
CONTINUES_WITHIN = 60
THANKS = word_set(
    "ok okay k kk thanks thank thankyou thx thnx ty tysm great good nice cool perfect excellent awesome amazing "
    "wonderful fantastic brilliant lovely got understand understood alright ah oh wow lol haha interesting "
    "fine appreciate works worked helpful helps sense right"
)
"""Every acknowledgement has one of these words …"""
AROUND_THANKS = THANKS | word_set(
    "you so very much a lot many it i see yes yeah yep sure no problem that this is was done well job love "
    "really your help for the and but my friend bro man dude sir all now makes done thats that's it's"
)
"""… and only these."""
ACKNOWLEDGED_WITHIN = 10
THEY = r"(?:that|this|these|those)"
CLARIFIES = opening(
    r"(?:what|how) (?:do|did|does|would) (?:you|u|it|they|that|this) mean\b",
    rf"what(?:'s| is| was| does| do| are) (?:it|{THEY})(?: \w+){{0,2}} mean\b",
    rf"what (?:exactly )?(?:is|are|was|were) {THEY}\b",
    r"(?:do |did )?(?:you|u) mean(?:t|ing)?\b(?! well)",
    r"what (?:exactly )?(?:is|are) (?:meant|you (?:referring|talking|saying))",
    r"what exactly\b",
    r"which (?:one|ones|of (?:these|those|them|the (?!following)))\b",
    r"(?:what|meaning)\?*$",
    r"(?:huh|how so|in what (?:sense|way)|clarify)\b",
    rf"so (?:you're|you are|basically|that means|does|is|are|it's|it is|that's|this means|{THEY} is|if i)\b",
    rf"(?:does|do|is|are|was|were) {THEY}\b[^.]*\?",
    r"(?:does|is) it (?:mean|the same)\b",
    r"(?:can|could|would) you (?:please )?(?:clarify|be (?:a (?:bit|little) )?more (?:specific|clear))",
    rf"(?:can|could|would) you (?:please )?explain (?:what you|{THEY}|it)\b",
    r"i (?:still )?(?:do not|don't|did not|didn't|dont) (?:quite |really |fully )?(?:understand|follow)",
    r"i (?:still )?(?:do not|don't|did not|didn't|dont) (?:quite |really |fully )?get (?:it|that|what|this)",
)
CHANGES = any_of(
    r"(?:new|different|another|unrelated|separate) (?:topic|question|subject)",
    r"change (?:of )?(?:the )?(?:topic|subject)",
    r"(?:talk|ask (?:you )?)(?: about)? something (?:else|different)",
    r"forget (?:about )?(?:that|it|this|everything|all|what)",
    r"ignore (?:all |the )?(?:previous|above|that)",
    r"(?:start over|moving on|by the way|btw|on another note)\b",
)
CHANGES_WITHIN = 100
POINTS = re.compile(
    r"\b(?:its?|it's|this|that|that's|these|those|above|previous|earlier|more|another|same|again|continue|also|they|them"
    r"|their|he|she|him|her|his|ones?|instead|next|else|then|others?|rest|you|your)\b"
)
"""Words that point back, or at the assistant: such a turn needs no common word with earlier turns."""
POINTS_WITHIN = 60
REPAIRS = opening(
    r"(?:that|this|it) (?:is|was) an? (?:wrong|incorrect|bad|false)\b",
    r"(?:your|the) (?:\w+ )?(?:is|are|was|were) (?:invalid|wrong|incorrect|not|false|broken|incomplete)\b",
    r"my (?:question|request|point) (?:was|is)\b",
    r"i (?:meant|intended|was asking|was talking|was referring)\b",
    r"(?:it )?(?:turns out|looks as if|looks like|seems) .{0,80}\b(?:not|doesn't|isn't|don't|only|wrong)\b",
)
"""Corrections that `usersim.text.user_acts.is_pushback` does not cover, including those of one's own words."""
ASKS = opening(r"(?:what|who|whom|whose|when|where|which|why|how)\b")
REQUESTS = opening(
    r"(?:what|who|whom|whose|when|where|which|why|how|is|are|was|were|do|does|did|can|could|would|will|should|may)\b",
    r"(?:any|help|more|another|with|without|for|let's|lets|i'd like|i'm looking)\b",
    r"(?:i (?:want|need|wanna|would like|wish)|we (?:want|need)|you (?:should|must|need|can|could))\b",
    r"(?:in (?:a|one|the|more)|as (?:an?|if|though))\b",
)
REQUESTS_INSIDE = any_of(r"(?:what if|how (?:would|do|does|can|could|to)|(?:can|could|would) you|please)\b")
NEXT = re.compile(r"\W*(?:\w+\W+){0,2}now\b")
REPLIES = re.compile(r"\W*(?:yes|yeah|yep|no|nope|i|i'm|i've|my|we|it|it's|he|she|they|that's|you)\b")


def user_act(exchange: Exchange) -> UserAct:
    """Returns the act of the reply. Raises ValueError for an exchange without a reply."""
    if exchange.reply is None:
        raise ValueError("an exchange without a reply has no act")
    reply = exchange.reply
    plain = " ".join(reply.replace("’", "'").split()).lower()  # noqa: RUF001
    start = plain[:OPENING]
    if len(plain) < CONTINUES_WITHIN and CONTINUES.match(start):
        return "followup"
    if repeats(reply, exchange.user_turns):
        return "repeat"
    if is_pushback(reply) or REPAIRS.match(start):
        return "repair"
    if _acknowledges(plain):
        return "acknowledgement"
    if CLARIFIES.match(start):
        return "clarification"
    if _switches(plain, exchange):
        return "topic switch"
    return "followup" if _asks_for_more(plain, exchange) else "next turn"


def repeats(reply: str, earlier_turns: Sequence[str]) -> bool:
    """Tests whether a turn nearly equals one of the person's earlier turns, without new content. A word or two
    ("shorter") only ask again."""
    own_words, content = _word_set(reply), stems(reply)
    return len(own_words) >= REPEATED_WORDS and any(
        len(own_words & earlier_words) >= REPEATED * len(own_words | earlier_words)
        and len(new := content - stems(text)) <= NEW_WORDS * len(content)
        and not any(map(_has_digit, new))
        for text in earlier_turns
        if (earlier_words := _word_set(text))
    )


@lru_cache(maxsize=REMEMBERED)
def _word_set(text: str) -> frozenset[str]:
    return frozenset(map(str.lower, words(text)))


def _has_digit(word: str) -> bool:
    return any(map(str.isdigit, word))


def _acknowledges(plain: str) -> bool:
    word_list = words(plain)
    return (
        len(word_list) <= ACKNOWLEDGED_WITHIN
        and "?" not in plain
        and not THANKS.isdisjoint(word_list)
        and AROUND_THANKS.issuperset(word_list)
    )


def _switches(plain: str, exchange: Exchange) -> bool:
    if CHANGES.search(plain[:CHANGES_WITHIN]):
        return True
    own_stems, fewest = stems(plain), SWITCH_STEMS_OF_QUESTION if ASKS.match(plain) else SWITCH_STEMS
    if "asks" in exchange.acts or len(own_stems) < fewest or POINTS.search(plain[:POINTS_WITHIN]):
        return False
    return all(
        own_stems.isdisjoint(stems(text)) for text in (*reversed(exchange.answers), *exchange.user_turns)
    )


def _asks_for_more(plain: str, exchange: Exchange) -> bool:
    bare = LEADING.sub("", plain, count=1)
    if is_order(bare) or REQUESTS.match(plain) or NEXT.match(plain):
        return True
    # A person who was asked something and does not begin with a request is answering.
    if "asks" in exchange.acts:
        return False
    is_fragment = len(words(plain)) <= FRAGMENT and not REPLIES.match(plain)
    return is_fragment or "?" in plain or REQUESTS_INSIDE.search(plain[:OPENING]) is not None
