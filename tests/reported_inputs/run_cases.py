"""Runs the cases of cases.py against this checkout: `python -m tests.reported_inputs.run_cases`, from the root.

Each kind is one function from the input of a case to its result, through the names that users call.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

from tests.reported_inputs.cases import CASES
from usersim.types import Conversation, Goal, Turn, UserProfile, UserTurn


def _episode(texts: list[str], **context: Any) -> Any:
    """A window that starts with `texts[0]` of the assistant."""
    from collab_train.contexts import Context
    from collab_train.rewards import Episode

    opening = Turn(role="user", text="help me")
    window = [Turn(role=("assistant", "user")[at % 2], text=text) for at, text in enumerate(texts)]
    return Episode(
        Context(id="c", turns=(opening,), profile=UserProfile(goal=Goal(summary="g")), **context),
        Conversation(id="f", origin="simulated", source="t", turns=(opening, *window), ended_by="turn_cap"),
    )


def _score(reward: str, episode: Any) -> float:
    from collab_train.rewards import EXTRINSIC

    return float(EXTRINSIC[reward].score(episode))


def same(pair: tuple[str, str]) -> bool:
    from collab_train.rewards.answers import same

    return same(*pair)


def accuracy(case: tuple[str, list[str]]) -> float:
    answer, texts = case
    return _score("accuracy", _episode(texts, metadata={"answer": answer}))


def code(case: tuple[str, str, str]) -> float:
    from collab_train.rewards.code import last_code
    from collab_train.sandbox.sandbox_run import run_tests

    reply, entry_point, tests = case
    extracted = last_code([reply], entry_point)
    return 0.0 if extracted is None else run_tests(extracted, tests).share


def sandbox(code: str) -> float:
    from collab_train.sandbox.sandbox_run import run_tests

    return run_tests(code, "assert area(2)==4\nassert area(3)==9\n").share


def engagement(texts: list[str]) -> float:
    return _score("engagement", _episode(texts))


def bleu(case: tuple[str, str]) -> float:
    reference, reply = case
    return round(_score("bleu", _episode([reply], reference=reference)), 3)


def clean(text: str) -> str:
    from data_prep.cleaning.artefacts import clean_user_text

    return clean_user_text(text, Counter())


def row(row: dict[str, Any]) -> Any:
    from data_prep.raw_chats import SourceReport
    from data_prep.sources.messages import read_message_row

    chat = read_message_row(row, "p:1", SourceReport(name="s", spec="s"))
    return chat if isinstance(chat, str) else [(turn.role, turn.text) for turn in chat.turns]


def convert(messages: list[dict[str, Any]]) -> tuple[str, str]:
    from eval.convert.turns import conversation

    result = conversation(messages, source="s", origin="human", notes=Counter())
    return [turn.text for turn in result.turns if turn.role == "user"][-1], result.ended_by


def facets(known_info: str) -> list[str]:
    from eval.convert.tau2 import _profile

    instructions = {"reason_for_call": "r", "known_info": known_info}
    goal = _profile({"user_scenario": {"instructions": instructions}}).goal
    assert goal is not None
    return [facet.text for facet in goal.facets]


def _dialect(messages: list[dict[str, Any]]) -> Any:
    from serve.api.chat_schemas import ChatRequest
    from serve.api.dialects import read

    return read("auto", ChatRequest(model="m", messages=messages).messages)[1]


def marker(system: str) -> str:
    reading = _dialect([{"role": "system", "content": system}, {"role": "user", "content": "Hi!"}])
    leaving = UserTurn(
        text="", ends=True, end_probability=0.9, finish="end", logprob=0.0, tokens=0, prompt_tokens=1
    )
    return str(reading.format_reply(leaving))


def history(messages: list[dict[str, Any]]) -> Any:
    try:
        return [(turn.role, turn.text) for turn in _dialect(messages).history]
    except ValueError:
        return "refused"


def labels(messages: list[tuple[str, str]]) -> int:
    from transformers import AutoTokenizer

    from collab_train.rollout.simulation.best_path import Message
    from collab_train.trainers.masks import labelled
    from usersim.weights.default_model import build_base

    tokenizer = AutoTokenizer.from_pretrained(build_base())
    conversation = [Message(role=role, content=content) for role, content in messages]
    return labelled(tokenizer, conversation, 1)["input_ids"].count(tokenizer.eos_token_id)


def think(text: str) -> str:
    from usersim.chat_models.endpoint_chat import THINKING

    return THINKING.sub("", text)


KINDS: dict[str, Callable[[Any], Any]] = {
    function.__name__: function
    for function in (
        *(same, accuracy, code, sandbox, engagement, bleu, clean, row),
        *(convert, facets, marker, history, labels, think),
    )
}


def main() -> None:
    states = Counter[str]()
    for name, kind, given, wrong, right in CASES:
        result = KINDS[kind](given)
        state = "right" if result == right else "as reported" if result == wrong else "other"
        states[state] += 1
        print(f"{name:5} {kind:10} {state}" + (f" {result!r}" if state == "other" else ""))
    print(dict(states))


if __name__ == "__main__":
    main()
