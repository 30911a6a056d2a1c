"""Base of a User LM: a causal LM with a chat format, an end-of-conversation token and its embedding row."""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors import SafetensorError
from transformers import AutoModelForCausalLM

from usersim.cli import quiet_transformers
from usersim.errors import ConfigError
from usersim.rendering.renderer import END_OF_CONVERSATION, Limits, Renderer, RenderSettings, write_settings
from usersim.rendering.tokenizer_json import added_tokens, check_byte_level, read_tokenizer
from usersim.storage.records import write_json

UNUSED = re.compile(r"<empty_output>|<\|reserved_special_token_(?P<number>\d+)\|>")
"""Special tokens that chats never use (SmolLM2, Llama-3); the first becomes the end of conversation.

Qwen has none: tokens like `<|object_ref_start|>` are used by its vision models, so it gets a spare row.
"""
CONTROLS = {
    "chatml": ("<|im_end|>", "<|im_start|>"),
    "llama3": ("<|eot_id|>", "<|begin_of_text|>", "<|start_header_id|>", "<|end_header_id|>"),
}
"""Control tokens of each format, end of turn first. A base with both is a Llama-3 fine-tuned on ChatML."""


@dataclass(frozen=True)
class UserBase:
    """Base model with its tokenizer and User LM settings."""

    model: Any
    tokenizer_json: dict[str, Any]
    settings: RenderSettings
    source: Path

    @property
    def renderer(self) -> Renderer:
        return Renderer(self.tokenizer_json, self.settings)

    def token_rows(self) -> dict[str, list[int]]:
        """Returns PEFT's `trainable_token_indices`: untrained embedding rows that a LoRA must train.

        These are the end of conversation and control tokens unseen in pretraining (Llama-3 bases have rows of zeros).
        An
        untied output embedding is included, since PEFT trains only the input row otherwise.
        """
        tokens, end = added_tokens(self.tokenizer_json), self.settings.end_of_conversation_id
        controls = [tokens[name] for name in CONTROLS[self.settings.chat_format]]
        ids = [end, *(token for token in controls if _is_empty(self.model, token))]
        return dict.fromkeys(_embeddings(self.model), ids)


def load_user_base(
    path: str | Path,
    *,
    dtype: torch.dtype = torch.float32,
    context_tokens: int | None = None,
    limits: Limits | None = None,
    acts: bool = False,
    attention: str | None = None,
) -> UserBase:
    """Loads a base and adds `<|endconversation|>` with initialised input and output rows.

    A base that is already a User LM keeps its token and rows.

    Args:
        path: Folder of a transformers causal LM.
        dtype: Data type of the weights.
        context_tokens: Context window in tokens. Default: the base's own, at most 4096.
        limits: Truncation limits.
        acts: True for training with acts.
        attention: Attention implementation of transformers.

    Raises:
        ConfigError: The model cannot be loaded, or no chat format fits.
    """
    folder = Path(path)
    quiet_transformers()
    tokenizer_json = read_tokenizer(folder)
    added = added_tokens(tokenizer_json)
    chat_format = _chat_format(added, folder)
    try:
        check_byte_level(tokenizer_json)
    except ConfigError as error:
        raise ConfigError(f"{folder}: {error}") from error
    model = _load(folder, dtype, attention)
    end_of_turn, *_ = (added[name] for name in CONTROLS[chat_format])
    rows = min(weight.shape[0] for weight in _embeddings(model).values())
    _check_rows(added, (*CONTROLS[chat_format], END_OF_CONVERSATION), rows, folder)
    end_id = added.get(END_OF_CONVERSATION)
    if end_id is None:
        end_id = _name_end_token(tokenizer_json, added, rows=rows, folder=folder)
        _initialise_row(model, end_id, like=end_of_turn)
    settings = RenderSettings(
        chat_format=chat_format,
        end_of_turn_id=end_of_turn,
        end_of_conversation_id=end_id,
        context_tokens=context_tokens or min(4096, int(model.config.max_position_embeddings)),
        limits=limits or Limits(),
        acts=acts,
    )
    return UserBase(model, tokenizer_json, settings, folder)


def save_user_lm(base: UserBase, model: Any, out: str | Path) -> None:
    """Writes a self-contained folder: bf16 weights, tokenizer, `userlm.json`. Not atomic: the caller renames it."""
    folder = Path(out)
    model.to(torch.bfloat16).save_pretrained(folder)
    write_json(folder / "tokenizer.json", base.tokenizer_json)
    if (base.source / "chat_template.jinja").is_file():
        shutil.copyfile(base.source / "chat_template.jinja", folder / "chat_template.jinja")
    if (base.source / "tokenizer_config.json").is_file():
        write_json(folder / "tokenizer_config.json", _tokenizer_config(base))
    write_settings(base.settings, folder)


def _tokenizer_config(base: UserBase) -> dict[str, Any]:
    """Returns the base's config with the renamed end token; transformers would add the old name as another token."""
    config: dict[str, Any] = json.loads((base.source / "tokenizer_config.json").read_text(encoding="utf-8"))
    named = config.get("added_tokens_decoder", {}).get(str(base.settings.end_of_conversation_id))
    if named is not None:
        named["content"] = END_OF_CONVERSATION
    return config


def _chat_format(added: dict[str, int], folder: Path) -> Literal["chatml", "llama3"]:
    if added.keys() >= set(CONTROLS["chatml"]):
        return "chatml"
    if added.keys() >= set(CONTROLS["llama3"]):
        return "llama3"
    raise ConfigError(
        f"{folder}: its tokenizer has neither ChatML nor Llama-3 control tokens; use a base with one of them"
    )


def _check_rows(added: dict[str, int], needed: tuple[str, ...], rows: int, folder: Path) -> None:
    for name in needed:
        if added.get(name, 0) >= rows:
            raise ConfigError(
                f"{folder}: the tokenizer's {name} lies beyond the {rows} embedding rows; take the tokenizer that "
                "belongs to this model, or save the model again after resize_token_embeddings"
            )


def _load(folder: Path, dtype: torch.dtype, attention: str | None) -> Any:
    try:
        return AutoModelForCausalLM.from_pretrained(folder, dtype=dtype, attn_implementation=attention)
    except ImportError as error:  # raised for the requested attention kernel
        raise ConfigError(f"{folder}: attention {attention!r} cannot be used here ({error})") from error
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        reason = str(error).strip().splitlines()[0]
        raise ConfigError(
            f"{folder}: the model cannot be loaded ({reason}); if files are incomplete, copy them again"
        ) from error


def _name_end_token(tokenizer_json: dict[str, Any], added: dict[str, int], *, rows: int, folder: Path) -> int:
    """Renames an unused special token, or adds one in a spare row. Edits `tokenizer_json` and returns the id."""
    vocab = tokenizer_json["model"]["vocab"]
    unused = sorted((int(match["number"] or -1), name) for name in added if (match := UNUSED.fullmatch(name)))
    if unused:
        name = unused[0][1]
        for token in tokenizer_json["added_tokens"]:
            if token["content"] == name:
                token["content"] = END_OF_CONVERSATION
        if name in vocab:
            vocab[END_OF_CONVERSATION] = vocab.pop(name)
        return added[name]
    new_id: int = 1 + max([*added.values(), *vocab.values()])
    if new_id >= rows:
        raise ConfigError(
            f"{folder}: no unused special token and no spare embedding row ({rows} rows) for the end of "
            "conversation; enlarge it (model.resize_token_embeddings) and save it again"
        )
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    tokenizer_json["added_tokens"].append(
        {"id": new_id, "content": END_OF_CONVERSATION, **flags, "special": True}
    )
    return new_id


def _embeddings(model: Any) -> dict[str, torch.Tensor]:
    """Returns embedding weights by module name, input first; one entry if they are tied."""
    layers = (model.get_input_embeddings(), model.get_output_embeddings())
    names = {id(module): name.rpartition(".")[2] for name, module in model.named_modules()}
    weights = {names[id(layer)]: layer.weight for layer in layers}
    return weights if layers[0].weight is not layers[1].weight else dict([next(iter(weights.items()))])


@torch.no_grad()
def _initialise_row(model: Any, token_id: int, *, like: int) -> None:
    """Copies the rows of token `like` to `token_id` in both embeddings: an untrained row would never be sampled."""
    for weight in _embeddings(model).values():
        weight[token_id] = weight[like]


@torch.no_grad()
def _is_empty(model: Any, token_id: int) -> bool:
    """Returns True if a row is near zero compared with common ones, so that a LoRA cannot give it a logit."""
    return any(
        bool(weight[token_id].norm() < 1e-3 * weight[:1000].norm(dim=-1).median())
        for weight in _embeddings(model).values()
    )
