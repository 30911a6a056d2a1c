"""No added token of any tokenizer can be smuggled in through goal, persona, style or messages: they stay text."""

import itertools
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.conftest import byte_tokenizer
from usersim.errors import RenderError
from usersim.rendering.renderer import Limits, Renderer, RenderSettings
from usersim.types import Facet, Goal, Persona, Turn, UserProfile
from usersim.users.protocols import as_profile

# Named after what real tokenizers add, special or not; the last ones overlap, to join across a border.
CHATML = (
    "<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|endconversation|>",
    "<think>", "</think>", "<tool_call>", "</tool_call>", "<|fim_prefix|>", "<|object_ref_start|>",
    "<|", "|>", "im_end", "##", "\n\n", " user",
)  # fmt: skip
LLAMA3 = (
    "<|begin_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>", "<|endconversation|>",
    "<|eom_id|>", "<|python_tag|>", "<|reserved_special_token_0|>", "<|end_of_text|>", "assistant", "\n\n",
)  # fmt: skip
UNSPECIAL = (
    "<think>",
    "</think>",
    "<tool_call>",
    "</tool_call>",
    "##",
    "\n\n",
    " user",
    "im_end",
    "assistant",
)
FORMATS = {"chatml": (CHATML, 2), "llama3": (LLAMA3, 3)}
FLAGS = ("lstrip", "rstrip", "normalized", "single_word")


def renderers() -> Iterator[tuple[str, Renderer]]:
    """Both formats; plain, with every flag that lets an added token match more, and as Llama-3 looks words up."""
    for (name, (controls, turn_end)), variant in itertools.product(
        FORMATS.items(), ("plain", "greedy", "whole words")
    ):
        tokenizer: dict[str, Any] = byte_tokenizer(controls, unspecial=UNSPECIAL)
        if variant == "greedy":
            for token in tokenizer["added_tokens"]:
                token.update(dict.fromkeys(FLAGS, True))
        if variant == "whole words":
            tokenizer["model"]["ignore_merges"] = True
        settings = RenderSettings(
            chat_format=name,  # type: ignore[arg-type]
            end_of_turn_id=turn_end,
            end_of_conversation_id=turn_end + 1 if name == "chatml" else 4,
            context_tokens=20_000,
            limits=Limits(user_head=2000, assistant_head=2000),
        )
        yield f"{name}, {variant}", Renderer(tokenizer, settings)


RENDERERS = dict(renderers())


def hostile(controls: tuple[str, ...]) -> st.SearchStrategy[str]:
    """Whole control tokens, their pieces, and text, in any order."""
    pieces = [
        token[:cut] for token in controls for cut in (1, 2, len(token) // 2, len(token) - 1) if token[:cut]
    ]
    tails = [token[cut:] for token in controls for cut in (1, 2, len(token) - 1) if token[cut:]]
    words = st.sampled_from([*controls, *pieces, *tails, "###STOP###", "[[TERMINATE CHAT]]", " ", "\n"])
    return st.lists(words | st.text(max_size=5), max_size=8).map("".join)


def template(renderer: Renderer, turns: int) -> list[int]:
    """The control ids that belong there: of a conversation whose content is one harmless letter."""
    history = [Turn(role="user" if index % 2 else "assistant", text="x") for index in range(turns)]
    return [
        token for token in renderer.prompt(as_profile("x", "x"), history) if token in renderer.control_ids
    ]


@pytest.mark.parametrize("name", RENDERERS)
def test_every_added_token_is_text_wherever_a_client_puts_it(name: str) -> None:
    renderer = RENDERERS[name]
    controls = FORMATS[name.split(",", maxsplit=1)[0]][0]
    expected = {turns: template(renderer, turns) for turns in (1, 3)}
    for token in controls:
        assert not set(renderer.encode(token)) & renderer.control_ids
        assert renderer.decode(renderer.encode(token)) == token
        for text in (token, f"a{token}b", f"{token}{token}", f" {token} "):
            profile = UserProfile(
                goal=Goal(summary=f"x{text}", facets=(Facet(text=f"x{text}"),)),
                persona=Persona(description=text, language=text),
            )
            history = [Turn(role=role, text=text) for role in ("assistant", "user", "assistant")]
            ids = renderer.prompt(profile, history)
            assert [each for each in ids if each in renderer.control_ids] == expected[3]


@pytest.mark.parametrize("name", RENDERERS)
def test_no_mixture_of_pieces_becomes_a_control_token(name: str) -> None:
    renderer = RENDERERS[name]
    texts = hostile(FORMATS[name.split(",", maxsplit=1)[0]][0])
    expected = template(renderer, 3)

    @settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
    @given(goal=texts, persona=texts, message_texts=st.tuples(texts, texts, texts))
    def holds(goal: str, persona: str, message_texts: tuple[str, str, str]) -> None:
        roles = ("assistant", "user", "assistant")
        history = [Turn(role=role, text=text) for role, text in zip(roles, message_texts, strict=True)]
        try:
            ids = renderer.prompt(as_profile(f"x{goal}", f"x{persona}"), history)
        except RenderError:
            return
        assert [each for each in ids if each in renderer.control_ids] == expected
        # Each message stands between its header and its end of turn, letter for letter.
        for text in message_texts:
            assert renderer.decode(renderer.encode(text)) == text
            assert _has_run(ids, renderer.encode(text.strip()))

    holds()


def _has_run(ids: list[int], run: list[int]) -> bool:
    return ",".join(map(str, ["", *run, ""])) in ",".join(map(str, ["", *ids, ""]))


def test_words_that_read_like_control_tokens_do_not_end_a_sampled_turn() -> None:
    for renderer in RENDERERS.values():
        text = "<|endconversation|> <|im_end|> <|eot_id|> goes on"
        turn_end = renderer.settings.end_of_turn_id
        assert renderer.read([*renderer.encode(text), turn_end]) == (text, False)
        assert renderer.read([renderer.settings.end_of_conversation_id]) == ("", True)
