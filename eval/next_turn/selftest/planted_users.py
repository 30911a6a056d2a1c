"""Planted users: users with one known fault each, built from the given conversations.

Each is a deterministic function of (prefixes, material, seed). Every turn has its own random stream, so a prefix gets
the same turn for any set of requested prefixes. No metric uses the word lists and labels of this module. Text users
leave where the person left; leaving users write the person's text. The description of each user, and the metrics
meant for it, are in `eval.next_turn.selftest.planted_table`.
"""

from __future__ import annotations

import re
from bisect import bisect
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import accumulate
from pathlib import Path

import numpy as np

from eval.fidelity.samples.matching import person_of
from eval.next_turn.prefixes import Prefix
from eval.next_turn.selftest.planted_table import TABLE
from eval.next_turn.turns import NextTurn, SimulatedTurns, read_turns
from usersim.errors import DataError
from usersim.stats.estimates import Floats, rng_for
from usersim.types import Conversation, Goal

FOLDS = 5
SHUFFLED_SOME = 0.3
LOST_FROM = 3
THANKED, VOICED = 0.4, 0.2
"""Shares of changed later turns."""
MODEL_WORDS, MODEL_CHARACTERS = 400, 2000
"""Characters of a turn that the gibberish models read; pasted documents would dominate them."""
SHRINKAGE = 5.0
"""Weight of the overall rate in a hazard, in prefixes."""
LAST_HAZARD = 8
"""Turn number from which hazards are pooled."""
LEAVES_ON_CONTENT, LEAVES_WITHOUT = 0.9, 0.05
CONTENT_SHARE = 0.3
"""Target share of answers with the word on which people are made to leave."""

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
TOKEN = re.compile(r"\S+")
CONTENT_WORD = re.compile(r"[a-z]{5,}")


@dataclass(frozen=True)
class ChatTurns:
    """Conversation as planted users read it: the person's turns and the goal."""

    name: str
    cluster: str
    source: str
    goal: Goal | None
    turns: tuple[str, ...]
    answers: tuple[str, ...]


@dataclass(frozen=True)
class Material:
    """Source material of planted users."""

    prefixes: tuple[Prefix, ...]
    """All prefixes of the given conversations, closing ones included."""
    training: tuple[Conversation, ...] = ()
    """Training conversations of the simulator under test; None: the given conversations."""
    prompted: Path | None = None
    """Precomputed turns of a prompted base model."""

    @cached_property
    def chats(self) -> dict[str, ChatTurns]:
        longest: dict[str, Prefix] = {}
        for prefix in self.prefixes:
            last = longest.get(prefix.conversation)
            if last is None or prefix.position > last.position:
                longest[prefix.conversation] = prefix
        return {name: _chat(prefix) for name, prefix in longest.items()}

    @cached_property
    def training_chats(self) -> list[ChatTurns]:
        return [
            ChatTurns(
                c.id,
                person_of(c),
                c.source,
                c.profile.goal,
                tuple(t.text for t in c.turns if t.role == "user"),
                (),
            )
            for c in self.training
            if c.turns and c.turns[0].role == "user"
        ]

    @cached_property
    def by_position(self) -> dict[tuple[str, str], list[tuple[str, str]]]:
        """(cluster, turn) by source and class of position; source `*` has all."""
        turns: dict[tuple[str, str], list[tuple[str, str]]] = defaultdict(list)
        for chat in self.chats.values():
            for number, text in enumerate(chat.turns, start=1):
                for source in (chat.source, "*"):
                    turns[source, _position_class(number)].append((chat.cluster, text))
                    turns[source, "later" if number > 1 else "opening"].append((chat.cluster, text))
        return dict(turns)

    def another(
        self, prefix: Prefix, rng: np.random.Generator, fits: Callable[[str], bool] | None = None
    ) -> str:
        """Returns another person's turn at a similar position, of the same source and number if possible.

        Raises:
            DataError: No other person has such a turn.
        """
        coarse = "later" if prefix.position > 1 else "opening"
        for kind in (_position_class(prefix.position), coarse):
            for source in (prefix.source, "*"):
                donors = self.by_position.get((source, kind), [])
                for index in rng.integers(0, len(donors), 20) if donors else ():
                    if donors[index][0] != prefix.cluster and (fits is None or fits(donors[index][1])):
                        return str(donors[index][1])
                suitable = [t for c, t in donors if c != prefix.cluster and (fits is None or fits(t))]
                if suitable:
                    return suitable[int(rng.integers(len(suitable)))]
        raise DataError("no other person has a turn at a like position")

    def others_of(self, cluster: str) -> list[ChatTurns]:
        return [chat for chat in self.chats.values() if chat.cluster != cluster]

    def fold_of(self, seed: int) -> dict[str, int]:
        """Returns the fold of every cluster."""
        names = sorted({prefix.cluster for prefix in self.prefixes})
        order = rng_for(seed, "folds of planted users").permutation(len(names))
        return {name: int(rank % FOLDS) for name, rank in zip(names, order, strict=True)}


@dataclass(frozen=True)
class PlantedTurns:
    """Planted user with the people that it is compared with."""

    name: str
    prefixes: tuple[Prefix, ...]
    """The given prefixes; for the positive control, with other ends."""
    turns: SimulatedTurns

    @cached_property
    def changed(self) -> float:
        """Share of its turns that differ from the person's, among prefixes where both wrote one."""
        both = [(p.text, text) for p in self.prefixes if p.text and (text := self.turns.text(p))]
        return sum(own != text for own, text in both) / len(both) if both else 0.0


Planter = Callable[[Sequence[Prefix], Material, int], SimulatedTurns]
Rewrite = Callable[[Prefix, np.random.Generator], str]
"""Function from a prefix to the planted user's turn there. Raises DataError if it has none."""


def plant(name: str, prefixes: Sequence[Prefix], material: Material, seed: int) -> PlantedTurns:
    """Builds the planted user of that name (`planted_table.TABLE`) at these prefixes.

    Raises:
        DataError: It cannot be built from this material; the message gives the reason.
    """
    if name == "ends_on_content":
        new_prefixes, turns = ends_on_content(prefixes, material, seed)
        return PlantedTurns(name, tuple(new_prefixes), turns)
    turns = PLANTERS[name](prefixes, material, seed)
    if not turns.turns:
        raise DataError(f"{name}: " + "; ".join(turns.failed or ["no prefixes"]))
    return PlantedTurns(name, tuple(prefixes), turns)


def gibberish_words(prefixes: Sequence[Prefix], material: Material, seed: int) -> SimulatedTurns:
    """Word trigrams of people of other folds, as many words as the person's turn has."""
    models = _by_fold(material, seed, lambda text: text.split()[:MODEL_WORDS])
    fold_of = material.fold_of(seed)

    def rewrite(prefix: Prefix, rng: np.random.Generator) -> str:
        return " ".join(models[fold_of[prefix.cluster]].draw(len((prefix.text or "").split()), rng))

    return _rewritten("gibberish_words", prefixes, seed, rewrite)


def gibberish_characters(prefixes: Sequence[Prefix], material: Material, seed: int) -> SimulatedTurns:
    """Character trigrams of people of other folds, as many characters as the person's turn has."""
    models = _by_fold(material, seed, lambda text: list(" ".join(text.split())[:MODEL_CHARACTERS]))
    fold_of = material.fold_of(seed)

    def rewrite(prefix: Prefix, rng: np.random.Generator) -> str:
        text = "".join(models[fold_of[prefix.cluster]].draw(len((prefix.text or "").strip()), rng)).strip()
        return text or "e"

    return _rewritten("gibberish_characters", prefixes, seed, rewrite)


def shuffled_words(
    prefixes: Sequence[Prefix], material: Material, seed: int, share: float = 1.0
) -> SimulatedTurns:
    """Turns with a share of their words permuted; white space stays in place."""
    name = "shuffled_words" if share >= 1 else "shuffled_some"
    return _rewritten(name, prefixes, seed, lambda prefix, rng: _shuffled(prefix.text or "", share, rng))


def shuffled_some(prefixes: Sequence[Prefix], material: Material, seed: int) -> SimulatedTurns:
    return shuffled_words(prefixes, material, seed, SHUFFLED_SOME)


def deaf(prefixes: Sequence[Prefix], material: Material, seed: int) -> SimulatedTurns:
    """Turn of another person at a similar position, at every prefix."""
    return _rewritten("deaf", prefixes, seed, material.another)


def thread_lost(prefixes: Sequence[Prefix], material: Material, seed: int) -> SimulatedTurns:
    """Turns 1 and 2 are the person's, later ones those of one other conversation."""
    turns_by_conversation: dict[str, tuple[str, ...]] = {}

    def rewrite(prefix: Prefix, rng: np.random.Generator) -> str:
        if prefix.position < LOST_FROM:
            return prefix.text or ""
        if prefix.conversation not in turns_by_conversation:
            turns_by_conversation[prefix.conversation] = _long_enough(prefix, material, seed)
        return _turn_of(turns_by_conversation[prefix.conversation], prefix.position)

    return _rewritten("thread_lost", prefixes, seed, rewrite)


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

    return _rewritten("replay", prefixes, seed, rewrite, note=note)


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

    return _rewritten("goal_swapped", prefixes, seed, rewrite)


def goal_read_out(prefixes: Sequence[Prefix], material: Material, seed: int) -> SimulatedTurns:
    """Turn k is facet k of the goal, after the last one the summary; undefined without a goal."""

    def rewrite(prefix: Prefix, rng: np.random.Generator) -> str:
        if prefix.goal is None:
            raise DataError("no goal")
        facets = prefix.goal.facets
        return facets[prefix.position - 1].text if prefix.position <= len(facets) else prefix.goal.summary

    return _rewritten("goal_read_out", prefixes, seed, rewrite)


def everything_at_once(prefixes: Sequence[Prefix], material: Material, seed: int) -> SimulatedTurns:
    """The opening is all of the person's turns, later ones are acknowledgements."""

    def rewrite(prefix: Prefix, rng: np.random.Generator) -> str:
        if prefix.position == 1:
            return "\n".join(material.chats[prefix.conversation].turns)
        return _one_of(ACKNOWLEDGEMENTS, rng)

    return _rewritten("everything_at_once", prefixes, seed, rewrite)


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

    return _rewritten("drifting", prefixes, seed, rewrite)


def no_objections(prefixes: Sequence[Prefix], material: Material, seed: int) -> SimulatedTurns:
    """Later turns that object, by this module's list, replaced by calm turns of other people."""

    def rewrite(prefix: Prefix, rng: np.random.Generator) -> str:
        text = prefix.text or ""
        if prefix.position == 1 or _is_calm(text):
            return text
        return material.another(prefix, rng, _is_calm)

    return _rewritten("no_objections", prefixes, seed, rewrite)


def thanks_added(prefixes: Sequence[Prefix], material: Material, seed: int) -> SimulatedTurns:
    """Thanks of this module's list put before 40 % of the later turns."""

    def rewrite(prefix: Prefix, rng: np.random.Generator) -> str:
        is_thanking = prefix.position > 1 and rng.random() < THANKED
        return f"{_one_of(THANKS, rng)} {prefix.text}" if is_thanking else prefix.text or ""

    return _rewritten("thanks_added", prefixes, seed, rewrite)


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

    return _rewritten("assistant_voice", prefixes, seed, rewrite)


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

    return _rewritten("near_copies", prefixes, seed, rewrite)


def never_leaves(prefixes: Sequence[Prefix], material: Material, seed: int) -> SimulatedTurns:
    return _leaving("never_leaves", prefixes, material, seed, dict.fromkeys((p.id for p in prefixes), 0.0))


def leaves_by_turn_number(prefixes: Sequence[Prefix], material: Material, seed: int) -> SimulatedTurns:
    """P(end) is the share of other folds' people of the source that left at that turn number.

    Fitted on these prefixes, like the baselines of leaving; from more people it would know more than they.
    """
    _check_endings(prefixes)
    fold_of, rates = material.fold_of(seed), dict[str, float]()
    for fold in range(FOLDS):
        fitted = [p for p in prefixes if p.position > 1 and fold_of[p.cluster] != fold]
        hazards = _hazards(fitted)
        for prefix in prefixes:
            if fold_of[prefix.cluster] == fold:
                rates[prefix.id] = hazards(prefix) if prefix.position > 1 else 0.0
    return _leaving("leaves_by_turn_number", prefixes, material, seed, rates)


def leaves_by_facets(prefixes: Sequence[Prefix], material: Material, seed: int) -> SimulatedTurns:
    """P(end) from the number of facets minus the user turns so far, among other folds' people at the same count."""
    _check_endings(prefixes)
    if not any(p.goal is not None and p.goal.facets for p in prefixes):
        raise DataError("leaves_by_facets: no goal with facets")
    fold_of, rates = material.fold_of(seed), dict[str, float]()
    for fold in range(FOLDS):
        fitted = [p for p in prefixes if p.position > 1 and fold_of[p.cluster] != fold]
        overall = _rate(fitted, 0.2)
        by_rest = defaultdict(list)
        for prefix in fitted:
            by_rest[_facets_left(prefix)].append(prefix)
        for prefix in prefixes:
            if fold_of[prefix.cluster] == fold:
                rate = _rate(by_rest.get(_facets_left(prefix), []), overall)
                rates[prefix.id] = rate if prefix.position > 1 else 0.0
    return _leaving("leaves_by_facets", prefixes, material, seed, rates)


def ends_on_content(
    prefixes: Sequence[Prefix], material: Material, seed: int
) -> tuple[list[Prefix], SimulatedTurns]:
    """Positive control: people are made to leave on a word of the last answer, and the user knows the rule.

    From turn 2 on a person leaves with P = 0.9 if the last answer has the word, else with P = 0.05. The word has at
    least five letters, and its share among the answers is the nearest to 0.3.

    Returns:
        The prefixes with the planted ends, and the user with the P(end) of the rule. A conversation stops where the
        person leaves; one without an end has no closing prefix.
    """
    word = _planted_word(prefixes)
    by_conversation: dict[str, list[Prefix]] = {}
    for prefix in prefixes:
        by_conversation.setdefault(prefix.conversation, []).append(prefix)
    new_prefixes, rates = [], dict[str, float]()
    for own in by_conversation.values():
        for prefix in sorted(own, key=lambda p: p.position):
            rate = 0.0
            if prefix.position > 1:
                on_content = word in _content_words(prefix.answer or "")
                rate = LEAVES_ON_CONTENT if on_content else LEAVES_WITHOUT
            leaves = _rng(seed, "ends_on_content", prefix, "person").random() < rate
            if prefix.has_left and not leaves:
                break
            rates[prefix.id] = rate
            new_prefixes.append(prefix.model_copy(update={"text": None}) if leaves else prefix)
            if leaves:
                break
    turns = _leaving("ends_on_content", new_prefixes, material, seed, rates)
    return new_prefixes, turns


def prompted_base(prefixes: Sequence[Prefix], material: Material, seed: int) -> SimulatedTurns:
    """Turns of a prompted base model from a file; turns at other prefixes are left out."""
    if material.prompted is None:
        raise DataError("prompted_base: no file of drawn turns was given")
    turns_of_file = read_turns(material.prompted, "prompted_base")
    prefix_ids = {p.id for p in prefixes}
    turns = {name: turn for name, turn in turns_of_file.turns.items() if name in prefix_ids}
    missing = sum(not p.has_left and p.id not in turns for p in prefixes)
    failed = {"no turn in the file": missing} if missing else {}
    return SimulatedTurns("prompted_base", turns, failed, turns_of_file.note)


PLANTERS: Mapping[str, Planter] = {
    planter.__name__: planter
    for planter in (
        gibberish_words,
        gibberish_characters,
        shuffled_words,
        shuffled_some,
        deaf,
        thread_lost,
        replay,
        goal_swapped,
        goal_read_out,
        everything_at_once,
        drifting,
        no_objections,
        thanks_added,
        assistant_voice,
        near_copies,
        never_leaves,
        leaves_by_turn_number,
        leaves_by_facets,
        prompted_base,
    )
}
"""All except `ends_on_content`, which also changes the prefixes."""
NAMES = tuple(user.name for user in TABLE)


@dataclass(frozen=True)
class _Trigrams:
    """Counts of the unit that follows two units; None is before the first."""

    following: dict[tuple[str | None, str | None], tuple[list[str], list[int]]] = field(repr=False)

    @classmethod
    def of(cls, sequences: Iterable[Sequence[str]]) -> _Trigrams:
        counts: dict[tuple[str | None, str | None], Counter[str]] = defaultdict(Counter)
        for units in sequences:
            first: str | None = None
            second: str | None = None
            for unit in units:
                counts[first, second][unit] += 1
                first, second = second, unit
        if not counts:
            raise DataError("no other person's turn to make gibberish of")
        return cls({pair: (list(c), list(accumulate(c.values()))) for pair, c in counts.items()})

    def draw(self, length: int, rng: np.random.Generator) -> list[str]:
        """Samples `length` units; a turn that ends early starts again."""
        units: list[str] = []
        first: str | None = None
        second: str | None = None
        for chance in rng.random(max(length, 1)):
            if (first, second) not in self.following:
                first = second = None
            names, cumulative = self.following[first, second]
            unit = names[bisect(cumulative, float(chance) * cumulative[-1])]
            units.append(unit)
            first, second = second, unit
        return units


def _chat(prefix: Prefix) -> ChatTurns:
    history = tuple(t.text for t in prefix.history if t.role == "user")
    return ChatTurns(
        prefix.conversation,
        prefix.cluster,
        prefix.source,
        prefix.goal,
        history if prefix.text is None else (*history, prefix.text),
        tuple(t.text for t in prefix.history if t.role == "assistant"),
    )


def _rewritten(
    name: str, prefixes: Sequence[Prefix], seed: int, rewrite: Rewrite, note: str = ""
) -> SimulatedTurns:
    turns, failed = dict[str, NextTurn](), Counter[str]()
    for prefix in prefixes:
        if prefix.has_left:
            turns[prefix.id] = NextTurn(prefix=prefix.id, ends=True)
            continue
        try:
            text = rewrite(prefix, _rng(seed, name, prefix))
        except DataError as error:
            failed[str(error)] += 1
        else:
            turns[prefix.id] = NextTurn(prefix=prefix.id, text=text)
    if failed and not any(turn.text for turn in turns.values()):
        turns = {}
    return SimulatedTurns(name, turns, dict(failed), note)


def _leaving(
    name: str, prefixes: Sequence[Prefix], material: Material, seed: int, rates: Mapping[str, float]
) -> SimulatedTurns:
    """The person's text; where the person left and it may stay, another person's at a similar position."""
    turns = {}
    for prefix in prefixes:
        rng = _rng(seed, name, prefix)
        ends = bool(rng.random() < rates[prefix.id])
        text = prefix.text if prefix.text is not None else material.another(prefix, rng)
        turns[prefix.id] = NextTurn(prefix=prefix.id, text=text, ends=ends, end_probability=rates[prefix.id])
    return SimulatedTurns(name, turns)


def _rng(seed: int, name: str, prefix: Prefix, purpose: str = "") -> np.random.Generator:
    return rng_for(seed, f"planted {name} {purpose} {prefix.id}")


def _position_class(position: int) -> str:
    return str(position) if position < 5 else "5 to 8" if position < 9 else "9+"


def _by_fold(material: Material, seed: int, units: Callable[[str], list[str]]) -> dict[int, _Trigrams]:
    fold_of = material.fold_of(seed)
    return {
        fold: _Trigrams.of(
            units(text)
            for chat in material.chats.values()
            if fold_of[chat.cluster] != fold
            for text in chat.turns
        )
        for fold in sorted(set(fold_of.values()))
    }


def _shuffled(text: str, share: float, rng: np.random.Generator) -> str:
    tokens = list(TOKEN.finditer(text))
    if len(tokens) < 2:
        return text
    size = len(tokens) if share >= 1 else max(2, round(share * len(tokens)))
    at = rng.permutation(len(tokens))[:size]
    # Drawn in random order and passed on in a circle: none keeps its place.
    words = [token[0] for token in tokens]
    for here, there in zip(at, np.roll(at, 1), strict=True):
        words[here] = tokens[there][0]
    pieces, end = [], 0
    for token, word in zip(tokens, words, strict=True):
        pieces += [text[end : token.start()], word]
        end = token.end()
    return "".join(pieces) + text[end:]


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


def _one_of(texts: Sequence[str], rng: np.random.Generator) -> str:
    return texts[int(rng.integers(len(texts)))]


def _other(words: Sequence[str], word: str, rng: np.random.Generator) -> str:
    for index in rng.integers(0, len(words), 10) if words else ():
        if words[index].lower() != word.lower():
            return str(words[index])
    return word


def _is_calm(text: str) -> bool:
    return OBJECTING.search(text[:OBJECTS_WITHIN].replace("\u2019", "'")) is None


def _check_endings(prefixes: Sequence[Prefix]) -> None:
    if not any(prefix.has_left for prefix in prefixes):
        raise DataError("no conversation is known to have been ended by the person")


def _hazards(fitted: Sequence[Prefix]) -> Callable[[Prefix], float]:
    """P(leaves) by source and turn number, shrunk to the source's rate."""
    by_source, by_turn = defaultdict(list), defaultdict(list)
    for prefix in fitted:
        by_source[prefix.source].append(prefix)
        by_turn[prefix.source, min(prefix.position, LAST_HAZARD)].append(prefix)
    overall = _rate(fitted, 0.2)

    def hazard(prefix: Prefix) -> float:
        of_source = _rate(by_source.get(prefix.source, []), overall)
        return _rate(by_turn.get((prefix.source, min(prefix.position, LAST_HAZARD)), []), of_source)

    return hazard


def _rate(prefixes: Sequence[Prefix], prior: float) -> float:
    return (sum(p.has_left for p in prefixes) + SHRINKAGE * prior) / (len(prefixes) + SHRINKAGE)


def _facets_left(prefix: Prefix) -> int | None:
    """Number of facets minus the turns so far; None without facets."""
    if prefix.goal is None or not prefix.goal.facets:
        return None
    return max(-3, min(4, len(prefix.goal.facets) - (prefix.position - 1)))


def _content_words(answer: str) -> set[str]:
    return set(CONTENT_WORD.findall(answer.lower()))


def _planted_word(prefixes: Sequence[Prefix]) -> str:
    answers = [_content_words(p.answer or "") for p in prefixes if p.position > 1]
    counts = Counter(word for words in answers for word in words)
    if not counts:
        raise DataError("ends_on_content: the answers have no word of five letters")
    return min(counts, key=lambda word: (abs(counts[word] / len(answers) - CONTENT_SHARE), word))
