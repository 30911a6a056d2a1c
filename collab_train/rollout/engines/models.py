"""Opening of users and assistants from the addresses in a config."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from collab_train.rollout.accounting.cost import CountedChat
from usersim.api import connect, load
from usersim.chat_models.openai_chat import ChatSettings
from usersim.cli import quiet_transformers
from usersim.errors import ConfigError
from usersim.remote.async_client import RemoteUser
from usersim.users.protocols import Sampling
from usersim.users.userlm import UserLM
from usersim.weights.default_model import BASE_NAME, build_base
from usersim.weights.precision import torch_dtype

URLS = ("http://", "https://", "unix:")


def open_user(where: str, *, max_tokens: int) -> UserLM | RemoteUser:
    """Opens a user: `local` (the shipped User LM), the URL of a `usersim serve`, or a run directory or model folder.

    `max_tokens` limits a turn of a local user; an endpoint has its own limit.
    """
    user: UserLM | RemoteUser
    if where.startswith(URLS):
        user = connect(where)
    else:
        user = load(None if where == "local" else where, sampling=Sampling(max_tokens=max_tokens))
    user.common_noise = True  # futures of different candidates are compared in pairs
    return user


def open_assistant(where: str, settings: ChatSettings) -> Any:
    """Opens an assistant.

    Args:
        where: `local` (the base model), an OpenAI-compatible URL[#model], the folder of a transformers chat model, or a
            training run, whose adapter is merged.
        settings: sampling settings.
    """
    if where.startswith(URLS):
        url, _, model = where.partition("#")
        return CountedChat(
            url, model=model or None, api_key=os.environ.get("OPENAI_API_KEY"), settings=settings
        )
    from usersim.chat_models.local_chat import LocalChat

    model, tokenizer = load_assistant(where, trainable=False)
    return LocalChat(model.eval(), tokenizer, settings=settings)


class InTurns:
    """Dynamic batching for in-process models. They share a lock, as two at once on the same cores are slower."""

    def __init__(self, rows: int) -> None:
        self.rows = rows
        """Maximum continuations per batch."""
        self._turns: Any = None
        """Sampler that holds the lock shared by all."""

    def __call__(self, speaker: Any) -> Any:
        """Gives an in-process `speaker` a batched sampler, in place; returns others unchanged."""
        if getattr(speaker, "sampler", None) is None:
            return speaker
        from collab_train.decoding.dynamic_batching import BatchedSampler
        from usersim.backends.transformers_local import LocalSampler

        if isinstance(speaker.sampler, LocalSampler):
            self._turns = self._turns or LocalSampler(None)
            speaker.sampler = BatchedSampler(speaker.sampler.model, rows=self.rows, beside=self._turns)
        return speaker


def adapter_of(where: str) -> Path | None:
    """Returns the adapter folder in a run directory or adapter folder; None otherwise."""
    for folder in (Path(where) / "adapter", Path(where)):
        if (folder / "adapter_model.safetensors").is_file():
            return folder
    return None


def base_of(where: str) -> str:
    """Returns the base model of an adapter, or `where` itself if it is no adapter."""
    adapter = adapter_of(where)
    if adapter is None:
        return BASE_NAME if where == "local" else where
    settings = json.loads((adapter / "adapter_config.json").read_text(encoding="utf-8"))
    return str(settings.get("base_model_name_or_path") or BASE_NAME)


def load_assistant(where: str, *, trainable: bool, dtype: str | None = None) -> tuple[Any, Any]:
    """Loads model and tokenizer of an assistant.

    Args:
        where: as in `open_assistant`, but no URL.
        trainable: True keeps an adapter separate for training; False merges it.
        dtype: torch name of a dtype (default: the precision of this process).

    Raises:
        ConfigError: there is no usable model.
    """
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    quiet_transformers()
    base_name = base_of(where)
    base = build_base() if base_name in ("local", BASE_NAME) else Path(base_name)
    if not (base / "config.json").is_file():
        raise ConfigError(f"assistant: {base}: no model there (use `local`, a URL, a run or a model folder)")
    try:
        tokenizer = AutoTokenizer.from_pretrained(base)
        model: Any = AutoModelForCausalLM.from_pretrained(
            base, dtype=getattr(torch, dtype) if dtype else torch_dtype()
        )
    except (OSError, ValueError) as error:
        raise ConfigError(f"assistant: {base} cannot be loaded ({str(error).splitlines()[0]})") from error
    if not tokenizer.chat_template:
        raise ConfigError(f"assistant: {base} has no chat template; use an instruction-tuned model")
    if (adapter := adapter_of(where)) is not None:
        from peft import PeftModel

        model = PeftModel.from_pretrained(model, adapter, is_trainable=trainable)
        model = model if trainable else model.merge_and_unload()
    # One GPU for each process that `accelerate launch` starts.
    device = f"cuda:{os.environ.get('LOCAL_RANK', '0')}" if torch.cuda.is_available() else "cpu"
    return model.to(device), tokenizer
