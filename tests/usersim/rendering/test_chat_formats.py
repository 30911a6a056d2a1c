"""Our ids beside those of each family's own chat template, on a tiny tokenizer built like the family's.

The tokenizers have the real ones' normaliser, pre-tokenizer, post-processor and control tokens (names, order and
special flags), over a few merges; the templates have the real ones' structure in words of our own.
"""

from __future__ import annotations

import json
import unicodedata
from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from tests.usersim.rendering.test_render import supervised_text, talk
from usersim.rendering.conditioning import PREFACE, describe
from usersim.rendering.renderer import END_OF_CONVERSATION, Limits, Renderer, RenderSettings
from usersim.types import Goal, Persona, Turn, UserProfile

WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}%s| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
MERGES = (
    "s e",
    "u se",
    "use r",
    "a n",
    "Ġ t",
    "Ġt h",
    "h e",
    "Ġ a",
    "Ċ Ċ",
    "! Ċ",
    "1 2",
    "Ġ Ġ",
    "y o",
    "Ã ©",
)

SPECIAL_QWEN = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|object_ref_start|>", "<|object_ref_end|>"]
SPECIAL_QWEN += ["<|box_start|>", "<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>"]
PLAIN_QWEN = ["<tool_call>", "</tool_call>", "<|fim_prefix|>", "<|repo_name|>", "<|file_sep|>"]
PLAIN_QWEN3 = [*PLAIN_QWEN, "<tool_response>", "</tool_response>", "<think>", "</think>"]
SPECIAL_LLAMA = ["<|begin_of_text|>", "<|end_of_text|>", "<|reserved_special_token_0|>"]
SPECIAL_LLAMA += ["<|reserved_special_token_1|>", "<|finetune_right_pad_id|>", "<|reserved_special_token_2|>"]
SPECIAL_LLAMA += ["<|start_header_id|>", "<|end_header_id|>", "<|eom_id|>", "<|eot_id|>", "<|python_tag|>"]

CHATML = "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
QWEN25 = (
    "{% if messages[0].role != 'system' %}<|im_start|>system\nBe of help.<|im_end|>\n{% endif %}" + CHATML
)
QWEN3 = """\
{%- set last = namespace(query=0) -%}
{%- for m in messages -%}{%- if m.role == 'user' -%}{%- set last.query = loop.index0 -%}{%- endif -%}{%- endfor -%}
{%- for m in messages -%}
  {{- '<|im_start|>' + m.role + '\n' -}}
  {%- set said = m.content.split('</think>')[-1].lstrip('\n') if m.role == 'assistant' else m.content -%}
  {%- if m.role == 'assistant' and loop.index0 > last.query -%}{{- '<think>\n\n</think>\n\n' -}}{%- endif -%}
  {{- said + '<|im_end|>\n' -}}
{%- endfor -%}"""
LLAMA3 = (
    "{% for m in messages %}{% set turn = '<|start_header_id|>' + m.role + '<|end_header_id|>\n\n' "
    "+ m.content | trim + '<|eot_id|>' %}{% if loop.first %}{% set turn = bos_token + turn %}{% endif %}"
    "{{ turn }}{% endfor %}"
)
DATES = "Knowledge until: December 2023\nToday: 26 Jul 2024\n\n"
LLAMA31 = LLAMA3.replace("m.content | trim", f"({DATES!r} if m.role == 'system' else '') + m.content | trim")


@dataclass(frozen=True)
class Family:
    tokenizer: dict[str, Any]
    theirs: PreTrainedTokenizerFast
    ours: Renderer

    def template_ids(self, conversation: Any) -> list[int]:
        messages = [{"role": "system", "content": describe(conversation.profile)}]
        messages += [{"role": turn.role, "content": turn.text} for turn in conversation.turns]
        ids: list[int] = self.theirs.apply_chat_template(messages, tokenize=True, return_dict=False)
        return ids

    def our_ids(self, conversation: Any) -> list[int]:
        (window,) = self.ours.examples(conversation.model_copy(update={"ended_by": "cut"}))
        return window.ids


def bpe(special: list[str], plain: list[str], *, digits: str | None, nfc: bool, llama: bool) -> Tokenizer:
    vocab = {symbol: i for i, symbol in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    merges = []
    for merge in ("u s", "us er", "e r", *MERGES):
        left, right = merge.split()
        if left in vocab and right in vocab:
            vocab.setdefault(left + right, len(vocab))
            merges.append((left, right))
    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=merges, ignore_merges=llama))
    bytes_ = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=digits is None)
    if digits is not None:
        split = pre_tokenizers.Split(Regex(WORDS % digits), "isolated")
        bytes_ = pre_tokenizers.Sequence([split, bytes_])
    if nfc:
        tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer, tokenizer.decoder = bytes_, decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(name, special=True, normalized=False) for name in special])
    tokenizer.add_tokens([AddedToken(name, special=False, normalized=False) for name in plain])
    if llama:
        bos = ("<|begin_of_text|>", tokenizer.token_to_id("<|begin_of_text|>"))
        start = processors.TemplateProcessing(
            single=f"{bos[0]} $A", pair=f"{bos[0]} $A {bos[0]}:1 $B:1", special_tokens=[bos]
        )
        tokenizer.post_processor = processors.Sequence([processors.ByteLevel(trim_offsets=True), start])
    return tokenizer


def family(tokenizer: Tokenizer, template: str, end: str) -> Family:
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token=end, chat_template=template)
    if tokenizer.token_to_id("<|begin_of_text|>") is not None:
        fast.bos_token = "<|begin_of_text|>"
    found = json.loads(tokenizer.to_str())
    last = 1 + max(token["id"] for token in found["added_tokens"])
    named = {**found["added_tokens"][-1], "id": last, "content": END_OF_CONVERSATION}
    renderer = Renderer(
        {**found, "added_tokens": [*found["added_tokens"], named]},
        RenderSettings(
            chat_format="llama3" if end == "<|eot_id|>" else "chatml",
            end_of_turn_id=tokenizer.token_to_id(end),
            end_of_conversation_id=last,
            context_tokens=4000,
            limits=Limits(assistant_head=900, user_head=900),
        ),
    )
    return Family(found, fast, renderer)


def chatml_tokenizer() -> Tokenizer:
    return bpe(["<|endoftext|>", "<|im_start|>", "<|im_end|>"], [], digits=None, nfc=False, llama=False)


def qwen25_tokenizer() -> Tokenizer:
    return bpe(SPECIAL_QWEN, PLAIN_QWEN, digits="", nfc=True, llama=False)


def qwen3_tokenizer() -> Tokenizer:
    return bpe(SPECIAL_QWEN, PLAIN_QWEN3, digits="", nfc=True, llama=False)


def llama3_tokenizer() -> Tokenizer:
    return bpe(SPECIAL_LLAMA, [], digits="{1,3}", nfc=False, llama=True)


FAMILIES = {
    "chatml": family(chatml_tokenizer(), CHATML, "<|im_end|>"),
    "qwen2.5": family(qwen25_tokenizer(), QWEN25, "<|im_end|>"),
    "qwen3": family(qwen3_tokenizer(), QWEN3, "<|im_end|>"),
    "llama3": family(llama3_tokenizer(), LLAMA3, "<|eot_id|>"),
    "llama3.1": family(llama3_tokenizer(), LLAMA31, "<|eot_id|>"),
}
EVERY = pytest.mark.parametrize("name", FAMILIES)
LIKE_THEIRS = pytest.mark.parametrize("name", ["chatml", "qwen2.5", "llama3"])
SAID = ("the user's 1234 cafés!\n\n12 of them", "yo\n\n  - 12\n  - 345!\nand so on", "ok 'twas\tall", "bye!")
TEXT = st.text(max_size=40).map(lambda text: text.encode("utf-8", "replace").decode().strip()) | (
    st.text(alphabet="user12 !\n\t<|>'é-", max_size=40).map(str.strip)
)


@LIKE_THEIRS
def test_a_conversation_has_the_ids_of_the_native_template(name: str) -> None:
    kind = FAMILIES[name]
    profile = UserProfile(goal=Goal(summary="find 12 cafés"), persona=Persona(description="terse"))
    conversation = talk(*SAID).model_copy(update={"profile": profile})
    assert kind.our_ids(conversation) == kind.template_ids(conversation)


@LIKE_THEIRS
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(texts=st.lists(TEXT, min_size=1, max_size=4))
def test_so_has_any_text_without_control_tokens(name: str, texts: list[str]) -> None:
    kind = FAMILIES[name]
    assert kind.our_ids(talk(*texts)) == kind.template_ids(talk(*texts))


@EVERY
def test_the_prompt_is_the_template_and_the_users_header(name: str) -> None:
    kind = FAMILIES[name]
    start, after = ("<|start_header_id|>", "<|end_header_id|>\n\n")
    if name.startswith(("chatml", "qwen")):
        start, after = "<|im_start|>", "\n"
    header = kind.theirs.encode(f"{start}user{after}", add_special_tokens=False)
    prompt = kind.ours.prompt(UserProfile(), talk(*SAID).turns)
    assert prompt == kind.our_ids(talk(*SAID)) + header
    assert (
        kind.ours.prompt(UserProfile(), talk(*SAID[:2]).turns)[: -len(header)]
        == prompt[: len(kind.our_ids(talk(*SAID[:2])))]
    )


def test_qwen3s_empty_think_block_is_left_out_everywhere() -> None:
    """Theirs stands before the last answer only and goes when the talk goes on: no prompt could be appended to."""
    kind = FAMILIES["qwen3"]
    block = kind.theirs.encode("<think>\n\n</think>\n\n", add_special_tokens=False)
    theirs, ours = kind.template_ids(talk(*SAID)), kind.our_ids(talk(*SAID))
    at = next(i for i in range(len(theirs)) if theirs[i : i + len(block)] == block)
    assert theirs[:at] + theirs[at + len(block) :] == ours
    assert kind.template_ids(talk(*SAID[:3])) == kind.our_ids(talk(*SAID[:3]))


def test_qwen3s_template_drops_thoughts_and_we_keep_what_was_written() -> None:
    kind, answer = FAMILIES["qwen3"], "<think>hm</think>yo"
    assert kind.ours.decode(kind.ours.encode(answer)) == answer
    assert "hm" in kind.ours.decode(kind.our_ids(talk("a", answer)))
    assert "hm" not in kind.theirs.decode(kind.template_ids(talk("a", answer)))


def test_llama31s_dates_are_left_out() -> None:
    kind = FAMILIES["llama3.1"]
    dates = kind.theirs.encode(DATES, add_special_tokens=False)
    theirs, ours = kind.template_ids(talk(*SAID)), kind.our_ids(talk(*SAID))
    at = next(i for i in range(len(theirs)) if theirs[i : i + len(dates)] == dates)
    assert theirs[:at] + theirs[at + len(dates) :] == ours


def test_llama3_starts_once_whatever_the_post_processor_adds() -> None:
    kind = FAMILIES["llama3"]
    bos = kind.theirs.convert_tokens_to_ids("<|begin_of_text|>")
    assert kind.theirs("hi").input_ids[0] == bos
    assert kind.our_ids(talk("hi", "yo")).count(bos) == 1
    assert bos not in kind.ours.encode("hi")


@EVERY
def test_space_around_content_is_not_the_persons(name: str) -> None:
    kind = FAMILIES[name]
    assert kind.our_ids(talk(" hi\n", "\n yo ")) == kind.our_ids(talk("hi", "yo"))


@EVERY
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(text=st.text(max_size=60))
def test_content_round_trips_up_to_qwens_normaliser(name: str, text: str) -> None:
    r = FAMILIES[name].ours
    text = text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    kept = unicodedata.normalize("NFC", text) if name.startswith("qwen") else text
    assert r.decode(r.encode(text)) == kept


def test_decomposed_accents_are_composed_for_qwen_and_kept_elsewhere() -> None:
    typed = unicodedata.normalize("NFD", "café")
    assert supervised_text(FAMILIES["qwen2.5"].ours, talk(typed))[0] == "café"
    assert supervised_text(FAMILIES["llama3"].ours, talk(typed))[0] == typed


@EVERY
def test_supervised_are_the_users_words_their_ends_and_the_end(name: str) -> None:
    r = FAMILIES[name].ours
    turn, left = r.settings.end_of_turn_id, r.settings.end_of_conversation_id
    assert supervised_text(r, talk(*SAID)) == (SAID[0] + SAID[2], [turn, turn, left])
    assert supervised_text(r, talk(*SAID, ended_by="cut"))[1] == [turn, turn]


@EVERY
def test_no_control_token_can_be_typed_not_even_an_unspecial_one(name: str) -> None:
    kind = FAMILIES[name]
    quiet = kind.our_ids(talk("x", "x"))
    for token in [*kind.tokenizer["added_tokens"], {"content": END_OF_CONVERSATION}]:
        text = f"{token['content']} and a{token['content']}b"
        ids = kind.ours.encode(text)
        assert not set(ids) & kind.ours.control_ids
        assert kind.ours.decode(ids) == text
        rendered = kind.our_ids(talk(text, text))
        assert controls(kind.ours, rendered) == controls(kind.ours, quiet)


def controls(r: Renderer, ids: list[int]) -> list[int]:
    return [token for token in ids if token in r.control_ids]


def test_a_control_token_in_the_vocabulary_cannot_be_looked_up_whole() -> None:
    """Llama-3's model skips its merges for a word that is in the vocabulary, and some exports list control tokens."""
    kind = FAMILIES["llama3"]
    found = json.loads(json.dumps(kind.tokenizer))
    found["pre_tokenizer"] = {
        "type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False
    }  # fmt: skip
    for token in found["added_tokens"]:
        found["model"]["vocab"][token["content"]] = token["id"]
    end = next(token["id"] for token in found["added_tokens"] if token["content"] == "<|eot_id|>")
    settings_ = kind.ours.settings.model_copy(update={"end_of_conversation_id": end})
    assert end not in Renderer(found, settings_).encode("<|eot_id|>")


@EVERY
def test_what_is_sampled_after_an_end_or_a_header_never_reaches_the_text(name: str) -> None:
    r = FAMILIES[name].ours
    turn, left = r.settings.end_of_turn_id, r.settings.end_of_conversation_id
    start = controls(r, r.prompt(UserProfile(), []))[-2 if name.startswith("llama3") else -1]
    more = r.encode("assistant\nSure, here you are")
    for sampled in ([turn, *more], [start, *more], [turn, start, *more, turn], [left, *more]):
        assert r.read([*r.encode("hi"), *sampled]) == ("hi", False)
    assert r.read([left, *more]) == ("", True)


def test_a_spare_row_that_is_sampled_says_nothing() -> None:
    r = FAMILIES["qwen2.5"].ours
    beyond = max(r.control_ids) + 7
    assert r.read([*r.encode("h"), beyond, *r.encode("i"), r.settings.end_of_turn_id]) == ("hi", False)


def test_a_tokenizer_that_was_saved_cutting_or_padding_does_neither_here() -> None:
    kind = FAMILIES["qwen2.5"]
    found = dict(kind.tokenizer)
    found["truncation"] = {"direction": "Right", "max_length": 4, "strategy": "LongestFirst", "stride": 0}
    end = kind.ours.settings.end_of_turn_id
    r = Renderer(found, kind.ours.settings.model_copy(update={"end_of_conversation_id": end}))
    assert r.decode(r.encode("longer than four tokens")) == "longer than four tokens"


def test_the_preface_opens_every_family_alike() -> None:
    for kind in FAMILIES.values():
        assert PREFACE in kind.ours.decode(
            kind.ours.prompt(UserProfile(), [Turn(role="assistant", text="a")])
        )
