"""Local goal model: writes a goal and facets for a conversation without an endpoint."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from data_prep.goals.annotations import Annotation
from data_prep.goals.format import FORMAT_FILE, GoalFormat, GoalRenderer, parse_answer
from data_prep.goals.overlap import MAX_OVERLAP, user_texts
from data_prep.goals.providers import NoGoal, accepted
from usersim.cli import quiet_transformers
from usersim.errors import ConfigError
from usersim.types import Conversation
from usersim.weights.default_model import BASE_NAME, build_base, file_hash
from usersim.weights.precision import default_device, torch_dtype

GOAL_MODEL_NAME = "goals-135m"
SHIPPED = Path(__file__).parents[1] / "assets" / GOAL_MODEL_NAME
WEIGHTS = "adapter_model.safetensors"

GoalResult = Annotation | NoGoal


class GoalModel:
    """GoalProvider with greedy decoding. The batch changes an answer only where two tokens are nearly as likely."""

    def __init__(
        self,
        model: Any,
        renderer: GoalRenderer,
        *,
        name: str,
        max_overlap: float = MAX_OVERLAP,
        batch: int = 16,
    ) -> None:
        self.model, self.renderer, self.name = model, renderer, name
        self.max_overlap, self.batch = max_overlap, batch
        self._lock = asyncio.Lock()
        self._pending: list[tuple[Conversation, asyncio.Future[GoalResult]]] = []

    async def annotate(self, conversation: Conversation) -> GoalResult:
        """Writes the goal of a conversation; concurrent calls are batched."""
        answer: asyncio.Future[GoalResult] = asyncio.get_running_loop().create_future()
        self._pending.append((conversation, answer))
        try:
            async with self._lock:
                while not answer.done():
                    await self._answer_batch()
            return answer.result()
        finally:
            self._pending = [pair for pair in self._pending if pair[1] is not answer]

    async def _answer_batch(self) -> None:
        batch, self._pending = self._pending[: self.batch], self._pending[self.batch :]
        try:
            results = await asyncio.to_thread(self.annotate_many, [conversation for conversation, _ in batch])
        except BaseException:
            # This caller gets the error; the others are put back and tried again.
            self._pending[:0] = batch
            raise
        for (_, answer), annotation in zip(batch, results, strict=True):
            answer.set_result(annotation)

    def annotate_many(self, conversations: Sequence[Conversation]) -> list[GoalResult]:
        """Writes the goals of conversations, in their order; prompts of similar length share a batch."""
        with_text = [
            index
            for index, conversation in enumerate(conversations)
            if self.renderer.has_user_text(conversation)
        ]
        texts = self.write([self.renderer.prompt(conversations[index]) for index in with_text])
        results: list[GoalResult] = [NoGoal("no user turn")] * len(conversations)
        for index, text in zip(with_text, texts, strict=True):
            results[index] = self._read(text, conversations[index])
        return results

    def write(self, prompts: Sequence[list[int]], *, whole_lines: bool = True) -> list[str]:
        """Returns the decoded, unchecked answer to each prompt.

        Args:
            prompts: prompt ids.
            whole_lines: drop the last line of an answer that reached the token limit; it is cut short, or a loop.
        """
        order = sorted(range(len(prompts)), key=lambda index: len(prompts[index]))
        texts = [""] * len(prompts)
        for start in range(0, len(order), self.batch):
            rows = order[start : start + self.batch]
            answers = self._generate([prompts[index] for index in rows])
            for index, (text, is_complete) in zip(rows, answers, strict=True):
                texts[index] = text if is_complete or not whole_lines else text.rpartition("\n")[0]
        return texts

    def _read(self, text: str, conversation: Conversation) -> GoalResult:
        annotation = parse_answer(text, conversation.id, user_turns=len(user_texts(conversation)))
        if annotation is None:
            return NoGoal("unreadable answer")
        named = annotation.model_copy(update={"provenance": self.name})
        return accepted(named, conversation, max_overlap=self.max_overlap)

    def _generate(self, prompts: list[list[int]]) -> list[tuple[str, bool]]:
        """Returns each answer and whether it ended before the token limit."""
        import torch

        end, width = self.renderer.end_id, max(map(len, prompts))
        ids_BT = torch.full((len(prompts), width), end)
        mask_BT = torch.zeros_like(ids_BT)
        for row, prompt in enumerate(prompts):
            ids_BT[row, width - len(prompt) :] = torch.tensor(prompt)
            mask_BT[row, width - len(prompt) :] = 1
        device = self.model.device
        with torch.inference_mode():
            out_BT = self.model.generate(
                input_ids=ids_BT.to(device),
                attention_mask=mask_BT.to(device),
                do_sample=False,
                max_new_tokens=self.renderer.format.answer_tokens,
                eos_token_id=end,
                pad_token_id=end,
            )
        return [(self.renderer.decode(row), end in row) for row in out_BT[:, width:].tolist()]


def load_goal_model(
    path: Path | None = None, *, max_overlap: float = MAX_OVERLAP, batch: int = 16
) -> GoalModel:
    """Loads a goal model, merged into its base.

    Args:
        path: an adapter or a run directory; None: the packaged adapter.
        max_overlap: largest share of word n-grams in common with the person.
        batch: conversations a batch.

    Raises:
        ConfigError: no adapter at `path`, or one that does not match its SHA256 file.
    """
    folder = _adapter_folder(SHIPPED if path is None else path)
    from peft import PeftModel

    from usersim.weights.base_model import load_user_base

    format_ = GoalFormat.model_validate_json((folder / FORMAT_FILE).read_text(encoding="utf-8"))
    settings = json.loads((folder / "adapter_config.json").read_text(encoding="utf-8"))
    base_name = settings.get("base_model_name_or_path") or BASE_NAME
    quiet_transformers()
    device = default_device()
    base = load_user_base(build_base() if base_name == BASE_NAME else base_name)
    merged: Any = PeftModel.from_pretrained(base.model, folder).merge_and_unload()
    merged = merged.to(device, torch_dtype(device))
    renderer = GoalRenderer(base.renderer, base.tokenizer_json, format_)
    name = GOAL_MODEL_NAME if path is None else f"local:{_digest(folder)[:12]}"
    return GoalModel(merged.eval(), renderer, name=name, max_overlap=max_overlap, batch=batch)


def _adapter_folder(path: Path) -> Path:
    folder = path / "adapter" if (path / "adapter" / WEIGHTS).is_file() else path
    for name in (WEIGHTS, "adapter_config.json", FORMAT_FILE):
        if not (folder / name).is_file():
            raise ConfigError(f"{path}: no {name}, so not a goal model (train one: data_prep.goals.training)")
    recorded = folder / "SHA256"
    if recorded.is_file() and recorded.read_text(encoding="utf-8").split()[0] != _digest(folder):
        raise ConfigError(f"{folder}: the adapter does not match its SHA256 file; reinstall the package")
    return folder


def _digest(folder: Path) -> str:
    return file_hash(folder / WEIGHTS)
