"""Shared options of `sample`, `chat` and `simulate`: user and assistant."""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from usersim.api import connect, load
from usersim.errors import ConfigError, DataError
from usersim.remote.async_client import RemoteUser
from usersim.storage.records import explain
from usersim.types import Goal, Persona
from usersim.users.dialogue import Assistant
from usersim.users.userlm import UserLM


def add_user_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--goal", help="what the user wants: text, or a Goal as JSON")
    parser.add_argument("--persona", help="character and style of the user: text, or a Persona as JSON")
    parser.add_argument(
        "--url",
        default=os.environ.get("USERSIM_URL"),
        help="URL of a running `usersim serve` (default: $USERSIM_URL)",
    )
    parser.add_argument("--model", help="a run directory or model folder, loaded in this process")
    parser.add_argument("--seed", type=int, default=0)


def user_from(args: argparse.Namespace) -> UserLM | RemoteUser:
    if args.url and args.model:
        raise ConfigError("give --url or --model, not both")
    return connect(args.url) if args.url else load(args.model)


def goal_from(text: str | None) -> str | Goal | None:
    return _object(text, Goal, "--goal") if text and text.lstrip().startswith("{") else text


def persona_from(text: str | None) -> str | Persona | None:
    return _object(text, Persona, "--persona") if text and text.lstrip().startswith("{") else text


def _object(text: str, kind: Any, option: str) -> Any:
    try:
        return kind.model_validate_json(text)
    except ValidationError as error:
        raise ConfigError(f"{option}: {explain(error)}") from error


def turns_from(path: str | None) -> list[dict[str, str]]:
    """Reads a JSON list of turns, or an object with `turns` or `messages`. Raises DataError."""
    if path is None:
        return []
    file = Path(path)
    if not file.is_file():
        raise DataError(f"{file}: no such file")
    try:
        value = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise DataError(f"{file}: not JSON ({error})") from error
    if isinstance(value, dict):
        value = value.get("turns", value.get("messages"))
    if not isinstance(value, list) or not all(isinstance(turn, dict) for turn in value):
        raise DataError(
            f"{file}: needs a list of {{role, content}} turns, or an object with turns or messages"
        )
    return value


def assistant_from(where: str, *, max_tokens: int = 160) -> Assistant:
    """Returns an assistant: `local` (the base model in this process) or the URL of an OpenAI-compatible endpoint."""
    from usersim.chat_models.openai_chat import ChatSettings, HttpChat

    settings = ChatSettings(max_tokens=max_tokens)
    if where == "local":
        from usersim.chat_models.local_chat import LocalChat
        from usersim.weights.default_model import build_base

        return LocalChat.from_pretrained(build_base(), settings=settings)
    url, _, model = where.partition("#")
    if not url.startswith(("http://", "https://", "unix:")):
        raise ConfigError(f"--assistant {where!r}: write `local`, or a URL (URL#model names the model)")
    return HttpChat(url, model=model or None, api_key=os.environ.get("OPENAI_API_KEY"), settings=settings)
