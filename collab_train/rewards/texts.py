"""Rewards for similarity to a reference text: BLEU, ROUGE-L and sentence embeddings.

Each uses the best assistant turn of the window, because a document may be followed by "You're welcome!".
"""

from __future__ import annotations

import re

from collab_train.contexts import Context
from collab_train.rewards.registry import Episode, extrinsic
from usersim.text.style import words

UNSPACED = re.compile(
    r"[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff]|[\U00020000-\U0003ffff]"
)
"""Scripts without spaces: Thai, Lao, Burmese, Khmer, Japanese and Chinese."""
LONGEST = 2000
"""Maximum words of a text for ROUGE, whose time is quadratic."""


def _no_reference(context: Context) -> str | None:
    return None if context.reference else "a reference text (reference)"


@extrinsic("bleu", lacks=_no_reference)
def bleu(episode: Episode) -> float:
    """Word-level sentence BLEU in [0, 1] (sacrebleu, 13a); scripts without spaces count by character."""
    from sacrebleu import sentence_bleu

    reference = [_spaced(episode.context.reference or "")]
    return max(sentence_bleu(_spaced(text), reference).score for text in episode.replies) / 100


def _spaced(text: str) -> str:
    return UNSPACED.sub(r" \g<0> ", text)


@extrinsic("rouge", lacks=_no_reference, blocking=True)
def rouge(episode: Episode) -> float:
    """ROUGE-L in [0, 1]: F1 of the longest common subsequence of lower-case words (Lin 2004, eqs. 2-4, β = 1)."""
    reference = _words(_spaced(episode.context.reference or ""))
    return max(_rouge_l(_words(_spaced(text)), reference) for text in episode.replies)


def _words(text: str) -> list[str]:
    return words(text.lower())[:LONGEST]


def _rouge_l(reply: list[str], reference: list[str]) -> float:
    if not reply or not reference:
        return 0.0
    # One row of the dynamic programme: lengths of the common subsequences with the prefixes of `reference`.
    row = [0] * (len(reference) + 1)
    for word in reply:
        corner = 0
        for at, other in enumerate(reference, start=1):
            above = row[at]
            row[at] = corner + 1 if word == other else max(above, row[at - 1])
            corner = above
    return 2 * row[-1] / (len(reply) + len(reference))


@extrinsic("embedding", lacks=_no_reference, blocking=True)
def embedding(episode: Episode) -> float:
    """Cosine of sentence embeddings (`usersim.text.embeddings`: the first 256 tokens of each), at least 0."""
    from usersim.text.embeddings import embed

    reference_vector, *reply_vectors = embed([episode.context.reference or "", *episode.replies])
    return max(0.0, *(float(reference_vector @ vector) for vector in reply_vectors))
