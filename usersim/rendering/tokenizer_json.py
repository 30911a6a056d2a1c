"""`tokenizer.json` of a base: its added tokens, and a tokenizer of content that knows none of them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from usersim.errors import ConfigError


def read_tokenizer(folder: Path) -> dict[str, Any]:
    """`tokenizer.json`, parsed and no more; raises ConfigError."""
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
    """Id by name, special or not: Qwen's `<think>` and `<tool_call>` are not flagged special, and still control."""
    return {token["content"]: int(token["id"]) for token in tokenizer_json.get("added_tokens", [])}


def check_byte_level(tokenizer_json: dict[str, Any]) -> None:
    """Raises ConfigError unless any text can be encoded piece by piece and read back."""
    kind = tokenizer_json.get("model", {}).get("type", "BPE")
    # SentencePiece puts a space before every piece, so headers and content could not be encoded apart.
    if kind != "BPE" or '"ByteLevel"' not in json.dumps(tokenizer_json.get("pre_tokenizer")):
        raise ConfigError(
            f"its tokenizer is {kind} and not byte-level BPE; use a base with a tokenizer like SmolLM2's, "
            "Llama-3's or Qwen's"
        )


def content_tokenizer(tokenizer_json: dict[str, Any], added: dict[str, int]) -> Tokenizer:
    """Without added tokens, cutting or padding: what it is given is text, all of it."""
    check_byte_level(tokenizer_json)
    model = tokenizer_json["model"]
    if model.get("ignore_merges"):
        # Such a model (Llama-3) looks a whole word up in the vocabulary first: no control token may be there.
        model = {**model, "vocab": {word: i for word, i in model["vocab"].items() if word not in added}}
    nothing: dict[str, Any] = {
        "added_tokens": [],
        "post_processor": None,
        "truncation": None,
        "padding": None,
    }
    try:
        return Tokenizer.from_str(json.dumps({**tokenizer_json, **nothing, "model": model}))
    except Exception as error:  # tokenizers raises Exception itself
        raise ConfigError(f"tokenizer.json cannot be read ({error}); copy it again") from error
