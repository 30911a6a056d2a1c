"""Racing: who is stopped, when, and what is made of it."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Sequence

import pytest

from collab_train.contexts import Context
from collab_train.rewards import EXTRINSIC, Episode, Extrinsic
from collab_train.rollout.simulation.rollout import RolloutConfig, multiturn_rewards
from collab_train.rollout.simulation.successive_elimination import Race, surely_above
from usersim.testing import ScriptedAssistant, ScriptedUser
from usersim.types import Turn


def test_a_paired_interval_decides() -> None:
    # Differences 1, 2, 3: mean 2, s/√3 = 0.5774; t(2 df): 2.920 at 95 %, 4.303 at 97.5 %, 6.965 at 99 %.
    # 2 > 2.920 · 0.5774 = 1.686, and 2 < 4.303 · 0.5774 = 2.484.
    one, other = {0: 11.0, 1: 22.0, 2: 33.0, 9: 0.0}, {0: 10.0, 1: 20.0, 2: 30.0, 7: 99.0}
    assert surely_above(one, other, 0.95)
    assert not surely_above(one, other, 0.975)
    assert not surely_above(other, one, 0.95)


def test_too_few_pairs_or_no_spread_decide_nothing() -> None:
    assert not surely_above({0: 1.0, 1: 2.5}, {0: 0.0, 1: 0.0}, 0.6)
    assert not surely_above(dict.fromkeys(range(9), 1.0), dict.fromkeys(range(9), 0.0), 0.95)


def test_the_level_is_shared_by_all_comparisons() -> None:
    # 4 candidates, 7 futures: 3 comparisons at each of 5 looks.
    assert Race(4, 7, 0.15).level == pytest.approx(1 - 0.15 / 15)


def test_a_loser_is_out_and_with_the_last_loser_the_winner_needs_no_more() -> None:
    race = Race(3, 8, 0.5)
    decided = list[set[int]]()
    for index, noise in enumerate((0.0, 0.05, 0.02, 0.04)):
        for candidate, level in enumerate((1.0, 0.5, 0.9)):
            if candidate not in race.out:
                decided.append(race.add(candidate, index, level + noise * (candidate + 1)))
    # After three pairs 0.5 is out (differences 0.5, 0.45, 0.48); 0.9 is too near.
    assert race.out == {1}
    assert [1] in [sorted(stopped) for stopped in decided]
    assert race.add(0, 4, 9.0) == set()
    for index in (5, 6, 7):
        race.add(0, index, 2.0 + index / 100)
        last = race.add(2, index, 0.5)
    assert race.out == {1, 2}
    assert last == {0, 2} or {0, 2} in decided


def test_stopped_futures_are_counted_and_not_scored(monkeypatch: pytest.MonkeyPatch) -> None:
    """Candidate b is worse by about a half; its futures after the first few take long and are not waited for."""

    def worth(episode: Episode) -> float:
        index = int(episode.conversation.id.rsplit("/", 1)[1])
        return 1.0 + 0.01 * (index % 3) if episode.window[0].text == "a" else 0.5

    class Slow(ScriptedAssistant):
        async def __call__(
            self, turns: Sequence[Turn], *, system: str | None = None, seed: int | None = None
        ) -> str:
            late = int(re.findall(r"\d+", turns[-1].text)[0]) % 500 >= 4
            await asyncio.sleep(30 if late and turns[1].text == "b" else 0)
            return "fine"

    class Numbered(ScriptedUser):
        async def sample(self, profile, turns, *, n=1, seed=0, affinity=""):  # type: ignore[no-untyped-def]
            said = await ScriptedUser("", "x")(profile, turns, seed=seed)
            return [said.model_copy(update={"text": f"turn {i}"}) for i in range(n)]

    monkeypatch.setitem(EXTRINSIC, "worth", Extrinsic(worth, lambda context: None))
    context = Context(id="c", turns=(Turn(role="user", text="hi"),), candidates=("a", "b"))
    config = RolloutConfig(w=1, n=8, token_penalty=0, rewards={"worth": 1.0}, racing=0.1)
    (result,) = asyncio.run(multiturn_rewards([context], Numbered(), Slow(), config))
    a, b = result.candidates
    # Three pairs decide: differences 0.50, 0.51, 0.52.
    assert b.n in (3, 4)
    assert (b.n + b.stopped, b.failed) == (8, 0)
    assert b.mr == pytest.approx(0.5)
    assert a.n + a.stopped == 8
    assert result.best == a
    (plain,) = asyncio.run(
        multiturn_rewards(
            [context], Numbered(), ScriptedAssistant("x"), config.model_copy(update={"racing": None})
        )
    )
    assert [(c.n, c.stopped) for c in plain.candidates] == [(8, 0), (8, 0)]
