"""What each policy does to a user who says exactly what he is told."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Literal

import pytest

from usersim.errors import ConfigError
from usersim.testing import ScriptedAssistant, ScriptedUser
from usersim.text.reply_acts import questions, stalled
from usersim.types import Conversation, Facet, Goal, Persona, Style, Turn, UserProfile, UserTurn
from usersim.users.dialogue import converse
from usersim.users.policies import (
    Impatient,
    Tangential,
    Unclear,
    Withholding,
    blurred,
    policy_from,
    with_policy,
)

FACETS = ("it must run on Windows 95", "the budget is 40 euros", "no subscription")
PROFILE = UserProfile(
    goal=Goal(summary="find a chess program for children", facets=tuple(Facet(text=text) for text in FACETS)),
    persona=Persona(description="a parent", style=Style(words_per_turn=10, politeness=0.5)),
)


class Teller:
    """Says the goal and the facets he is told; leaves when there is nothing that he has not said."""

    name = "teller"

    async def __call__(
        self, profile: UserProfile, turns: Sequence[Turn], *, seed: int | None = None
    ) -> UserTurn:
        assert profile.goal is not None
        said = " ".join(turn.text for turn in turns if turn.role == "user")
        wishes = [profile.goal.summary, *(facet.text for facet in profile.goal.facets)]
        text = "; ".join(wish for wish in wishes if wish not in said)
        finish: Literal["end", "stop"] = "stop" if text else "end"
        return UserTurn(
            text=text, ends=not text, end_probability=0, finish=finish, logprob=0, tokens=1, seed=seed
        )


def talk(policy: str, *replies: str, user: object = None, seed: int = 0, turns: int = 9) -> Conversation:
    speaker = with_policy(user or Teller(), policy)  # type: ignore[arg-type]
    assistant = ScriptedAssistant(*replies)
    return asyncio.run(converse(speaker, assistant, PROFILE, max_user_turns=turns, seed=seed))


def said(conversation: Conversation) -> list[str]:
    return [turn.text for turn in conversation.turns if turn.role == "user"]


# -- impatient ---------------------------------------------------------------------------------------

TALKER = ("a b", "c d", "e f", "g h", "i j", "k l")


def test_the_impatient_leave_after_so_many_messages_though_all_goes_well() -> None:
    replies = ("Try Fritz.", "Or Stockfish, free.", "Lucas Chess teaches children.", "Arena runs anywhere.")
    made = talk("impatient:most_turns=3", *replies, user=ScriptedUser(*TALKER))
    assert said(made) == ["a b", "c d", "e f"]
    assert made.ended_by == "user"
    assert len(said(talk("impatient:most_turns=5", *replies, user=ScriptedUser(*TALKER)))) == 5


@pytest.mark.parametrize(
    ("reply", "patience", "messages"),
    [
        ("I'm sorry, I can't help with that.", 1, 1),
        ("I'm sorry, I can't help with that.", 2, 2),
        ("Which system? How old is the child?", 3, 3),
        # The first says something; from the second on it is the same again.
        ("Fritz is a chess program with a long history.", 2, 3),
    ],
)
def test_the_impatient_leave_when_so_many_replies_in_a_row_made_no_progress(
    reply: str, patience: int, messages: int
) -> None:
    made = talk(f"impatient:patience={patience},most_turns=9", reply, user=ScriptedUser(*TALKER))
    assert len(said(made)) == messages


def test_progress_in_between_renews_patience() -> None:
    replies = ("Which system?", "Fritz costs 40 euros.", "Which system?", "Arena is free of charge.")
    made = talk("impatient:patience=2,most_turns=6", *replies, user=ScriptedUser(*TALKER))
    assert len(said(made)) == 6


def test_the_impatient_are_told_to_be_short_and_rude() -> None:
    persona = Impatient().visible_profile(PROFILE, ()).persona
    assert persona is not None
    assert persona.style is not None
    assert (persona.style.words_per_turn, persona.style.politeness, persona.style.pushback) == (5, 0, 0.5)
    assert persona.description.startswith("a parent; ")
    assert Impatient().visible_profile(PROFILE, ()).goal == PROFILE.goal


# -- tangential --------------------------------------------------------------------------------------


def test_the_tangential_ask_about_something_else_about_as_often_as_asked() -> None:
    other = "hear about cats"
    policy = Tangential(drift=0.3, subjects=(other,))
    strayed = total = 0
    for seed in range(300):
        turns = [Turn(role="user", text=f"opening {seed}"), Turn(role="assistant", text="x")] * 4
        for at in (0, 2, 4, 6, 8):
            subject = policy.subject(PROFILE, turns[:at])
            assert subject in (None, other)
            strayed += bool(at and subject)
            total += bool(at)
    assert strayed / total == pytest.approx(0.3, abs=0.04)  # 1,200 draws: SD 0.013
    assert all(
        Tangential(drift=1).subject(PROFILE, ()) is None for _ in range(5)
    )  # the opening is on the goal


def test_a_drift_is_kept_for_as_long_as_it_stays_and_then_the_goal_comes_back() -> None:
    policy = Tangential(drift=0.2, stays=2, subjects=("a", "b", "c", "d"))
    runs: list[int] = []
    for seed in range(200):
        turns = [Turn(role="user", text=f"opening {seed}"), Turn(role="assistant", text="x")] * 8
        strayed = [policy.subject(PROFILE, turns[: 2 * at]) is not None for at in range(9)]
        if not strayed[-1]:  # else the last drift may be cut
            runs += [len(run) for run in "".join("x" if one else " " for one in strayed).split()]
    assert runs
    assert min(runs) >= 2


def test_the_tangential_say_the_other_subject_and_the_record_keeps_the_goal() -> None:
    made = talk("tangential:drift=1,subjects=hear about cats|plant a tree", "ok", turns=2)
    first, second = said(made)
    assert first.startswith("find a chess program")
    assert second in ("hear about cats", "plant a tree")
    assert made.profile == PROFILE


# -- unclear -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("summary", "short"),
    [
        ("find a chess program for children, free", "find a chess program"),
        ("plan a trip to Lisbon with 2 friends", "plan a trip to"),
        ("compare Rust and Go", "compare and"),
        ("cook", "cook"),
    ],
)
def test_a_blurred_goal_has_no_details(summary: str, short: str) -> None:
    assert blurred(summary) == short


def test_the_unclear_never_say_what_they_were_not_told_whatever_is_asked() -> None:
    made = talk("unclear:keep=0", "Which system, which budget?", turns=4)
    assert said(made) == ["find a chess program"]
    everything = " ".join(said(talk("unclear:keep=1", "Which system?", turns=4)))
    assert all(facet in everything for facet in FACETS)


def test_about_the_kept_share_of_facets_is_known_and_the_same_ones_all_along() -> None:
    goal = Goal(summary="do it", facets=tuple(Facet(text=f"facet {n}") for n in range(1000)))
    profile = UserProfile(goal=goal)
    first = Unclear(keep=0.25).visible_profile(profile, ())
    later = Unclear(keep=0.25).visible_profile(
        profile, [Turn(role="user", text="x"), Turn(role="assistant", text="?")]
    )
    other = Unclear(keep=0.25, seed=1).visible_profile(profile, ())
    assert first == later
    assert first != other
    assert first.goal is not None
    assert len(first.goal.facets) == pytest.approx(250, abs=55)  # SD 13.7


# -- withholding -------------------------------------------------------------------------------------


def test_the_withholding_reveal_the_facet_that_is_asked_for_and_only_then() -> None:
    made = talk("withholding", "What is your budget?", "Here is Fritz.", turns=3)
    assert said(made) == ["find a chess program for children", "the budget is 40 euros"]


def test_every_question_gets_one_facet_in_order_where_none_is_nearer() -> None:
    made = talk("withholding", "Tell me more?", "And?", "And then?", "Fine.", turns=9)
    assert said(made)[1:] == list(FACETS)
    assert said(talk("withholding:strict=true", "Tell me more?", turns=9)) == [
        "find a chess program for children"
    ]


def test_offers_and_code_are_no_questions() -> None:
    assert questions("Done.\n```\nx = a ? b : c?\n```\nIs there anything else?") == []
    assert questions("Sure! Which system do you use? Thanks.") == ["Which system do you use?"]
    assert said(talk("withholding", "Done. Would you like me to explain?", turns=9)) == [
        "find a chess program for children"
    ]


# -- all of them -------------------------------------------------------------------------------------


def test_every_policy_works_without_goal_or_persona_and_repeats_itself_from_a_seed() -> None:
    turns = (Turn(role="user", text="hi"), Turn(role="assistant", text="Which one?"))
    for policy in (Impatient(), Tangential(), Unclear(), Withholding()):
        assert policy.visible_profile(UserProfile(), turns) == policy.visible_profile(UserProfile(), turns)
        assert policy.visible_profile(UserProfile(), ()).goal is None
    whole = [talk("tangential:drift=0.5", "x y", "z", user=Teller(), seed=3).turns for _ in range(2)]
    assert whole[0] == whole[1]


def test_one_wrapper_serves_many_conversations_at_once_and_names_itself() -> None:
    speaker = with_policy(Teller(), "withholding")

    async def both() -> list[Conversation]:
        asking, telling = ScriptedAssistant("And?"), ScriptedAssistant("Fine.")
        return list(
            await asyncio.gather(
                converse(speaker, asking, PROFILE, max_user_turns=9, source=speaker.name),
                converse(speaker, telling, PROFILE, max_user_turns=9),
            )
        )

    asked, told = asyncio.run(both())
    assert (len(said(asked)), len(said(told))) == (4, 1)
    assert asked.source == "teller+withholding"


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("rude", "no such policy; one of impatient, tangential, unclear, withholding"),
        ("impatient:patience=0", "patience"),
        ("impatient:patince=1", "patince"),
        ("impatient:patience", "NAME:KEY=VALUE"),
        ("unclear:keep=much", "keep"),
    ],
)
def test_a_policy_that_cannot_be_is_one_readable_line(text: str, why: str) -> None:
    with pytest.raises(ConfigError, match=why) as caught:
        policy_from(text)
    assert "\n" not in str(caught.value)


def test_a_reply_without_words_makes_no_progress_and_a_first_one_with_them_does() -> None:
    assert stalled("...", ["Fritz is a program."])
    assert not stalled("Fritz is a program.", [])
    assert stalled("I cannot do that.", [])
    assert not stalled("Use Fritz, which runs on most systems. Does it suit you?", [])
