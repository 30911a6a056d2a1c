"""Rewards worked out by hand: tokens, the clip, and what counts as a facet served."""

from __future__ import annotations

import pytest

from collab_train.contexts import Context
from collab_train.rewards import EXTRINSIC, Episode, check, count_tokens, intrinsic, reward
from collab_train.served import coverage, serves, statements
from usersim.errors import ConfigError, DataError
from usersim.types import Conversation, Facet, Goal, Turn, UserProfile

BUDGET = Facet(text="at most 350 euros")
TRAIN = Facet(text="by train, never by plane")
PHRASES = (("350 euro*", "€350"), ("by train", "train ticket*"))


def turns(*texts: str) -> tuple[Turn, ...]:
    return tuple(Turn(role="assistant" if i % 2 else "user", text=t) for i, t in enumerate(texts))


def context(**changes: object) -> Context:
    goal = Goal(summary="plan a trip", facets=(BUDGET, TRAIN))
    values = {"id": "c", "turns": turns("plan a trip"), "profile": UserProfile(goal=goal), "phrases": PHRASES}
    return Context.model_validate({**values, **changes})


def episode(*texts: str, **changes: object) -> Episode:
    conversation = Conversation(id="f", origin="simulated", source="t", turns=turns("plan a trip", *texts))
    return Episode(context(**changes), conversation)


def test_tokens_are_words_and_punctuation_marks() -> None:
    assert count_tokens("Don't panic!") == 5
    assert count_tokens("") == 0
    assert count_tokens("350 euros, by train") == 5


def test_reward_of_a_future_worked_by_hand() -> None:
    # Window: 7 + 3 + 6 = 16 tokens the user reads and writes; the history's do not count.
    made = episode("What may it cost, then?", "350 euros max", "Go by train to Ghent.")
    total, parts = reward(made, {"facet_coverage": 1.0}, 0.01)
    assert parts == {"facet_coverage": 0.5, "intrinsic": pytest.approx(-0.16), "tokens": 16.0}
    assert total == pytest.approx(0.34)


def test_weights_scale_extrinsic_rewards_and_no_rewards_leave_the_intrinsic_one() -> None:
    made = episode("Go by train.")
    assert reward(made, {"facet_coverage": 2.0}, 0.0)[0] == pytest.approx(1.0)
    assert reward(made, {}, 0.1)[0] == pytest.approx(-0.4)


def test_the_token_penalty_is_clipped_at_one() -> None:
    window = turns("a b c d", "e f g h i")
    assert intrinsic(window, 0.1) == pytest.approx(-0.9)
    assert intrinsic(window, 1 / 9) == pytest.approx(-1.0)
    assert intrinsic(window, 5.0) == -1.0


def test_asking_restating_and_the_users_own_words_earn_nothing() -> None:
    assert reward(episode("Is it 350 euros? By train?"), {"facet_coverage": 1.0}, 0)[0] == 0
    assert reward(episode("So you want to go by train."), {"facet_coverage": 1.0}, 0)[0] == 0
    assert reward(episode("Please tell me if it should be by train."), {"facet_coverage": 1.0}, 0)[0] == 0
    assert reward(episode("Fine.", "350 euros by train", "Fine."), {"facet_coverage": 1.0}, 0)[0] == 0
    assert reward(episode("It costs 350 euros by train."), {"facet_coverage": 1.0}, 0)[0] == 1


def test_statements_drop_questions_line_by_line() -> None:
    assert statements("How much? It is cheap.\n- Would you fly\n- Take the slow-train") == [
        "it is cheap.",
        "take the slow train",
    ]


def test_phrases_match_whole_words_and_a_star_lets_the_last_one_go_on() -> None:
    assert serves("Two train tickets, please.", TRAIN, ("train ticket*",))
    assert not serves("A restrained choice.", TRAIN, ("train",))
    assert not serves("It costs 1350 euros.", BUDGET, ("350 euro*",))
    assert serves("A gluten\u2011free cake.", BUDGET, ("gluten free",))


def test_without_phrases_half_of_the_content_words_in_one_sentence_serve() -> None:
    facet = Facet(text="a quiet room with a desk")  # quiet, room, desk
    assert serves("There is a quiet room.", facet)
    assert not serves("There is a quiet bar. The room is large.", facet)


def test_facets_served_before_are_not_paid_again() -> None:
    before = turns("plan a trip", "Go by train.", "ok")
    window = (Turn(role="assistant", text="Go by train."),)
    assert coverage(window, before, (BUDGET, TRAIN), PHRASES) == 0.0
    both = turns("plan a trip", "By train for 350 euros.", "ok")
    assert coverage(window, both, (BUDGET, TRAIN), PHRASES) == 1.0


def test_bleu_is_of_words_and_takes_the_best_assistant_turn() -> None:
    bleu = EXTRINSIC["bleu"].score
    reference = "the old harbour lies quiet in the morning light"
    assert bleu(episode(reference, "thanks", "You're welcome!", reference=reference)) == pytest.approx(1.0)
    # Same letters in other words: character BLEU would be well above zero.
    assert bleu(episode("orbital ghosts leeward", reference=reference)) < 0.05


def test_what_a_reward_needs_is_checked_before_anything_is_spent() -> None:
    with pytest.raises(ConfigError, match=r"rewards\.nosuch.*facet_coverage"):
        check([context()], {"nosuch": 1.0})
    with pytest.raises(DataError, match="context c: reward bleu needs a reference"):
        check([context()], {"bleu": 1.0})
    with pytest.raises(DataError, match="facets"):
        check([context(profile=UserProfile(), phrases=())], {"facet_coverage": 1.0})
