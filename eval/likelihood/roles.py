"""Role adherence: share of simulated user turns that sound like the assistant, repeat a turn or copy the answer.

Two measures: stock phrases of assistants, and a speaker classifier. The classifier is trained on real user and
assistant turns cut to the same lengths. Its threshold has a false alarm rate of one human turn in a hundred.
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
    """A user turn with its history.

    Attributes:
        owner: Index of the conversation that the turn belongs to.
        text: Text of the turn.
        before: Turns before it.
    """

    owner: int
    text: str
    before: tuple[Turn, ...]


class Slips(Record):
    """Shares of turns with a role fault, with intervals over conversations."""

    turns: int
    assistant_phrases: Estimate
    """A stock phrase of assistants or a role label."""
    assistant_voice: Estimate
    """Classified as the assistant's. About one turn of people in a hundred is."""
    repeats: Estimate
    """Repeats an earlier user turn, apart from case and spacing."""
    copies_answer: Estimate
    """Contains twelve consecutive words of the answer before it."""


def people(conversations: Sequence[Conversation], most: int) -> list[Said]:
    """Returns the real user turns at the prefixes where turns are drawn.

    Args:
        conversations: Human conversations.
        most: Maximum number of later turns of each conversation; the opening is always included.
    """
    turns = []
    for owner, conversation in enumerate(conversations):
        places = [i for i, turn in enumerate(conversation.turns) if turn.role == "user"]
        chosen = places[:1] + [i for i in places[1:] if i > 0][:most]
        turns += [Said(owner, conversation.turns[i].text, conversation.turns[:i]) for i in chosen]
    return turns


class Voice:
    """Speaker classifier: P(the assistant wrote the text) from character n-grams (TF-IDF, logistic regression).

    Half of the conversations train it, the other half set the threshold.
    """

    def __init__(self, conversations: Sequence[Conversation], seed: int) -> None:
        self._model: Any = make_pipeline(
            TfidfVectorizer(analyzer="char_wb", ngram_range=(1, 4), sublinear_tf=True, min_df=2),
            LogisticRegression(C=10.0, max_iter=1000),
        )
        order = rng_for(seed, "voice").permutation(len(conversations))
        half = len(order) // 2
        fit, rest = ([conversations[i] for i in part] for part in (order[:half], order[half:]))
        user_texts, assistant_texts = _texts(fit, "user"), _same_lengths(fit, seed)
        self._model.fit(user_texts + assistant_texts, [0] * len(user_texts) + [1] * len(assistant_texts))
        self.threshold = float(np.quantile(self.scores(_texts(rest, "user")), 1 - FALSE_ALARMS))
        is_caught = self.scores(_same_lengths(rest, seed)) > self.threshold
        self.sensitivity = float(is_caught.mean())
        """Recall on real assistant turns that are cut to the lengths of user turns."""

    def scores(self, texts: Sequence[str]) -> np.ndarray:
        probabilities: np.ndarray = self._model.predict_proba(list(texts))[:, 1]
        return probabilities


def _texts(conversations: Sequence[Conversation], role: str) -> list[str]:
    return [t.text for c in conversations for t in c.turns if t.role == role and t.text.strip()]


def _same_lengths(conversations: Sequence[Conversation], seed: int) -> list[str]:
    """Assistant turns, each cut to the length of a random user turn, so that length does not reveal the speaker."""
    lengths = [len(text.split()) for text in _texts(conversations, "user")]
    rng = rng_for(seed, "lengths")
    return [" ".join(text.split()[: int(rng.choice(lengths))]) for text in _texts(conversations, "assistant")]


def slips(turns: Sequence[Said], voice: Voice, counts_BN: np.ndarray) -> Slips:
    """Returns the shares of turns with each role fault.

    Args:
        turns: User turns of one speaker.
        voice: Speaker classifier.
        counts_BN: Bootstrap counts over conversations, indexed by `owner`.
    """
    is_assistant_voice = voice.scores([turn.text for turn in turns]) > voice.threshold

    def share(flags: Sequence[bool]) -> Estimate:
        counts_of_flagged, counts_of_turns = (np.zeros(counts_BN.shape[1]) for _ in range(2))
        np.add.at(counts_of_turns, [turn.owner for turn in turns], 1)
        np.add.at(counts_of_flagged, [turn.owner for turn in turns], np.array(flags, dtype=np.float64))
        return bootstrap_share(counts_of_flagged, counts_of_turns, counts_BN)

    return Slips(
        turns=len(turns),
        assistant_phrases=share([_phrase(turn.text) for turn in turns]),
        assistant_voice=share(list(is_assistant_voice)),
        repeats=share([_repeats(turn) for turn in turns]),
        copies_answer=share([_copies_answer(turn) for turn in turns]),
    )


def _phrase(text: str) -> bool:
    return bool(ASSISTANT_SPEAK.search(text) or ROLE_LABEL.match(text))


def _repeats(turn: Said) -> bool:
    """Same rule as the `repeat` guard."""
    return rejection(turn.text.strip(), None, turn.before, REPEATS) == "repeat"


def _copies_answer(user_turn: Said) -> bool:
    answers = [turn for turn in user_turn.before if turn.role == "assistant"]
    if not answers:
        return False
    answer, own_words = f" {_plain(answers[-1].text)} ", _plain(user_turn.text).split()
    runs = (" ".join(own_words[i : i + COPIED_WORDS]) for i in range(len(own_words) - COPIED_WORDS + 1))
    return any(f" {run} " in answer for run in runs)


def _plain(text: str) -> str:
    return " ".join(text.lower().split()).strip(" .!?")
