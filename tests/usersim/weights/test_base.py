"""Turning a base into a User LM: its end token, the token's rows, and what is refused with one clear line."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import AutoTokenizer

from tests.conftest import CHATML, LLAMA3, byte_tokenizer, make_base
from tests.usersim.rendering.test_chat_formats import llama3_tokenizer, qwen3_tokenizer, qwen25_tokenizer
from usersim.errors import ConfigError
from usersim.rendering.renderer import END_OF_CONVERSATION, SETTINGS_FILE, Renderer
from usersim.weights.base_model import UserBase, load_user_base, save_user_lm

BARE = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")


def of(make: Callable[[], Tokenizer]) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(make().to_str())
    return found


def rows(base: UserBase, token: int) -> list[torch.Tensor]:
    layers = (base.model.get_input_embeddings(), base.model.get_output_embeddings())
    return [layer.weight[token].detach().clone() for layer in layers]


def rewrite(file: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    content = json.loads(file.read_text())
    change(content)
    file.write_text(json.dumps(content))


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("controls", [CHATML, BARE, LLAMA3], ids=["renamed", "spare row", "reserved"])
def test_the_end_starts_as_the_end_of_turn_in_both_embeddings(
    tmp_path: Path, tied: bool, controls: tuple[str, ...]
) -> None:
    base = load_user_base(make_base(tmp_path / "b", controls, tied=tied))
    end, like = base.settings.end_of_conversation_id, base.settings.end_of_turn_id
    assert end != like
    assert all(torch.equal(a, b) for a, b in zip(rows(base, end), rows(base, like), strict=True))
    assert torch.equal(*rows(base, end)) == tied


@pytest.mark.parametrize(
    ("make", "becomes"),
    [
        (qwen25_tokenizer, None),
        (qwen3_tokenizer, None),
        (llama3_tokenizer, "<|reserved_special_token_0|>"),
    ],
)
def test_qwen_gets_a_spare_row_and_llama3_a_reserved_token(
    tmp_path: Path, make: Callable[[], Tokenizer], becomes: str | None
) -> None:
    before = of(make)
    names = {token["content"]: token["id"] for token in before["added_tokens"]}
    base = load_user_base(make_base(tmp_path / "b", tokenizer=before, tied=False))
    expected = max(names.values()) + 1 if becomes is None else names[becomes]
    assert base.settings.end_of_conversation_id == expected
    after = {token["content"] for token in base.tokenizer_json["added_tokens"]}
    assert names.keys() - after == ({becomes} if becomes else set())


def test_another_reserved_token_is_taken_where_the_first_is_gone(tmp_path: Path) -> None:
    tokenizer = of(llama3_tokenizer)
    for token in tokenizer["added_tokens"]:
        if token["content"] == "<|reserved_special_token_0|>":
            token["content"] = "<|somebody's own|>"
        if token["content"] == "<|reserved_special_token_1|>":
            token["content"] = "<|reserved_special_token_10|>"
    second = next(t["id"] for t in tokenizer["added_tokens"] if t["content"].endswith("_token_2|>"))
    base = load_user_base(make_base(tmp_path / "b", tokenizer=tokenizer))
    assert base.settings.end_of_conversation_id == second


@pytest.mark.parametrize("make", [qwen25_tokenizer, llama3_tokenizer])
def test_transformers_reads_what_was_saved_with_the_end_at_its_id(
    tmp_path: Path, make: Callable[[], Tokenizer]
) -> None:
    folder = make_base(tmp_path / "b", tokenizer=of(make))
    listed = {str(t["id"]): {"content": t["content"], "special": True} for t in of(make)["added_tokens"]}
    rewrite(folder / "tokenizer_config.json", lambda config: config.update(added_tokens_decoder=listed))
    base = load_user_base(folder)
    save_user_lm(base, base.model, tmp_path / "out")
    saved = AutoTokenizer.from_pretrained(tmp_path / "out")
    assert saved.convert_tokens_to_ids(END_OF_CONVERSATION) == base.settings.end_of_conversation_id
    assert len(saved) <= base.model.config.vocab_size
    assert "<|reserved_special_token_0|>" not in saved.get_vocab()
    assert Renderer.from_pretrained(tmp_path / "out").fingerprint == base.renderer.fingerprint


def test_an_end_that_is_there_already_is_kept_with_its_row(tmp_path: Path) -> None:
    folder = make_base(tmp_path / "b", (*BARE, END_OF_CONVERSATION), tied=False)
    base = load_user_base(folder)
    end, like = base.settings.end_of_conversation_id, base.settings.end_of_turn_id
    assert end == 3
    assert not any(torch.equal(a, b) for a, b in zip(rows(base, end), rows(base, like), strict=True))


@pytest.mark.parametrize("tied", [True, False])
def test_a_lora_step_moves_the_ends_rows_in_both_embeddings(tmp_path: Path, tied: bool) -> None:
    base = load_user_base(make_base(tmp_path / "b", tied=tied))
    end = base.settings.end_of_conversation_id
    assert base.token_rows() == {"embed_tokens": [end]} | ({} if tied else {"lm_head": [end]})
    started = rows(base, end)
    merged = PeftModel.from_pretrained(
        load_user_base(tmp_path / "b").model, one_step(base, tmp_path / "adapter")
    ).merge_and_unload()
    now = rows(UserBase(merged, base.tokenizer_json, base.settings, base.source), end)
    assert not any(torch.equal(a, b) for a, b in zip(started, now, strict=True))


def one_step(base: UserBase, out: Path) -> Path:
    model = get_peft_model(
        base.model,
        LoraConfig(
            r=2,
            target_modules="all-linear",
            trainable_token_indices=base.token_rows(),
            task_type="CAUSAL_LM",
        ),
    )
    ids = torch.tensor([[1, 40, base.settings.end_of_conversation_id, 41]])
    model(input_ids=ids, labels=ids).loss.backward()
    torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.5).step()
    model.save_pretrained(str(out), save_embedding_layers=False)
    return out


def test_control_rows_that_a_base_never_trained_are_named_for_the_lora(tmp_path: Path) -> None:
    """As in Llama-3 bases; a logit that comes from a row of zeros can be moved by no other weight."""
    base = load_user_base(make_base(tmp_path / "b", LLAMA3, tied=False))
    end, turn = base.settings.end_of_conversation_id, base.settings.end_of_turn_id
    with torch.no_grad():
        base.model.get_output_embeddings().weight[turn] = 0
    assert base.token_rows() == {"embed_tokens": [end, turn], "lm_head": [end, turn]}


def unigram() -> dict[str, Any]:
    tokenizer = Tokenizer(models.Unigram([("a", 0.0), ("b", 0.0)]))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.add_special_tokens(list(BARE))
    found: dict[str, Any] = json.loads(tokenizer.to_str())
    return found


def sentencepiece_bpe() -> dict[str, Any]:
    return {**byte_tokenizer(BARE), "pre_tokenizer": None, "normalizer": {"type": "Prepend", "prepend": "▁"}}


@pytest.mark.parametrize(("make", "kind"), [(unigram, "Unigram"), (sentencepiece_bpe, "BPE, not")])
def test_a_tokenizer_that_is_not_byte_level_is_refused(
    tmp_path: Path, make: Callable[[], dict[str, Any]], kind: str
) -> None:
    (tmp_path / "tokenizer.json").write_text(json.dumps(make()))
    refused(lambda: load_user_base(tmp_path), f"tokenizer is {kind}")


def refused(call: Callable[[], object], match: str) -> None:
    with pytest.raises(ConfigError, match=match) as failure:
        call()
    assert "\n" not in str(failure.value)


def test_a_base_without_control_tokens_is_refused(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_text(json.dumps(byte_tokenizer(("<s>", "<|im_start|>"))))
    refused(lambda: load_user_base(tmp_path), "neither ChatML nor Llama-3")


def test_a_folder_without_a_tokenizer_or_with_a_broken_one_is_refused(tmp_path: Path) -> None:
    refused(lambda: load_user_base(tmp_path), "give the folder of a transformers model")
    for text, why in (("{half", "not JSON"), ("[1]", "not a tokenizer")):
        (tmp_path / "tokenizer.json").write_text(text)
        refused(lambda: load_user_base(tmp_path), why)


def test_no_unused_token_and_no_spare_row_is_refused(tmp_path: Path) -> None:
    folder = make_base(tmp_path / "b", BARE, spare_rows=0)
    refused(lambda: load_user_base(folder), r"no spare embedding row \(259 rows\).*resize_token_embeddings")


def test_tokens_beyond_the_embedding_are_refused(tmp_path: Path) -> None:
    folder = make_base(tmp_path / "b", BARE)
    end = {"id": 900, "content": END_OF_CONVERSATION, "special": True}
    rewrite(folder / "tokenizer.json", lambda found: found["added_tokens"].append(end))
    refused(lambda: load_user_base(folder), "endconversation.* beyond the 262 embedding rows")


def test_truncated_weights_are_refused(tmp_path: Path) -> None:
    weights = make_base(tmp_path / "b") / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    refused(lambda: load_user_base(tmp_path / "b"), "cannot be loaded")


def test_a_user_lm_whose_files_disagree_is_refused(tiny_userlm: Path, tmp_path: Path) -> None:
    folder = tmp_path / "copy"
    folder.mkdir()
    for name, change, why in (
        (SETTINGS_FILE, {"end_of_conversation_id": 4}, "says that .* is token 4, tokenizer.json says 3"),
        (SETTINGS_FILE, {"end_of_turn_id": 77}, "control id 77, which the tokenizer does not have"),
        (SETTINGS_FILE, {"chat_format": "alpaca"}, "chat_format"),
        (SETTINGS_FILE, {"chat_format": "llama3"}, "start_header_id"),
        ("config.json", {"vocab_size": 3}, "beyond the model's 3 embedding rows"),
    ):
        for file in (SETTINGS_FILE, "tokenizer.json", "config.json"):
            (folder / file).write_text((tiny_userlm / file).read_text())
        Renderer.from_pretrained(folder)
        rewrite(folder / name, lambda content, change=change: content.update(change))
        refused(lambda: Renderer.from_pretrained(folder), why)
    (folder / SETTINGS_FILE).write_text("{")
    refused(lambda: Renderer.from_pretrained(folder), SETTINGS_FILE)
