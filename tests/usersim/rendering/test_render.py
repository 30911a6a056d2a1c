"""Tokens and masks: worked out by hand on a byte-level tokenizer, and as properties."""

from __future__ import annotations

import hashlib
import json
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.conftest import CHATML, LLAMA3, byte_tokenizer
from usersim.errors import ConfigError, RenderError
from usersim.rendering.conditioning import PREFACE
from usersim.rendering.renderer import Limits, Renderer, RenderSettings
from usersim.types import Conversation, Facet, Goal, Persona, Style, Turn, UserProfile

END, LEFT, START = 2, 3, 1


def renderer(**limits: int) -> Renderer:
    settings_ = RenderSettings(
        chat_format="chatml",
        end_of_turn_id=END,
        end_of_conversation_id=LEFT,
        context_tokens=2000,
        limits=Limits(**limits) if limits else Limits(user_head=500, assistant_head=500),
    )
    return Renderer(byte_tokenizer(CHATML), settings_)


def llama_renderer() -> Renderer:
    settings_ = RenderSettings(
        chat_format="llama3", end_of_turn_id=3, end_of_conversation_id=4, context_tokens=2000
    )
    return Renderer(byte_tokenizer(LLAMA3), settings_)


def talk(*texts: str, ended_by: Any = "user", first: Any = "user") -> Conversation:
    other = {"user": "assistant", "assistant": "user"}
    turns, role = [], first
    for text in texts:
        turns.append(Turn(role=role, text=text))
        role = other[role]
    return Conversation(id="c", origin="human", source="test", turns=tuple(turns), ended_by=ended_by)


def supervised_text(r: Renderer, conversation: Conversation) -> tuple[str, list[int]]:
    """(supervised content as text, supervised control ids) over all windows."""
    content: list[int] = []
    controls: list[int] = []
    for example in r.examples(conversation):
        for token, on in zip(example.ids, example.supervised, strict=True):
            if on:
                (controls if token in r.control_ids else content).append(token)
    return r.decode(content), controls


def test_only_user_words_and_the_ends_are_supervised() -> None:
    text, controls = supervised_text(renderer(), talk("hi", "hello there", "bye", "see you"))
    assert text == "hibye"
    assert controls == [END, END, LEFT]


def test_the_chatml_layout_is_exactly_this() -> None:
    r = renderer()
    ids = next(iter(r.examples(talk("hi", "yo")))).ids
    expected = [
        *[START, *r.encode(f"system\n{PREFACE}"), END, *r.encode("\n")],
        *[START, *r.encode("user\nhi"), END, *r.encode("\n")],
        *[START, *r.encode("assistant\nyo"), END, *r.encode("\n")],
        *[START, *r.encode("user\n"), LEFT],
    ]
    assert ids == expected


def test_the_llama3_layout_is_exactly_this() -> None:
    r = llama_renderer()
    prompt = r.prompt(UserProfile(), [Turn(role="user", text="hi"), Turn(role="assistant", text="yo")])

    def message(role: str, text: str) -> list[int]:
        return [1, *r.encode(role), 2, *r.encode("\n\n"), *r.encode(text), 3]

    header = [1, *r.encode("user"), 2, *r.encode("\n\n")]
    expected = [0, *message("system", PREFACE), *message("user", "hi"), *message("assistant", "yo"), *header]
    assert prompt == expected


@pytest.mark.parametrize("ended_by", ["turn_cap", "cut", "unknown"])
def test_no_end_is_taught_where_the_person_did_not_leave(ended_by: str) -> None:
    assert supervised_text(renderer(), talk("hi", "yo", ended_by=ended_by))[1] == [END]


def test_no_end_is_taught_after_an_unanswered_turn() -> None:
    assert supervised_text(renderer(), talk("hi", "yo", "more"))[1] == [END, END]


def test_a_history_may_begin_with_the_assistant() -> None:
    conversation = talk("how can I help?", "fix my bike", "sure", first="assistant")
    assert supervised_text(renderer(), conversation) == ("fix my bike", [END, LEFT])


def test_a_prompt_is_a_prefix_of_what_was_trained_on() -> None:
    r, conversation = renderer(), talk("hi", "hello there", "bye", "see you")
    trained = next(iter(r.examples(conversation))).ids
    for spoken in (0, 2, 4):
        prompt = r.prompt(conversation.profile, conversation.turns[:spoken])
        assert trained[: len(prompt)] == prompt


def test_prompts_are_append_only() -> None:
    r, turns = renderer(), talk("hi", "hello there", "bye", "see you").turns
    header = len(r.encode("user\n")) + 1
    shorter, longer = r.prompt(UserProfile(), turns[:2]), r.prompt(UserProfile(), turns)
    assert longer[: len(shorter) - header] == shorter[:-header]


def test_long_messages_keep_head_and_tail_and_teach_only_the_head() -> None:
    r = renderer(user_head=10, user_tail=5, assistant_head=4, assistant_tail=3)
    text, controls = supervised_text(r, talk("a" * 30 + "tail!", "b" * 30 + "end", ended_by="cut"))
    assert (text, controls) == ("a" * 10, [])
    rendered = r.decode(next(iter(r.examples(talk("a" * 30 + "tail!", "b" * 30 + "end")))).ids)
    assert "a" * 10 + " […] tail!" in rendered
    assert "b" * 4 + " […] end" in rendered


def test_windows_cut_at_turn_boundaries_and_keep_the_end() -> None:
    r = renderer()
    conversation = talk(*[f"user line {i}" if i % 2 == 0 else f"answer number {i}" for i in range(12)])
    windows = list(r.examples(conversation, max_tokens=200))
    assert len(windows) > 1
    assert all(len(window.ids) <= 200 for window in windows)
    assert windows[-1].ids[-1] == LEFT
    assert supervised_text(r, conversation)[0] == "".join(f"user line {i}" for i in range(0, 12, 2))


def test_a_later_window_never_begins_with_a_supervised_turn_and_repeats_what_it_answers() -> None:
    r = renderer()
    for length in range(150, 420, 7):
        lines = [f"user line {i}" if i % 2 == 0 else f"answer number {i}" for i in range(16)]
        windows = list(r.examples(talk(*lines), max_tokens=length))
        said = [r.decode([t for t, on in zip(w.ids, w.supervised, strict=True) if on]) for w in windows]
        assert "".join(said).count("user line") == 8
        for window, words in zip(windows[1:], said[1:], strict=True):
            before = r.decode(window.ids[: window.supervised.index(True)])
            spoken = int(words.split("<|im_end|>")[0].split()[2]) if "user" in words else 16  # 16: the end
            assert (
                before.rindex("assistant")
                < before.rindex(f"answer number {spoken - 1}")
                < before.rindex("user")
            )


def test_an_overlap_is_at_most_a_third_and_as_much_as_fits_there() -> None:
    # ChatML in bytes: 12 + 1 for a user turn's frame (start, "user", newline, end, newline), so 20 a turn here.
    r = renderer()
    conversation = talk(*["u" * 12, "a" * 7] * 10)
    system = len(r.prompt(UserProfile(), [])) - len(r.encode("user\n")) - 1
    first, second, *_ = r.examples(conversation, max_tokens=system + 120)
    assert len(first.ids) == system + 100  # three user turns and two answers; a fourth would make 140
    overlap = second.supervised.index(True) - system
    assert overlap == 20 + 20 + 6  # the answer, the turn that it answered and the header of the next


def test_goal_persona_and_style_are_rendered_in_this_order() -> None:
    profile = UserProfile(
        goal=Goal(summary="Plan a trip.", facets=(Facet(text="by train"), Facet(text="two people"))),
        persona=Persona(description="student", style=Style(words_per_turn=5, lowercase_starts=1.0)),
    )
    r = renderer()
    text = r.decode(r.prompt(profile, []))
    assert text.index("You want to plan a trip.") < text.index("by train; two people")
    assert text.index("two people") < text.index("About you: student.") < text.index("around 6 words")


@pytest.mark.parametrize(
    ("turns", "why"),
    [
        ([Turn(role="user", text="a")], "ends with a user turn"),
        ([Turn(role="assistant", text="a"), Turn(role="assistant", text="b")], "alternate"),
    ],
)
def test_a_history_the_user_cannot_follow_is_refused(turns: list[Turn], why: str) -> None:
    with pytest.raises(RenderError, match=why):
        renderer().prompt(UserProfile(), turns)


def test_a_history_longer_than_the_context_is_refused_not_cut() -> None:
    turns = talk(*["x" * 400, "y" * 400] * 4).turns
    with pytest.raises(RenderError, match=r"maximum context length is 2000 tokens"):
        renderer().prompt(UserProfile(), turns)


def test_sampled_ids_are_read_up_to_the_first_control() -> None:
    r = renderer()
    assert r.read([*r.encode(" hello "), END]) == ("hello", False)
    assert r.read([LEFT]) == ("", True)
    assert r.read([END]) == ("", False)
    assert r.read([*r.encode("bye"), LEFT]) == ("bye", False)
    assert r.read([]) == ("", False)


def test_a_format_that_the_tokenizer_lacks_is_named() -> None:
    settings_ = RenderSettings(
        chat_format="llama3", end_of_turn_id=3, end_of_conversation_id=4, context_tokens=100
    )
    with pytest.raises(ConfigError, match="start_header_id"):
        Renderer(byte_tokenizer(CHATML), settings_)


CONTENT = st.text(min_size=1, max_size=40) | st.sampled_from([*CHATML, "<|endconversation|>", "a<|im_end|>b"])


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(goal=CONTENT, persona=CONTENT, said=CONTENT, reply=CONTENT | st.just("\ud800"))
def test_no_text_can_become_a_control_token(goal: str, persona: str, said: str, reply: str) -> None:
    r = renderer()
    profile = UserProfile(goal=Goal(summary="x " + goal), persona=Persona(description=persona))
    turns = [Turn(role="user", text=said), Turn(role="assistant", text=reply)]
    found = [token for token in r.prompt(profile, turns) if token in r.control_ids]
    assert found == [START, END, START, END, START, END, START]


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.text(max_size=60))
def test_content_survives_encoding(text: str) -> None:
    r = renderer()
    clean = text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    assert r.decode(r.encode(text)) == clean


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(st.text(alphabet="abc <|>im_endé\n", min_size=1, max_size=30), min_size=1, max_size=7))
def test_supervised_text_is_the_users_words_whatever_they_are(texts: list[str]) -> None:
    r = renderer()
    text, controls = supervised_text(r, talk(*texts))
    assert text == "".join(t.strip() for t in texts[::2])
    answered = len(texts) % 2 == 0
    assert controls == [END] * len(texts[::2]) + [LEFT] * answered


def telling() -> Renderer:
    return Renderer(byte_tokenizer(CHATML), renderer().settings.model_copy(update={"acts": True}))


def test_an_act_stands_right_before_the_turn_and_nowhere_in_a_prompt_to_come() -> None:
    r, turns = telling(), talk("hi", "hello there", "bye", "see you").turns
    plain, told = r.prompt(UserProfile(), turns[:2]), r.prompt(UserProfile(), turns[:2], act="asks")
    header = len(r.encode("user\n")) + 1
    note = [START, *r.encode("system\nYou ask about it."), END, *r.encode("\n")]
    assert told == [*plain[:-header], *note, *plain[-header:]]
    longer = r.prompt(UserProfile(), turns, act="thanks")
    assert longer[: len(plain) - header] == plain[:-header]
    assert "ask about" not in r.decode(longer)


def test_an_act_trained_on_is_the_act_of_the_prompt_and_not_supervised() -> None:
    r, conversation = telling(), talk("hi", "hello there", "bye", "see you")
    (example,) = r.examples(conversation, acts=[None, "thanks"])
    prompt = r.prompt(conversation.profile, conversation.turns[:2], act="thanks")
    assert example.ids[: len(prompt)] == prompt
    said = [t for t, on in zip(example.ids, example.supervised, strict=True) if on and t not in r.control_ids]
    assert r.decode(said) == "hibye"


def test_a_model_that_was_not_told_acts_refuses_them() -> None:
    with pytest.raises(RenderError, match="act=asks: this model was not trained to be told"):
        renderer().prompt(UserProfile(), talk("hi", "hello").turns, act="asks")


def test_fingerprint_changes_with_the_policy() -> None:
    assert renderer().fingerprint == renderer().fingerprint != renderer(user_head=7).fingerprint
    assert telling().fingerprint != renderer().fingerprint
    # What earlier versions computed for the same settings: answers say by it which rendering made them.
    facts = (
        '{"template":"userlm-v1","chat_format":"chatml","end_of_turn_id":2,"end_of_conversation_id":3,'
        '"context_tokens":2000,"limits":{"assistant_head":500,"assistant_tail":16,"user_head":500,"user_tail":32}}'
        "[[], [266]]"
    )
    newline = renderer().encode("\n")
    facts = facts.replace("[266]", json.dumps(newline))
    assert renderer().fingerprint == hashlib.sha256(facts.encode()).hexdigest()[:16]
    assert json.loads(renderer().settings.model_dump_json())["template"] == "userlm-v1"
