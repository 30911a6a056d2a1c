"""The local goal model: writes a goal and its facets for a conversation, without any endpoint."""

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

Made = Annotation | NoGoal


class GoalModel:
    """A GoalProvider. Greedy; an answer depends on its batch only where two tokens are nearly as likely."""

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
        self._turn = asyncio.Lock()
        self._waiting: list[tuple[Conversation, asyncio.Future[Made]]] = []

    async def annotate(self, conversation: Conversation) -> Made:
        """Calls that wait at the same time are answered in one batch."""
        answer: asyncio.Future[Made] = asyncio.get_running_loop().create_future()
        self._waiting.append((conversation, answer))
        try:
            async with self._turn:
                while not answer.done():
                    await self._answer_waiting()
            return answer.result()
        finally:
            self._waiting = [pair for pair in self._waiting if pair[1] is not answer]

    async def _answer_waiting(self) -> None:
        asked, self._waiting = self._waiting[: self.batch], self._waiting[self.batch :]
        try:
            made = await asyncio.to_thread(self.annotate_many, [conversation for conversation, _ in asked])
        except BaseException:
            # The one who was at it hears of it; the others are next in line and try again.
            self._waiting[:0] = asked
            raise
        for (_, answer), annotation in zip(asked, made, strict=True):
            answer.set_result(annotation)

    def annotate_many(self, conversations: Sequence[Conversation]) -> list[Made]:
        """In the order given; prompts of like length share a batch."""
        spoken = [index for index, one in enumerate(conversations) if self.renderer.speaks(one)]
        texts = self.write([self.renderer.prompt(conversations[index]) for index in spoken])
        made: list[Made] = [NoGoal("no user turn")] * len(conversations)
        for index, text in zip(spoken, texts, strict=True):
            made[index] = self._read(text, conversations[index])
        return made

    def write(self, prompts: Sequence[list[int]], *, whole_lines: bool = True) -> list[str]:
        """What the model answers to each prompt, decoded, unchecked.

        With `whole_lines` the last line of an answer that never ended is left out: it is cut short, or a loop.
        """
        order = sorted(range(len(prompts)), key=lambda index: len(prompts[index]))
        texts = [""] * len(prompts)
        for start in range(0, len(order), self.batch):
            chosen = order[start : start + self.batch]
            written = self._generate([prompts[index] for index in chosen])
            for index, (text, ended) in zip(chosen, written, strict=True):
                texts[index] = text if ended or not whole_lines else text.rpartition("\n")[0]
        return texts

    def _read(self, text: str, conversation: Conversation) -> Made:
        annotation = parse_answer(text, conversation.id, user_turns=len(user_texts(conversation)))
        if annotation is None:
            return NoGoal("unreadable answer")
        signed = annotation.model_copy(update={"provenance": self.name})
        return accepted(signed, conversation, max_overlap=self.max_overlap)

    def _generate(self, prompts: list[list[int]]) -> list[tuple[str, bool]]:
        """Each answer, and whether it ended of its own accord."""
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
    """The adapter at `path` (or in the run directory `path`), merged into its base; None = the shipped one."""
    folder = _adapter_folder(SHIPPED if path is None else path)
    from peft import PeftModel

    from usersim.weights.base_model import load_user_base

    format_ = GoalFormat.model_validate_json((folder / FORMAT_FILE).read_text(encoding="utf-8"))
    settings = json.loads((folder / "adapter_config.json").read_text(encoding="utf-8"))
    named = settings.get("base_model_name_or_path") or BASE_NAME
    quiet_transformers()
    device = default_device()
    base = load_user_base(build_base() if named == BASE_NAME else named)
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
