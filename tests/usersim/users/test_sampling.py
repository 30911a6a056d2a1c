"""Guards, ending and seeds, over prepared continuations; then the same rules on a tiny real model."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import pytest

from tests.usersim.rendering.test_render import END, LEFT, renderer
from usersim.backends.transformers_local import LocalSampler
from usersim.errors import GuardError
from usersim.rendering.renderer import Renderer
from usersim.testing import ScriptedSampler
from usersim.types import Facet, Goal, Turn, UserTurn
from usersim.users.guards import Guards, rejection
from usersim.users.protocols import EndPolicy, Sampling, as_profile
from usersim.users.userlm import UserLM

HISTORY = [Turn(role="user", text="Book me a table"), Turn(role="assistant", text="Where?")]


CUT = "…"
"""A text that ends so has no end of turn: `max_tokens` cut it off."""


def said(*texts: str, **options: Any) -> tuple[UserLM, ScriptedSampler]:
    r = renderer()
    scripted = ScriptedSampler(
        *[
            [LEFT] if text == "(leaves)" else r.encode(text) if text.endswith(CUT) else [*r.encode(text), END]
            for text in texts
        ],
        end_probability=options.pop("end_probability", 0.1),
    )
    return UserLM(r, scripted, **options), scripted


def ask(user: UserLM, **options: Any) -> Any:
    return asyncio.run(user.sample(as_profile("eat out"), HISTORY, **options))


def test_a_turn_carries_text_end_probability_and_cost() -> None:
    user, _ = said("rome")
    turn = ask(user, seed=5)[0]
    assert (turn.text, turn.ends, turn.finish, turn.end_probability) == ("rome", False, "stop", 0.1)
    assert (turn.logprob, turn.tokens, turn.seed) == (-5.0, 5, 5)  # r o m e and the end of turn, a nat each


def test_the_end_is_a_token_not_a_string() -> None:
    user, _ = said("(leaves)")
    assert ask(user)[0].ends
    user, _ = said("<|endconversation|> is what I typed")
    assert not ask(user)[0].ends


def test_the_end_is_banned_before_the_first_user_turn() -> None:
    user, scripted = said("hi")
    asyncio.run(user.sample(as_profile("x"), []))
    assert scripted.banned == [[LEFT]]


@pytest.mark.parametrize(
    ("policy", "probability", "ends", "banned"),
    [
        (EndPolicy(mode="never"), 0.9, False, [LEFT]),
        (EndPolicy(mode="threshold", threshold=0.6), 0.59, False, [LEFT]),
        (EndPolicy(mode="threshold", threshold=0.6), 0.6, True, [LEFT]),
        (EndPolicy(mode="greedy"), 0.9, True, [LEFT]),
        (EndPolicy(mode="sample"), 0.9, False, []),
        (EndPolicy(mode="sample", min_user_turns=2), 0.9, False, [LEFT]),
        (EndPolicy(mode="threshold", threshold=0.1, min_user_turns=2), 0.9, False, [LEFT]),
    ],
)
def test_end_policies(policy: EndPolicy, probability: float, ends: bool, banned: list[int]) -> None:
    user, scripted = said("go on", end=policy, end_probability=probability)
    turn = ask(user)[0]
    assert (turn.ends, scripted.banned) == (ends, [banned])
    assert turn.text == ("" if ends else "go on")


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "empty"),
        ("book me  a TABLE.", "repeat"),
        ("Eat out", "goal_copy"),
        ("As an AI language model, I cannot eat", "assistant_speak"),
        ("word " * 201, "too_long"),
        ("somewhere with pasta", None),
    ],
)
def test_guards(text: str, why: str | None) -> None:
    assert rejection(text, Goal(summary="eat out"), HISTORY, Guards()) == why


def test_a_long_run_of_the_goals_words_is_a_copy() -> None:
    goal = Goal(summary="write a short poem about the sea in winter for my aunt")
    guards = Guards(goal_run_words=5)
    assert rejection("pls write a short poem about the sea", goal, [], guards) == "goal_copy"
    assert rejection("a short poem about winter", goal, [], guards) is None


def test_rejected_attempts_are_drawn_anew_counted_and_told() -> None:
    user, scripted = said("", "book me a table", "rome")
    turn = ask(user, seed=1)[0]
    assert (turn.text, turn.rejected) == ("rome", ("empty", "repeat"))
    assert user.rejections == {"empty": 1, "repeat": 1}
    assert len(set(scripted.seeds)) == 3


def test_only_the_rejected_of_n_are_drawn_anew_and_order_is_kept() -> None:
    user, scripted = said("one", "", "three", "two")
    turns = ask(user, n=3, seed=0)
    assert [turn.text for turn in turns] == ["one", "two", "three"]
    assert len(scripted.prompts) == 2


def test_guards_fail_loudly_when_every_attempt_is_rejected() -> None:
    user, _ = said("", "", guards=Guards(attempts=2))
    with pytest.raises(GuardError, match="empty 2") as failure:
        ask(user)
    assert failure.value.reasons == {"empty": 2}


def test_guards_can_be_switched_off() -> None:
    off = Guards.off()
    assert rejection("As an AI " * 300, Goal(summary="eat out"), HISTORY, off) is None
    assert rejection("", Goal(summary="eat out"), HISTORY, off) is None
    assert rejection("Book me a table", Goal(summary="eat out"), HISTORY, off) is None


FACETS = Goal(
    summary="eat out",
    facets=(Facet(text="two people"), Facet(text="a table by the window with a view of the old harbour")),
)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("two people", None),
        ("a table by the window with a view pls", "goal_copy"),
        ("a table by the window, old harbour", None),
    ],
)
def test_a_long_run_of_a_facets_words_is_a_copy_and_a_short_facet_is_an_answer(
    text: str, why: str | None
) -> None:
    assert rejection(text, FACETS, [], Guards()) == why


def test_a_cut_turn_is_drawn_anew_and_counted() -> None:
    user, _ = said("so I was…", "and then…", "rome")
    turn = ask(user, seed=1)[0]
    assert (turn.text, turn.finish, turn.rejected) == ("rome", "stop", ("cut", "cut"))
    assert user.rejections == {"cut": 2}


def test_the_first_cut_turn_is_given_out_where_nothing_better_comes() -> None:
    user, _ = said("so I was…", "", "and then…", guards=Guards(attempts=3))
    turn = ask(user, seed=1)[0]
    assert (turn.text, turn.finish, turn.rejected) == ("so I was…", "length", ("empty", "cut"))
    assert (turn.seed, user.rejections) == (1, {"empty": 1, "cut": 1})


def test_a_cut_runaway_is_never_given_out() -> None:
    user, _ = said("la " * 201 + CUT, guards=Guards(attempts=1))
    with pytest.raises(GuardError, match="too_long 1"):
        ask(user)


def test_whoever_asks_for_fewer_tokens_gets_a_piece() -> None:
    for user, sampling in (
        (said("so I was…")[0], Sampling(max_tokens=9)),
        (said("so I was…", guards=Guards(max_words=None))[0], None),
        (said("so I was…", guards=Guards.off())[0], None),
    ):
        turn = ask(user, sampling=sampling)[0]
        assert (turn.text, turn.finish, turn.rejected) == ("so I was…", "length", ())


def test_what_the_guards_refuse_at_temperature_zero_is_drawn_warm() -> None:
    user, scripted = said("", "rome")
    turn = ask(user, sampling=Sampling(temperature=0, top_p=0.5))[0]
    assert (turn.text, turn.rejected, turn.seed) == ("rome", ("empty",), None)
    assert [asked.sampling.temperature for asked in scripted.asked] == [0, 1.0]
    assert scripted.asked[1].sampling.top_p == 0.5
    again, same = said("", "rome")
    ask(again, sampling=Sampling(temperature=0))
    assert scripted.seeds == same.seeds, "the same request gets the same turn"


def test_at_temperature_zero_the_likeliest_turn_stands_where_no_other_passes() -> None:
    user, _ = said("book me a table", "", "Book me a table!", guards=Guards(attempts=3))
    turns = ask(user, sampling=Sampling(temperature=0), n=2)
    assert [turn.text for turn in turns] == ["book me a table"] * 2
    assert turns[0].rejected == ("repeat", "empty", "repeat")


def test_a_turn_drawn_anew_has_a_seed_that_gives_it_at_once() -> None:
    user, scripted = said("", "rome", "rome")
    turn = ask(user, seed=5)[0]
    assert (turn.text, turn.rejected) == ("rome", ("empty",))
    ask(user, seed=turn.seed)
    assert scripted.seeds[1] == scripted.seeds[2] != scripted.seeds[0]


def test_an_end_decided_by_its_probability_has_its_log_probability() -> None:
    user, _ = said("go on", end=EndPolicy(mode="threshold", threshold=0.5), end_probability=0.8)
    assert ask(user)[0].logprob == pytest.approx(-0.2231, abs=1e-4)


# -- a tiny real model ---------------------------------------------------------------------------------

SHORT = Sampling(max_tokens=6)
TALK = [Turn(role="user", text="hi"), Turn(role="assistant", text="hello")]


class Watched(LocalSampler):
    """Notes the shapes of what the model is run on: (batch, tokens)."""

    def __init__(self, model: Any) -> None:
        super().__init__(model)
        self.shapes: list[tuple[int, int]] = []
        model.register_forward_pre_hook(self._note, with_kwargs=True)

    def _note(self, _: Any, args: Any, kwargs: dict[str, Any]) -> None:
        self.shapes.append(tuple(kwargs["input_ids"].shape))


@pytest.fixture(scope="module")
def real(tiny_userlm: Path) -> UserLM:
    watched = Watched(LocalSampler.from_pretrained(tiny_userlm).model)
    return UserLM(Renderer.from_pretrained(tiny_userlm), watched, sampling=SHORT, guards=Guards.off())


def draw(user: UserLM, turns: list[Turn], **options: Any) -> list[UserTurn]:
    return asyncio.run(user.sample(as_profile("eat out"), turns, **options))


def test_n_samples_share_one_prefill(real: UserLM) -> None:
    watched = cast("Watched", real.sampler)
    watched.shapes.clear()
    draw(real, TALK, n=5, seed=0)
    prompt = real.renderer.prompt(as_profile("eat out"), TALK)
    assert watched.shapes[0] == (1, len(prompt))
    assert set(watched.shapes[1:]) == {(5, 1)}


@pytest.fixture
def leaving(real: UserLM) -> Iterator[UserLM]:
    """The same model when it would rather leave: the logit of the end is raised."""
    end = real.renderer.settings.end_of_conversation_id

    def raise_end(_: Any, __: Any, out: Any) -> Any:
        out.logits[..., end] += 8
        return out

    handle = cast("Watched", real.sampler).model.register_forward_hook(raise_end)
    yield real
    handle.remove()


@pytest.mark.parametrize(
    ("policy", "leaves"),
    [
        (EndPolicy(mode="sample"), True),
        (EndPolicy(mode="sample", min_user_turns=2), False),
        (EndPolicy(mode="never"), False),
        (EndPolicy(mode="threshold", threshold=0.5), True),
        (EndPolicy(mode="threshold", threshold=1.0), False),
        (EndPolicy(mode="greedy"), True),
        (EndPolicy(mode="greedy", min_user_turns=2), False),
    ],
)
def test_policies_on_a_model_that_would_leave(leaving: UserLM, policy: EndPolicy, leaves: bool) -> None:
    turns = draw(leaving, TALK, n=4, seed=3, end=policy)
    assert turns[0].end_probability > 0.85
    assert {turn.ends for turn in turns} == {turn.finish == "end" for turn in turns} == {leaves}
    assert not any(turn.text for turn in turns if turn.ends)
    assert not any(turn.ends for turn in draw(leaving, [], n=4, seed=3, end=policy)), "not a word said yet"


def test_a_model_that_would_stay_ends_only_where_the_threshold_says_so(real: UserLM) -> None:
    for policy in (EndPolicy(mode="threshold", threshold=0.5), EndPolicy(mode="greedy")):
        turns = draw(real, TALK, n=4, seed=3, end=policy)
        assert turns[0].end_probability < 0.1
        assert not any(turn.ends for turn in turns)
    assert all(turn.ends for turn in draw(real, TALK, n=2, end=EndPolicy(mode="threshold", threshold=0.0)))


def test_a_real_models_runaway_turn_is_cut_and_says_so(real: UserLM) -> None:
    guarded = UserLM(real.renderer, real.sampler, sampling=SHORT, guards=Guards(attempts=2, empty=False))
    for turn in draw(guarded, TALK, n=4, seed=0, end=EndPolicy(mode="never")):
        assert turn.finish == "stop" or (turn.tokens == 6 and turn.rejected)
