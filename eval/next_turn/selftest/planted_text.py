"""Planted users with a fault in the text of their turns: deaf, replayed, drifting, too polite, and others."""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np

from eval.next_turn.prefixes import Prefix
from eval.next_turn.selftest.planted_material import TOKEN, ChatTurns, Material, choose_text, rewrite_turns
from eval.next_turn.turns import SimulatedTurns
from usersim.errors import DataError
from usersim.stats.estimates import Floats, rng_for
from usersim.types import Goal

LOST_FROM = 3
THANKED, VOICED = 0.4, 0.2
"""Shares of changed later turns."""
THANKS = (
    "Thanks!",
    "Thank you so much.",
    "Great, thanks.",
    "Thank you, that helps a lot.",
    "Many thanks for this.",
    "Cheers, much appreciated.",
    "thx,",
    "Perfect, thank you!",
)
ACKNOWLEDGEMENTS = (
    "ok",
    "Alright.",
    "I see.",
    "Okay, go on.",
    "got it",
    "Right.",
    "Understood.",
    "yes",
    "Fine.",
    "Hm, okay.",
)
OBJECTING = re.compile(
    r"^\W*(?:no|nope|wait|actually|but|wrong|false|hmm+)\b"
    r"|\b(?:wrong|incorrect|inaccurate|mistakes?|mistaken|nonsense|useless|disagree|errors?|bug)\b"
    r"|\bnot (?:what|correct|right|true|good|working|enough|quite|really|helpful|the same)\b"
    r"|\b(?:does|did|do|is|are|was|were|ca|wo)(?:n'?t| not) (?:work|help|match|run|want|like|look|make sense|it)\b"
    r"|\b(?:that|this|it)(?:'s| is|s)? (?:not|n't|too|still)\b|\b(?:that|this|it) (?:isn'?t|wasn'?t|doesn'?t|didn'?t)\b"
    r"|\byou (?:forgot|missed|ignored|misunderstood|skipped|repeated|keep|left|made up)\b"
    r"|\byou (?:didn'?t|did not|don'?t|haven'?t)\b"
    r"|\bi (?:already|never|clearly|just)? ?(?:said|asked|told|meant|wanted|specified)\b"
    r"|\b(?:try again|are you sure|why (?:did|didn'?t|have)n?'?t? you)\b"
    r"|\btoo (?:long|short|vague|generic|formal|much|many)\b",
    re.IGNORECASE,
)
OBJECTS_WITHIN = 300
NUMBER = re.compile(r"\d")
NUMBER_WORDS = tuple(
    "two three four five six seven eight nine ten eleven twelve twenty thirty forty fifty hundred".split()  # noqa: SIM905
)
NUMBER_WORD = re.compile(rf"\b(?:{'|'.join(NUMBER_WORDS)})\b", re.IGNORECASE)
NAME = re.compile(r"(?<![.!?:\n\"'(*#>] )(?<=[^\W_][ ,] )[A-Z][\w&-]+|(?<=[a-z] )[A-Z][\w&-]+")
"""Capitalised word inside a sentence."""
SENTENCE = re.compile(r"(?<=[.!?])\s+(?=[A-Z])")
CODE = re.compile(r"```.*?(?:```|\Z)", re.DOTALL)


def deaf(prefixes: Sequence[Prefix], material: Material, seed: int) -> SimulatedTurns:
    """Turn of another person at a similar position, at every prefix."""
    return rewrite_turns("deaf", prefixes, seed, material.another)


def thread_lost(prefixes: Sequence[Prefix], material: Material, seed: int) -> SimulatedTurns:
    """Turns 1 and 2 are the person's, later ones those of one other conversation."""
    turns_by_conversation: dict[str, tuple[str, ...]] = {}

    def rewrite(prefix: Prefix, rng: np.random.Generator) -> str:
        if prefix.position < LOST_FROM:
            return prefix.text or ""
        if prefix.conversation not in turns_by_conversation:
            turns_by_conversation[prefix.conversation] = _long_enough(prefix, material, seed)
        return _turn_of(turns_by_conversation[prefix.conversation], prefix.position)

    return rewrite_turns("thread_lost", prefixes, seed, rewrite)


def replay(prefixes: Sequence[Prefix], material: Material, seed: int) -> SimulatedTurns:
    """Chat with the nearest opening, turn by turn, from the training conversations or else the given ones."""
    own = [material.chats[name] for name in dict.fromkeys(p.conversation for p in prefixes)]
    donors = [chat for chat in material.training_chats or material.chats.values() if len(chat.turns) > 1]
    if not donors:
        raise DataError("replay: no conversation of two turns to replay")
    likeness_ND = _likeness([chat.turns[0] for chat in own], [chat.turns[0] for chat in donors])
    nearest: dict[str, ChatTurns] = {}
    for row, chat in zip(likeness_ND, own, strict=True):
        best = next((i for i in np.argsort(-row, kind="stable") if donors[i].cluster != chat.cluster), None)
        if best is None:
            raise DataError("replay: no conversation of another person to replay")
        nearest[chat.name] = donors[int(best)]
    note = "training chats" if material.training_chats else "chats of the same file: no training was given"

    def rewrite(prefix: Prefix, rng: np.random.Generator) -> str:
        return _turn_of(nearest[prefix.conversation].turns, prefix.position)

    return rewrite_turns("replay", prefixes, seed, rewrite, note=note)


def goal_swapped(prefixes: Sequence[Prefix], material: Material, seed: int) -> SimulatedTurns:
    """Turn at the same position of the person with the nearest other goal; undefined without a goal."""
    chats = [chat for chat in material.chats.values() if chat.goal is not None]
    index = {chat.name: number for number, chat in enumerate(chats)}
    texts = [_goal_text(chat.goal) for chat in chats if chat.goal]
    order_NN = np.argsort(-_likeness(texts, texts), axis=1, kind="stable") if chats else np.zeros((0, 0))

    def rewrite(prefix: Prefix, rng: np.random.Generator) -> str:
        own = index.get(prefix.conversation)
        if own is None:
            raise DataError("no goal")
        for other in order_NN[own]:
            donor = chats[int(other)]
            differs = donor.cluster != prefix.cluster and texts[int(other)] != texts[own]
            if differs and len(donor.turns) >= prefix.position:
                return donor.turns[prefix.position - 1]
        raise DataError("no other goal with a turn at that position")

    return rewrite_turns("goal_swapped", prefixes, seed, rewrite)


def goal_read_out(prefixes: Sequence[Prefix], material: Material, seed: int) -> SimulatedTurns:
    """Turn k is facet k of the goal, after the last one the summary; undefined without a goal."""

    def rewrite(prefix: Prefix, rng: np.random.Generator) -> str:
        if prefix.goal is None:
            raise DataError("no goal")
        facets = prefix.goal.facets
        return facets[prefix.position - 1].text if prefix.position <= len(facets) else prefix.goal.summary

    return rewrite_turns("goal_read_out", prefixes, seed, rewrite)


def everything_at_once(prefixes: Sequence[Prefix], material: Material, seed: int) -> SimulatedTurns:
    """The opening is all of the person's turns, later ones are acknowledgements."""

    def rewrite(prefix: Prefix, rng: np.random.Generator) -> str:
        if prefix.position == 1:
            return "\n".join(material.chats[prefix.conversation].turns)
        return choose_text(ACKNOWLEDGEMENTS, rng)

    return rewrite_turns("everything_at_once", prefixes, seed, rewrite)


def drifting(prefixes: Sequence[Prefix], material: Material, seed: int) -> SimulatedTurns:
    """Numbers and names of later turns replaced: digits by other digits, names by names that other people use."""
    names = sorted(
        {
            (chat.cluster, name)
            for chat in material.chats.values()
            for text in chat.turns[1:]
            for name in NAME.findall(text)
        }
    )

    def rewrite(prefix: Prefix, rng: np.random.Generator) -> str:
        text = prefix.text or ""
        if prefix.position == 1:
            return text
        text = NUMBER.sub(lambda m: str((int(m[0]) + int(rng.integers(1, 10))) % 10), text)
        text = NUMBER_WORD.sub(lambda m: _other(NUMBER_WORDS, m[0].lower(), rng), text)
        other_names = [name for cluster, name in names if cluster != prefix.cluster]
        return NAME.sub(lambda m: _other(other_names, m[0], rng), text)

    return rewrite_turns("drifting", prefixes, seed, rewrite)


def no_objections(prefixes: Sequence[Prefix], material: Material, seed: int) -> SimulatedTurns:
    """Later turns that object, by this module's list, replaced by calm turns of other people."""

    def rewrite(prefix: Prefix, rng: np.random.Generator) -> str:
        text = prefix.text or ""
        if prefix.position == 1 or _is_calm(text):
            return text
        return material.another(prefix, rng, _is_calm)

    return rewrite_turns("no_objections", prefixes, seed, rewrite)


def thanks_added(prefixes: Sequence[Prefix], material: Material, seed: int) -> SimulatedTurns:
    """Thanks of this module's list put before 40 % of the later turns."""

    def rewrite(prefix: Prefix, rng: np.random.Generator) -> str:
        is_thanking = prefix.position > 1 and rng.random() < THANKED
        return f"{choose_text(THANKS, rng)} {prefix.text}" if is_thanking else prefix.text or ""

    return rewrite_turns("thanks_added", prefixes, seed, rewrite)


def assistant_voice(prefixes: Sequence[Prefix], material: Material, seed: int) -> SimulatedTurns:
    """20 % of later turns replaced by sentences of another conversation's assistant, of similar length."""
    sentences = [
        (chat.cluster, parts)
        for chat in material.chats.values()
        for answer in chat.answers
        if (parts := SENTENCE.split(CODE.sub(" ", answer).strip())) and parts[0]
    ]

    def rewrite(prefix: Prefix, rng: np.random.Generator) -> str:
        if prefix.position == 1 or rng.random() >= VOICED:
            return prefix.text or ""
        foreign = [parts for cluster, parts in sentences if cluster != prefix.cluster]
        if not foreign:
            raise DataError("no answer of another conversation")
        answer = foreign[int(rng.integers(len(foreign)))]
        first, length = int(rng.integers(len(answer))), len((prefix.text or "").split())
        excerpt = answer[first]
        for sentence in answer[first + 1 :]:
            if len(excerpt.split()) >= length:
                break
            excerpt += f" {sentence}"
        return excerpt

    return rewrite_turns("assistant_voice", prefixes, seed, rewrite)


def near_copies(prefixes: Sequence[Prefix], material: Material, seed: int) -> SimulatedTurns:
    """The person's turn with one word of up to eight, else two, replaced by words of other people.

    Turns of under three words are unchanged.
    """
    words = [(c.cluster, word) for c in material.chats.values() for t in c.turns for word in t.split()[:50]]

    def rewrite(prefix: Prefix, rng: np.random.Generator) -> str:
        text = prefix.text or ""
        tokens = list(TOKEN.finditer(text))
        if len(tokens) < 3:
            return text
        at = rng.choice(len(tokens), size=1 if len(tokens) <= 8 else 2, replace=False)
        for index in sorted(at, reverse=True):
            token = tokens[index]
            word = next(
                (
                    words[i][1]
                    for i in rng.integers(0, len(words), 50)
                    if words[i][0] != prefix.cluster and words[i][1] != token[0]
                ),
                "so",
            )
            text = text[: token.start()] + word + text[token.end() :]
        return text

    return rewrite_turns("near_copies", prefixes, seed, rewrite)


def _long_enough(prefix: Prefix, material: Material, seed: int) -> tuple[str, ...]:
    """Turns of one other conversation, at least as many as this one if possible."""
    needed = len(material.chats[prefix.conversation].turns)
    others = [chat for chat in material.others_of(prefix.cluster) if len(chat.turns) >= LOST_FROM]
    if not others:
        raise DataError(f"no other conversation of {LOST_FROM} turns")
    most = min(needed, max(len(chat.turns) for chat in others))
    fitting = [chat for chat in others if len(chat.turns) >= most]
    rng = rng_for(seed, f"planted thread_lost {prefix.conversation}")
    return fitting[int(rng.integers(len(fitting)))].turns


def _turn_of(turns: Sequence[str], position: int) -> str:
    """Turn `position`; a chat that is over repeats its turns after the opening."""
    return turns[position - 1] if position <= len(turns) else turns[1 + (position - 2) % (len(turns) - 1)]


def _likeness(texts: Sequence[str], others: Sequence[str]) -> Floats:
    """Cosines (N, M) of TF-IDF vectors of words."""
    from sklearn.feature_extraction.text import TfidfVectorizer  # type: ignore[import-untyped]

    clipped, against = ([text[:2000] for text in side] for side in (texts, others))
    model = TfidfVectorizer(sublinear_tf=True, token_pattern=r"\w+")
    try:
        model.fit([*clipped, *against])
    except ValueError:  # not a word in any of them
        return np.zeros((len(texts), len(others)))
    similarity: Floats = (model.transform(clipped) @ model.transform(against).T).toarray()
    return similarity


def _goal_text(goal: Goal) -> str:
    return " ".join([goal.summary, *(facet.text for facet in goal.facets)])


def _other(words: Sequence[str], word: str, rng: np.random.Generator) -> str:
    for index in rng.integers(0, len(words), 10) if words else ():
        if words[index].lower() != word.lower():
            return str(words[index])
    return word


def _is_calm(text: str) -> bool:
    return OBJECTING.search(text[:OBJECTS_WITHIN].replace("\u2019", "'")) is None
