"""Prompt and answer format of the goal model: user turns in; goal and facets out, one line each."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, Literal

from pydantic import Field

from data_prep.goals.annotations import Annotation, phrase
from data_prep.goals.overlap import user_texts
from usersim.errors import ConfigError, DataError, RenderError
from usersim.rendering.renderer import Example, Renderer
from usersim.storage.records import read_conversations
from usersim.types import Conversation, Facet, Goal, Record

FORMAT_FILE = "goal_format.json"
INSTRUCTION = "Goal of this person, then details by turn."
FACET = re.compile(r"^[-*•]?\s*\(?(\d{1,3})\)?\s*[:.)-]\s*(\S.*)$")
MOST_FACETS = 12


class GoalFormat(Record):
    """Format stored beside the adapter; counts are tokens.

    A turn longer than its limits keeps its head and tail around a mark.
    """

    template: Literal["goals-v1"] = "goals-v1"
    turns: int = Field(default=12, ge=1)
    """User turns shown, from the first; assistant turns are left out."""
    opening_head: int = 72
    opening_tail: int = 24
    later_head: int = 36
    later_tail: int = 12
    answer_tokens: int = Field(default=160, ge=16)


class GoalRenderer:
    """Renderer of ChatML prompts with numbered user turns. Text never becomes a control token."""

    def __init__(
        self,
        renderer: Renderer,
        tokenizer_json: dict[str, Any],
        format_: GoalFormat,
        *,
        instruction: str = INSTRUCTION,
    ) -> None:
        added = {token["content"]: int(token["id"]) for token in tokenizer_json["added_tokens"]}
        if "<|im_start|>" not in added:
            raise ConfigError("the goal model needs a ChatML base; this tokenizer has no <|im_start|>")
        self.format, self._renderer, self._start = format_, renderer, added["<|im_start|>"]
        self.end_id = renderer.settings.end_of_turn_id
        self.newline, self._instruction = renderer.encode("\n"), renderer.encode(instruction)
        self._mark = renderer.encode(" […] ")

    def prompt(self, conversation: Conversation) -> list[int]:
        """Returns the prompt ids, up to the beginning of the goal.

        Raises:
            RenderError: no user turn has text.
        """
        user_turns = user_texts(conversation)[: self.format.turns]
        if not self.has_user_text(conversation):
            raise RenderError(f"{conversation.id}: no user turn with text")
        ids: list[int] = []
        for number, text in enumerate(user_turns, start=1):
            newline = "\n" if number > 1 else ""
            ids += [*self._renderer.encode(f"{newline}{number}: "), *self._shorten(text, number == 1)]
        system = self._message("system", self._instruction)
        return [*system, *self._message("user", ids), *self._header("assistant")]

    def has_user_text(self, conversation: Conversation) -> bool:
        """Returns whether a shown user turn has text."""
        return any(map(str.strip, user_texts(conversation)[: self.format.turns]))

    def example(self, conversation: Conversation, goal: Goal) -> Example:
        """Returns a training example; only the answer and its end are supervised."""
        prompt = self.prompt(conversation)
        answer = [*self._renderer.encode(self.answer(goal)), self.end_id]
        return Example([*prompt, *answer], [False] * len(prompt) + [True] * len(answer))

    def answer(self, goal: Goal) -> str:
        """Returns the answer text. Facets of turns that the prompt does not show are left out."""
        facets = [facet for facet in goal.facets if (facet.turn or 1) <= self.format.turns]
        return "\n".join([one_line(goal.summary), *(f"{f.turn or 1}: {one_line(f.text)}" for f in facets)])

    def decode(self, ids: Sequence[int]) -> str:
        """Decodes ids up to the first control token."""
        return self._renderer.read(ids)[0]

    def _shorten(self, text: str, opening: bool) -> list[int]:
        ids = self._renderer.encode(one_line(text))
        format_ = self.format
        head = format_.opening_head if opening else format_.later_head
        tail = format_.opening_tail if opening else format_.later_tail
        if len(ids) <= head + len(self._mark) + tail:
            return ids
        return [*ids[:head], *self._mark, *ids[-tail:]]

    def _header(self, role: str) -> list[int]:
        return [self._start, *self._renderer.encode(f"{role}\n")]

    def _message(self, role: str, content: list[int]) -> list[int]:
        return [*self._header(role), *content, self.end_id, *self.newline]


def annotated(paths: Sequence[str]) -> list[Conversation]:
    """Reads the human conversations that have a goal.

    Raises:
        DataError: no such conversation in the files.
    """
    conversations = [
        conversation
        for path in paths
        for conversation in read_conversations(path)
        if conversation.origin == "human" and conversation.profile.goal is not None
    ]
    if not conversations:
        raise DataError(f"no conversation with a goal in {', '.join(paths)}; see `usersim prep --goals`")
    return conversations


def one_line(text: str) -> str:
    return " ".join(text.split())


def parse_answer(text: str, id_: str, *, user_turns: int) -> Annotation | None:
    """Parses an answer of the goal model; None without a goal line.

    Facet turns are brought into range. Lines without a turn and repeated facets are dropped.
    """
    lines = [line.strip() for line in text.split("\n") if line.strip()]
    if not lines or FACET.match(lines[0]) or not any(map(str.isalpha, lines[0])):
        return None
    facets: dict[str, Facet] = {}
    for line in lines[1:]:
        if match := FACET.match(line):
            turn = min(max(int(match[1]), 1), max(user_turns, 1))
            facets.setdefault(match[2].casefold(), Facet(text=match[2], turn=turn))
    return Annotation(id=id_, goal=phrase(lines[0]), facets=tuple(facets.values())[:MOST_FACETS])
