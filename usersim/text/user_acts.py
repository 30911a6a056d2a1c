"""Rule-based acts of a user turn: order, objection, correction, question, answer, thanks. English only."""

from __future__ import annotations

import re
from typing import Literal, get_args

from usersim.text.spelling import word_set

LEAD_IN = word_set(
    "please pls plz kindly now ok okay then and also so great good nice perfect thanks thank you hi hello "
    "hey just next again but or finally instead cool yes sure dear"
)
"""Words that may precede the verb of an order: "ok now write …"."""
ORDERS = word_set(
    "act add adjust analyse analyze answer apply append arrange ask assess assume attach avoid become "
    "begin brainstorm break build calculate change chat check choose classify clean combine come comment "
    "compare compile complete compose compute condense consider construct continue convert correct count "
    "craft create critique cut debug define delete deliver derive describe design detail determine "
    "develop discuss display divide do draft draw edit elaborate eliminate enhance ensure enter estimate "
    "evaluate examine exclude execute expand explain explore express extend extract fill find finish fix "
    "focus follow format formulate forget gather generate get give go guess help highlight identify "
    "ignore illustrate imagine implement improve include increase incorporate insert integrate introduce "
    "invent keep label let let's lets limit list locate look make map match merge mention modify move "
    "name note optimise optimize organise organize outline output paraphrase perform pick plan play "
    "predict prepare present pretend print prioritise prioritize process proceed produce program "
    "proofread propose prove provide pull put quote randomise randomize rank rate read recommend "
    "reconsider recreate redo reduce refactor refer refine reformat reformulate regenerate relate "
    "remember remove rename reorganise reorganize repeat rephrase replace reply report respond restate "
    "restructure return reverse review revise reword rewrite role-play roleplay run save say search "
    "select send separate set share shorten show simplify simulate skip solve sort speak specify split "
    "start state stop structure study suggest sum summarise summarize swap take talk teach tell test "
    "think train transform translate try turn update use verify wait walk watch write"
)
"""Verbs that open orders. Turns opening with another verb are missed."""
NO_OBJECT = word_set("is are was were has of : = - does do will would can should")
"""Words that mark the word before as a noun: "answer is …", "plan of …" are no orders."""
OPENING = 120
"""Number of first characters of a turn that are searched for an order."""

NOT = r"(?:n'?t\b|\s?not\b)"
OPENS_OBJECTING = (
    r"no\b(?!,?\s*(?:thanks|thank|problem|worries|need|more|that's ok)\b)",
    r"(?:nope|nah|wrong|incorrect|false)\b",
    r"not (?:quite|really|what|that|like|correct|right|true|enough|good|working|exactly|at all)\b",
    rf"(?:but|wait|hmm+|well|sorry),?\s+(?:that|this|it|you|i)\b.{{0,20}}?(?:{NOT}|\bwrong\b|said|asked|told)",
    r"(?:(?:that|this|it|there)(?:'?s| is| was| are| were)?|(?:these|those) are|the \w+ (?:is|are|was)) "
    r"(?:(?:still|just|all|also) )?(?:not\b|wrong|incorrect|false|too (?:long|short|vague|generic|formal|many|much))",
    rf"(?:that|this|it) ?(?:is|was|does|did|wo|ca){NOT}",
    r"still (?:not|no|does|did|is|gett?|the same|wrong|have|an?) ",
    r"are you (?:really )?sure",
    r"i (?:already )?(?:said|told you|asked (?:you|for)|meant|wanted)\b",
    rf"i d(?:o|id){NOT} (?:ask|say|mean|want|like|agree|think that)",
    rf"you (?:d(?:o|id){NOT}|forgot|missed|misunder|misread|left out|keep|made a mistake|should have|still)",
    rf"you (?:were supposed|just (?:said|gave|repeated)|have{NOT}|are (?:wrong|not|mistaken))",
    r"you're (?:wrong|not|mistaken)",
    r"why (?:did|have)(?:n'?t)? you\b",
    r"try again|(?:same|another|more) error",
    rf"(?:does|did|do|is){NOT} (?:work|run|help|look right)",
)
"""Patterns at the beginning of turns that object."""
SAYS_WRONG = (
    rf"(?:does|did|do|is|was){NOT} (?:work(?:ing)?\b(?! with| in| at)|what i\b|correct\b|right\b)",
    r"still not work|not what i\b|same (?:error|mistake)",
    rf"you (?:forgot|misunderstood|missed\b|did{NOT})",
    r"(?:that|this)(?:'s| is) (?:wrong|incorrect)",
    r"\bi(?:'m| am)? (?:still )?(?:get|got|getting|see|seeing) (?:an?|this|the|that) (?:following )?error",
)
"""Patterns of objection anywhere in the first sentences."""
OBJECTION = re.compile(rf"\W*(?:{'|'.join(OPENS_OBJECTING)})")
OBJECTION_INSIDE = re.compile("|".join(SAYS_WRONG))
INSIDE_HINTS = (
    "n't ",
    "nt ",
    "not ",
    "error",
    "wrong",
    "incorrect",
    "forgot",
    "missed",
    "misunder",
    "mistake",
)
"""Substrings for a fast pre-check: every match of `SAYS_WRONG` has one of them."""
OBJECTION_WITHIN = 200
"""Number of first characters searched for an objection; the rest usually says what to do instead."""


def is_order(text: str) -> bool:
    """Returns True if the turn opens with a verb of `ORDERS`, after at most three lead-in words."""
    opening = text[:OPENING].split()[:5]
    for position, token in enumerate(opening[:4]):
        word = _bare(token)
        if word not in LEAD_IN:
            return word in ORDERS and (
                position + 1 == len(opening) or _bare(opening[position + 1]) not in NO_OBJECT
            )
    return False


def _bare(token: str) -> str:
    return token.strip("\"'*.,!:;").lower() or token


def is_pushback(text: str) -> bool:
    """Returns True if the turn objects or corrects: "no", "that's not", "I said", "you didn't", "still doesn't
    work"."""
    start = " ".join(text[:OBJECTION_WITHIN].replace("’", "'").split()).lower()  # noqa: RUF001
    if OBJECTION.match(start):
        return True
    return any(hint in start for hint in INSIDE_HINTS) and OBJECTION_INSIDE.search(start) is not None


Act = Literal["objects", "corrects", "asks", "answers", "thanks"]
ACTS: tuple[Act, ...] = get_args(Act)
SENTENCE_START = r"^\W*(?:(?:ok|okay|great|perfect|cool|awesome|nice|good|yes|no|ah|oh|wow)\W+)*"
THANKS = re.compile(
    SENTENCE_START + r"(?:many |no )?(?:thanks?\b|thank you|thx\b|ty\b|cheers\b|much appreciated|appreciate)"
)
THANKS_WORDS = 14
"""Maximum words of a turn that only thanks."""
CORRECTS = re.compile(
    SENTENCE_START
    + r"(?:sorry,? )?(?:i meant?\b|correction\b|my (?:mistake|bad)\b|scratch that|let me rephrase|"
    r"(?:actually|rather),? (?:i|it|my|make it|the|we)\b|sorry,? (?:i|my|it)\b|oops\b|typo\b)"
)
"""Corrections of the person's own earlier turn."""
ASKS = re.compile(
    SENTENCE_START
    + r"(?:(?:and|but|so|then|also|now|well) )?(?:what|how|why|when|where|which|who|whose|is|are|was|were|do|"
    r"does|did|can|could|would|will|should|shall|has|have|am|may|might)\b"
)
ASKED_WITHIN = 200
"""Number of last characters of a reply that are searched for a question."""


def act_of(text: str, answer: str | None) -> Act | None:
    """Returns the act of a turn in reply to `answer`; None for an opening and for other acts, such as most orders."""
    if answer is None:
        return None
    start = " ".join(text[:OBJECTION_WITHIN].replace("’", "'").split()).lower()  # noqa: RUF001
    if THANKS.match(start) and len(text.split()) <= THANKS_WORDS and "?" not in text:
        return "thanks"
    if CORRECTS.match(start):
        return "corrects"
    if is_pushback(text):
        return "objects"
    if "?" in start or ASKS.match(start):
        return "asks"
    if "?" in answer[-ASKED_WITHIN:] and not is_order(text):
        return "answers"
    return None
