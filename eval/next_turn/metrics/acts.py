"""User acts: objections, answers to questions, thanks, and turns in the assistant's voice. English, by rules.

Objections follow `usersim.text.user_acts`, acts of the assistant `eval.fidelity.samples.events`. The voice is a
classifier that is cross-fitted on people's conversations.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression  # type: ignore[import-untyped]

from eval.fidelity.metrics.interaction.user_acts import REPLIES, user_act
from eval.fidelity.metrics.texts.folds import grouped_folds
from eval.fidelity.metrics.texts.lexical import REMEMBERED, stems
from eval.fidelity.samples.events import END, SENTENCE, AssistantAct, Exchange, assistant_acts
from eval.fidelity.samples.matching import person_of
from eval.next_turn.metrics.discriminator_features import ngram_rows
from eval.next_turn.metrics.values import MetricSpec, Positions, TurnMetric, Values
from eval.next_turn.prefixes import Prefix
from usersim.errors import DataError
from usersim.stats.estimates import Ints, rng_for
from usersim.text.code_blocks import split
from usersim.text.user_acts import is_pushback
from usersim.types import Conversation

VOICE_FOLDS = 5
LEAST_CONVERSATIONS = 5 * VOICE_FOLDS
"""Minimum number of conversations of people to train the voice classifier."""
FALSE_ALARMS = 0.05
"""Share of people's turns classified as the assistant's. At 0.01 pasted text sets the threshold, and only a twelfth of
single sentences of answers lie above it. At 0.05 three fifths do.
"""
LEAST_SENTENCE = 5
"""Minimum words of a sentence of an answer that is used for training."""
THANKED_WITHIN = 120
"""Number of characters at either end of a turn that is searched for thanks."""
NOTE = r"(?:notes?|letters?|cards?|e-?mails?|messages?|speech|gifts?|page|post)\b"
THANKS = re.compile(
    rf"\bthank(?:s|\s?(?:you|u|ya))\b(?![- ]{NOTE})|\b(?:thx|thnx|thanx|thankx|tnx|tks|tysm|tyvm|thanku)\b"
    r"|(?:^|[.!,]\s*|\b(?:ok|okay|kk?|great|cool|nice|perfect|awesome|good|alright|it) )ty\b"
    r"|\bi(?:'d| would|'m| am)? (?:\w+ ){0,2}(?:appreciate[ds]?|appreciative|grateful|thankful|in your debt)\b"
    r"(?! (?:it )?if\b)"
    r"|\b(?:much|greatly|really|highly|truly|so|very|deeply|most) (?:appreciated|obliged|grateful|thankful)\b"
    r"|^\W*appreciate (?:it|that|this|you|your|the)\b|\bappreciate (?:it|that|your help|the help)\b(?! if\b)"
    r"|(?:^|[.!?,;]\s*)cheers\b(?! (?:to|for \w+ing|and|in|from|of|erupted)\b)"
    r"|\b(?:kudos|gracias|merci|danke|arigato|obrigado|grazie)\b(?= ?(?:[.!,]|$|to you))"
    r"|\b(?:bless you|you(?:'re| are) (?:the best|a (?:star|life ?saver|legend|gem|hero|genius))|my gratitude"
    r"|(?:that|this|it)(?:'s| is| was| has been|'s been) (?:\w+ )?helpful|(?:you(?:'ve| have)|you) (?:\w+ ){0,2}"
    r"(?:been (?:\w+ ){0,3}help(?:ful)?|helped)\b|can(?:'t|not) thank)",
    re.IGNORECASE,
)


def _share(key: str, label: str, positions: Positions = "2+") -> MetricSpec:
    return MetricSpec(
        key=f"acts.{key}",
        group="acts",
        label=label,
        unit="share of turns",
        is_share=True,
        positions=positions,
    )


SPECS = (
    _share("objects", "objects or corrects"),
    _share("objects.after_error", "objects after an answer that apologises or was corrected"),
    _share("objects.after_refusal", "objects after a refusal"),
    _share("answers", "answers what the assistant asked"),
    _share("thanks", "thanks the assistant"),
)
VOICE_SPEC = _share("voice", "taken for the assistant's", "all")


class Acts(TurnMetric):
    """Shares of turns that perform an act. Conditional ones are defined only after the matching assistant act.

    Args:
        people: Conversations for the voice classifier, the evaluated ones included; None: no `acts.voice`.
        seed: Seed of the folds.
    """

    def __init__(self, people: Sequence[Conversation] | None = None, *, seed: int = 0) -> None:
        self._voices = None if people is None else Voices(people, seed=seed)

    @property
    def specs(self) -> Sequence[MetricSpec]:
        return (*SPECS, VOICE_SPEC) if self._voices else SPECS

    def values(self, prefixes: Sequence[Prefix], texts: Sequence[str]) -> dict[str, Values]:
        rows = [_acts(prefix, text) for prefix, text in zip(prefixes, texts, strict=True)]
        values = {spec.key: Values.of([row.get(spec.key) for row in rows]) for spec in SPECS}
        if self._voices:
            values[VOICE_SPEC.key] = Values.of([float(v) for v in self._voices.is_assistant(prefixes, texts)])
        return values


class Voices:
    """Speaker classifiers (n-grams of characters, words and word classes; logistic regression).

    Cross-fitted by person: each is fitted on three folds, its threshold is set on a fourth, and it is applied to the
    fifth. A turn is classified as the assistant's if it scores above `FALSE_ALARMS` of people's turns.
    """

    def __init__(self, people: Sequence[Conversation], *, seed: int = 0) -> None:
        """Fits the classifiers. Raises DataError for fewer than 25 conversations or 5 people."""
        persons = [person_of(conversation) for conversation in people]
        if len(people) < LEAST_CONVERSATIONS or len(set(persons)) < VOICE_FOLDS:
            raise DataError(
                f"the assistant's voice is learnt from {LEAST_CONVERSATIONS} conversations of {VOICE_FOLDS} people "
                f"or more; there are {len(people)} of {len(set(persons))}"
            )
        fold_N = grouped_folds(persons, VOICE_FOLDS, rng_for(seed, "voice folds"))
        self._fold_of = dict(zip(persons, map(int, fold_N), strict=True))
        parts = [[c for c, at in zip(people, fold_N, strict=True) if at == k] for k in range(VOICE_FOLDS)]
        rng = rng_for(seed, "voice spans")
        self._models: list[tuple[Any, float]] = []
        for held in range(VOICE_FOLDS):
            nearby = (held + 1) % VOICE_FOLDS
            training_part = [c for k, part in enumerate(parts) if k not in (held, nearby) for c in part]
            self._models.append(_voice(training_part, parts[nearby], rng))

    def is_assistant(self, prefixes: Sequence[Prefix], texts: Sequence[str]) -> NDArray[np.bool_]:
        """Returns one flag per text, by the classifier that was not fitted on the prefix's person."""
        fold_P: Ints = np.array([self._fold_of.get(prefix.cluster, 0) for prefix in prefixes], dtype=np.int64)
        flags = np.zeros(len(texts), dtype=bool)
        rows = ngram_rows(texts)
        for fold, (model, threshold) in enumerate(self._models):
            here = np.flatnonzero(fold_P == fold)
            if len(here):
                flags[here] = model.decision_function(rows[here]) > threshold
        return flags


def _voice(
    training: Sequence[Conversation], nearby: Sequence[Conversation], rng: np.random.Generator
) -> tuple[Any, float]:
    """Fits (classifier, threshold): beginnings and single sentences of answers against people's turns."""
    own, assistant_texts = (_texts(training, role) for role in ("user", "assistant"))
    lengths = [len(text.split()) for text in own]
    # Length must not give the speaker away.
    beginnings = [" ".join(text.split()[: int(rng.choice(lengths))]) for text in assistant_texts]
    sentences = [
        options[int(rng.integers(len(options)))]
        for text in assistant_texts
        if (options := [part for part in SENTENCE.split(text) if len(part.split()) >= LEAST_SENTENCE])
    ]
    theirs = beginnings + sentences
    model = LogisticRegression(C=10.0, solver="liblinear", class_weight="balanced", random_state=0)
    model.fit(ngram_rows([*own, *theirs]), [0] * len(own) + [1] * len(theirs))
    scores = model.decision_function(ngram_rows(_texts(nearby, "user")))
    return model, float(np.quantile(scores, 1 - FALSE_ALARMS))


def _texts(conversations: Sequence[Conversation], role: str) -> list[str]:
    return [turn.text for c in conversations for turn in c.turns if turn.role == role and turn.text.strip()]


def thanks(text: str) -> bool:
    """Returns True if the turn thanks or calls the answer helpful, near the beginning or the end of its prose."""
    prose = " ".join(split(text).prose.replace("’", "'").split())  # noqa: RUF001
    if THANKS.search(prose[:THANKED_WITHIN]):
        return True
    # People sign off at the end of the turn, not of what was read of it.
    tail = " ".join(text.replace("’", "'").split())[-THANKED_WITHIN:]  # noqa: RUF001
    return len(prose) > THANKED_WITHIN and THANKS.search(tail) is not None


def answers(prefix: Prefix, text: str) -> bool | None:
    """Returns True if the turn answers the question or request at the end of the last message; None without one.

    An answer begins like one ("yes", "I", "it's"), or contains a content word of the question, or is neither a
    request, an objection, a question back nor a change of subject.
    """
    if prefix.answer is None or "asks" not in _assistant_acts(prefix):
        return None
    plain = " ".join(text.replace("’", "'").split()).lower()  # noqa: RUF001
    if REPLIES.match(plain) or not stems(text).isdisjoint(stems(_question(prefix.answer))):
        return True
    return user_act(_exchange(prefix, text)) in ("next turn", "acknowledgement")


def _acts(prefix: Prefix, text: str) -> dict[str, float]:
    if prefix.position < 2 or prefix.answer is None:
        return {}
    acts, objects = _assistant_acts(prefix), float(is_pushback(text))
    row = {"acts.objects": objects, "acts.thanks": float(thanks(text))}
    if "errs" in acts:
        row["acts.objects.after_error"] = objects
    if "refuses" in acts:
        row["acts.objects.after_refusal"] = objects
    is_answer = answers(prefix, text)
    return row if is_answer is None else row | {"acts.answers": float(is_answer)}


def _assistant_acts(prefix: Prefix) -> frozenset[AssistantAct]:
    own = [turn.text for turn in prefix.history if turn.role == "user"]
    return _acts_of(prefix.answer or "", len(own) > 1 and is_pushback(own[-1]))


@lru_cache(maxsize=REMEMBERED)
def _acts_of(answer: str, was_corrected: bool) -> frozenset[AssistantAct]:
    return assistant_acts(answer, corrected=was_corrected)


def _question(answer: str) -> str:
    """Last part of an answer, if it asks something."""
    return answer[-END:].partition(" ")[2] if len(answer) > END else answer


def _exchange(prefix: Prefix, text: str) -> Exchange:
    return Exchange(
        user_turns=tuple(turn.text for turn in prefix.history if turn.role == "user"),
        answers=tuple(turn.text for turn in prefix.history if turn.role == "assistant"),
        acts=_assistant_acts(prefix),
        reply=text,
        is_left=False,
    )
