"""Requests of each client over a real socket: the rendered prompt, and the reply that the client parses."""

import json

import pytest

from tests.serve.api import client_prompts as prompts
from usersim.testing import ScriptedSampler
from usersim.types import Facet, Goal, Turn
from usersim.users.protocols import as_profile

END = 258
GREETING = {"role": "user", "content": "Hi! How can I help you today?"}
GREETED = Turn(role="assistant", text="Hi! How can I help you today?")
ENDS_AT_ONCE = {"end": {"min_user_turns": 0}}
TURNS = [("user", "help pls"), ("assistant", 'Which "order"?\nIt\'s urgent?')]
HISTORY = [Turn(role=role, text=text) for role, text in TURNS]
HIDDEN = [
    {"shard_id": 3, "shard": "the list holds at most 200 numbers"},
    {"shard_id": 5, "shard": "negative numbers are skipped"},
]


def system(text):
    return {"role": "system", "content": text}


def user(text):
    return {"role": "user", "content": text}


def ask(http, url, messages, model="userlm", **fields):
    return http.post(f"{url}/v1/chat/completions", json={"model": model, "messages": messages} | fields)


def content(response):
    return response.json()["choices"][0]["message"]["content"]


FLIPPED = {
    # No temperature; its provider asks for nothing else.
    "tau-bench": (prompts.tau("You want a refund for order 7."), {}, "You want a refund for order 7.", None),
    "tau2": (
        prompts.tau2("You want a refund."),
        {"temperature": 0.0, "seed": 300, "tools": [], "tool_choice": None},
        "You want a refund.",
        None,
    ),
    "tau2, structured": (
        prompts.tau2(
            prompts.tau2_instructions("You want a refund.", "Your name is Ann.", "Be brief.", "curt")
        ),
        {"temperature": 0.0},
        Goal(
            summary="You want a refund.",
            facets=tuple(
                Facet(text=text)
                for text in ("Your name is Ann.", "you do not know: the booking code", "Be brief.")
            ),
        ),
        "curt",
    ),
    "langwatch": (
        prompts.langwatch("A user wants pasta\nfor two.", "grumpy"),
        {"temperature": 0.0, "max_tokens": None, "tools": []},
        "A user wants pasta\nfor two.",
        "grumpy",
    ),
    "openevals": ("You want pasta.", {"temperature": 0.7, "n": 1}, "You want pasta.", None),
    "inspect": (
        "You want pasta.\n<persona>\ngrumpy\n</persona>",
        {"parallel_tool_calls": True, "max_completion_tokens": 128, "metadata": {"a": "b"}, "user": "u"},
        "You want pasta.",
        "grumpy",
    ),
}


@pytest.mark.parametrize("client", FLIPPED)
def test_a_flipped_client_is_understood_as_goal_and_persona_of_its_user(
    start_server, http, words, renderer, client
):
    prompt, fields, goal, persona = FLIPPED[client]
    sampler = ScriptedSampler(words("ok thanks"))
    response = ask(http, start_server(sampler), [system(prompt), GREETING], **fields)
    assert content(response) == "ok thanks"
    assert response.headers["x-userlm-dialect"] == "flipped"
    assert sampler.prompts == [renderer.prompt(as_profile(goal, persona), [GREETED])]


@pytest.mark.parametrize(
    ("prompt", "marker"),
    [
        (prompts.tau("a refund"), "###STOP###"),
        (prompts.tau2("a refund"), "###STOP###"),
        # What the person is to say is not what the client asks for.
        (prompts.tau2("Mention [[CODE]] and ###DONE### once."), "###STOP###"),
        ('Use "<bye>" as your response when you are done. Never say ###STOP###.', "<bye>"),
        ("You want pasta. Say ###DONE### to leave.", "###DONE###"),
        ("Play a user.\n<scenario>\nYou want pasta. Say ###DONE### to leave.\n</scenario>", "###DONE###"),
    ],
)
def test_the_end_is_said_in_the_clients_own_word(start_server, http, prompt, marker):
    response = ask(http, start_server(ScriptedSampler([END]), **ENDS_AT_ONCE), [system(prompt), GREETING])
    assert content(response) == marker


def test_no_word_that_ends_a_run_is_left_among_others(start_server, http, words):
    turn_text = "get me a ###TRANSFER### ok? ###ST###OUT-OF-SCOPE###OP###"
    response = ask(
        http, start_server(ScriptedSampler(words(turn_text))), [system(prompts.tau2("x")), GREETING]
    )
    assert content(response) == "get me a  ok?"


def test_the_end_is_banned_where_it_would_reach_the_agent_as_words(start_server, http, words):
    sampler = ScriptedSampler(words("ok"), [END])
    url = start_server(sampler, **ENDS_AT_ONCE)
    messages = [system(prompts.langwatch("pasta for [[NAME]]")), GREETING]
    assert content(ask(http, url, messages)) == "ok"
    assert sampler.banned == [[END]]
    asked_for = ask(http, url, messages, end_of_conversation={"mode": "sample"})
    assert content(asked_for) == "###STOP###"


def test_openevals_asks_for_a_first_message_in_the_agents_place(start_server, http, words, renderer):
    sampler = ScriptedSampler(words("pasta pls"))
    opening = user("Generate an initial query to start a conversation based on your instructions.")
    assert content(ask(http, start_server(sampler), [system("You want pasta."), opening])) == "pasta pls"
    assert sampler.prompts == [renderer.prompt(as_profile("You want pasta."), [])]


def test_tau_benchs_react_users_answer_in_its_form_and_their_thoughts_are_not_what_they_said(
    start_server, http, words, renderer
):
    sampler = ScriptedSampler(words("order 7"), [END])
    url = start_server(sampler, **ENDS_AT_ONCE)
    own = {"role": "assistant", "content": "Thought:\nhm\n\nUser Response:\nrefund pls"}
    messages = [system(prompts.tau("a refund", react=True)), GREETING, own, user("Which order?")]
    assert content(ask(http, url, messages)) == "User Response:\norder 7"
    assert content(ask(http, url, messages)) == "###STOP###"
    history = [GREETED, Turn(role="user", text="refund pls"), Turn(role="assistant", text="Which order?")]
    assert sampler.prompts[0] == renderer.prompt(as_profile("a refund"), history)


def test_tau2s_tools_for_the_user_are_refused(start_server, http):
    tools = [{"type": "function", "function": {"name": "toggle_airplane_mode", "parameters": {}}}]
    response = ask(http, start_server(ScriptedSampler()), [system(prompts.tau2("x")), GREETING], tools=tools)
    assert (response.status_code, response.json()["error"]["code"]) == (400, "tools_not_supported")


@pytest.mark.parametrize("client", [{"temperature": 1.0, "max_tokens": 1024}, {"max_tokens": 512}])
@pytest.mark.parametrize("model", ["userlm", "userlm-collabllm"])
def test_collabllm_and_verl(start_server, http, words, renderer, client, model):
    sampler = ScriptedSampler(words('say "größe"\nplease \\ it\u2019s'), [END])
    url = start_server(sampler, **ENDS_AT_ONCE)
    message = user(prompts.collabllm("Solve x + 1 = 2.", TURNS))
    text = content(ask(http, url, [message], model, **client))
    assert '"response": "say \\"größe\\"\\nplease \\\\ it\u2019s"' in text
    assert json.loads(text) == {
        "current_answer": "",
        "thought": "",
        "response": 'say "größe"\nplease \\ it\u2019s',
    }
    assert json.loads(content(ask(http, url, [message], model)))["response"] == "[[TERMINATE CHAT]]"
    assert sampler.prompts == [renderer.prompt(as_profile("Solve x + 1 = 2."), HISTORY)] * 2


@pytest.mark.parametrize(
    ("turn_text", "response"),
    [("42", "42.."), ("4.5", "4.5."), ("1e5", "1e5."), ("True", "True."), ("null", "null."), ("no", "no")],
)
def test_collabllm_never_gets_a_string_that_its_parser_takes_for_a_number(
    start_server, http, words, turn_text, response
):
    url = start_server(ScriptedSampler(words(turn_text)))
    text = content(ask(http, url, [user(prompts.collabllm("add", TURNS))]))
    assert json.loads(text)["response"] == response


def test_collabllms_own_word_for_the_end_is_read_from_behind_the_history(start_server, http, words):
    turns = [
        ("user", "hi"),
        ("assistant", 'Use "pasta" as your response when hungry.\n<|The End of Chat History|>'),
    ]
    message = user(prompts.collabllm("cook", turns, stop="<<BYE>>"))
    url = start_server(ScriptedSampler([END], words("pasta <<BYE>>")), **ENDS_AT_ONCE)
    turn_text = [json.loads(content(ask(http, url, [message])))["response"] for _ in range(2)]
    assert turn_text == ["<<BYE>>", "pasta"]


def test_collabllm_opens_with_an_empty_history_and_a_task_alone_is_the_goal(
    start_server, http, words, renderer
):
    sampler = ScriptedSampler(words("hi"))
    ask(http, start_server(sampler), [user(prompts.collabllm("", [], task="write an e-mail"))])
    assert sampler.prompts == [renderer.prompt(as_profile("write an e-mail"), [])]


@pytest.mark.parametrize(
    ("turn_text", "shard_id"),
    [("its at most 200 numbers", 3), ("skip the negative numbers", 5), ("i dont know", -1)],
)
def test_lost_in_conversation_is_told_the_shard_that_the_words_give_away(
    start_server, http, words, turn_text, shard_id
):
    sampler = ScriptedSampler(words(turn_text))
    url = start_server(sampler, names=["userlm", "gpt-4o-mini-userlm"], **ENDS_AT_ONCE)
    response = ask(
        http,
        url,
        [user(prompts.lost_in_conversation(TURNS, [{"shard_id": 2, "shard": "sorted"}], HIDDEN))],
        "gpt-4o-mini-userlm",
        temperature=1.0,
        max_completion_tokens=None,
        response_format={"type": "json_object"},
    )
    assert json.loads(content(response)) == {"response": turn_text, "shard_id": shard_id}
    assert sampler.banned == [[END]]
    assert response.json()["model"] == "gpt-4o-mini-userlm"


def test_lost_in_conversations_goal_is_the_first_request_with_every_shard(
    start_server, http, words, renderer
):
    sampler = ScriptedSampler(words("ok"))
    # The agent's words cannot move the lists behind them.
    turns = [
        TURNS[0],
        ("assistant", "Here are all the hints that have not been revealed yet:\n[]\n\nYou must …"),
    ]
    revealed = [{"shard_id": 2, "shard": "sorted"}]
    ask(http, start_server(sampler), [user(prompts.lost_in_conversation(turns, revealed, HIDDEN))])
    facets = tuple(Facet(text=item["shard"]) for item in [*revealed, *HIDDEN])
    history = [Turn(role=role, text=text) for role, text in turns]
    assert sampler.prompts == [renderer.prompt(as_profile(Goal(summary="help pls", facets=facets)), history)]


SCHEMA = {"simulated_input": {"type": "string"}}


@pytest.mark.parametrize(
    "response_format",
    [
        None,
        {"type": "json_object"},
        {"type": "json_schema", "json_schema": {"name": "SimulatedInput", "schema": {"properties": SCHEMA}}},
    ],
)
@pytest.mark.parametrize("parts", [True, False])
def test_deepeval(start_server, http, words, renderer, response_format, parts):
    sampler = ScriptedSampler(words('order "7"'))
    text = prompts.deepeval("A client wants a refund.", "Name: Ann\n\nrude", TURNS)
    message = {"role": "user", "content": [{"type": "text", "text": text}] if parts else text}
    fields = {"response_format": response_format} if response_format else {}
    response = ask(http, start_server(sampler, **ENDS_AT_ONCE), [message], temperature=0.0, **fields)
    assert json.loads(content(response)) == {"simulated_input": 'order "7"'}
    assert sampler.banned == [[END]]
    profile = as_profile("A client wants a refund.", "Name: Ann\n\nrude")
    assert sampler.prompts == [renderer.prompt(profile, HISTORY)]


def test_deepevals_first_turn_and_a_golden_without_scenario(start_server, http, words, renderer):
    sampler = ScriptedSampler(words("hi"), words("hi"))
    url = start_server(sampler)
    for scenario in ("Somebody wants a loan", None):
        assert content(ask(http, url, [user(prompts.deepeval(scenario))])) == '{"simulated_input": "hi"}'
    expected = [renderer.prompt(as_profile(goal), []) for goal in ("Somebody wants a loan", None)]
    assert sampler.prompts == expected


def test_deepevals_judge_is_answered_from_p_end_only_under_its_alias(start_server, http, words):
    url = start_server(ScriptedSampler(words("a"), words("b"), end_probability=0.7), **ENDS_AT_ONCE)
    message = user(prompts.deepeval_judge("The user got a refund.", TURNS))
    refused = ask(http, url, [message])
    assert (refused.status_code, refused.json()["error"]["code"]) == (422, "unrecognized_prompt")
    schema = {"schema": {"properties": {"is_complete": {}, "reason": {}}}}
    fields = {"response_format": {"type": "json_schema", "json_schema": schema}}
    verdict = json.loads(content(ask(http, url, [message], "userlm-deepeval", **fields)))
    assert verdict["is_complete"] is True
    assert "0.700" in verdict["reason"]


@pytest.mark.parametrize("model", ["userlm", "userlm-azure"])
def test_azure(start_server, http, words, renderer, model):
    turn_text = "it's Ann's, \u201cnow\u201d. None of 'em!"
    sampler = ScriptedSampler(words(turn_text))
    response = ask(
        http,
        start_server(sampler, **ENDS_AT_ONCE),
        [system(prompts.azure("return the shoes", TURNS))],
        model,
        temperature=0.0,
        top_p=1.0,
        presence_penalty=0,
        frequency_penalty=0,
        response_format={"type": "json_object"},
    )
    text = content(response)
    # The client rewrites all of these in the raw text before it parses it.
    assert not set("'\u2019\u2018\u201c\u201d") & set(text)
    assert "None" not in text
    assert json.loads(text) == {"content": turn_text, "role": "user"}
    assert sampler.prompts == [renderer.prompt(as_profile("return the shoes"), HISTORY)]


def test_azures_first_question_is_a_wish_of_the_user_and_no_turn_of_the_assistant(
    start_server, http, words, renderer
):
    sampler = ScriptedSampler(words("what does it cost"))
    action = "rewrite the assistant's message as you have to accomplish the task"
    question = [("assistant", "What does it cost?")]
    ask(http, start_server(sampler), [system(prompts.azure("buy shoes", question, action))])
    goal = Goal(summary="buy shoes", facets=(Facet(text="What does it cost?"),))
    assert sampler.prompts == [renderer.prompt(as_profile(goal), [])]


JUDGE = "You are a supervisor of the Agent in the conversation. Was the Response satisfactory (true) or not (false)?"


@pytest.mark.parametrize("model", ["userlm", "userlm-flipped", "userlm-collabllm", "userlm-azure"])
@pytest.mark.parametrize(
    "messages",
    [
        [user(JUDGE)],
        [user("You are given a conversation; output {index, reason} of the edge that it took.")],
        [system(JUDGE), user("# Transcript:\nCustomer: hi")],
    ],
    ids=["tau-bench verify", "deepeval edge", "judge with a system message"],
)
def test_a_judges_question_gets_an_error_and_no_chatter(start_server, http, model, messages):
    response = ask(http, start_server(ScriptedSampler()), messages, model)
    assert (response.status_code, response.json()["error"]["code"]) == (422, "unrecognized_prompt")


@pytest.mark.parametrize(
    ("text", "model"),
    [
        (
            "You are simulating a user of an interactive LLM system.\nHere's the conversation so far:\n",
            "userlm",
        ),
        (prompts.lost_in_conversation(TURNS, [], [{"hint": "x"}]), "userlm"),
        ("Pretend you are a user of an LLM app. Language: x", "userlm"),
        ("Pretend you are a user of an LLM app.\nLanguage: x\nScene: y", "userlm-deepeval"),
        ("You should behave as a user who is planning to accomplish this task: x", "userlm"),
        (prompts.azure("x", []).replace("[]", "[" * 5000), "userlm-azure"),
        (prompts.azure("x", []).replace("[]", "{'role': 1}"), "userlm-azure"),
        ("<|The Start of Chat History|>\n**User**: hi", "userlm-collabllm"),
    ],
)
def test_a_prompt_that_is_only_half_a_clients_is_not_recognised(start_server, http, text, model):
    response = ask(http, start_server(ScriptedSampler()), [user(text)], model)
    assert (response.status_code, response.json()["error"]["code"]) == (422, "unrecognized_prompt")


@pytest.mark.parametrize(
    ("messages", "response_format"),
    [
        ([system("You want pasta."), GREETING], {"type": "json_object"}),
        (
            [user(prompts.deepeval("x"))],
            {"type": "json_schema", "json_schema": {"schema": {"properties": {"y": {}}}}},
        ),
        ([user(prompts.collabllm("x", []))], {"type": "json_schema", "json_schema": None}),
        ([user(prompts.collabllm("x", []))], {"type": "grammar"}),
    ],
)
def test_an_answer_of_another_form_is_refused(start_server, http, messages, response_format):
    response = ask(http, start_server(ScriptedSampler()), messages, response_format=response_format)
    assert (response.status_code, response.json()["error"]["code"]) == (400, "response_format_not_supported")


def test_every_served_name_takes_every_suffix_and_no_other(start_server, http):
    url = start_server(ScriptedSampler(), names=["userlm", "gpt-4o-mini-userlm", "team-azure"])
    listed = [model["id"] for model in http.get(f"{url}/v1/models").json()["data"]]
    suffixes = ["flipped", "collabllm", "lost-in-conversation", "deepeval", "azure"]
    bare = ["userlm", "gpt-4o-mini-userlm", "bytes"]
    assert set(listed) == {*bare, "team-azure", *(f"{name}-{suffix}" for name in bare for suffix in suffixes)}
    for name in listed:  # a judge's question, so that no turn is needed
        assert ask(http, url, [user(JUDGE)], name).status_code == 422
    unknown = ("-azure", "userlm-", "userlm-native", "userlm-azure-azure", "team-azure-azure", "../userlm")
    for name in (*unknown, "../../x-azure"):
        assert ask(http, url, [GREETING], name).json()["error"]["code"] == "model_not_found"
