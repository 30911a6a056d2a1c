"""Multiturn-aware rewards against scripts: exact values, failures, concurrency, resuming, seeds."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Sequence
from pathlib import Path

import pytest

from collab_train.contexts import Context
from collab_train.rewards import EXTRINSIC, Episode, Extrinsic
from collab_train.rollout.accounting.results import ContextMR, Future, interval
from collab_train.rollout.cache.journal import Journal
from collab_train.rollout.simulation.candidates import Candidate, Candidates
from collab_train.rollout.simulation.rollout import RolloutConfig, multiturn_rewards
from usersim.api import load
from usersim.errors import BackendError, ConfigError, DataError, GuardError
from usersim.remote.wire import TryLaterError
from usersim.testing import ScriptedAssistant, ScriptedUser
from usersim.types import Facet, Goal, Turn, UserProfile, UserTurn

ASK, TELL = "What may it cost?", "Fly there."
OPENING = Turn(role="user", text="plan a trip")


def context(*candidates: str, name: str = "c") -> Context:
    goal = Goal(summary="plan a trip", facets=(Facet(text="at most 350 euros"), Facet(text="by train")))
    return Context(
        id=name,
        turns=(OPENING,),
        profile=UserProfile(goal=goal),
        candidates=candidates,
        phrases=(("350 euro*",), ("by train",)),
    )


def rewards(contexts: list[Context], user: object, assistant: object, **options: object) -> list[ContextMR]:
    journal = options.pop("journal", None)
    settings = {"w": 1, "n": 2, "token_penalty": 0.01, "retries": 0, **options}
    config = RolloutConfig.model_validate(settings)
    return asyncio.run(multiturn_rewards(contexts, user, assistant, config, journal=journal))  # type: ignore[arg-type]


class SeededUser(ScriptedUser):
    """Remembers seeds; fails at the seeds it is told to."""

    def __init__(self, *lines: str, fails: Sequence[int] = ()) -> None:
        super().__init__(*lines)
        self.seeds, self.fails = list[int | None](), list(fails)

    async def __call__(
        self, profile: UserProfile, turns: Sequence[Turn], *, seed: int | None = None
    ) -> UserTurn:
        self.seeds.append(seed)
        if len(self.seeds) - 1 in self.fails:
            raise BackendError("engine gone", retryable=True)
        return await super().__call__(profile, turns, seed=seed)


def test_mr_worked_by_hand() -> None:
    user = ScriptedUser("plan a trip", "350 euros")
    assistant = ScriptedAssistant("By train for 350 euros.")
    (result,) = rewards([context(ASK, TELL)], user, assistant)
    asked, told = result.candidates
    # ASK: 5 tokens, the user 2, the answer 6: 13 · 0.01; both facets served. TELL: 3 + 2 + 6 = 11.
    assert asked.mr == pytest.approx(1 - 0.13)
    assert told.mr == pytest.approx(1 - 0.11)
    assert asked.components == pytest.approx({"facet_coverage": 1.0, "intrinsic": -0.13, "tokens": 13.0})
    assert (asked.n, asked.failed, asked.se) == (2, 0, 0.0)
    assert asked.interval == pytest.approx((0.87, 0.87))
    assert (asked.cost.user_tokens, asked.cost.assistant_tokens) == (4, 12)
    assert result.best == told


def test_interval_is_students_t() -> None:
    # Mean 2, s = 1, n = 3: 2 ± 4.303 / √3
    assert interval([1.0, 2.0, 3.0]) == pytest.approx((2 - 2.4843, 2 + 2.4843), abs=1e-3)
    assert interval([1.0]) is None


def test_a_window_of_zero_scores_the_candidate_alone_and_once() -> None:
    user, assistant = ScriptedUser("a", "b"), ScriptedAssistant("c")
    (result,) = rewards([context("Go by train.")], user, assistant, w=0, n=5)
    (only,) = result.candidates
    assert only.mr == pytest.approx(0.5 - 0.04)
    assert (only.n, only.interval, user.heard, assistant.heard) == (1, None, [], [])


def test_a_user_who_leaves_ends_the_window_early() -> None:
    (result,) = rewards([context("Go by train.")], ScriptedUser("plan a trip"), ScriptedAssistant("x"), w=3)
    assert result.candidates[0].mr == pytest.approx(0.5 - 0.04)


def test_a_failed_future_is_counted_and_left_out() -> None:
    user = SeededUser("plan a trip", "350 euros", fails=[1])
    (result,) = rewards(
        [context(ASK)], user, ScriptedAssistant("By train for 350 euros."), n=3, concurrency=1
    )
    (only,) = result.candidates
    assert (only.n, only.failed) == (2, 1)
    assert only.mr == pytest.approx(0.87)
    assert only.errors == ("BackendError: engine gone",)


def test_a_candidate_whose_futures_all_failed_has_no_reward() -> None:
    user = SeededUser("plan a trip", "350 euros", fails=[0, 1])
    (result,) = rewards([context(ASK, TELL)], user, ScriptedAssistant("By train."), concurrency=1)
    lost, kept = result.candidates
    assert (lost.mr, lost.n, lost.failed, lost.components, lost.interval) == (None, 0, 2, {}, None)
    assert kept.mr is not None
    assert result.best == kept


def test_a_bug_is_not_a_failed_future() -> None:
    class Broken(ScriptedUser):
        async def __call__(
            self, profile: UserProfile, turns: Sequence[Turn], *, seed: int | None = None
        ) -> UserTurn:
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        rewards([context(ASK)], Broken(), ScriptedAssistant("x"))


def test_futures_do_not_wait_for_each_other_and_stay_under_the_bound() -> None:
    running: list[int] = [0, 0]
    order: list[str] = []

    class Slow(ScriptedAssistant):
        async def __call__(
            self, turns: Sequence[Turn], *, system: str | None = None, seed: int | None = None
        ) -> str:
            running[0] += 1
            running[1] = max(running)
            # The slow candidate's one turn outlasts all the turns of the quick one's two windows.
            await asyncio.sleep(0.3 if turns[1].text == "slow" else 0.005)
            running[0] -= 1
            order.append(turns[1].text)
            return "fine"

    user = ScriptedUser("a", "b", "c", "d")
    rewards([context("slow", "quick")], user, Slow(), w=3, n=2, concurrency=4)
    assert order[:6] == ["quick"] * 6
    assert running[1] == 4
    running[:] = [0, 0]
    rewards([context("slow", "quick")], user, Slow(), w=1, n=3, concurrency=2)
    assert running[1] == 2


def test_future_j_draws_from_the_same_seeds_whatever_the_candidate() -> None:
    user = SeededUser("plan a trip", "350 euros")
    rewards([context(ASK, TELL)], user, ScriptedAssistant("x"), n=3, concurrency=1)
    assert user.seeds[:3] == user.seeds[3:]
    assert len(set(user.seeds)) == 3
    other = SeededUser("plan a trip", "350 euros")
    rewards([context(ASK, name="d")], other, ScriptedAssistant("x"), n=3)
    assert not set(user.seeds) & set(other.seeds)


class BatchUser(ScriptedUser):
    """Can be asked for several turns at once; says who they are for. Remembers (turns, n, seed, affinity)."""

    def __init__(self, *, refuses: int = 0) -> None:
        super().__init__()
        self.asked, self.refuses = list[tuple[int, int, int, str]](), refuses

    async def sample(
        self, profile: UserProfile, turns: Sequence[Turn], *, n: int = 1, seed: int = 0, affinity: str = ""
    ) -> list[UserTurn]:
        self.asked.append((len(turns), n, seed, affinity))
        if n > 1 and self.refuses:
            raise GuardError("no acceptable user turn", reasons={"empty": 6})
        return [
            UserTurn(
                text=f"from seed {seed + i}",
                ends=False,
                end_probability=0.1,
                finish="length" if i else "stop",
                logprob=-1.0,
                tokens=3,
                prompt_tokens=50,
                seed=seed + i,
            )
            for i in range(n)
        ]


def test_first_turns_of_a_candidates_futures_are_one_request_and_the_rest_are_not() -> None:
    user = BatchUser()
    (result,) = rewards([context(ASK, TELL)], user, ScriptedAssistant("x"), w=2, n=3)
    first = [asked for asked in user.asked if asked[0] == 2]
    later = [asked for asked in user.asked if asked[0] == 4]
    assert [(n, affinity) for _, n, _, affinity in first] == [(3, "c"), (3, "c")]
    assert first[0] == first[1]  # common random numbers
    assert [n for _, n, _, _ in later] == [1] * 6
    seeds = {seed for _, _, seed, _ in later} | {first[0][2] + i for i in range(3)}
    assert len(seeds) == 6  # later turns of the two candidates share theirs; nothing else does
    cost = result.candidates[0].cost
    # One prompt of 50 for the three first turns, three for the second ones; two of the first were cut.
    assert (cost.user_turns, cost.user_prompt_tokens, cost.user_tokens, cost.user_turns_cut) == (
        6,
        200,
        18,
        2,
    )


def test_one_refused_first_turn_does_not_take_the_others_along_and_seeds_stay(tmp_path: Path) -> None:
    whole, alone = (Journal(tmp_path / f"{name}.jsonl", Future) for name in ("whole", "alone"))
    rewards([context(ASK)], BatchUser(), ScriptedAssistant("x"), n=3, journal=whole)
    user = BatchUser(refuses=1)
    rewards([context(ASK)], user, ScriptedAssistant("x"), n=3, journal=alone)
    assert [n for _, n, _, _ in user.asked] == [3, 1, 1, 1]

    def said(journal: Journal[Future]) -> dict[int, str]:
        return {f.index: f.conversation.turns[2].text for f in journal.read() if f.conversation}

    assert said(whole) == said(alone)
    assert len(set(said(whole).values())) == 3


@pytest.fixture
def waits(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """How long would have been waited."""
    waited, sleep = list[float](), asyncio.sleep

    async def at_once(seconds: float) -> None:
        waited.append(seconds)
        await sleep(0)

    monkeypatch.setattr("collab_train.rollout.engines.patience.asyncio.sleep", at_once)
    return waited


def test_an_engine_that_is_away_for_a_minute_loses_no_future(waits: list[float]) -> None:
    user = SeededUser("plan a trip", "350 euros", fails=range(6))
    (result,) = rewards([context(ASK)], user, ScriptedAssistant("By train."), n=1, retries=8)
    assert (result.candidates[0].n, result.candidates[0].failed, result.candidates[0].cost.retries) == (
        1,
        0,
        6,
    )
    assert len(set(user.seeds)) == 1  # waiting changes nothing about what is asked
    shortest = [1, 2, 4, 8, 16, 16]
    assert all(low <= wait <= 1.25 * low for low, wait in zip(shortest, waits, strict=True))
    gone = SeededUser("plan a trip", "350 euros", fails=range(9))
    (result,) = rewards([context(ASK)], gone, ScriptedAssistant("By train."), n=1, retries=8)
    assert (result.candidates[0].n, len(gone.seeds)) == (0, 9)
    assert sum(waits[6:]) > 60


def test_a_front_that_tells_short_waits_is_given_as_long_to_come_back(waits: list[float]) -> None:
    """It says when it will listen again, not when its engine is up: with eight short waits a restart is not over."""

    class Refused(SeededUser):
        async def __call__(self, *args: object, **kwargs: object) -> UserTurn:
            raise TryLaterError("HTTP 503", wait_s=self.told)

    for told, shortest in ((2.0, [2, 2, 4, 8, 16]), (30.0, [30] * 5), (None, [1, 2, 4, 8, 16])):
        waits.clear()
        user = Refused("plan a trip")
        user.told = told  # type: ignore[attr-defined]
        (result,) = rewards([context(ASK)], user, ScriptedAssistant("By train."), n=1, retries=5)
        assert (result.candidates[0].failed, len(waits)) == (1, 5)
        assert all(low <= wait <= 1.25 * low for low, wait in zip(shortest, waits, strict=True))


def test_an_assistant_that_returns_nothing_is_bounded_counted_and_explained(waits: list[float]) -> None:
    seeds = list[int | None]()

    class Mute(ScriptedAssistant):
        async def __call__(
            self, turns: Sequence[Turn], *, system: str | None = None, seed: int | None = None
        ) -> str:
            seeds.append(seed)
            return " " if len(seeds) in (1, 4, 5, 6) else "By train."

    (result,) = rewards([context(ASK)], ScriptedUser("a", "b"), Mute(), w=1, n=3, concurrency=1, retries=8)
    only = result.candidates[0]
    # The second seed helps the first future; the third future has three empty replies, and no more are asked for.
    assert (only.n, only.failed, only.cost.retries, len(seeds)) == (2, 1, 3, 6)
    assert only.failures == {"BackendError: the assistant returned an empty reply (3 seeds tried)": 1}
    assert len(set(seeds)) == 6
    assert waits == []


def test_a_user_that_never_ends_is_bounded_by_the_window_and_its_cut_turns_are_counted() -> None:
    user = BatchUser()
    (result,) = rewards([context(ASK)], user, ScriptedAssistant("x"), w=4, n=1)
    assert len(user.asked) == 4
    assert (result.candidates[0].n, result.candidates[0].cost.user_turns) == (1, 4)


def test_a_context_longer_than_the_window_fails_its_futures_in_one_line(tiny_userlm: Path) -> None:
    long = context(ASK).model_copy(update={"turns": (OPENING, *talk(60))})
    user = load(tiny_userlm)
    (first, second) = rewards([long, context(TELL, name="d")], user, ScriptedAssistant("x"), n=2)
    (failed,) = first.candidates
    assert (failed.mr, failed.failed) == (None, 2)
    assert len(failed.errors) == 1
    assert failed.errors[0].startswith("ContextOverflowError: This model's maximum context length is")
    assert "\n" not in failed.errors[0]
    assert second.id == "d"


def talk(exchanges: int) -> tuple[Turn, ...]:
    return tuple(
        Turn(role=role, text="a sentence of some length " * 2)
        for _ in range(exchanges)
        for role in ("assistant", "user")
    )


def test_a_window_too_long_for_the_local_assistant_is_refused_not_garbled(tiny_base: Path) -> None:
    from usersim.chat_models.local_chat import LocalChat

    assistant = LocalChat.from_pretrained(tiny_base)
    (result,) = rewards(
        [context(ASK).model_copy(update={"turns": (OPENING, *talk(30))})],
        ScriptedUser(*["a"] * 31, "b", "c"),
        assistant,
        n=1,
    )
    assert (
        result.candidates[0]
        .errors[0]
        .startswith("ContextOverflowError: the assistant's window is 2048 tokens")
    )


def test_a_failing_reward_is_counted_explained_and_never_zero(monkeypatch: pytest.MonkeyPatch) -> None:
    def fragile(episode: Episode) -> float:
        if episode.conversation.id.endswith("/1"):
            raise ZeroDivisionError("no words")
        return math.nan if episode.conversation.id.endswith("/2") else 0.5

    monkeypatch.setitem(EXTRINSIC, "fragile", Extrinsic(fragile, lambda context: None))
    (result,) = rewards(
        [context(ASK)],
        ScriptedUser("a", "b"),
        ScriptedAssistant("x"),
        n=3,
        rewards={"fragile": 1.0},
        token_penalty=0.0,
    )
    only = result.candidates[0]
    assert (only.mr, only.n, only.failed) == (0.5, 1, 2)
    assert only.failures == {
        "RewardError: rewards.fragile: ZeroDivisionError: no words": 1,
        "RewardError: rewards.fragile: not a number (nan)": 1,
    }


def test_immediate_rewards_of_the_ablation_are_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    helpful = Extrinsic(lambda episode: 0.9, lambda context: None)
    monkeypatch.setitem(EXTRINSIC, "helpful", helpful)

    def immediate(**options: object) -> float | None:
        asked = {"w": 0, "rewards": {"facet_coverage": 1.0}, **options}
        (result,) = rewards([context("Go by train.")], ScriptedUser("a"), ScriptedAssistant("x"), **asked)
        return result.candidates[0].mr

    # "Go by train." serves one of two facets and has 4 tokens.
    assert immediate(rewards={"helpful": 1.0}, intrinsic_weight=0.0) == pytest.approx(0.9)
    assert immediate(intrinsic_weight=0.0) == pytest.approx(0.5)
    assert immediate(rewards={"facet_coverage": 0.0}) == pytest.approx(-0.04)
    assert immediate() == pytest.approx(0.46)


def test_a_rerun_simulates_only_what_is_missing(tmp_path: Path) -> None:
    journal, path = Journal(tmp_path / "samples.jsonl", Future), tmp_path / "samples.jsonl"
    user = SeededUser("plan a trip", "350 euros", fails=[2])
    first = rewards(
        [context(ASK, TELL)], user, ScriptedAssistant("By train."), journal=journal, concurrency=1
    )
    assert first[0].candidates[1].failed == 1
    again = SeededUser("plan a trip", "350 euros")
    second = rewards([context(ASK, TELL)], again, ScriptedAssistant("By train."), journal=journal)
    assert len(again.seeds) == 1  # the failed one is tried again, the three others are not
    assert second[0].candidates[0] == first[0].candidates[0]
    # A kill in mid-line loses that line only, and the next line does not stick to it.
    content = path.read_bytes()
    path.write_bytes(content[:-20])
    third_user = SeededUser("plan a trip", "350 euros")
    third = rewards([context(ASK, TELL)], third_user, ScriptedAssistant("By train."), journal=journal)
    assert len(third_user.seeds) == 1
    assert third[0].candidates[1].mr == second[0].candidates[1].mr
    changed = SeededUser("plan a trip", "350 euros")
    rewards([context(ASK, TELL)], changed, ScriptedAssistant("By train."), journal=journal, w=2)
    assert changed.seeds  # another window is another future


def test_a_damaged_line_inside_the_journal_is_named(tmp_path: Path) -> None:
    path = tmp_path / "samples.jsonl"
    path.write_text('{"key": 1}\n{"key": 2}\n', encoding="utf-8")
    with pytest.raises(DataError, match=r"samples\.jsonl:1"):
        Journal(path, Future).read()


def test_journal_keeps_line_separators_inside_texts(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "c.jsonl", Candidate)
    journal.append(Candidate(context="c", index=0, text="one\u2028two\x85three"))
    assert [c.text for c in journal.read()] == ["one\u2028two\x85three"]


def test_candidates_are_sampled_once_kept_and_equal_ones_merged(tmp_path: Path) -> None:
    class Flaky(ScriptedAssistant):
        async def __call__(
            self, turns: Sequence[Turn], *, system: str | None = None, seed: int | None = None
        ) -> str:
            text = await super().__call__(turns, system=system, seed=seed)
            if text == "fail":
                raise BackendError("an empty reply", retryable=True)
            return text

    async def sample(
        assistant: ScriptedAssistant, count: int, *contexts: Context
    ) -> tuple[list[Context], list[Candidate]]:
        journal, gate = Journal(tmp_path / "candidates.jsonl", Candidate), asyncio.Semaphore(1)
        candidates = Candidates(assistant, count=count, seed=0, gate=gate, journal=journal)
        return [await candidates.fill(one) for one in contexts], candidates.failed

    given = context("given", name="d")
    (first, second), failed = asyncio.run(sample(Flaky("one", "one", "fail"), 3, context(), given))
    assert (first.candidates, second.candidates) == (("one",), ("given",))
    assert [c.error for c in failed] == ["BackendError: an empty reply"]
    assistant = Flaky("two")
    (first, _), failed = asyncio.run(sample(assistant, 3, context(), given))
    assert (first.candidates, failed, len(assistant.heard)) == (("one", "two"), [], 1)
    (nothing,), failed = asyncio.run(sample(Flaky("fail"), 2, context(name="e")))
    assert (nothing.candidates, len(failed)) == ((), 2)


def test_contexts_without_candidates_or_with_repeated_ids_are_refused() -> None:
    with pytest.raises(ConfigError, match="context c: no candidates"):
        rewards([context()], ScriptedUser(), ScriptedAssistant("x"))
    with pytest.raises(ConfigError, match="repeat"):
        rewards([context("a"), context("b")], ScriptedUser(), ScriptedAssistant("x"))


def test_lambda_is_another_word_for_token_penalty() -> None:
    assert RolloutConfig.model_validate({"lambda": 0.25}).token_penalty == 0.25
