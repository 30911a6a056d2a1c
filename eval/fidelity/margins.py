"""Equivalence margins δ in each metric's own unit, fixed before any comparison by the meaning of the unit.

A margin in widths of the human baseline would grow as n falls, so that fewer conversations would make a simulator
equivalent. These margins do not depend on n: where n is too small for an interval narrower than δ, no metric is
equivalent.
"""

from __future__ import annotations

from eval.fidelity.settings import EvalConfig

SHIFT_SD = 0.2
"""Human standard deviations: Cohen's small effect. Two random people are 1.1 apart."""
SHIFT_AUC = 0.05
"""A shift of 0.2 SD gives an AUC of .556: right in 55 of 100 pairs, where chance is right in 50."""
SHIFT_BITS = 0.01
"""Jensen-Shannon divergence of two normals 0.2 SD apart: .0072 bits, rounded up."""
SHARE = 0.05
"""Five percentage points: one turn, facet, person or content word in twenty."""
RATIO = 0.14
"""|log2 ratio| of 1.1: ten percent more or fewer."""
COSINE = 0.02
"""Cosine between unrelated conversations. Within one goal, where cosines are several times as large, the margin is five
points."""

MARGINS: dict[str, float] = {
    **dict.fromkeys(
        (
            "user_turns.w1",
            "opening_words.w1",
            "words_per_turn.w1",
            "word_variation.w1",
            "short_turns.w1",
            "lowercase_starts.w1",
            "questions.w1",
            "politeness.w1",
            "end_punctuation.w1",
            "line_breaks.w1",
            "exclamations.w1",
        ),
        SHIFT_SD,
    ),
    **dict.fromkeys(
        (
            "user_turns.jsd",
            "opening_words.jsd",
            "words_per_turn.jsd",
            "word_variation.jsd",
            "short_turns.jsd",
            "lowercase_starts.jsd",
            "questions.jsd",
            "politeness.jsd",
            "end_punctuation.jsd",
            "line_breaks.jsd",
            "exclamations.jsd",
        ),
        SHIFT_BITS,
    ),
    **dict.fromkeys(("auc_text", "auc_behaviour", "auc_embeddings"), SHIFT_AUC),
    **dict.fromkeys(
        (
            "coverage",
            "coverage_embeddings",
            "dynamics",
            "dynamics.contrast",
            "dynamics.asks",
            "dynamics.refuses",
            "dynamics.errs",
            "dynamics.offers",
            "hazard.largest",
            "hazard.mean",
            "disclosure.curve",
            "disclosure.first",
            "disclosure.end",
            "entrainment",
            "entrainment.new",
            "grounding.rates",
            "grounding.transitions",
            "within_goal_text",
            "within_goal_embeddings",
        ),
        SHARE,
    ),
    **dict.fromkeys(
        ("density_gap", "density_gap_embeddings", "distinct_2", "vendi_text", "vendi_embeddings"), RATIO
    ),
    **dict.fromkeys(("density", "density_embeddings"), 0.1),
    **dict.fromkeys(("similarity_text", "similarity_embeddings"), COSINE),
    # |z| grows with n for one and the same difference, so no value of it means "as good as equal".
    "hazard.log_rank": 0.0,
}
"""Margin by metric (`FigureSpec.key`). 0: never called equivalent."""


def margin_of(key: str, config: EvalConfig) -> float:
    """Returns the margin δ of a metric: from the configuration, else from `MARGINS`, else 0."""
    return config.margins.get(key, MARGINS.get(key, 0.0))
