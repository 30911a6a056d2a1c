"""`make demo` against scripted speakers: what it chooses, what it compares, what it leaves behind."""

from __future__ import annotations

import asyncio
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from collab_train.rewards import count_tokens
from collab_train.rollout.accounting.results import CandidateMR, ContextMR
from collab_train.rollout.simulation.rollout import context_seed
from scripts import demo, demo_picture
from scripts import demo_story as plot
from tests.fake_endpoint import Reply, dead_url, endpoint
from usersim.cli import run_main
from usersim.errors import BackendError, ConfigError, DataError
from usersim.testing import ScriptedUser
from usersim.types import Conversation, Facet, Goal, Persona, Turn, UserProfile, UserTurn

LENTILS = "Cook lentils in a pan, they are vegetarian."


def person(name: str, opening: str = "hi there", *, facets: int = 2, language: str = "en") -> Conversation:
    goal = Goal(summary=f"goal {name}", facets=tuple(Facet(text=f"facet {i}") for i in range(facets)))
    return Conversation(
        id=name,
        origin="human",
        source="sharegpt",
        turns=(Turn(role="user", text=opening), Turn(role="assistant", text="ok")),
        profile=UserProfile(goal=goal, persona=Persona(language=language)),
    )


class Drawn(ScriptedUser):
    """A scripted user that can be asked for several turns, as the endpoint's client can."""

    async def sample(
        self, profile: UserProfile, turns: Sequence[Turn], *, n: int = 1, seed: int | None = None, **_: Any
    ) -> list[UserTurn]:
        return [await self(profile, turns, seed=None if seed is None else seed + i) for i in range(n)]


async def helpful(turns: Sequence[Turn], *, system: str | None = None, seed: int | None = None) -> str:
    """Serves what the user wants after the helping reply, and nothing after the dodging one."""
    return LENTILS if any(turn.text == plot.HELPS for turn in turns) else "Octopuses are clever."


DINNER = UserProfile(
    goal=Goal(summary="get a dinner idea", facets=(Facet(text="vegetarian"), Facet(text="quick")))
)


def test_the_goal_is_drawn_with_seed_0_from_those_that_fit() -> None:
    unfit = [
        person("one facet", facets=1),
        person("five facets", facets=5),
        person("long", " ".join(["w"] * 41)),
        person("french", language="fr"),
        Conversation(id="no goal", origin="human", source="s", turns=(Turn(role="user", text="hi"),)),
    ]
    assert plot.choose([*unfit, person("fits", " ".join(["w"] * 40), facets=4)]).id == "fits"
    # random.Random(0).choice(range(10)) is 6, in every Python since 3.2.
    assert plot.choose([*unfit, *(person(f"p{i}") for i in range(10))]).id == "p6"
    with pytest.raises(DataError, match="no person fits"):
        plot.choose(unfit)


def test_neighbours_are_the_nearest_goals_with_openings_of_their_own() -> None:
    chosen = person("chosen", "need dinner")
    others = [
        person("far", "a"),
        person("same words", "Need dinner"),
        person("near", "b"),
        person("mid", "c"),
    ]
    vectors = {"far": [0.1, 0.9], "near": [0.9, 0.1], "mid": [0.5, 0.5], "chosen": [1.0, 0.0]}

    def embed(texts: Sequence[str]) -> Any:
        assert texts[0] == "goal chosen; facet 0; facet 1"
        names = [text.split(";")[0].removeprefix("goal ") for text in texts]
        return np.array([vectors[name] for name in names], dtype=np.float32)

    found = plot.neighbours(chosen, [chosen, *others], embed)
    assert [(n.conversation.id, round(n.similarity, 2)) for n in found] == [("near", 0.9), ("mid", 0.5)]


def test_the_two_replies_cost_the_same_to_read() -> None:
    assert count_tokens(plot.HELPS) == count_tokens(plot.DODGES)


def test_rewards_are_compared_future_by_future() -> None:
    user = Drawn("dinner tonight", "what should it be", "and then")
    said = UserTurn(text="dinner tonight", ends=False, end_probability=0, finish="stop", logprob=0, tokens=2)
    found = asyncio.run(plot.compare(user, helpful, DINNER, said, lambda future: None))
    # Two replies in the window; one of two facets is served after the helping reply. λ = 5e-4 a token.
    longer = 2 * (count_tokens(LENTILS) - count_tokens("Octopuses are clever."))
    assert found.differences == pytest.approx([0.5 - 5e-4 * longer] * plot.FUTURES)
    assert found.result.candidates[0].n == plot.FUTURES


def test_a_pair_that_lacks_a_future_is_left_out() -> None:
    lost = (context_seed(plot.SEED, "demo") + 3) * 1_009 + 3 * 7_919

    async def failing(turns: Sequence[Turn], *, system: str | None = None, seed: int | None = None) -> str:
        if seed == lost and turns[1].text == plot.DODGES:
            raise BackendError("gone", retryable=False)
        return await helpful(turns, system=system, seed=seed)

    user = Drawn("dinner tonight", "what should it be", "and then")
    said = UserTurn(text="dinner tonight", ends=False, end_probability=0, finish="stop", logprob=0, tokens=2)
    found = asyncio.run(plot.compare(user, failing, DINNER, said, lambda future: None))
    assert [made.n for made in found.result.candidates] == [plot.FUTURES, plot.FUTURES - 1]
    assert len(found.differences) == plot.FUTURES - 1


def comparison(*differences: float) -> plot.ReplyComparison:
    candidates = (CandidateMR(text=plot.HELPS), CandidateMR(text=plot.DODGES))
    return plot.ReplyComparison(ContextMR(id="demo", candidates=candidates), differences, plot.FUTURES)


def test_the_verdict_says_when_nothing_can_be_said() -> None:
    assert "includes zero: 4 futures cannot tell the two apart" in comparison(1, -1, 1, -1).verdict()
    # Mean 0.5, standard error 0.1 / sqrt(3) = 0.0577, t(2) = 4.303.
    assert comparison(0.4, 0.5, 0.6).interval == pytest.approx((0.2516, 0.7484), abs=1e-4)
    assert "reply that helps is worth more" in comparison(0.4, 0.5, 0.6).verdict()
    assert "reply that dodges is worth more" in comparison(-0.4, -0.5, -0.6).verdict()
    assert f"1 of {plot.FUTURES} pairs" in comparison(0.5).verdict()
    assert "too few for an interval" in comparison().verdict()


@pytest.fixture
def screen(monkeypatch: pytest.MonkeyPatch) -> io.StringIO:
    """What is printed, without a terminal."""
    shown = io.StringIO()
    monkeypatch.setattr(demo, "console", Console(file=shown, width=100, highlight=False))
    return shown


def cast(user: Drawn, prompted: ScriptedUser) -> demo.Cast:
    people = [person("p", "[b]cheap[/b] & vegetarian dinner?"), person("q", "dinner for two")]

    async def endpoint_is_up() -> Drawn:
        return user

    return demo.Cast(
        people=lambda: (people[:1], people),
        embed=lambda texts: np.ones((len(texts), 2), dtype=np.float32) / 2**0.5,
        prompted=lambda: prompted,
        userlm=endpoint_is_up,
        assistant=lambda: helpful,
        assistant_name="a <script>",
    )


def test_the_story_is_told_and_leaves_a_page_and_a_picture(screen: io.StringIO, tmp_path: Path) -> None:
    clock, user = demo.PhaseTimer(), Drawn("need dinner", "no meat", "thx")
    story = asyncio.run(demo.tell(cast(user, ScriptedUser("Hello! I would like a dinner.")), clock))
    demo.show_picture(story, tmp_path, clock)

    text = screen.getvalue()
    for words in ("goal p", "[b]cheap[/b]", "Hello! I would like", "no meat", "(leaves)", "P(end) 1.00"):
        assert words in text
    assert text.index("whose goal this is") < text.index("prompted") < text.index("(leaves)")
    assert story.conversation.ended_by == "user"
    assert [turn.text for turn in story.conversation.turns if turn.role == "user"] == [
        "need dinner",
        "no meat",
        "thx",
    ]
    # Three openings, the conversation's two turns, two in each of the futures.
    assert len(story.live_words) == 3 + 2 + 2 * 2 * plot.FUTURES
    assert story.live_ends == {1: [0.0] * 17, 2: [0.0] * 17, 3: [1.0]}

    page = (tmp_path / "demo.html").read_text(encoding="utf-8")
    for words in ("goal p", "&lt;script&gt;", "[b]cheap[/b] &amp; vegetarian", "the user leaves"):
        assert words in page
    assert story.comparison.verdict() in page
    assert (tmp_path / "demo.png").read_bytes().startswith(b"\x89PNG")
    assert list(clock.spent) == ["people", "base", "engine", "openings", "conversation", "rewards", "picture"]
    assert clock.line().startswith("done in 0 s: people 0,") or clock.total_s >= 0.5


def test_a_user_that_refuses_every_attempt_is_no_end_of_the_story() -> None:
    refused: list[UserTurn | None] = [
        None,
        UserTurn(text="hi", ends=False, end_probability=0, finish="stop", logprob=0, tokens=1),
    ]
    assert plot.first_opening(refused).text == "hi"
    assert demo_picture.spoken(None).startswith("(nothing")
    with pytest.raises(DataError, match="no opening"):
        plot.first_opening([None])


def test_live_turns_are_counted_in_the_report_s_bins() -> None:
    bins = ["0", "1", "2\u20133", "4\u20137", "8+"]
    assert demo_picture.shares([1, 2, 3, 9], bins) == (0.0, 0.25, 0.5, 0.0, 0.25)


def test_the_committed_results_have_what_the_picture_shows(tmp_path: Path) -> None:
    measured = demo_picture.read_measured()
    assert len(measured.bins) == len(measured.human) == len(measured.userlm) == len(measured.prompted)
    for rows in measured.perplexity.values():
        assert all(1 < each.low <= each.value <= each.high for each in rows)
    changed = tmp_path / "report.json"
    changed.write_text('{"features": []}', encoding="utf-8")
    with pytest.raises(DataError, match=r"report\.json: not the report"):
        demo_picture.read_measured(changed)


@pytest.mark.parametrize("where", ["localhost:8000", "ftp://host/v1#m", "http://", "http://[::1/v1"])
def test_an_assistant_that_is_no_url_is_refused_in_one_line(
    where: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_main(demo.main, ["--assistant", where]) == 2
    told = capsys.readouterr().err
    assert told.startswith(f"usersim: ASSISTANT={where}: ")
    assert told.count("\n") == 1


def test_an_assistant_is_asked_before_anything_is_started(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def never(*_: object) -> None:
        raise AssertionError("started")

    monkeypatch.setattr(demo, "DemoServer", never)
    monkeypatch.setattr(demo, "build_base", never)
    assert run_main(demo.main, ["--assistant", f"{dead_url()}#m"]) == 2
    assert capsys.readouterr().err.startswith("usersim: ASSISTANT does not answer: ")


def test_the_visitors_model_is_asked_by_its_name() -> None:
    async def ask(where: str) -> None:
        chat = demo.visitors_assistant(where)
        try:
            await demo.answers(chat)
        finally:
            await chat.aclose()

    with endpoint(lambda body, number: Reply("Hi.")) as fake:
        asyncio.run(ask(f"{fake.url}#mine"))
        assert fake.bodies[0]["model"] == "mine"
        assert fake.bodies[0]["max_tokens"] == plot.ASSISTANT_TOKENS
    with (
        endpoint(lambda body, number: Reply("")) as fake,
        pytest.raises(ConfigError, match="returned no text"),
    ):
        asyncio.run(ask(f"{fake.url}#mine"))


def test_an_endpoint_that_does_not_start_says_why(tmp_path: Path) -> None:
    with (
        demo.DemoServer(tmp_path, ["engine.no_such=1"]) as server,
        pytest.raises(BackendError, match=r"did not start[\s\S]*no_such"),
    ):
        asyncio.run(server.user())


def test_leaving_early_ends_the_server(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt), demo.DemoServer(tmp_path, []) as server:
        raise KeyboardInterrupt
    assert server.process is not None
    assert server.process.poll() is not None
