"""Who plays the user and who is the assistant, from the words of a config."""

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
    """`local` (the shipped User LM), the URL of a `usersim serve`, or a run directory or model folder.

    `max_tokens` bounds a turn of a local user; an endpoint has its own bound.
    """
    user: UserLM | RemoteUser
    if where.startswith(URLS):
        user = connect(where)
    else:
        user = load(None if where == "local" else where, sampling=Sampling(max_tokens=max_tokens))
    user.common_noise = True  # futures of different candidates are compared pair by pair
    return user


def open_assistant(where: str, settings: ChatSettings) -> Any:
    """`local` (the base model), an OpenAI-compatible URL (URL#model names the model), or a folder.

    The folder holds a transformers chat model, or a run of `collab sft|dpo` (its adapter is merged).
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
    """Speakers of this process: each decodes whoever waits for it together, and they take turns with one another,
    since two at once on the same cores are slower."""

    def __init__(self, rows: int) -> None:
        self.rows = rows
        """Continuations in one batch, at most."""
        self._turns: Any = None
        """Holds the lock that their samplers share."""

    def __call__(self, speaker: Any) -> Any:
        """`speaker`, changed in place; as it is where it speaks elsewhere."""
        if getattr(speaker, "sampler", None) is None:
            return speaker
        from collab_train.decoding.dynamic_batching import BatchedSampler
        from usersim.backends.transformers_local import LocalSampler

        if isinstance(speaker.sampler, LocalSampler):
            self._turns = self._turns or LocalSampler(None)
            speaker.sampler = BatchedSampler(speaker.sampler.model, rows=self.rows, beside=self._turns)
        return speaker


def adapter_of(where: str) -> Path | None:
    """The adapter in a run directory or adapter folder; None for anything else."""
    for folder in (Path(where) / "adapter", Path(where)):
        if (folder / "adapter_model.safetensors").is_file():
            return folder
    return None


def base_of(where: str) -> str:
    """The name by which `where`'s weights can be found again: of its base, if it is an adapter."""
    adapter = adapter_of(where)
    if adapter is None:
        return BASE_NAME if where == "local" else where
    settings = json.loads((adapter / "adapter_config.json").read_text(encoding="utf-8"))
    return str(settings.get("base_model_name_or_path") or BASE_NAME)


def load_assistant(where: str, *, trainable: bool, dtype: str | None = None) -> tuple[Any, Any]:
    """Model and tokenizer for this process, in its precision unless `dtype` (a torch name) says otherwise.

    An adapter is merged, or stays one to be trained on.
    """
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    quiet_transformers()
    named = base_of(where)
    base = build_base() if named in ("local", BASE_NAME) else Path(named)
    if not (base / "config.json").is_file():
        raise ConfigError(f"assistant: {base}: no model there (say `local`, a URL, a run or a model folder)")
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
