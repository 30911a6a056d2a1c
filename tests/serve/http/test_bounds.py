"""Every list and object of every request, far too long: refused before a schema has looked at its elements."""

import json
from collections.abc import Iterator
from typing import Any

import httpx2
import pytest
from pydantic import BaseModel, ValidationError

from serve.api.chat_schemas import ChatRequest
from serve.api.promptfoo import PromptfooRequest
from serve.app import create_app
from serve.config import ServeConfig
from serve.http.bounds import MAX_LIST, MAX_NESTED, MAX_OBJECT, TooManyError, check_size
from serve.schemas import BatchRequest, ProfilesRequest, TerminationRequest, UserTurnRequest
from tests.serve.conftest import SETTINGS, byte_tokenizer, serving
from usersim.rendering.renderer import Renderer
from usersim.testing import ScriptedSampler
from usersim.users.userlm import UserLM

MILLION = 1_000_000
TOKENIZER = byte_tokenizer()
Place = tuple[str | int, ...]
MODELS: dict[str, type[BaseModel]] = {
    "/v1/user/turns": UserTurnRequest,
    "/v1/user/turns/batch": BatchRequest,
    "/v1/user/termination": TerminationRequest,
    "/v1/user/profiles": ProfilesRequest,
    "/v1/chat/completions": ChatRequest,
    "/compat/promptfoo/task": PromptfooRequest,
}


def places(schema: dict[str, Any], named: dict[str, Any], at: Place = ()) -> Iterator[tuple[Place, str]]:
    """Places of lists and objects in request bodies, by the OpenAPI document."""
    if "$ref" in schema:
        schema = named[schema["$ref"].rpartition("/")[2]]
    for form in (*schema.get("anyOf", ()), *schema.get("oneOf", ())):
        yield from places(form, named, at)
    if schema.get("type") == "array":
        yield at, "list"
        yield from places(schema.get("items", {}), named, (*at, 0))
    if schema.get("type") == "object":
        yield at, "object"
        for name, inner in schema.get("properties", {}).items():
            yield from places(inner, named, (*at, name))


def body_with(value: str, at: Place) -> str:
    """A body of nothing but `value` at its place."""
    for step in reversed(at):
        value = f"[{value}]" if step == 0 else f"{{{json.dumps(step)}: {value}}}"
    return value


def all_places() -> list[tuple[str, Place, str]]:
    app = create_app(ServeConfig(), UserLM(Renderer(TOKENIZER, SETTINGS), ScriptedSampler()))
    document = app.openapi()
    named = document["components"]["schemas"]
    return [
        (route, at, kind)
        for route, operations in document["paths"].items()
        if "post" in operations
        for at, kind in dict.fromkeys(
            places(operations["post"]["requestBody"]["content"]["application/json"]["schema"], named)
        )
    ]


PLACES = all_places()


def test_the_places_are_those_of_every_request() -> None:
    assert {route for route, _, _ in PLACES} == set(MODELS)
    known_places = {(at, kind) for _, at, kind in PLACES}
    assert {
        (("goal", "facets"), "list"),
        (("persona", "style"), "object"),
        (("items", 0, "messages"), "list"),
        (("messages", 0, "content"), "list"),
        (("messages", 0, "tool_calls"), "list"),
        (("stop",), "list"),
        (("response_format",), "object"),
        (("metadata",), "object"),
        (("history",), "list"),
    } <= known_places


@pytest.mark.parametrize(
    ("route", "at", "kind"),
    PLACES,
    ids=lambda value: ".".join(map(str, value)) if isinstance(value, tuple) else value,
)
def test_a_million_elements_are_refused_unread(
    front_for_all: str, http: httpx2.Client, route, at, kind
) -> None:
    many = (
        "[" + "1," * (MILLION - 1) + "1]"
        if kind == "list"
        else "{" + ",".join(f'"{n}":1' for n in range(MILLION // 8)) + "}"
    )
    response = http.post(
        front_for_all + route, content=body_with(many, at), headers={"Content-Type": "application/json"}
    )
    error = response.json()["error"]
    assert (response.status_code, error["code"]) == (400, "invalid_request")
    where = ".".join(map(str, at)) or "the body"
    count, most = (MILLION, MAX_LIST) if kind == "list" else (MILLION // 8, MAX_OBJECT)
    article = "a" if kind == "list" else "an"
    assert error["message"] == f"{where}: {article} {kind} of {count}; at most {most} are taken"


@pytest.fixture(scope="module")
def front_for_all() -> Iterator[str]:
    user = UserLM(Renderer(TOKENIZER, SETTINGS), ScriptedSampler())
    with serving(create_app(ServeConfig(), user)) as url:
        yield url


@pytest.mark.parametrize(
    ("route", "at", "kind"),
    PLACES,
    ids=lambda value: ".".join(map(str, value)) if isinstance(value, tuple) else value,
)
@pytest.mark.parametrize("bad", [1, {}, [], None, {"x": 1, "y": 2}])
def test_the_most_that_a_schema_sees_makes_few_complaints(route: str, at: Place, kind: str, bad: Any) -> None:
    """Each complaint costs microseconds and a kilobyte."""
    value = [bad] * MAX_LIST if kind == "list" else {str(n): bad for n in range(MAX_OBJECT)}
    body = json.loads(body_with(json.dumps(value), at))
    check_size(body)
    complaints = 0
    try:
        MODELS[route].model_validate(body)
    except ValidationError as error:
        complaints = error.error_count()
    assert complaints <= 2 * MAX_OBJECT + 10


def test_lists_within_lists_are_counted_together() -> None:
    body: Any = [[[] for _ in range(MAX_LIST)] for _ in range(MAX_LIST)]
    with pytest.raises(TooManyError, match=str(MAX_NESTED)):
        check_size(body)


def test_a_full_batch_of_long_chats_is_no_more_than_is_taken() -> None:
    messages = [{"role": "user", "content": "x"}, {"role": "assistant", "content": "x"}] * (MAX_LIST // 2)
    check_size({"items": [{"goal": {"summary": "x", "facets": []}, "messages": messages} for _ in range(64)]})


def test_what_is_told_of_a_place_is_short() -> None:
    with pytest.raises(TooManyError) as raised:
        check_size({"x" * 1000: [1] * 1000})
    assert len(str(raised.value)) < 200
