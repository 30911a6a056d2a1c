import httpx2
import openai
import pytest

from usersim import Turn
from usersim.sampling import as_profile
from usersim.testing import ScriptedSampler

END = 258
GREETING = {"role": "user", "content": "Hi! How can I help you today?"}
SYSTEM = {"role": "system", "content": "Buy shoes. Say '###STOP###' when you are done."}
ENDS_AT_ONCE = {"end": {"min_user_turns": 0}}


def ask(
    http: httpx2.Client, url: str, messages: list[dict[str, object]], **fields: object
) -> httpx2.Response:
    return http.post(f"{url}/v1/chat/completions", json={"model": "userlm", "messages": messages, **fields})


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
        ({"stream": True}, "stream_not_supported"),
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
        ([SYSTEM, GREETING, {"role": "assistant", "content": "shoes"}], 400, "invalid_request"),
        ([SYSTEM, GREETING, GREETING], 400, "invalid_request"),
        ([GREETING, SYSTEM], 400, "invalid_request"),
        ([], 400, "invalid_request"),
        ([SYSTEM, {"role": "tool", "content": "42"}], 400, "invalid_request"),
    ],
    ids=["lone", "true roles", "twice", "late system", "empty", "tool"],
)
def test_chats_that_are_no_flipped_chat(front, http, messages, status, code):
    response = ask(http, front(ScriptedSampler()), messages)
    assert (response.status_code, response.json()["error"]["code"]) == (status, code)


def test_the_openai_package_gets_everything(front, words):
    sampler = ScriptedSampler(words("size nine"), words("size ten"), end_probability=0.5)
    with openai.OpenAI(base_url=front(sampler) + "/v1", api_key="none", max_retries=0) as client:
        assert [model.id for model in client.models.list()] == ["userlm", "bytes"]
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
