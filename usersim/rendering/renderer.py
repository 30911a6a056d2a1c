"""Renderer between conversations and token ids: training examples, prompts, and decoding of sampled ids.

This is the only code that knows tokens. Training and serving render through the same functions. Content is encoded by a
tokenizer without added tokens, and control ids are inserted as integers. So a literal `<|im_end|>` in a message stays
text.

The ids are those of the base's own chat template with the true roles, with three exceptions. Content is stripped of
surrounding white space. Text that the template adds itself is left out: Qwen's default system message and empty
`<think>` block, Llama-3.1's dates. These change with the turns or the day, and a prompt must be append-only. A ChatML
turn always closes with its newline. The tokenizer's normaliser stays: Qwen's writes NFC, so decomposed accents are
trained on and read back composed.
"""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from pydantic import ValidationError

from usersim.decoding.end_calibration import Calibration
from usersim.decoding.parameters import Sampling
from usersim.errors import ConfigError, ContextOverflowError, RenderError
from usersim.rendering import phrases
from usersim.rendering.conditioning import describe
from usersim.rendering.tokenizer_json import added_tokens, content_tokenizer, read_tokenizer
from usersim.storage.records import write_json
from usersim.text.user_acts import Act
from usersim.types import Conversation, Record, Turn, UserProfile, check_alternation

END_OF_CONVERSATION = "<|endconversation|>"
SETTINGS_FILE = "userlm.json"


class Limits(Record):
    """Truncation limits in tokens: a longer message keeps its head and its tail around a mark."""

    assistant_head: int = 40
    assistant_tail: int = 16
    user_head: int = 128
    user_tail: int = 32


class RenderSettings(Record):
    """Settings in `userlm.json` beside the weights, which turn a causal LM into a User LM."""

    template: Literal["userlm-v1"] = "userlm-v1"
    chat_format: Literal["chatml", "llama3"]
    end_of_turn_id: int
    end_of_conversation_id: int
    context_tokens: int
    limits: Limits = Limits()
    acts: bool = False
    """True for a model trained with requested acts (`usersim.text.user_acts`)."""
    calibration: Calibration | None = None
    """Calibration of P(end), if one was fitted (`usersim.decoding.end_calibration`)."""
    decoding: Sampling | None = None
    """Default sampling parameters, if chosen by `usersim eval choose-decoding`."""

    def end_probability(self, raw: float, *, user_turns: int) -> float:
        """Returns the calibrated P(end) for the model's raw one."""
        return raw if self.calibration is None else self.calibration(raw, user_turns=user_turns)

    def uncalibrated(self) -> RenderSettings:
        """Returns the settings that a base and its adapter must share: without calibration and decoding."""
        return self.model_copy(update={"calibration": None, "decoding": None})


@dataclass(frozen=True)
class Example:
    """Training sequence.

    `supervised[i]` is True if the loss covers the prediction of `ids[i]` from the ids before it.
    """

    ids: list[int]
    supervised: list[bool]


class Renderer:
    """Renderer for one tokenizer and its settings. Thread-safe and stateless between calls."""

    def __init__(self, tokenizer_json: dict[str, Any], settings: RenderSettings) -> None:
        self.settings = settings
        added = added_tokens(tokenizer_json)
        self.control_ids = frozenset(added.values())
        self._tokenizer = content_tokenizer(tokenizer_json, added)
        self._start, self._headers, self._after_turn = _chat_format(settings.chat_format, added, self.encode)
        self._mark = self.encode(" […] ")
        for token_id in self.stop_ids:
            if token_id not in self.control_ids:
                raise ConfigError(
                    f"{SETTINGS_FILE} names the control id {token_id}, which the tokenizer does not have; "
                    "both files must come from one model"
                )

    @classmethod
    def from_pretrained(cls, path: str | Path) -> Renderer:
        """Reads `tokenizer.json` and `userlm.json`. Raises ConfigError if `path` is not a User LM."""
        folder = Path(path)
        settings, tokenizer_json = read_settings(folder), read_tokenizer(folder)
        end_id = added_tokens(tokenizer_json).get(END_OF_CONVERSATION)
        if end_id != settings.end_of_conversation_id:
            raise ConfigError(
                f"{folder}: {SETTINGS_FILE} says that {END_OF_CONVERSATION} is token "
                f"{settings.end_of_conversation_id}, tokenizer.json says {end_id}; build the model again"
            )
        rows = _embedding_rows(folder)
        if rows is not None and max(settings.end_of_conversation_id, settings.end_of_turn_id) >= rows:
            raise ConfigError(
                f"{folder}: {SETTINGS_FILE} names a token beyond the model's {rows} embedding rows"
            )
        try:
            return cls(tokenizer_json, settings)
        except ConfigError as error:
            raise ConfigError(f"{folder}: {error}") from error

    @property
    def stop_ids(self) -> list[int]:
        return [self.settings.end_of_turn_id, self.settings.end_of_conversation_id]

    @cached_property
    def fingerprint(self) -> str:
        """Hash of template, limits and control ids. Renderers with equal fingerprints give equal token ids."""
        unsaid = {"calibration", "decoding"} | (
            set() if self.settings.acts else {"acts"}
        )  # keeps fingerprints from before acts existed
        facts = self.settings.model_dump_json(exclude=unsaid) + json.dumps([self._start, self._after_turn])
        return hashlib.sha256(facts.encode()).hexdigest()[:16]

    def encode(self, text: str) -> list[int]:
        """Encodes content; the result never holds a control id."""
        # A lone surrogate cannot be UTF-8; it becomes U+FFFD as in every browser.
        clean = text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
        ids: list[int] = self._tokenizer.encode(clean, add_special_tokens=False).ids
        return ids

    def decode(self, ids: Sequence[int]) -> str:
        return str(self._tokenizer.decode(list(ids), skip_special_tokens=False))

    # -- prompts ---------------------------------------------------------------------------------

    def prompt(self, profile: UserProfile, turns: Sequence[Turn], *, act: Act | None = None) -> list[int]:
        """Renders the prompt for the next user turn.

        Prompts are append-only, so that an engine's prefix cache can be reused. The prompt of a longer history starts
        with the prompt of a shorter one, except for the act and the user's header.

        Args:
            profile: Goal and persona of the user.
            turns: History, empty or alternating and ending with the assistant.
            act: Requested act of the next turn.

        Returns:
            Token ids up to the content of the user's turn.

        Raises:
            RenderError: The history is not valid, or `act` is given for a model without acts.
            ContextOverflowError: The prompt fills the context window.
        """
        check_history(turns)
        if act is not None and not self.settings.acts:
            raise RenderError(f"act={act}: this model was not trained to be told what a turn does")
        ids = self._system(profile)
        for turn in turns:
            ids += self._message(turn)[0]
        if act is not None:
            ids += self._note(phrases.ACTS[act])
        ids += self._headers["user"]
        if len(ids) >= self.settings.context_tokens:
            raise ContextOverflowError(
                f"This model's maximum context length is {self.settings.context_tokens} tokens; "
                f"this conversation takes {len(ids)} before the user has said a word"
            )
        return ids

    def read(self, sampled: Sequence[int]) -> tuple[str, bool]:
        """Decodes sampled ids.

        Returns the text up to the first control id, and True if the conversation ended instead.
        """
        cut = next((i for i, token in enumerate(sampled) if token in self.control_ids), len(sampled))
        ends = cut == 0 and bool(sampled) and sampled[0] == self.settings.end_of_conversation_id
        return self.decode(sampled[:cut]).strip(), ends

    # -- training --------------------------------------------------------------------------------

    def examples(
        self,
        conversation: Conversation,
        *,
        profile: UserProfile | None = None,
        max_tokens: int | None = None,
        wording: random.Random | None = None,
        acts: Sequence[Act | None] = (),
    ) -> Iterator[Example]:
        """Yields training windows, cut at turn boundaries; every user turn is supervised once.

        Each window repeats the system message. A later window begins with earlier turns as unsupervised context: up to
        a third of the window, at least the message that its first user turn answers. A window exceeds `max_tokens` only
        if that message and the turn do not fit. The end is supervised only if the person is known to have left.

        Args:
            conversation: Conversation to render.
            profile: Profile to render in place of the conversation's own.
            max_tokens: Window size in tokens. Default: the context window.
            wording: Samples a paraphrase of the profile. None: the canonical rendering, as in `prompt`.
            acts: Act noted before each user turn, None for no note. Training notes few, a prompt only its own.
        """
        system = self._system(conversation.profile if profile is None else profile, wording)
        budget = (max_tokens or self.settings.context_tokens) - len(system)
        messages = list(self._messages(conversation, acts))
        lengths = [len(ids) for ids, _ in messages]
        start, spoken = 0, list[int]()
        for index in (i for i, (_, mask) in enumerate(messages) if any(mask)):
            if spoken and sum(lengths[start : index + 1]) > budget:
                yield _join(system, messages[start : spoken[-1] + 1], supervised_from=spoken[0] - start)
                start, spoken = index - 1, []
                while start and sum(lengths[start - 1 : index]) <= min(budget // 3, budget - lengths[index]):
                    start -= 1
            spoken.append(index)
        if spoken:
            fits = sum(lengths[start:]) <= budget
            rest = messages[start:] if fits else messages[start : spoken[-1] + 1]
            yield _join(system, rest, supervised_from=spoken[0] - start)

    def _messages(
        self, conversation: Conversation, acts: Sequence[Act | None] = ()
    ) -> Iterator[tuple[list[int], list[bool]]]:
        told = iter(acts)
        for turn in conversation.turns:
            ids, mask = self._message(turn)
            act = next(told, None) if turn.role == "user" else None
            note = [] if act is None else self._note(phrases.ACTS[act])
            yield [*note, *ids], [False] * len(note) + mask
        if (
            conversation.ended_by == "user"
            and conversation.turns[-1:]
            and (conversation.turns[-1].role == "assistant")
        ):
            header = self._headers["user"]
            yield [*header, self.settings.end_of_conversation_id], [False] * len(header) + [True]

    def _system(self, profile: UserProfile, wording: random.Random | None = None) -> list[int]:
        return [*self._start, *self._note(describe(profile, wording))]

    def _note(self, text: str) -> list[int]:
        """Renders a system message with instructions to the user."""
        return [
            *self._headers["system"],
            *self.encode(text),
            self.settings.end_of_turn_id,
            *self._after_turn,
        ]

    def _message(self, turn: Turn) -> tuple[list[int], list[bool]]:
        """Returns the ids and supervision mask of a turn: a whole user turn is supervised with its end of turn.

        Of a truncated turn only the head is supervised, since the mark, the tail and the early end are artefacts.
        """
        header = self._headers[turn.role]
        content = self.encode(turn.text.strip())
        limits = self.settings.limits
        head, tail = (
            (limits.user_head, limits.user_tail)
            if turn.role == "user"
            else (limits.assistant_head, limits.assistant_tail)
        )
        cut = len(content) > head + len(self._mark) + tail
        supervised = [turn.role == "user"] * (head if cut else len(content))
        if cut:
            content = content[:head] + self._mark + content[-tail:]
            supervised += [False] * (len(content) - head)
        end = [self.settings.end_of_turn_id, *self._after_turn]
        ends = [turn.role == "user" and not cut] + [False] * len(self._after_turn)
        return [*header, *content, *end], [False] * len(header) + supervised + ends


def check_history(turns: Sequence[Turn]) -> None:
    """Raises RenderError unless the next turn is the user's."""
    try:
        check_alternation(list(turns))
    except ValueError as error:
        raise RenderError(str(error)) from error
    if turns and turns[-1].role != "assistant":
        raise RenderError(
            "the history ends with a user turn; the assistant has to answer before the user speaks"
        )


def _join(
    system: list[int], window: Sequence[tuple[list[int], list[bool]]], *, supervised_from: int
) -> Example:
    """Joins messages to one window; those before `supervised_from` are not supervised."""
    ids, supervised = list(system), [False] * len(system)
    for index, (message_ids, mask) in enumerate(window):
        ids += message_ids
        supervised += mask if index >= supervised_from else [False] * len(mask)
    return Example(ids, supervised)


def write_settings(settings: RenderSettings, folder: Path) -> None:
    write_json(folder / SETTINGS_FILE, settings.model_dump(mode="json", exclude_none=True))


def read_settings(folder: Path) -> RenderSettings:
    """Reads `userlm.json` of a User LM or an adapter. Raises ConfigError."""
    try:
        return RenderSettings.model_validate_json((folder / SETTINGS_FILE).read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(
            f"{folder}: no {SETTINGS_FILE}, so not a User LM (make one with `usersim model build`)"
        ) from error
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or "not JSON"
        raise ConfigError(f"{folder / SETTINGS_FILE}: {where}: {first['msg']}") from error


def _embedding_rows(folder: Path) -> int | None:
    """Returns the vocabulary size in `config.json`; None without one, as beside an adapter."""
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        return int(config.get("vocab_size") or config["text_config"]["vocab_size"])
    except (OSError, ValueError, KeyError):
        return None


def _chat_format(
    name: str, added: dict[str, int], encode: Any
) -> tuple[list[int], dict[str, list[int]], list[int]]:
    """Returns the ids at the start, the header ids by role and the ids after an end of turn."""
    roles = ("system", "user", "assistant")
    try:
        if name == "chatml":
            start = added["<|im_start|>"]
            return [], {role: [start, *encode(f"{role}\n")] for role in roles}, encode("\n")
        start, end = added["<|start_header_id|>"], added["<|end_header_id|>"]
        headers: dict[str, list[int]] = {role: [start, *encode(role), end, *encode("\n\n")] for role in roles}
        return [added["<|begin_of_text|>"]], headers, []
    except KeyError as error:
        raise ConfigError(
            f"chat format {name!r} needs the token {error.args[0]!r}, which this tokenizer lacks"
        ) from None
