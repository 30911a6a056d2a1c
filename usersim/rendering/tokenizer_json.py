"""`tokenizer.json` of a base model: its added tokens, and a content tokenizer without them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from usersim.errors import ConfigError


def read_tokenizer(folder: Path) -> dict[str, Any]:
    """Returns the parsed `tokenizer.json`. Raises ConfigError."""
    try:
        parsed = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"{folder}: no tokenizer.json; give the folder of a transformers model") from error
    except ValueError as error:
        raise ConfigError(f"{folder / 'tokenizer.json'}: not JSON ({error}); copy it again") from error
    if not isinstance(parsed, dict):
        raise ConfigError(f"{folder / 'tokenizer.json'}: not a tokenizer; copy it again")
    return parsed


def added_tokens(tokenizer_json: dict[str, Any]) -> dict[str, int]:
    """Returns the added tokens: id by name.

    Tokens not flagged special are included: Qwen's `<think>` and `<tool_call>` are control tokens too.
    """
    return {token["content"]: int(token["id"]) for token in tokenizer_json.get("added_tokens", [])}


def check_byte_level(tokenizer_json: dict[str, Any]) -> None:
    """Raises ConfigError unless the tokenizer is byte-level BPE, which encodes any text losslessly piece by piece."""
    kind = tokenizer_json.get("model", {}).get("type", "BPE")
    # SentencePiece puts a space before every piece, so headers and content could not be encoded apart.
    if kind != "BPE" or '"ByteLevel"' not in json.dumps(tokenizer_json.get("pre_tokenizer")):
        raise ConfigError(
            f"the tokenizer is {kind}, not byte-level BPE; use a base with a tokenizer like SmolLM2's, "
            "Llama-3's or Qwen's"
        )


def content_tokenizer(tokenizer_json: dict[str, Any], added: dict[str, int]) -> Tokenizer:
    """Returns a tokenizer without added tokens, truncation or padding, which treats its whole input as text."""
    check_byte_level(tokenizer_json)
    model = tokenizer_json["model"]
    if model.get("ignore_merges"):
        # With ignore_merges (Llama-3) whole words are looked up in the vocabulary first: drop control tokens from it.
        model = {**model, "vocab": {word: i for word, i in model["vocab"].items() if word not in added}}
    cleared: dict[str, Any] = {
        "added_tokens": [],
        "post_processor": None,
        "truncation": None,
        "padding": None,
    }
    try:
        return Tokenizer.from_str(json.dumps({**tokenizer_json, **cleared, "model": model}))
    except Exception as error:  # tokenizers raises Exception itself
        raise ConfigError(f"tokenizer.json cannot be read ({error}); copy it again") from error
