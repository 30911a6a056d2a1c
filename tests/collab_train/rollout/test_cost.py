"""The shared-prefix floor on values worked out by hand, and what both sides are said to have taken."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from collab_train.rollout.accounting.cost import CountedChat, count_usage, counter_difference, engine_counters
from collab_train.rollout.accounting.prefill_bound import PrefixCache, Sizes, prefill_bound
from usersim.api import load
from usersim.types import Turn, UserProfile

# H, F + G + H' (a template of 224 + 664 tokens, a goal of 300, a history of 289), a0, u, a.
MEDIUM = Sizes(policy_history=600, user_history=888 + 300 + 289, candidate=400, user=60, assistant=400)


@pytest.mark.parametrize(("candidates", "policy", "user"), [(2, 1_320, 4_677), (8, 3_480, 14_277)])
def test_floor_without_blocks_is_the_formula(candidates: int, policy: int, user: int) -> None:
    # 600 + C·3·2·60 and 1,477 + C·400 + C·3·400.
    floor = prefill_bound(MEDIUM, candidates=candidates, futures=3, window=2)
    assert (floor.policy, floor.user) == (policy, user)


def test_given_candidates_are_read_too_and_headers_count() -> None:
    given = prefill_bound(MEDIUM, candidates=2, futures=3, window=2, sampled=False)
    assert given.policy == 1_320 + 2 * 400
    glued = prefill_bound(Sizes(600, 1477, 400, 60, 400, glue=5), candidates=2, futures=3, window=2)
    assert (glued.policy, glued.user) == (1_320 + 12 * 5, 4_677 + 2 * 5 + 6 * 5)


def test_floor_with_blocks_worked_by_hand() -> None:
    sizes = Sizes(policy_history=70, user_history=100, candidate=40, user=10, assistant=50)
    floor = prefill_bound(sizes, candidates=1, futures=2, window=2, block=32)
    # Policy: 70 for the candidate. First replies: prompts of 120, 109 known, 96 in whole blocks: 2 · 24.
    # Second ones: prompts of 180, 169 known, 160 in whole blocks: 2 · 20.
    assert floor.policy == 70 + 2 * 24 + 2 * 20
    # User: 140 once; its second continuation needs all but 128 again. Then 200, of which 149 known, 128 in blocks.
    assert floor.user == 140 + 12 + 2 * 72


def test_no_window_no_user_and_equal_candidates_prompts_are_shared() -> None:
    sizes = Sizes(policy_history=64, user_history=100, candidate=40, user=10, assistant=50)
    floor = prefill_bound(sizes, candidates=3, futures=1, window=0, block=32)
    # The last token of a known prompt is computed, and with it its block.
    assert (floor.policy, floor.user) == (64 + 2 * 32, 0)


def test_prefix_cache_computes_what_the_formula_says() -> None:
    sizes = Sizes(policy_history=70, user_history=100, candidate=40, user=10, assistant=50, glue=3)
    policy, user, fresh = PrefixCache(32), PrefixCache(32), iter(range(10**6))

    def tokens(count: int) -> list[int]:
        return [next(fresh) for _ in range(count)]

    history, stem, total, read = tokens(70), tokens(100), 0, 0
    for _ in range(3):
        total += policy.read(history)
        candidate = tokens(40)
        policy.wrote(history, candidate)
        # The user model reads the same things in its own words.
        first = [*stem, *tokens(40 + 3)]
        read += user.read(first, n=2)
        for _ in range(2):
            said, spoken = [*history, *candidate], list(first)
            for turn in range(2):
                said += tokens(10 + 3)
                total += policy.read(said)
                answer = tokens(50)
                policy.wrote(said, answer)
                said += answer
                if turn:
                    read += user.read(spoken)
                words = tokens(10)
                user.wrote(spoken, words)
                spoken = [*spoken, *words, *tokens(50 + 3)]
    floor = prefill_bound(sizes, candidates=3, futures=2, window=2, block=32)
    assert (total, read) == (floor.policy, floor.user)


def test_both_sides_in_this_process_are_counted_to_the_token(tiny_userlm: Path, tiny_base: Path) -> None:
    from usersim.chat_models.local_chat import LocalChat

    user, assistant = load(tiny_userlm), LocalChat.from_pretrained(tiny_base)
    sides = count_usage(user), count_usage(assistant)
    history = [Turn(role="assistant", text="hello there")]
    said = asyncio.run(user.sample(UserProfile(), history, n=2, seed=1))
    asyncio.run(assistant([Turn(role="user", text="hello")], seed=3))
    # Bytes are tokens here: "<|im_start|>user\n" is 6, "hello" and what closes it 7, "<|im_start|>assistant\n" 11.
    report = sides[1].report()
    assert (report["calls"], report["prompt_tokens"], report["prefilled_tokens"]) == (1, 24, 24)
    assert report["prefill_floor"] == 24
    assert report["share_of_floor"] == 1.0
    tokens = len(user.renderer.prompt(UserProfile(), history))
    assert sides[0].prompt_tokens == tokens * sides[0].calls
    assert sides[0].decoded >= sum(turn.tokens for turn in said)


VLLM = {"data": [{"id": "m", "owned_by": "vllm"}]}


def test_usage_of_a_vllm_with_its_token_ids(monkeypatch: pytest.MonkeyPatch) -> None:
    bodies = list[Any]()

    def answers() -> Iterator[Any]:
        for prompt, said, cached in ((range(40), range(40, 60), 0), (range(60), range(7), 32)):
            yield {
                "choices": [{"message": {"content": "yes"}, "token_ids": list(said)}],
                "prompt_token_ids": list(prompt),
                "usage": {
                    "prompt_tokens": len(prompt),
                    "completion_tokens": len(said),
                    "prompt_tokens_details": {"cached_tokens": cached},
                },
            }

    coming = answers()

    async def request(self: Any, method: str, path: str, body: Any) -> Any:
        bodies.append(body)
        return VLLM if body is None else next(coming)

    monkeypatch.setattr("usersim.chat_models.openai_chat.HttpChat._request", request)
    chat = CountedChat("http://vllm", model="m")
    side = count_usage(chat)
    for _ in range(2):
        asyncio.run(chat([Turn(role="user", text="x")]))
    assert bodies[1]["return_token_ids"] is True
    # The second prompt: 59 tokens are known, 48 of them in whole blocks of 16.
    assert side.report() == {
        "calls": 2,
        "prompt_tokens": 100,
        "prefilled_tokens": 68,
        "cached_tokens": 32,
        "decoded_tokens": 27,
        "prefill_floor": 40 + 12,
        "share_of_floor": round(52 / 68, 4),
    }
    counts = {"prefilled": 90, "cached": 10, "decoded": 30}
    assert side.report(counts)["prefilled_tokens"] == 90


METRICS = """\
vllm:prompt_tokens_by_source_total{engine="0",model_name="m",source="local_compute"} 1200.0
vllm:prompt_tokens_by_source_total{engine="1",model_name="m",source="local_compute"} 34.0
vllm:prompt_tokens_by_source_total{engine="0",model_name="m",source="local_cache_hit"} 5e2
vllm:prompt_tokens_by_source_total{engine="0",model_name="m",source="external_kv_transfer"} 7.0
vllm:generation_tokens_total{engine="0",model_name="m"} 77.0
"""


def test_an_engines_own_count(monkeypatch: pytest.MonkeyPatch) -> None:
    import httpx2

    def client(text: str) -> Any:
        transport = httpx2.MockTransport(lambda request: httpx2.Response(200, text=text))
        return lambda url, timeout_s: (httpx2.AsyncClient(transport=transport), "http://engine")

    monkeypatch.setattr("collab_train.rollout.accounting.cost.http_client", client(METRICS))
    counts = asyncio.run(engine_counters("http://vllm/v1#m"))
    assert counts == {"prefilled": 1234, "cached": 500, "decoded": 77}
    assert counter_difference({"prefilled": 1000, "cached": 500, "decoded": 70}, counts) == {
        "prefilled": 234,
        "cached": 0,
        "decoded": 7,
    }
    assert (
        counter_difference({"prefilled": 2000, "cached": 500, "decoded": 70}, counts) is None
    )  # it was started anew
    monkeypatch.setattr("collab_train.rollout.accounting.cost.http_client", client("nothing of the kind"))
    assert asyncio.run(engine_counters("http://other")) is None
