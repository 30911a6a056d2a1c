import httpx2
import openai
import pytest

from usersim.decoding.noise import nth_seed
from usersim.testing import ScriptedSampler
from usersim.types import Turn
from usersim.users.protocols import as_profile

END = 258
GREETING = {"role": "user", "content": "Hi! How can I help you today?"}
GOAL = "Buy shoes."
SYSTEM = {"role": "system", "content": f"{GOAL} Say '###STOP###' when you are done."}
RESULT = {"role": "tool", "tool_call_id": "1", "content": "42 pairs"}
SIZE = {"role": "user", "content": "Which size?"}
GREETED = Turn(role="assistant", text="Hi! How can I help you today?")
SHOES, ASKED = Turn(role="user", text="shoes pls"), Turn(role="assistant", text="Which size?")
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
    start_server, http, words, renderer, messages, history
):
    sampler = ScriptedSampler(words("size nine"))
    response = ask(http, start_server(sampler), messages)
    assert response.json()["choices"][0]["message"] == {"role": "assistant", "content": "size nine"}
    goal = GOAL if messages[0] is SYSTEM else None
    assert sampler.prompts == [renderer.prompt(as_profile(goal), history)]


@pytest.mark.parametrize(
    ("system", "marker"),
    [
        ("Buy shoes; ###TRANSFER### or ###STOP### ends it.", "###STOP###"),
        ("Say [[TERMINATE CHAT]] when done.", "[[TERMINATE CHAT]]"),
        ("Say ###DONE### when done.", "###DONE###"),
    ],
)
def test_the_sampled_end_is_the_clients_marker_and_nothing_else(start_server, http, system, marker):
    url = start_server(ScriptedSampler([END]), **ENDS_AT_ONCE)
    choice = ask(http, url, [{"role": "system", "content": system}, GREETING]).json()["choices"][0]
    assert choice["message"]["content"] == marker
    assert choice["finish_reason"] == "stop"
    assert choice["end_of_conversation"] is True


def test_a_marker_among_the_words_does_not_end_the_run(start_server, http, words):
    url = start_server(ScriptedSampler(words("ok ###STOP### now"), words("###STOP###")))
    choices = [ask(http, url, [SYSTEM, GREETING]).json()["choices"][0] for _ in range(2)]
    assert [choice["message"]["content"] for choice in choices] == ["ok  now", "…"]


@pytest.mark.parametrize(
    ("fields", "code"),
    [
        ({"tools": [{"type": "function", "function": {"name": "f"}}]}, "tools_not_supported"),
        ({"functions": [{"name": "f"}]}, "tools_not_supported"),
        ({"logprobs": True}, "logprobs_not_supported"),
        ({"top_logprobs": 5}, "logprobs_not_supported"),
        ({"response_format": {"type": "json_object"}}, "response_format_not_supported"),
        ({"logit_bias": {"50256": -100}}, "logit_bias_not_supported"),
        ({"presence_penalty": 0.5}, "presence_penalty_not_supported"),
        ({"frequency_penalty": -1}, "frequency_penalty_not_supported"),
        ({"repetition_penalty": 1.1}, "repetition_penalty_not_supported"),
        ({"min_p": 0.1}, "min_p_not_supported"),
        ({"guided_json": {"type": "object"}}, "guided_json_not_supported"),
        ({"modalities": ["audio"]}, "modalities_not_supported"),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else None,
)
def test_what_would_change_the_answer_is_refused_by_name(start_server, http, fields, code):
    response = ask(http, start_server(ScriptedSampler()), [SYSTEM, GREETING], **fields)
    error = response.json()["error"]
    assert (response.status_code, error["code"]) == (400, code)
    assert error["param"] == next(iter(fields))
    assert error["message"].startswith(f"{error['param']}: ")


def test_what_means_nothing_here_is_ignored(start_server, http, words):
    fields = {
        "tools": [],
        "tool_choice": "auto",
        "parallel_tool_calls": False,
        "stream": False,
        "stream_options": None,
        "user": "me",
        "metadata": {"a": "b"},
        "presence_penalty": 0,
        "logit_bias": {},
        "top_logprobs": None,
        "repetition_penalty": 1.0,
        "modalities": ["text"],
        "stop": [],
        "max_completion_tokens": 100_000,
        "n": None,
        "seed": None,
        "temperature": None,
        "something_new": {"x": [1]},
    }
    response = ask(http, start_server(ScriptedSampler(words("size nine"))), [SYSTEM, GREETING], **fields)
    assert response.status_code == 200
    ignored_names = response.headers["x-userlm-ignored"].split(", ")
    assert ignored_names == ["tool_choice", "parallel_tool_calls", "user", "metadata", "something_new"]


@pytest.mark.parametrize(
    ("stop", "content"),
    [
        ("nine", "size"),
        (["pls", "\n"], "size nine"),
        ([" "], "size"),
        (["size"], "…"),
        (["nowhere"], "size nine\npls"),
        (None, "size nine\npls"),
    ],
)
def test_words_are_cut_before_the_first_stop(start_server, http, words, stop, content):
    url = start_server(ScriptedSampler(words("size nine\npls")))
    choice = ask(http, url, [SYSTEM, GREETING], stop=stop).json()["choices"][0]
    assert (choice["message"]["content"], choice["finish_reason"]) == (content, "stop")


def test_a_stop_is_not_looked_for_in_the_clients_own_marker(start_server, http):
    url = start_server(ScriptedSampler([END]), **ENDS_AT_ONCE)
    choice = ask(http, url, [SYSTEM, GREETING], stop=["STOP", "#"]).json()["choices"][0]
    assert choice["message"]["content"] == "###STOP###"


@pytest.mark.parametrize("stop", ["", [""], 3, ["a", 3], ["a"] * 513])
def test_a_stop_that_is_none_is_refused(start_server, http, stop):
    error = ask(http, start_server(ScriptedSampler()), [SYSTEM, GREETING], stop=stop).json()["error"]
    assert "stop" in error["message"]


@pytest.mark.parametrize(
    ("system", "marker"),
    [
        ("You want pasta. When you are finished, reply with [DONE] and nothing else.", "[DONE]"),
        ("You want pasta. When you are finished, reply with TERMINATE and nothing else.", "TERMINATE"),
        ("You want pasta. When you are done, reply with </conversation>.", "</conversation>"),
        ("You want pasta. To end the chat, output only `{END_CONVERSATION}`.", "{END_CONVERSATION}"),
    ],
)
def test_a_marker_of_another_form_is_the_clients_where_a_sentence_about_ending_asks_for_it(
    start_server, http, words, renderer, system, marker
):
    sampler = ScriptedSampler([END], words(f"ok {marker}"))
    url = start_server(sampler, **ENDS_AT_ONCE)
    messages = [{"role": "system", "content": system}, GREETING]
    contents = [ask(http, url, messages).json()["choices"][0]["message"]["content"] for _ in range(2)]
    assert contents == [marker, "ok"]
    history = [Turn(role="assistant", text="Hi! How can I help you today?")]
    assert sampler.prompts == [renderer.prompt(as_profile("You want pasta."), history)] * 2


@pytest.mark.parametrize(
    "system",
    [
        "You want pasta.",
        "You want help with JSON. Use JSON and HTML.",
        "You are done with [NAME]'s recipe. Ask for pasta.",
        "You want to print HELLO in C.",
        "You want a form. When it is done, return JSON. Write <name> when finished.",
    ],
)
def test_no_marker_is_said_to_a_client_that_named_none(start_server, http, words, renderer, system):
    """Its agent would read it as the user's words: so the user stays, and P(end) is told beside."""
    sampler = ScriptedSampler(words("ok"), [END])
    url = start_server(sampler, **ENDS_AT_ONCE)
    messages = [{"role": "system", "content": system}, GREETING]
    assert ask(http, url, messages).json()["choices"][0]["message"]["content"] == "ok"
    assert sampler.banned == [[END]]
    history = [Turn(role="assistant", text="Hi! How can I help you today?")]
    assert sampler.prompts == [renderer.prompt(as_profile(system), history)]
    choice = ask(http, url, messages, end_of_conversation={"mode": "sample"}).json()["choices"][0]
    assert choice["end_of_conversation"] is True


def test_a_sentence_that_also_says_the_goal_stays_without_its_marker(start_server, http, words, renderer):
    sampler = ScriptedSampler(words("ok"))
    ask(
        http,
        start_server(sampler),
        [{"role": "system", "content": "Buy shoes and say ###STOP### then"}, GREETING],
    )
    history = [Turn(role="assistant", text="Hi! How can I help you today?")]
    assert sampler.prompts == [renderer.prompt(as_profile("Buy shoes and say  then"), history)]


@pytest.mark.parametrize(
    ("messages", "status", "code"),
    [
        ([GREETING], 422, "unrecognized_prompt"),
        ([{"role": "system", "content": "You are an AI that writes a quiz."}], 422, "unrecognized_prompt"),
        (
            [{"role": "system", "content": "Grade it. When done, answer PASS or FAIL."}],
            422,
            "unrecognized_prompt",
        ),
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
    ids=[
        "lone",
        "lone system",
        "lone judge",
        "the user spoke last",
        "late system",
        "empty",
        "null",
        "picture",
    ],
)
def test_chats_that_no_user_can_answer(start_server, http, messages, status, code):
    response = ask(http, start_server(ScriptedSampler()), messages)
    assert (response.status_code, response.json()["error"]["code"]) == (status, code)


def test_where_the_assistant_spoke_last_the_roles_are_true(start_server, http, words, renderer):
    sampler = ScriptedSampler(words("size nine"))
    messages = [
        {"role": "system", "content": "Buy shoes."},
        {"role": "user", "content": "shoes pls"},
        {"role": "assistant", "content": "Which size?"},
    ]
    response = ask(http, start_server(sampler), messages)
    assert response.headers["x-userlm-dialect"] == "native"
    history = [Turn(role="user", text="shoes pls"), Turn(role="assistant", text="Which size?")]
    assert sampler.prompts == [renderer.prompt(as_profile("Buy shoes."), history)]


def test_under_the_flipped_alias_roles_are_never_guessed(start_server, http, words):
    url = start_server(ScriptedSampler(words("hi")))
    system = {"role": "system", "content": "Buy shoes."}
    last = {"role": "assistant", "content": "shoes"}
    refused = ask(http, url, [system, GREETING, last], model="userlm-flipped")
    assert (refused.status_code, refused.json()["error"]["param"]) == (400, "messages")
    opening = ask(http, url, [system], model="userlm-flipped")
    assert opening.json()["choices"][0]["message"]["content"] == "hi"
    assert opening.json()["model"] == "userlm-flipped"


def test_what_an_agent_does_with_its_tools_is_not_seen_and_its_messages_are_one_turn(
    start_server, http, words, renderer
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
    assert ask(http, start_server(sampler), messages).status_code == 200
    history = [
        Turn(role="assistant", text="Hi! How can I help you today?"),
        Turn(role="user", text="shoes pls"),
        Turn(role="assistant", text="One moment.\n\nWhich size?"),
    ]
    assert sampler.prompts == [renderer.prompt(as_profile(GOAL), history)]


OWN = {"role": "assistant", "content": "shoes pls"}


@pytest.mark.parametrize(
    ("messages", "history"),
    [
        (
            [
                GREETING,
                OWN,
                {"role": "user", "content": "One moment.", "tool_calls": [{"id": "1"}]},
                RESULT,
                SIZE,
            ],
            [GREETED, SHOES, Turn(role="assistant", text="One moment.\n\nWhich size?")],
        ),
        ([GREETING, OWN | {"tool_calls": [{"id": "1"}]}, RESULT, SIZE], [GREETED, SHOES, ASKED]),
        (
            [GREETING, RESULT | {"content": "x" * 65_537}, SIZE],
            [Turn(role="assistant", text=f"{GREETED.text}\n\n{ASKED.text}")],
        ),
        ([GREETING, RESULT | {"content": [{"type": "image_url"}]}, OWN, SIZE], [GREETED, SHOES, ASKED]),
        (
            [GREETING, OWN, {"role": "assistant", "content": "and fast"}, SIZE],
            [GREETED, Turn(role="user", text="shoes pls\n\nand fast"), ASKED],
        ),
        (
            [GREETING, OWN, {"role": "user", "content": None, "refusal": "Which size?"}],
            [GREETED, SHOES, ASKED],
        ),
        (
            [GREETING, OWN, {"role": "user", "content": [{"type": "refusal", "refusal": "Which size?"}]}],
            [GREETED, SHOES, ASKED],
        ),
    ],
    ids=[
        "agent, beside tools",
        "user, beside tools",
        "long result",
        "picture as result",
        "twice",
        "refusal",
        "refusing part",
    ],
)
def test_what_was_said_is_read_whatever_came_with_it(start_server, http, words, renderer, messages, history):
    sampler = ScriptedSampler(words("size nine"))
    assert ask(http, start_server(sampler), [SYSTEM, *messages]).status_code == 200
    assert sampler.prompts == [renderer.prompt(as_profile(GOAL), history)]


def test_a_picture_is_named_as_what_it_is(start_server, http):
    picture = {"role": "user", "content": [{"type": "image_url", "image_url": {"url": "data:,"}}]}
    error = ask(http, start_server(ScriptedSampler()), [SYSTEM, picture]).json()["error"]
    assert error["message"] == "messages.1.content.0: a part of type 'image_url'; only text is read here"


def test_goal_and_persona_beside_the_messages_win(start_server, http, words, renderer):
    sampler = ScriptedSampler(words("hi"))
    ask(http, start_server(sampler), [SYSTEM, GREETING], goal="sell shoes", persona="rude")
    history = [Turn(role="assistant", text="Hi! How can I help you today?")]
    assert sampler.prompts == [renderer.prompt(as_profile("sell shoes", "rude"), history)]


def test_a_temperature_of_zero_is_kept_and_warned_of(start_server, http, words):
    url = start_server(ScriptedSampler(words("hi"), words("hi")))
    cold = ask(http, url, [SYSTEM, GREETING], temperature=0)
    assert cold.headers["x-userlm-warning"] == "temperature-0"
    assert "x-userlm-warning" not in ask(http, url, [SYSTEM, GREETING]).headers


def test_a_cold_user_who_repeats_himself_goes_on_warm_and_says_so(start_server, http, words):
    """LangWatch, Azure and DeepEval ask at temperature 0."""
    own = {"role": "assistant", "content": "shoes pls"}
    messages = [SYSTEM, GREETING, own, {"role": "user", "content": "Which size?"}]
    sampler = ScriptedSampler(words("shoes pls"), words("size nine"))
    response = ask(http, start_server(sampler), messages, temperature=0)
    choice = response.json()["choices"][0]
    assert (choice["message"]["content"], choice["rejected"]) == ("size nine", ["repeat"])
    assert response.headers["x-userlm-warning"] == "temperature-0, drawn-warm"
    assert [request.sampling.temperature for request in sampler.asked] == [0, 1]
    assert sampler.seeds[1] is not None, "the same request gets the same turn"


def test_a_cold_user_who_can_only_repeat_himself_does(start_server, http, words):
    own = {"role": "assistant", "content": "shoes pls"}
    messages = [SYSTEM, GREETING, own, {"role": "user", "content": "Which size?"}]
    url = start_server(ScriptedSampler(*[words("shoes pls")] * 6))
    response = ask(http, url, messages, temperature=0, n=2)
    assert [c["message"]["content"] for c in response.json()["choices"]] == ["shoes pls"] * 2
    assert response.headers["x-userlm-warning"] == "temperature-0, drawn-warm"


def test_nobody_gets_a_null_where_clients_index(start_server, http, words):
    usage = ask(http, start_server(ScriptedSampler(words("hi"))), [SYSTEM, GREETING]).json()["usage"]
    assert usage["prompt_tokens_details"] == {"cached_tokens": 0}
    assert usage["total_tokens"] == usage["prompt_tokens"] + usage["completion_tokens"]


@pytest.mark.parametrize("include_usage", [True, False])
def test_a_stream_gives_role_words_and_reason_to_the_openai_package(start_server, words, include_usage):
    options = {"stream_options": {"include_usage": True}} if include_usage else {}
    url = start_server(ScriptedSampler(words("size nine"), words("größe 10")))
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
    contents = {i: "".join(p.delta.content or "" for p in pieces if p.index == i) for i in (0, 1)}
    assert contents == {0: "size nine", 1: "größe 10"}
    assert [p.delta.role for p in pieces if p.delta.role] == ["assistant"] * 2
    assert [p.finish_reason for p in pieces if p.finish_reason] == ["stop"] * 2
    assert pieces[-1].end_of_conversation is False  # type: ignore[attr-defined]
    assert [chunk.usage is not None for chunk in chunks] == [False] * (len(chunks) - 1) + [include_usage]


def test_a_stream_keeps_the_rules_of_the_end_and_closes_with_done(start_server, http):
    url = start_server(ScriptedSampler([END]), **ENDS_AT_ONCE)
    response = ask(http, url, [SYSTEM, GREETING], stream=True, temperature=0)
    assert response.headers["content-type"].startswith("text/event-stream")
    assert response.headers["x-userlm-warning"] == "temperature-0"
    lines = [line for line in response.text.split("\n\n") if line]
    assert lines[-1] == "data: [DONE]"
    assert [STOP_DELTA in line for line in lines] == [False, True, False, False]


def test_a_stream_that_cannot_begin_is_an_ordinary_error(start_server, http):
    response = ask(http, start_server(ScriptedSampler()), [GREETING], stream=True)
    assert (response.status_code, response.json()["error"]["code"]) == (422, "unrecognized_prompt")


def test_the_openai_package_gets_everything(start_server, words):
    sampler = ScriptedSampler(words("size nine"), words("size ten"), end_probability=0.5)
    with openai.OpenAI(base_url=start_server(sampler) + "/v1", api_key="none", max_retries=0) as client:
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
        assert answer.choices[1].seed == nth_seed(5, 1, common=False)  # type: ignore[attr-defined]
        assert answer.choices[0].end_of_conversation_prob == 0.5  # type: ignore[attr-defined]
        assert answer.usage is not None
        assert answer.usage.completion_tokens == 10 + 9
        with pytest.raises(openai.NotFoundError, match="does not exist"):
            client.chat.completions.create(model="gpt-4o", messages=[GREETING])  # type: ignore[list-item]
