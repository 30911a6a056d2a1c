"""A causal LM turned into the starting point of a User LM: chat format, end-of-conversation token, its row."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM

from usersim.cli import quiet_transformers
from usersim.errors import ConfigError
from usersim.records import write_json
from usersim.render import END_OF_CONVERSATION, SETTINGS_FILE, Limits, Renderer, RenderSettings

UNUSED_TOKENS = ("<empty_output>", "<|reserved_special_token_0|>")
"""Special tokens that a base has and chats never use, in order of preference; one becomes the end."""


@dataclass(frozen=True)
class UserBase:
    model: Any
    tokenizer_json: dict[str, Any]
    settings: RenderSettings
    source: Path

    @property
    def renderer(self) -> Renderer:
        return Renderer(self.tokenizer_json, self.settings)


def load_user_base(
    path: str | Path,
    *,
    dtype: torch.dtype = torch.float32,
    context_tokens: int | None = None,
    limits: Limits | None = None,
    attention: str | None = None,
) -> UserBase:
    """The base at `path` with `<|endconversation|>` named and its rows initialised, input and output alike.

    A base that already is a User LM keeps its token and row. Raises ConfigError where no chat format fits.
    """
    folder = Path(path)
    if not (folder / "tokenizer.json").is_file():
        raise ConfigError(f"{folder}: no tokenizer.json; give the folder of a transformers model")
    quiet_transformers()
    tokenizer_json = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
    added = {token["content"]: int(token["id"]) for token in tokenizer_json.get("added_tokens", [])}
    chat_format, end_of_turn = _chat_format(added, folder)
    try:
        model: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype, attn_implementation=attention)
    except (OSError, ValueError) as error:
        raise ConfigError(f"{folder}: the model cannot be loaded ({error})") from error
    end_id = added.get(END_OF_CONVERSATION)
    if end_id is None:
        end_id = _name_end_token(tokenizer_json, added, rows=model.get_input_embeddings().weight.shape[0])
        _initialise_row(model, end_id, like=end_of_turn)
    settings = RenderSettings(
        chat_format=chat_format,
        end_of_turn_id=end_of_turn,
        end_of_conversation_id=end_id,
        context_tokens=context_tokens or min(4096, int(model.config.max_position_embeddings)),
        limits=limits or Limits(),
    )
    return UserBase(model, tokenizer_json, settings, folder)


def save_user_lm(base: UserBase, model: Any, out: str | Path) -> None:
    """A self-contained folder: bf16 weights, tokenizer, `userlm.json`. `out` must not be half-written: rename it."""
    folder = Path(out)
    model.to(torch.bfloat16).save_pretrained(folder)
    write_json(folder / "tokenizer.json", base.tokenizer_json)
    for name in ("tokenizer_config.json", "chat_template.jinja"):
        if (base.source / name).is_file():
            (folder / name).write_text((base.source / name).read_text(encoding="utf-8"), encoding="utf-8")
    write_json(folder / SETTINGS_FILE, base.settings.model_dump(mode="json"))


def _chat_format(added: dict[str, int], folder: Path) -> tuple[Any, int]:
    if "<|im_start|>" in added and "<|im_end|>" in added:
        return "chatml", added["<|im_end|>"]
    if "<|start_header_id|>" in added and "<|eot_id|>" in added:
        return "llama3", added["<|eot_id|>"]
    raise ConfigError(
        f"{folder}: its tokenizer has neither ChatML nor Llama-3 control tokens; use such a base"
    )


def _name_end_token(tokenizer_json: dict[str, Any], added: dict[str, int], *, rows: int) -> int:
    """Renames an unused special token, or adds one in a spare row; edits `tokenizer_json`."""
    for name in UNUSED_TOKENS:
        if name in added:
            for token in tokenizer_json["added_tokens"]:
                if token["content"] == name:
                    token["content"] = END_OF_CONVERSATION
            vocab = tokenizer_json["model"].get("vocab", {})
            if name in vocab:
                vocab[END_OF_CONVERSATION] = vocab.pop(name)
            return added[name]
    new_id: int = 1 + max([*added.values(), *tokenizer_json["model"]["vocab"].values()])
    if new_id >= rows:
        raise ConfigError(f"the base has no unused special token and no spare embedding row ({rows} rows)")
    flags = {
        "single_word": False,
        "lstrip": False,
        "rstrip": False,
        "normalized": False,
        "special": True,
    }
    tokenizer_json["added_tokens"].append({"id": new_id, "content": END_OF_CONVERSATION, **flags})
    return new_id


@torch.no_grad()
def _initialise_row(model: Any, token_id: int, *, like: int) -> None:
    """By id, in both embeddings (one where they are tied): an untrained row would never be sampled."""
    weights = {
        id(layer.weight): layer.weight
        for layer in (model.get_input_embeddings(), model.get_output_embeddings())
    }
    for weight in weights.values():
        weight[token_id] = weight[like]
