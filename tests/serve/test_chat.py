import httpx2
import openai
import pytest

from usersim.sampling import as_profile
from usersim.testing import ScriptedSampler
from usersim.types import Turn

END = 258
GREETING = {"role": "user", "content": "Hi! How can I help you today?"}
SYSTEM = {"role": "system", "content": "Buy shoes. Say '###STOP###' when you are done."}
STOP_DELTA = '"delta": {"content": "###STOP###"}'
ENDS_AT_ONCE = {"end": {"min_user_turns": 0}}


def ask(
    http: httpx2.Client, url: str, messages: list[dict[str, object]], **fields: object
) -> httpx2.Response:
    return http.post(f"{url}/v1/chat/completions", json={"model": "userlm", "messages": messages} | fields)


@pytest.mark.parametrize(
    ("messages", "history"),
    [
        ([SYSTEM], []),
        ([SYSTEM, GREETING], [Turn(role="assistant", text="Hi! How can I help you today?")]),
        (
            [
                SYSTEM,
                GREETING,
                {"role": "assistant", "content": "shoes pls"},
                {"role": "user", "content": [{"type": "text", "text": "Which size?"}]},
            ],
            [
                Turn(role="assistant", text="Hi! How can I help you today?"),
                Turn(role="user", text="shoes pls"),
                Turn(role="assistant", text="Which size?"),
            ],
        ),
        (
            [
                {"role": "assistant", "content": "shoes pls"},
                {"role": "user", "content": "Which size?"},
            ],
            [Turn(role="user", text="shoes pls"), Turn(role="assistant", text="Which size?")],
        ),
    ],
    ids=["opening", "greeting", "longer", "no system"],
)
def test_roles_are_flipped_and_the_system_message_is_the_goal(
    front, http, words, renderer, messages, history
):
    sampler = ScriptedSampler(words("size nine"))
    response = ask(http, front(sampler), messages)
    assert response.json()["choices"][0]["message"] == {"role": "assistant", "content": "size nine"}
    goal = SYSTEM["content"] if messages[0] is SYSTEM else None
    assert sampler.prompts == [renderer.prompt(as_profile(goal), history)]


@pytest.mark.parametrize(
    ("system", "marker"),
    [
        ("Buy shoes.", "###STOP###"),
        ("Buy shoes; ###TRANSFER### or ###STOP### ends it.", "###STOP###"),
        ("Say [[TERMINATE CHAT]] when done.", "[[TERMINATE CHAT]]"),
        ("Say ###DONE### when done.", "###DONE###"),
    ],
)
def test_the_sampled_end_is_the_clients_marker_and_nothing_else(front, http, system, marker):
    url = front(ScriptedSampler([END]), **ENDS_AT_ONCE)
    choice = ask(http, url, [{"role": "system", "content": system}, GREETING]).json()["choices"][0]
    assert choice["message"]["content"] == marker
    assert choice["finish_reason"] == "stop"
    assert choice["end_of_conversation"] is True


def test_a_marker_among_the_words_does_not_end_the_run(front, http, words):
    url = front(ScriptedSampler(words("ok ###STOP### now"), words("###STOP###")))
    said = [ask(http, url, [SYSTEM, GREETING]).json()["choices"][0] for _ in range(2)]
    assert [choice["message"]["content"] for choice in said] == ["ok  now", "…"]


@pytest.mark.parametrize(
    ("fields", "code"),
    [
        ({"tools": [{"type": "function", "function": {"name": "f"}}]}, "tools_not_supported"),
        ({"functions": [{"name": "f"}]}, "tools_not_supported"),
        ({"logprobs": True}, "logprobs_not_supported"),
        ({"response_format": {"type": "json_object"}}, "response_format_not_supported"),
    ],
)
def test_what_would_change_the_answer_is_refused(front, http, fields, code):
    response = ask(http, front(ScriptedSampler()), [SYSTEM, GREETING], **fields)
    assert response.status_code == 400
    assert response.json()["error"]["code"] == code


def test_what_means_nothing_here_is_ignored(front, http, words):
    fields = {
        "tools": [],
        "tool_choice": "auto",
        "parallel_tool_calls": False,
        "stream": False,
        "stream_options": None,
        "user": "me",
        "metadata": {"a": "b"},
        "presence_penalty": 0.5,
        "max_completion_tokens": 100_000,
        "n": None,
        "seed": None,
        "temperature": None,
        "something_new": {"x": [1]},
    }
    response = ask(http, front(ScriptedSampler(words("size nine"))), [SYSTEM, GREETING], **fields)
    assert response.status_code == 200


@pytest.mark.parametrize(
    ("messages", "status", "code"),
    [
        ([GREETING], 422, "unrecognized_prompt"),
        ([{"role": "system", "content": "You are an AI that writes a quiz."}], 422, "unrecognized_prompt"),
        ([SYSTEM, GREETING, {"role": "assistant", "content": "shoes"}], 400, "invalid_request"),
        ([GREETING, SYSTEM], 400, "invalid_request"),
        ([], 400, "invalid_request"),
        ([SYSTEM, {"role": "user", "content": None}], 400, "invalid_request"),
        (
            [SYSTEM, {"role": "user", "content": [{"type": "image_url", "image_url": {}}]}],
            400,
            "invalid_request",
        ),
    ],
    ids=["lone", "lone system", "the user spoke last", "late system", "empty", "null", "picture"],
)
def test_chats_that_no_user_can_answer(front, http, messages, status, code):
    response = ask(http, front(ScriptedSampler()), messages)
    assert (response.status_code, response.json()["error"]["code"]) == (status, code)


def test_where_the_assistant_spoke_last_the_roles_are_true(front, http, words, renderer):
    sampler = ScriptedSampler(words("size nine"))
    messages = [
        {"role": "system", "content": "Buy shoes."},
        {"role": "user", "content": "shoes pls"},
        {"role": "assistant", "content": "Which size?"},
    ]
    response = ask(http, front(sampler), messages)
    assert response.headers["x-userlm-dialect"] == "native"
    history = [Turn(role="user", text="shoes pls"), Turn(role="assistant", text="Which size?")]
    assert sampler.prompts == [renderer.prompt(as_profile("Buy shoes."), history)]


def test_under_the_flipped_alias_roles_are_never_guessed(front, http, words):
    url = front(ScriptedSampler(words("hi")))
    system = {"role": "system", "content": "Buy shoes."}
    last = {"role": "assistant", "content": "shoes"}
    refused = ask(http, url, [system, GREETING, last], model="userlm-flipped")
    assert (refused.status_code, refused.json()["error"]["param"]) == (400, "messages")
    opening = ask(http, url, [system], model="userlm-flipped")
    assert opening.json()["choices"][0]["message"]["content"] == "hi"
    assert opening.json()["model"] == "userlm-flipped"


def test_what_an_agent_does_with_its_tools_is_not_seen_and_its_messages_are_one_turn(
    front, http, words, renderer
):
    sampler = ScriptedSampler(words("size nine"))
    messages = [
        SYSTEM,
        GREETING,
        {"role": "assistant", "content": "shoes pls"},
        {"role": "user", "content": "One moment."},
        {"role": "assistant", "content": None, "tool_calls": [{"id": "1", "type": "function"}]},
        {"role": "tool", "tool_call_id": "1", "content": "42 pairs"},
        {"role": "user", "content": "Which size?"},
    ]
    assert ask(http, front(sampler), messages).status_code == 200
    history = [
        Turn(role="assistant", text="Hi! How can I help you today?"),
        Turn(role="user", text="shoes pls"),
        Turn(role="assistant", text="One moment.\n\nWhich size?"),
    ]
    assert sampler.prompts == [renderer.prompt(as_profile(SYSTEM["content"]), history)]


def test_goal_and_persona_beside_the_messages_win(front, http, words, renderer):
    sampler = ScriptedSampler(words("hi"))
    ask(http, front(sampler), [SYSTEM, GREETING], goal="sell shoes", persona="rude")
    history = [Turn(role="assistant", text="Hi! How can I help you today?")]
    assert sampler.prompts == [renderer.prompt(as_profile("sell shoes", "rude"), history)]


def test_a_temperature_of_zero_is_kept_and_warned_of(front, http, words):
    url = front(ScriptedSampler(words("hi"), words("hi")))
    cold = ask(http, url, [SYSTEM, GREETING], temperature=0)
    assert cold.headers["x-userlm-warning"] == "temperature-0"
    assert "x-userlm-warning" not in ask(http, url, [SYSTEM, GREETING]).headers


def test_nobody_gets_a_null_where_clients_index(front, http, words):
    usage = ask(http, front(ScriptedSampler(words("hi"))), [SYSTEM, GREETING]).json()["usage"]
    assert usage["prompt_tokens_details"] == {"cached_tokens": 0}
    assert usage["total_tokens"] == usage["prompt_tokens"] + usage["completion_tokens"]


@pytest.mark.parametrize("include_usage", [True, False])
def test_a_stream_gives_role_words_and_reason_to_the_openai_package(front, words, include_usage):
    options = {"stream_options": {"include_usage": True}} if include_usage else {}
    url = front(ScriptedSampler(words("size nine"), words("größe 10")))
    with openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0) as client:
        stream = client.chat.completions.create(
            model="userlm",
            messages=[SYSTEM, GREETING],  # type: ignore[list-item]
            n=2,
            stream=True,
            **options,
        )
        chunks = list(stream)
    pieces = [choice for chunk in chunks for choice in chunk.choices]
    said = {i: "".join(p.delta.content or "" for p in pieces if p.index == i) for i in (0, 1)}
    assert said == {0: "size nine", 1: "größe 10"}
    assert [p.delta.role for p in pieces if p.delta.role] == ["assistant"] * 2
    assert [p.finish_reason for p in pieces if p.finish_reason] == ["stop"] * 2
    assert pieces[-1].end_of_conversation is False  # type: ignore[attr-defined]
    assert [chunk.usage is not None for chunk in chunks] == [False] * (len(chunks) - 1) + [include_usage]


def test_a_stream_keeps_the_rules_of_the_end_and_closes_with_done(front, http):
    url = front(ScriptedSampler([END]), **ENDS_AT_ONCE)
    response = ask(http, url, [SYSTEM, GREETING], stream=True, temperature=0)
    assert response.headers["content-type"].startswith("text/event-stream")
    assert response.headers["x-userlm-warning"] == "temperature-0"
    lines = [line for line in response.text.split("\n\n") if line]
    assert lines[-1] == "data: [DONE]"
    assert [STOP_DELTA in line for line in lines] == [False, True, False, False]


def test_a_stream_that_cannot_begin_is_an_ordinary_error(front, http):
    response = ask(http, front(ScriptedSampler()), [GREETING], stream=True)
    assert (response.status_code, response.json()["error"]["code"]) == (422, "unrecognized_prompt")


def test_the_openai_package_gets_everything(front, words):
    sampler = ScriptedSampler(words("size nine"), words("size ten"), end_probability=0.5)
    with openai.OpenAI(base_url=front(sampler) + "/v1", api_key="none", max_retries=0) as client:
        assert [model.id for model in client.models.list()][:3] == ["userlm", "bytes", "userlm-flipped"]
        answer = client.chat.completions.create(
            model="userlm",
            messages=[SYSTEM, GREETING],  # type: ignore[list-item]
            n=2,
            seed=5,
            temperature=0.7,
            extra_body={"persona": "terse"},
        )
        assert [choice.message.content for choice in answer.choices] == ["size nine", "size ten"]
        assert answer.choices[1].seed == 6  # type: ignore[attr-defined]
        assert answer.choices[0].end_of_conversation_prob == 0.5  # type: ignore[attr-defined]
        assert answer.usage is not None
        assert answer.usage.completion_tokens == 10 + 9
        with pytest.raises(openai.NotFoundError, match="does not exist"):
            client.chat.completions.create(model="gpt-4o", messages=[GREETING])  # type: ignore[list-item]
