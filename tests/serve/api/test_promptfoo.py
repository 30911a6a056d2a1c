import httpx2
import pytest

from usersim.testing import ScriptedSampler
from usersim.types import Turn
from usersim.users.protocols import as_profile

END = 258
BODY = {
    "task": "tau",
    "instructions": "You want pasta. Mention [[CODE]].",
    "history": [
        {"role": "assistant", "content": "pasta pls"},
        {"role": "user", "content": "Which kind?"},
    ],
    "email": "somebody@example.org",
    "version": "0.120.0",
}


def ask(http: httpx2.Client, url: str, **fields: object) -> httpx2.Response:
    return http.post(f"{url}/compat/promptfoo/task", json=BODY | fields)


def test_promptfoo_gets_the_next_turn_and_what_it_cost(start_server, http, words, renderer):
    sampler = ScriptedSampler(words("penne"))
    answer = ask(http, start_server(sampler)).json()
    history = [Turn(role="user", text="pasta pls"), Turn(role="assistant", text="Which kind?")]
    prompt = renderer.prompt(as_profile(BODY["instructions"]), history)
    assert answer["result"] == "penne"
    tokens = {"prompt": len(prompt), "completion": 6, "total": len(prompt) + 6}
    assert answer["tokenUsage"] == {**tokens, "numRequests": 1}
    assert sampler.prompts == [prompt]


def test_promptfoo_opens_with_an_empty_history(start_server, http, words, renderer):
    sampler = ScriptedSampler(words("pasta"))
    assert ask(http, start_server(sampler), history=[]).json()["result"] == "pasta"
    assert sampler.prompts == [renderer.prompt(as_profile(BODY["instructions"]), [])]


def test_its_stop_is_said_alone_when_the_end_was_sampled_and_never_else(start_server, http, words):
    url = start_server(ScriptedSampler([END], words("###STOP### now")), end={"min_user_turns": 0})
    assert [ask(http, url).json()["result"] for _ in range(2)] == ["###STOP###", "now"]


@pytest.mark.parametrize(
    ("fields", "code"),
    [
        ({"task": "mischievous-user-redteam"}, "task_not_supported"),
        ({"history": [{"role": "assistant", "content": "x"}]}, "invalid_request"),
        ({"history": [{"role": "robot", "content": "x"}]}, "invalid_request"),
    ],
)
def test_what_is_no_users_turn_is_refused(start_server, http, fields, code):
    response = ask(http, start_server(ScriptedSampler()), **fields)
    assert (response.status_code, response.json()["error"]["code"]) == (400, code)
