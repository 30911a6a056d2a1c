"""Role adherence: does the simulated person talk like the assistant, answer instead of ask, or repeat?

Two instruments: fixed phrases, and a classifier of who is speaking, trained on real user and assistant turns cut to
the same lengths; its threshold is where one human turn in a hundred is taken for the assistant's.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from sklearn.feature_extraction.text import TfidfVectorizer  # type: ignore[import-untyped]
from sklearn.linear_model import LogisticRegression  # type: ignore[import-untyped]
from sklearn.pipeline import make_pipeline  # type: ignore[import-untyped]

from eval.fidelity.metrics.gates import ROLE_LABEL
from usersim.stats.estimates import Estimate, bootstrap_share, rng_for
from usersim.types import Conversation, Record, Turn
from usersim.users.guards import ASSISTANT_SPEAK, Guards, rejection

COPIED_WORDS = 12
FALSE_ALARMS = 0.01
REPEATS = Guards.off().model_copy(update={"repeat": True})


@dataclass(frozen=True)
class Said:
    """A user turn and what stood before it; `owner`: the conversation it belongs to."""

    owner: int
    text: str
    before: tuple[Turn, ...]


class Slips(Record):
    """Shares of turns, intervals over conversations."""

    turns: int
    assistant_phrases: Estimate
    """A stock phrase of assistants or a role label."""
    assistant_voice: Estimate
    """Taken for the assistant by the classifier; of people about one in a hundred is."""
    repeats: Estimate
    """An earlier user turn again, but for case and spacing."""
    copies_answer: Estimate
    """Twelve words in a row of the answer before it."""


def people(conversations: Sequence[Conversation], most: int) -> list[Said]:
    """The real turns at the places where turns are drawn: the opening and at most `most` later ones."""
    found = []
    for owner, conversation in enumerate(conversations):
        places = [i for i, turn in enumerate(conversation.turns) if turn.role == "user"]
        chosen = places[:1] + [i for i in places[1:] if i > 0][:most]
        found += [Said(owner, conversation.turns[i].text, conversation.turns[:i]) for i in chosen]
    return found


class Voice:
    """P(the assistant wrote it) from character n-grams (TF-IDF, logistic regression)."""

    def __init__(self, conversations: Sequence[Conversation], seed: int) -> None:
        """Half of the conversations train, the other half set the threshold."""
        self._model: Any = make_pipeline(
            TfidfVectorizer(analyzer="char_wb", ngram_range=(1, 4), sublinear_tf=True, min_df=2),
            LogisticRegression(C=10.0, max_iter=1000),
        )
        order = rng_for(seed, "voice").permutation(len(conversations))
        half = len(order) // 2
        fit, rest = ([conversations[i] for i in part] for part in (order[:half], order[half:]))
        mine, theirs = _texts(fit, "user"), _same_lengths(fit, seed)
        self._model.fit(mine + theirs, [0] * len(mine) + [1] * len(theirs))
        self.threshold = float(np.quantile(self.scores(_texts(rest, "user")), 1 - FALSE_ALARMS))
        caught = self.scores(_same_lengths(rest, seed)) > self.threshold
        self.sensitivity = float(caught.mean())
        """Share of real assistant turns, cut to the lengths of user turns, that it takes for the assistant's."""

    def scores(self, texts: Sequence[str]) -> np.ndarray:
        found: np.ndarray = self._model.predict_proba(list(texts))[:, 1]
        return found


def _texts(conversations: Sequence[Conversation], role: str) -> list[str]:
    return [t.text for c in conversations for t in c.turns if t.role == role and t.text.strip()]


def _same_lengths(conversations: Sequence[Conversation], seed: int) -> list[str]:
    """Assistant turns, each cut to the words of some user turn: length must not give the speaker away."""
    lengths = [len(text.split()) for text in _texts(conversations, "user")]
    rng = rng_for(seed, "lengths")
    return [" ".join(text.split()[: int(rng.choice(lengths))]) for text in _texts(conversations, "assistant")]


def slips(said: Sequence[Said], voice: Voice, counts_BN: np.ndarray) -> Slips:
    """`counts_BN`: bootstrap counts over conversations, by `owner`."""
    taken = voice.scores([turn.text for turn in said]) > voice.threshold

    def share(flags: Sequence[bool]) -> Estimate:
        above, below = (np.zeros(counts_BN.shape[1]) for _ in range(2))
        np.add.at(below, [turn.owner for turn in said], 1)
        np.add.at(above, [turn.owner for turn in said], np.array(flags, dtype=np.float64))
        return bootstrap_share(above, below, counts_BN)

    return Slips(
        turns=len(said),
        assistant_phrases=share([_phrase(turn.text) for turn in said]),
        assistant_voice=share(list(taken)),
        repeats=share([_repeats(turn) for turn in said]),
        copies_answer=share([_copies_answer(turn) for turn in said]),
    )


def _phrase(text: str) -> bool:
    return bool(ASSISTANT_SPEAK.search(text) or ROLE_LABEL.match(text))


def _repeats(said: Said) -> bool:
    """The guard's own rule."""
    return rejection(said.text.strip(), None, said.before, REPEATS) == "repeat"


def _copies_answer(said: Said) -> bool:
    answers = [turn for turn in said.before if turn.role == "assistant"]
    if not answers:
        return False
    answer, mine = f" {_plain(answers[-1].text)} ", _plain(said.text).split()
    runs = (" ".join(mine[i : i + COPIED_WORDS]) for i in range(len(mine) - COPIED_WORDS + 1))
    return any(f" {run} " in answer for run in runs)


def _plain(text: str) -> str:
    return " ".join(text.lower().split()).strip(" .!?")
