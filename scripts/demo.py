"""`make demo`: a simulated user, trained on real people, talks to an assistant through the real endpoint.

Starts two real vLLM engines (the User LM behind `usersim serve`, and the assistant), one core each where there
are two, lets them talk, scores two replies by multiturn-aware reward, compares 50 simulated conversations with
held-out human ones, and stops everything it started.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import httpx2
from rich.markup import escape
from rich.panel import Panel
from rich.progress import Progress
from rich.table import Table

from collab_train.contexts import Context
from collab_train.rollout import RolloutConfig, multiturn_rewards
from eval.battery import run_battery
from eval.settings import EvalConfig
from eval.terminal import report_table
from usersim.api import connect
from usersim.backends.chat import ChatSettings, HttpChat
from usersim.cli import console, run_main
from usersim.client import RemoteUser
from usersim.dialogue import converse
from usersim.errors import BackendError
from usersim.model import build_base, build_userlm, home
from usersim.records import read_conversations
from usersim.simulate import read_cases, simulate
from usersim.types import Conversation, Facet, Goal, Persona, Style, Turn, UserProfile, UserTurn

GOALS = Path(__file__).resolve().parent.parent / "configs" / "demo" / "goals.jsonl"
PROFILE = UserProfile(
    goal=Goal(
        summary="get a simple dinner idea for friends coming over tonight",
        facets=(
            Facet(text="one guest is vegetarian"),
            Facet(text="under 30 minutes"),
            Facet(text="no oven"),
        ),
    ),
    persona=Persona(
        description="busy, impatient home cook; short lower-case messages",
        style=Style(words_per_turn=8, lowercase_starts=1.0, politeness=0.0),
    ),
)
CANDIDATES = (
    "Happy to help! Does anybody have dietary needs, how much time do you have, and which equipment can you use?",
    "You could roast a whole chicken in the oven with potatoes; it takes about two hours.",
)
SERVED = (
    ("vegetarian", "veggie", "meatless", "tofu", "chickpea", "lentil"),
    ("minutes",),
    ("stove", "pan", "skillet"),
)
"""What shows that a facet was served in the end, for the rule-based reward."""
TURNS, SIMULATED = 4, 50


def main(argv: list[str]) -> int:
    # Ctrl-C and SIGTERM unwind alike, so that the `with` below stops every process.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    began = time.monotonic()
    step("1/6", "materialising the models (a one-time dequantisation and merge)")
    build_base()
    console.print(f"      User LM: {build_userlm().name}")
    step("2/6", "held-out human conversations (ShareGPT test split; prepared once)")
    humans = human_conversations()
    with servers() as (user_url, assistant_url):
        asyncio.run(show(user_url, assistant_url, humans))
    step("6/6", f"everything stopped; {time.monotonic() - began:.0f} s in all")
    return 0


def step(number: str, text: str) -> None:
    console.print(f"[bold cyan]{number}[/] {escape(text)}", markup=True)


def human_conversations() -> list[Conversation]:
    data = home() / "demo-data"
    if not (data / "test.jsonl").is_file():
        command = [sys.executable, "-m", "data_prep", "sharegpt", "--out", str(data), "--goals", str(GOALS)]
        subprocess.run(command, check=True)
    return read_conversations(data / "test.jsonl")


@contextlib.contextmanager
def servers() -> Iterator[tuple[str, str]]:
    """The endpoint and the assistant's engine: (URL, URL). Both are gone when the block is left."""
    cores = sorted(os.sched_getaffinity(0))
    # Two engines that share a core spin against each other; half the cores each is twice as fast.
    half = max(1, len(cores) // 2)
    mine, theirs = cores[:half], cores[half:] or cores
    user_port, assistant_port = free_port(), free_port()
    step("3/6", "starting two vLLM engines: the User LM behind the endpoint, and the assistant")
    serve = ["usersim", "serve", "--port", str(user_port), "engine.eager=true", f"engine.cores={mine}"]
    engine = ["serve.engine", "--model", "smollm2-135m-instruct", "--port", str(assistant_port)]
    engine += ["--cores", ",".join(map(str, theirs)), "eager=true"]
    with tempfile.TemporaryDirectory(prefix="usersim-demo-") as logs:
        user = Server("endpoint", serve, f"http://127.0.0.1:{user_port}/ready", Path(logs))
        assistant = Server("assistant", engine, f"http://127.0.0.1:{assistant_port}/health", Path(logs))
        try:
            for server in (user, assistant):
                server.start()
            for server in (user, assistant):
                server.wait()
            yield f"http://127.0.0.1:{user_port}", f"http://127.0.0.1:{assistant_port}"
        finally:
            for server in (user, assistant):
                server.interrupt()
            for server in (user, assistant):
                server.stop()


class Server:
    """`python -m …` in the background, its output in a file."""

    def __init__(self, name: str, module: list[str], ready: str, logs: Path) -> None:
        self.name, self.module, self.ready = name, module, ready
        self.log = logs / f"{name}.log"
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        with self.log.open("wb") as log:
            command = [sys.executable, "-m", *self.module]
            self.process = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)

    def wait(self, timeout_s: float = 300) -> None:
        assert self.process is not None
        began = time.monotonic()
        while time.monotonic() - began < timeout_s:
            if self.process.poll() is not None:
                break
            with contextlib.suppress(httpx2.HTTPError):
                if httpx2.get(self.ready, timeout=5, trust_env=False).status_code == 200:
                    console.print(f"      {self.name} ready after {time.monotonic() - began:.0f} s more")
                    return
            time.sleep(0.5)
        tail = "\n".join(self.log.read_text(errors="replace").splitlines()[-15:])
        raise BackendError(f"{self.name} did not start; its last lines:\n{tail}")

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


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


async def show(user_url: str, assistant_url: str, humans: list[Conversation]) -> None:
    user = connect(user_url)
    assistant = HttpChat(assistant_url, settings=ChatSettings(max_tokens=96))
    brief = HttpChat(assistant_url, settings=ChatSettings(max_tokens=64))
    try:
        await talk(user, assistant)
        await score(user, brief)
        await compare(user, brief, humans)
    finally:
        await user.aclose()
        await assistant.aclose()
        await brief.aclose()


async def talk(user: RemoteUser, assistant: HttpChat) -> None:
    step("4/6", "a conversation, as it unfolds")
    goal, persona = PROFILE.goal, PROFILE.persona
    assert goal is not None
    assert persona is not None
    hidden = f"wants to {goal.summary}\n" + "\n".join(f"  - {facet.text}" for facet in goal.facets)
    console.print(Panel(f"{hidden}\n{persona.description}", title="hidden from the assistant"))

    def watch(turn: Turn | None, said: UserTurn | None) -> None:
        if turn is None and said is not None:
            console.print(
                f"[bold green]user[/]      [dim](leaves)   P(end) {said.end_probability:.2f}[/]", markup=True
            )
        elif turn is not None and said is not None:
            console.print(
                f"[bold green]user[/]      {escape(turn.text)}   [dim]P(end) {said.end_probability:.2f}[/]",
                markup=True,
            )
        elif turn is not None:
            console.print(f"[bold blue]assistant[/] [blue]{escape(turn.text)}[/]", markup=True)

    await converse(user, assistant, PROFILE, max_user_turns=TURNS, seed=7, watch=watch)


async def score(user: RemoteUser, assistant: HttpChat) -> None:
    step("5/6", "multiturn-aware reward of two replies: the mean reward of simulated futures after each")
    opening = Turn(role="user", text="need a dinner idea for tonight, friends coming")
    context = Context(id="dinner", turns=(opening,), profile=PROFILE, candidates=CANDIDATES, phrases=SERVED)
    config = RolloutConfig(w=2, n=6, seed=1)
    result = (await multiturn_rewards([context], user, assistant, config))[0]
    table = Table("reply", "MR", "95 % interval", "futures")
    for made in result.candidates:
        interval = "" if made.interval is None else f"{made.interval[0]:+.2f} … {made.interval[1]:+.2f}"
        mean = "none" if made.mr is None else f"{made.mr:+.3f}"
        table.add_row(made.text, mean, interval, str(made.n))
    console.print(table)


async def compare(user: RemoteUser, assistant: HttpChat, humans: list[Conversation]) -> None:
    cases = read_cases(GOALS)[:SIMULATED]
    console.print(
        f"[bold cyan]   +[/] {len(cases)} simulated conversations beside {len(humans)} held-out human ones"
    )
    with Progress(console=console, transient=True) as progress:
        task = progress.add_task("simulating", total=len(cases))
        outcome = await simulate(
            user,
            assistant,
            cases,
            max_user_turns=TURNS,
            seed=0,
            source="userlm-135m",
            done=lambda made: progress.advance(task),
        )
    if outcome.failed:
        console.print(f"      failed and left out: {dict(outcome.failed)} ({outcome.first_error})")
    config = EvalConfig(
        metrics=("marginals",), bootstrap=200, floor_repeats=60, turn_cap=TURNS, examples=0, min_n=30
    )
    report = run_battery(humans, {"userlm-135m": outcome.conversations}, config)
    console.print(report_table(report))
    console.print("      [dim]n is small: nothing here says that the two are alike.[/]", markup=True)


if __name__ == "__main__":
    sys.exit(run_main(main))
