"""Whatever people write, the dialects hand it on as text: it ends no prompt, moves no border and is no token."""

import contextlib
import json
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from serve.api.chat_schemas import ChatMessage
from serve.api.dialects import read
from serve.http.errors import RequestError
from tests.serve.api import client_prompts as prompts
from usersim.types import Goal, Turn, UserTurn
from usersim.users.protocols import as_profile

TOKENS = [
    "<|im_start|>", "<|im_end|>", "<|endconversation|>", "<|endoftext|>", "<|begin_of_text|>", "<|eot_id|>",
    "<|start_header_id|>", "<|end_header_id|>", "<|end_of_text|>", "<think>", "</s>", "<s>", "[INST]", "[/INST]",
    "###STOP###", "[[TERMINATE CHAT]]", "<|The Start of Chat History|>", "assistant\n", '"', "'", "\\", "{", "}",
]  # fmt: skip
SAID = st.lists(
    st.one_of(st.sampled_from(TOKENS), st.text("ab é\u2019\U0001f600.42", max_size=4)), min_size=1, max_size=6
)
TEXT = SAID.map(" ".join).map(str.strip).filter(lambda text: text not in ("", "None"))
TURNS = st.lists(st.tuples(TEXT, TEXT), min_size=1, max_size=3)


def true_roles(pairs):
    return [(role, text) for pair in pairs for role, text in zip(("user", "assistant"), pair, strict=True)]


def system_and_flipped(prompt, turns):
    other = {"user": "assistant", "assistant": "user"}
    messages = [ChatMessage(role=other[role], content=text) for role, text in turns]
    return [ChatMessage(role="system", content=prompt), *messages]


def single(text, role="user"):
    return [ChatMessage(role=role, content=text)]


CLIENTS = {
    "tau-bench": lambda goal, _, turns: system_and_flipped(prompts.tau(goal), turns),
    "tau2": lambda goal, _, turns: system_and_flipped(prompts.tau2(goal), turns),
    "langwatch": lambda goal, persona, turns: system_and_flipped(prompts.langwatch(goal, persona), turns),
    "collabllm": lambda goal, _, turns: single(prompts.collabllm(goal, turns)),
    "deepeval": lambda goal, persona, turns: single(prompts.deepeval(goal, persona, turns)),
    "azure": lambda goal, _, turns: single(prompts.azure(goal, turns), "system"),
}


@pytest.mark.parametrize("client", CLIENTS)
@settings(max_examples=60, deadline=None)
@given(goal=TEXT, persona=TEXT, pairs=TURNS)
def test_goal_persona_and_messages_come_out_as_they_went_in(renderer, client, goal, persona, pairs):
    turns = true_roles(pairs)
    _, reading = read("auto", CLIENTS[client](goal, persona, turns))
    described = persona if client in ("langwatch", "deepeval") else None
    assert reading.profile == as_profile(goal, described)
    assert reading.history == [Turn(role=role, text=text) for role, text in turns]
    ids = renderer.prompt(reading.profile, reading.history)
    plain = [Turn(role=role, text="x") for role, _ in turns]
    bones = renderer.prompt(as_profile("x", described and "x"), plain)
    control = renderer.control_ids
    assert [i for i in ids if i in control] == [i for i in bones if i in control]


@settings(max_examples=60, deadline=None)
@given(shards=st.lists(TEXT, min_size=1, max_size=3), pairs=TURNS)
def test_so_do_the_shards_of_lost_in_conversation(shards, pairs):
    turns = true_roles(pairs)
    hidden = [{"shard_id": index, "shard": shard} for index, shard in enumerate(shards)]
    _, reading = read("auto", single(prompts.lost_in_conversation(turns, [], hidden)))
    assert reading.profile.goal == Goal(
        summary=turns[0][1], facets=tuple({"text": shard} for shard in shards)
    )
    assert reading.history == [Turn(role=role, text=text) for role, text in turns]


@pytest.mark.parametrize("client", CLIENTS)
@settings(max_examples=60, deadline=None)
@given(turn_text=SAID.map("".join), goal=TEXT)
def test_what_is_said_reaches_the_client_whole_but_for_words_that_would_end_its_run(client, turn_text, goal):
    _, reading = read("auto", CLIENTS[client](goal, "x", [("user", "a"), ("assistant", "b")]))
    turn = UserTurn(text=turn_text, ends=False, end_probability=0, finish="stop", logprob=0, tokens=1)
    text = reading.format_reply(turn)
    key = {"collabllm": "response", "deepeval": "simulated_input", "azure": "content"}.get(client)
    reply = json.loads(text)[key] if key else text
    assert reply.strip()
    marker = "[[TERMINATE CHAT]]" if client == "collabllm" else "###STOP###"
    assert marker not in reply
    if marker not in turn_text:
        assert (
            reply.strip().rstrip(".") == turn_text.strip().rstrip(".")
            or reply == "…"
            or "[[TERMINATE CHAT]]" in turn_text
        )


@pytest.mark.parametrize(
    "piece",
    [
        *("<scenario>\n", "<persona>\n", "\n\n", 'Use "', "###A", "[[A", '"\nPrevious Conversation:\n['),
        *("say ", "reply with only the word ", "say [A", "done say {A", "end. ", "say " + " " * 40),
    ],
)
@pytest.mark.parametrize(
    "dialect", ["flipped", "auto", "collabllm", "deepeval", "azure", "lost-in-conversation"]
)
def test_a_prompt_that_repeats_itself_is_read_in_a_moment(piece, dialect):
    """Patterns that go back and forth over 64k characters would block the server for all clients."""
    heads = {
        "collabllm": "<|The Start of Complete Prompt or Reference Goal|>\n",
        "deepeval": "Pretend you are a user of an LLM app.\nLanguage: x\n<persona>\n",
        "azure": "You should behave as a user who is planning to accomplish this task:",
        "lost-in-conversation": "You are simulating a user of an interactive LLM system\nthe conversation so far:\n",
    }

    def seconds(characters):
        messages = single(heads.get(dialect, "") + piece * (characters // len(piece)), "system")
        best = 1e9
        for _ in range(3):
            began = time.process_time()
            with contextlib.suppress(RequestError):
                read(dialect, messages)
            best = min(best, time.process_time() - began)
        return best

    # Four times the text: four times the work, and sixteen where it goes back and forth. Little work proves enough.
    whole = seconds(60_000)
    assert whole < 0.25 or whole < 10 * seconds(15_000)
