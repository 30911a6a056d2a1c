"""A real, tiny model and tokenizer: byte-level, random weights, made in milliseconds."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

# What a developer has set for daily use must not send a test to a server. Child processes inherit this.
for name in ("USERSIM_URL", "USERSIM_API_KEY", "OPENAI_API_KEY"):
    os.environ.pop(name, None)
os.environ["PYTHONUTF8"] = "1"  # of child processes, in a C locale too

CHATML = ("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<empty_output>", "<think>")
LLAMA3 = (
    "<|begin_of_text|>",
    "<|start_header_id|>",
    "<|end_header_id|>",
    "<|eot_id|>",
    "<|reserved_special_token_0|>",
)


def byte_tokenizer(controls: tuple[str, ...], *, unspecial: tuple[str, ...] = ("<think>",)) -> dict[str, Any]:
    """A byte-level tokenizer.json: control tokens first, then one token a byte."""
    from tokenizers import pre_tokenizers

    vocab = {token: index for index, token in enumerate(controls)}
    for symbol in sorted(pre_tokenizers.ByteLevel.alphabet()):
        vocab[symbol] = len(vocab)
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [
            {"id": index, "content": token, "special": token not in unspecial, **flags}
            for index, token in enumerate(controls)
        ],
        "normalizer": None,
        "pre_tokenizer": {
            "type": "ByteLevel",
            "add_prefix_space": False,
            "trim_offsets": True,
            "use_regex": True,
        },
        "post_processor": None,
        "decoder": {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True},
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": "",
            "end_of_word_suffix": "",
            "fuse_unk": False,
            "byte_fallback": False,
            "ignore_merges": False,
            "vocab": vocab,
            "merges": [],
        },
    }


def make_base(
    folder: Path,
    controls: tuple[str, ...] = CHATML,
    *,
    tied: bool = True,
    tokenizer: dict[str, Any] | None = None,
    spare_rows: int = 3,
    hidden_size: int = 32,
    layers: int = 2,
) -> Path:
    """A random Llama with that tokenizer, or another one, saved as transformers would."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    folder.mkdir(parents=True, exist_ok=True)
    tokenizer = tokenizer or byte_tokenizer(controls)
    ids = {token["content"]: token["id"] for token in tokenizer["added_tokens"]}
    ids = {**tokenizer["model"]["vocab"], **ids}
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer), encoding="utf-8")
    end = next(token for token in ids if token in ("<|im_end|>", "<|eot_id|>"))
    fast = PreTrainedTokenizerFast(
        tokenizer_file=str(folder / "tokenizer.json"), eos_token=end, pad_token=end
    )
    fast.chat_template = (
        "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n"
        "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    )
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=max(ids.values()) + 1 + spare_rows,  # as real checkpoints have
        hidden_size=hidden_size,
        intermediate_size=64,
        num_hidden_layers=layers,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=2048,
        tie_word_embeddings=tied,
        bos_token_id=None,
        eos_token_id=ids[end],
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    fast.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def tiny_base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A ChatML base model folder."""
    return make_base(tmp_path_factory.mktemp("base") / "tiny")


@pytest.fixture(scope="session")
def tiny_userlm(tiny_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An untrained User LM folder made from `tiny_base`, as a trained one would be laid out."""
    from usersim.weights.base_model import load_user_base, save_user_lm

    out = tmp_path_factory.mktemp("userlm") / "tiny-userlm"
    base = load_user_base(tiny_base)
    save_user_lm(base, base.model, out)
    return out
