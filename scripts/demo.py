"""`make demo`: one hidden goal, opened by people, by a prompted model and by the User LM; a conversation; a comparison.

    make demo

    make demo ASSISTANT=http://127.0.0.1:8001/v1#my-model     # any OpenAI-compatible endpoint; key in OPENAI_API_KEY

The User LM runs behind the real endpoint (`usersim serve` with vLLM), started in the background. The base model in this
process is the prompted user, and the default assistant. All processes are stopped at the end, on errors and on Ctrl-C.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2
from rich.console import Console
from rich.markup import escape
from rich.padding import Padding
from rich.panel import Panel
from rich.table import Table

from collab_train.rollout.accounting.results import Future
from collab_train.rollout.engines.models import InTurns, load_assistant
from scripts import demo_story as plot
from scripts.demo_picture import CAVEAT, RESULTS, Story, read_measured, spoken, write
from usersim.api import connect
from usersim.chat_models.endpoint_chat import EndpointChat
from usersim.chat_models.openai_chat import ChatSettings, HttpChat
from usersim.cli import run_main
from usersim.errors import BackendError, ConfigError, EmptyReplyError
from usersim.types import Conversation, Turn, UserTurn
from usersim.users.dialogue import Assistant
from usersim.users.prompted import PLAIN, PromptedUser
from usersim.users.protocols import User
from usersim.weights.default_model import BASE_NAME, build_base, build_userlm

OUT = Path("runs") / "demo"
EVERY_S = 10.0
"""Interval of progress lines."""
console = Console(highlight=False)


@dataclass(frozen=True)
class Cast:
    """Models and people of the demo, created when first needed."""

    people: Callable[[], tuple[list[Conversation], list[Conversation]]]
    """Returns the test split and all held-out people."""
    embed: plot.Embed
    prompted: Callable[[], User]
    userlm: Callable[[], Awaitable[Any]]
    """Returns the User LM once it is ready."""
    assistant: Callable[[], Assistant]
    assistant_name: str


class PhaseTimer:
    """Timer by phase; a repeated phase adds up."""

    def __init__(self) -> None:
        self._began, self.spent = time.monotonic(), dict[str, float]()

    @contextlib.contextmanager
    def phase(self, name: str) -> Iterator[None]:
        began = time.monotonic()
        try:
            yield
        finally:
            self.spent[name] = self.spent.get(name, 0.0) + time.monotonic() - began

    @property
    def total_s(self) -> float:
        return time.monotonic() - self._began

    def line(self) -> str:
        phases = ", ".join(f"{name} {seconds:.0f}" for name, seconds in self.spent.items())
        return f"done in {self.total_s:.0f} s: {phases}"


def main(argv: list[str]) -> int:
    # Ctrl-C and SIGTERM unwind alike, so that the `with` below stops every process.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    parser = argparse.ArgumentParser(prog="make demo", description=__doc__.split("\n", 1)[0])
    parser.add_argument(
        "--assistant", metavar="URL[#MODEL]", help="your own assistant (default: the base model)"
    )
    parser.add_argument(
        "--assistant-tokens",
        type=int,
        default=plot.ASSISTANT_TOKENS,
        help="longest reply of your own assistant",
    )
    parser.add_argument("--out", type=Path, default=OUT, help="folder of the page and the picture")
    parser.add_argument("settings", nargs="*", metavar="key=value", help="settings for `usersim serve`")
    args = parser.parse_intermixed_args(argv)
    clock = PhaseTimer()
    asyncio.run(play(args.assistant or None, args.assistant_tokens, args.settings, args.out, clock))
    console.print(f"[bold]{clock.line()}[/]")
    return 0


async def play(
    assistant: str | None, max_tokens: int, settings: Sequence[str], out: Path, clock: PhaseTimer
) -> None:
    chat = None if assistant is None else visitors_assistant(assistant, max_tokens)
    try:
        if chat is not None:
            with clock.phase("assistant"):
                await answers(chat)
        step("0  What it needs")
        tell_line("the models: dequantised and merged the first time, then kept")
        with clock.phase("models"):
            build_base()
            model = build_userlm().name
        tell_line(f"{model} is there after {clock.total_s:.0f} s")
        with (
            tempfile.TemporaryDirectory(prefix="usersim-demo-") as logs,
            DemoServer(Path(logs), settings) as endpoint,
        ):
            tell_line("the endpoint starts in the background: usersim serve, with vLLM behind it")
            base = BaseModel()
            cast = Cast(
                people=held_out_people,
                embed=embed,
                prompted=base.prompted,
                userlm=endpoint.user,
                assistant=base.assistant if chat is None else lambda: chat,
                assistant_name=assistant or f"{BASE_NAME}, in this process",
            )
            story = await tell(cast, clock)
            await endpoint.aclose()
            show_picture(story, out, clock)
            with clock.phase("stop"):
                endpoint.stop()
    finally:
        if chat is not None:
            await chat.aclose()


# The visitor's assistant.


def visitors_assistant(where: str, max_tokens: int = plot.ASSISTANT_TOKENS) -> EndpointChat:
    """Returns the visitor's assistant. Raises ConfigError for an invalid URL."""
    url, _, model = where.partition("#")
    example = "say ASSISTANT=http://HOST:PORT/v1#MODEL"
    if not url.startswith(("http://", "https://")):
        raise ConfigError(f"ASSISTANT={where}: the URL has to start with http:// or https://; {example}")
    try:
        has_host = bool(httpx2.URL(url).host)
    except (httpx2.InvalidURL, ValueError) as error:
        raise ConfigError(f"ASSISTANT={where}: not a URL ({error}); {example}") from error
    if not has_host:
        raise ConfigError(f"ASSISTANT={where}: the URL has no host; {example}")
    settings = ChatSettings(max_tokens=max_tokens)
    return EndpointChat(url, model=model or None, api_key=os.environ.get("OPENAI_API_KEY"), settings=settings)


async def answers(chat: HttpChat) -> None:
    """Calls the assistant once, before slow steps. Raises ConfigError if it cannot be used."""
    try:
        await chat([Turn(role="user", text="Hello")], seed=plot.SEED)
    except EmptyReplyError as error:
        raise ConfigError(
            f"ASSISTANT={chat.url} returned no text within {chat.settings.max_tokens} tokens; if it reasons first, "
            "allow more: ARGS='--assistant-tokens 512'"
        ) from error
    except BackendError as error:
        raise ConfigError(f"ASSISTANT does not answer: {error}") from error
    except (KeyError, IndexError, TypeError) as error:
        raise ConfigError(f"ASSISTANT={chat.url}: it lists no models; name one, URL#MODEL") from error


# Models in this process.


def held_out_people() -> tuple[list[Conversation], list[Conversation]]:
    from data_prep.pipeline.annotated import annotated

    test = annotated("test")
    return test, [*test, *annotated("dev")]


def embed(texts: Sequence[str]) -> Any:
    from usersim.text.embeddings import embed as embed_with_minilm

    return embed_with_minilm(texts)


class BaseModel:
    """SmolLM2-135M-Instruct in this process, shared by the prompted user and the assistant."""

    def __init__(self) -> None:
        self._loaded: tuple[Any, Any] | None = None
        self._in_turns = InTurns(rows=4 * plot.FUTURES)

    def prompted(self) -> User:
        sampling = plot.SAMPLING
        settings = ChatSettings(
            temperature=sampling.temperature, top_p=sampling.top_p, max_tokens=plot.PROMPTED_TOKENS
        )
        return PromptedUser(self._chat(settings), prompt=PLAIN)

    def assistant(self) -> Assistant:
        chat: Assistant = self._chat(ChatSettings(max_tokens=plot.ASSISTANT_TOKENS))
        return chat

    def _chat(self, settings: ChatSettings) -> Any:
        import torch

        from usersim.chat_models.local_chat import LocalChat

        if self._loaded is None:
            torch.set_num_threads(len(halves()[0]))
            self._loaded = load_assistant("local", trainable=False)
        model, tokenizer = self._loaded
        return self._in_turns(LocalChat(model.eval(), tokenizer, settings=settings))


def halves() -> tuple[list[int], list[int]]:
    """Returns the cores for this process and for the engine, which would slow each other down on shared ones."""
    cores = sorted(os.sched_getaffinity(0))
    half = max(1, len(cores) // 2)
    return cores[:half], cores[half:] or cores


# The endpoint.


class DemoServer:
    """`usersim serve` in the background, with output in a file. Leaving the block ends its processes."""

    def __init__(self, logs: Path, settings: Sequence[str]) -> None:
        self.port = free_port()
        self.log = logs / "endpoint.log"
        self.settings = settings
        self.process: subprocess.Popen[bytes] | None = None
        self._began = time.monotonic()
        self._user: Any = None

    def __enter__(self) -> DemoServer:
        command = [sys.executable, "-m", "usersim", "serve", "--port", str(self.port), "engine.eager=true"]
        command += [f"engine.cores={halves()[1]}", "engine.kv_cache_gib=1"]
        # It has no state to save, so Ctrl-C during its start does not wait for it.
        command += ["engine.stop_timeout_s=2", *self.settings]
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)
        return self

    def __exit__(self, *_: object) -> None:
        if self.process is not None and self.process.poll() is None:
            tell_line("stopping what was started")
        self.interrupt()
        self.stop()

    async def user(self) -> Any:
        """Returns a client once the server is ready. Raises BackendError with its last lines if it does not start."""
        url = f"http://127.0.0.1:{self.port}"
        last_line = time.monotonic()
        async with httpx2.AsyncClient(timeout=5, trust_env=False) as client:
            while True:
                if self.process is None or self.process.poll() is not None or self.age_s > 300:
                    tail = "\n".join(self._lines()[-15:])
                    raise BackendError(f"the endpoint did not start; its last lines:\n{tail}")
                with contextlib.suppress(httpx2.HTTPError):
                    if (await client.get(f"{url}/ready")).status_code == 200:
                        break
                if time.monotonic() - last_line > EVERY_S:
                    last_line = time.monotonic()
                    tell_line(f"the endpoint is {self.age_s:.0f} s old; {self._stage()}")
                await asyncio.sleep(0.25)
        tell_line(f"the endpoint answers at {url}, {self.age_s:.0f} s after its start")
        self._user = connect(url)
        self._user.common_noise = True  # futures of the two replies are compared pair by pair
        return self._user

    @property
    def age_s(self) -> float:
        return time.monotonic() - self._began

    async def aclose(self) -> None:
        """Closes the connections and asks the server to stop, without waiting for it."""
        if self._user is not None:
            await self._user.aclose()
        self.interrupt()

    def interrupt(self) -> None:
        if self.process is not None and self.process.poll() is None:
            self.process.terminate()

    def stop(self) -> None:
        if self.process is None:
            return
        try:
            self.process.wait(timeout=45)
        except subprocess.TimeoutExpired:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()

    def _lines(self) -> list[str]:
        return self.log.read_text(errors="replace").splitlines()

    def _stage(self) -> str:
        lines = [line for line in self._lines() if line.startswith("engine ")]
        return lines[-1] if lines else "its process is starting"


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


# The steps of the demo.


async def tell(cast: Cast, clock: PhaseTimer) -> Story:
    step("1  One hidden goal, and what real people wrote for it")
    tell_line("reading the ShareGPT wheel; the text is cleaned and scrubbed of personal data")
    with clock.phase("people"):
        test, people = cast.people()
        person = plot.choose(test)
        neighbours = plot.neighbours(person, people, cast.embed)
    show_people(person, neighbours, len(people))

    step("2  The same goal, opened by two simulated users")
    profile = plot.profile_of(person)
    tell_line(
        f"both are told the goal and nothing else; temperature {plot.SAMPLING.temperature:g}, top_p "
        f"{plot.SAMPLING.top_p:g}, seeds {plot.SEED} to {plot.SEED + plot.DRAWS - 1}, all draws shown;"
        " what the endpoint's guards refuse is drawn again, and says so"
    )
    with clock.phase("base"):
        prompted = await plot.openings(cast.prompted(), profile)
    tell_line(f"{BASE_NAME}, prompted to play the user, has written its {plot.DRAWS}")
    with clock.phase("engine"):
        user = plot.RecordingUser(await cast.userlm())
    with clock.phase("openings"):
        userlm = await plot.openings(user, profile)
    show_openings(person, neighbours, prompted, userlm)

    step("3  A conversation as it unfolds, from the User LM's first opening")
    tell_line(f"the assistant is {cast.assistant_name}; it never sees the goal")
    opening = plot.first_opening(userlm)
    user_turns = [opening]
    show_turn(Turn(role="user", text=opening.text), opening)

    def watch(turn: Turn | None, sampled: UserTurn | None) -> None:
        user_turns.extend([sampled] if sampled is not None else [])
        show_turn(turn, sampled)

    with clock.phase("conversation"):
        assistant = cast.assistant()
        talk = await plot.conversation(user, assistant, profile, opening, watch)
    if talk.ended_by != "user":
        tell_line(f"(stopped after {plot.TURNS} more turns of the user, who has not left)")

    step("4  Two replies to that opening, and what comes of them")
    tell_line(
        f"{plot.FUTURES} futures of {plot.WINDOW} user turns after each, future j of both from the same seeds; reward: "
        "the share of the goal's facets that the assistant served, less a price per token"
    )
    with clock.phase("rewards"):
        comparison = await plot.compare(user, assistant, profile, opening, Count(2 * plot.FUTURES))
    show_comparison(comparison)
    return Story(
        person=person,
        neighbours=neighbours,
        prompted=prompted,
        userlm=userlm,
        conversation=talk,
        user_turns=user_turns,
        comparison=comparison,
        live_words=user.words(),
        live_ends=user.end_probabilities(),
        assistant=cast.assistant_name,
    )


def step(text: str) -> None:
    console.print(f"\n[bold cyan]{escape(text)}[/]")


def tell_line(text: str) -> None:
    console.print(Padding(f"[dim]{escape(text)}[/]", (0, 0, 0, 3), expand=False))


def line_of(speaker: str, style: str, text: str, note: str = "") -> None:
    """Prints a message beside its speaker; `text` and `note` are plain."""
    grid = Table.grid(padding=(0, 0, 0, 3))
    grid.add_column(width=9)
    grid.add_column(ratio=1)
    grid.add_row(
        f"[{style}]{speaker}[/]", f"{escape(text)}   [dim]{escape(note)}[/]" if note else escape(text)
    )
    console.print(Padding(grid, (0, 0, 0, 3), expand=False))


class Count:
    """Prints the number of finished futures: every quarter, and at intervals."""

    def __init__(self, total: int) -> None:
        self.total, self.done, self.last_line = total, 0, time.monotonic()

    def __call__(self, future: Future) -> None:
        self.done += 1
        if self.done % max(1, self.total // 4) == 0 or time.monotonic() - self.last_line > EVERY_S:
            self.last_line = time.monotonic()
            tell_line(f"{self.done} of {self.total} futures")


def show_people(person: Conversation, neighbours: Sequence[plot.Neighbour], read: int) -> None:
    goal = person.profile.goal
    assert goal is not None
    lines = [f"[bold]wants to {escape(goal.summary)}[/]"]
    lines += [f"  - {escape(facet.text)}" for facet in goal.facets]
    console.print(Panel("\n".join(lines), title="the goal, hidden from every assistant", width=console.width))
    tell_line(plot.RULE)
    tell_line(
        f"opened by the person who had it, and by people with the goals nearest to it, of {read} held-out people:"
    )
    line_of("person", "bold", plot.opening(person), "whose goal this is")
    for other in neighbours:
        wish = other.conversation.profile.goal
        note = f"wanted to {wish.summary if wish else '?'} (cosine {other.similarity:.2f})"
        line_of("person", "bold", plot.opening(other.conversation), note)


def show_openings(
    person: Conversation,
    neighbours: Sequence[plot.Neighbour],
    prompted: Sequence[UserTurn | None],
    userlm: Sequence[UserTurn | None],
) -> None:
    people = [plot.opening(person), *(plot.opening(other.conversation) for other in neighbours)]
    table = Table(show_lines=True, width=console.width)
    for head in ("real people", "the base, prompted", "the User LM"):
        table.add_column(head, ratio=1)
    for row in range(plot.DRAWS):
        human = people[row] if row < len(people) else ""
        table.add_row(cell(human), *(cell(spoken(turn), turn) for turn in (prompted[row], userlm[row])))
    console.print(table)


def cell(text: str, turn: UserTurn | None = None) -> str:
    """Returns a table cell: the first words, their number, and a note on rejected attempts."""
    parts = text.split()
    if not parts:
        return ""
    short = text if len(parts) <= plot.MOST_WORDS else f"{' '.join(parts[: plot.MOST_WORDS])} […]"
    notes = [f"{len(parts)} words", plot.refusals(turn) if turn else ""]
    return f"{escape(short)}\n[dim]{'; '.join(filter(None, notes))}[/]"


def show_turn(turn: Turn | None, sampled: UserTurn | None) -> None:
    notes = [] if sampled is None else [f"P(end) {sampled.end_probability:.2f}", plot.refusals(sampled)]
    note = "; ".join(filter(None, notes))
    if turn is None:
        line_of("user", "bold green", "(leaves)", note)
    else:
        line_of(turn.role, "bold green" if turn.role == "user" else "bold blue", turn.text, note)


def show_comparison(comparison: plot.ReplyComparison) -> None:
    table = Table(width=console.width)
    table.add_column("reply", ratio=1)
    for head in ("reward", "95 % interval", "futures"):
        table.add_column(head, justify="right")
    for name, candidate in zip(("helps", "dodges"), comparison.result.candidates, strict=True):
        table.add_row(
            f"[bold]{name}[/]: {escape(candidate.text)}",
            mean(candidate.mr),
            bounds(candidate.interval),
            str(candidate.n),
        )
    table.add_section()
    table.add_row(
        "[bold]helps - dodges[/], paired by future",
        mean(comparison.mean),
        bounds(comparison.interval),
        str(len(comparison.differences)),
    )
    console.print(table)
    console.print(f"   [bold]{escape(comparison.verdict())}[/]")


def mean(value: float | None) -> str:
    return "none" if value is None else f"{value:+.3f}"


def bounds(interval: tuple[float, float] | None) -> str:
    return "" if interval is None else f"{interval[0]:+.2f} … {interval[1]:+.2f}"


def show_picture(story: Story, out: Path, clock: PhaseTimer) -> None:
    step("5  This run beside what was measured")
    with clock.phase("picture"):
        html, png = write(story, read_measured(), out)
    tell_line(
        f"measured: {RESULTS.relative_to(Path.cwd()) if RESULTS.is_relative_to(Path.cwd()) else RESULTS}, n on the page"
    )
    tell_line(CAVEAT)
    console.print(f"   page     {html.resolve()}", soft_wrap=True)
    console.print(f"   picture  {png.resolve()}", soft_wrap=True)


if __name__ == "__main__":
    sys.exit(run_main(main))
