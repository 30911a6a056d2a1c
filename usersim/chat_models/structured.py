"""Structured output of chat endpoints: request formats for JSON objects, and parsing of answers."""

from __future__ import annotations

import json
import re
from typing import Any, Literal, TypeVar

from pydantic import ValidationError

from usersim.storage.records import explain
from usersim.types import Record

R = TypeVar("R", bound=Record)
Form = Literal["schema", "portable schema", "object", "text"]
FORMS: tuple[Form, ...] = ("schema", "portable schema", "object", "text")
"""Request formats, strictest first. Portable: without schema keywords that some endpoints refuse. In the last two the
schema is part of the prompt."""
UNPORTABLE = frozenset(
    {"minLength", "maxLength", "pattern", "format", "multipleOf", "minItems", "maxItems", "uniqueItems"}
    | {"minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"}
)
FORM_REFUSED = re.compile(r"response_format|json_schema|json_object|schema|structured|guided|grammar", re.I)
TOO_LONG = re.compile(r"context (?:length|window)|too many tokens|prompt is too long", re.I)


class Unusable(ValueError):
    """An answer does not fit the schema. `kind` is a fixed text per reason."""

    def __init__(self, kind: str, detail: str) -> None:
        super().__init__(f"{kind}: {detail}" if detail else kind)
        self.kind = kind


class Dialect(Record):
    """Request features that an endpoint supports, learnt from its refusals."""

    form: Form = "schema"
    limit: Literal["max_tokens", "max_completion_tokens"] = "max_tokens"
    temperature: bool = True

    def after(self, refusal: str) -> Dialect | None:
        """Returns the dialect to try after a refusal; None if the refusal has another cause."""
        if TOO_LONG.search(refusal):
            return None
        if "max_completion_tokens" in refusal and self.limit == "max_tokens":
            return self.model_copy(update={"limit": "max_completion_tokens"})
        if FORM_REFUSED.search(refusal) and self.form != FORMS[-1]:
            return self.model_copy(update={"form": FORMS[FORMS.index(self.form) + 1]})
        if "temperature" in refusal and self.temperature:
            return self.model_copy(update={"temperature": False})
        return None


def response_format(form: Form, schema: type[Record]) -> dict[str, Any] | None:
    if form in ("schema", "portable schema"):
        body = json_schema(schema, portable=form == "portable schema")
        return {
            "type": "json_schema",
            "json_schema": {"name": schema.__name__, "schema": body, "strict": True},
        }
    return {"type": "json_object"} if form == "object" else None


def instruction(form: Form, schema: type[Record]) -> str:
    """Returns the schema instruction for the prompt; empty if the request has the schema."""
    if form in ("schema", "portable schema"):
        return ""
    body = json.dumps(json_schema(schema, portable=False), ensure_ascii=False)
    return f"Answer with one JSON object and nothing else. It must fit this JSON Schema:\n{body}"


def json_schema(schema: type[Record], *, portable: bool) -> dict[str, Any]:
    """Returns the JSON Schema with all fields required and no defaults, as strict structured output needs it."""
    full = schema.model_json_schema()
    full.pop("description", None)  # of the class, for its readers
    tidied = _tidy(full, {"title", "default"} | (UNPORTABLE if portable else set()))
    assert isinstance(tidied, dict)
    return tidied


def _tidy(node: Any, left_out: set[str]) -> Any:
    if isinstance(node, list):
        return [_tidy(item, left_out) for item in node]
    if not isinstance(node, dict):
        return node
    if "$ref" in node:
        return {"$ref": node["$ref"]}  # some endpoints refuse anything beside it
    tidy: dict[str, Any] = {}
    for key, value in node.items():
        if key in ("properties", "$defs"):  # below these, keys are names
            tidy[key] = {name: _tidy(inner, left_out) for name, inner in value.items()}
        elif key not in left_out:
            tidy[key] = _tidy(value, left_out)
    if "properties" in tidy:
        tidy["required"] = list(tidy["properties"])
    return tidy


def read_object(text: str, schema: type[R]) -> R:
    """Parses the last JSON object in `text` that fits; prose, fences and drafts may precede it. Raises Unusable."""
    decoder, answer, position = json.JSONDecoder(), None, 0
    problem = Unusable("not JSON", "no JSON object in the answer")
    while (start := text.find("{", position)) >= 0:
        try:
            value, position = decoder.raw_decode(text, start)
        except (ValueError, RecursionError):
            position = start + 1
            continue
        try:
            answer = schema.model_validate(value)
        except ValidationError as error:
            problem = Unusable("does not fit the schema", explain(error))
    if answer is None:
        raise problem
    return answer
