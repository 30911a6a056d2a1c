"""SFT → DPO → GRPO: every run goes on from the one before, and what is loaded is what was trained."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("trl", reason="trl is not installed (pip install 'usersim-lm[collab]')")

import torch
from trl.trainer.sft_trainer import SFTTrainer

from collab_train.contexts import Context
from collab_train.rewards import EXTRINSIC, extrinsic
from collab_train.rollout.engines.models import load_assistant
from collab_train.rollout.simulation.best_path import Message
from collab_train.trainers.merge import merge
from collab_train.trainers.offline.dpo import DPO, TokenisedDPOTrainer, dpo
from collab_train.trainers.offline.offline_training import read_pairs
from collab_train.trainers.offline.sft import SFT, read_dialogues, sft
from collab_train.trainers.online.grpo import GRPO, GRPOAsTyped, grpo
from collab_train.trainers.online.online_dpo import OnlineDPO, online_dpo
from collab_train.trainers.pairs import Pair
from usersim.errors import ConfigError
from usersim.storage.records import write_records
from usersim.testing import ScriptedUser
from usersim.types import Turn

COMMON = {"wandb": "disabled", "batch": 2, "micro_batch": 2, "show": 0, "lr": 0.02, "rank": 4}
ONLINE = {
    **COMMON,
    "rewards": {"length": 1.0},
    "assistant_tokens": 8,
    "w": 0,
    "sample_candidates": 2,
}
IDS = torch.arange(10, 60)[None]


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Tiny matrices; threads would only wait for each other."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("pairs") / "train.jsonl"
    pair = Pair(
        context="c",
        split="train",
        prompt=(Message(role="user", content="plan a trip"),),
        chosen=(Message(role="assistant", content="Go by train."),),
        rejected=(Message(role="assistant", content="Fly."),),
        mr_chosen=1.0,
        mr_rejected=0.0,
        n_chosen=1,
        n_rejected=1,
    )
    write_records(path, [pair, pair])
    return path


@torch.no_grad()
def logits(model: Any) -> torch.Tensor:
    made: torch.Tensor = model.eval()(input_ids=IDS.to(model.device)).logits
    return made


def loaded(where: Path, *, trainable: bool = False) -> torch.Tensor:
    return logits(load_assistant(str(where), trainable=trainable)[0])


def first_logged(run: Path) -> dict[str, Any]:
    first: dict[str, Any] = json.loads((run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()[0])
    return first


def close(one: torch.Tensor, other: torch.Tensor) -> bool:
    return torch.allclose(one, other, atol=2e-4)


def test_no_adapter_is_dropped_on_the_way(
    tiny_base: Path, pairs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("USERSIM_PRECISION", "fp32")  # weights are compared
    kept: list[Any] = []

    def keep(module: str, trainer: Any) -> None:
        class Kept(trainer):  # type: ignore[misc]
            def __init__(self, *args: Any, **kwargs: Any) -> None:
                super().__init__(*args, **kwargs)
                kept.append(self)

        monkeypatch.setattr(f"collab_train.trainers.{module}.{trainer.__name__}", Kept)

    keep("offline.sft", SFTTrainer)
    keep("offline.dpo", TokenisedDPOTrainer)
    keep("online.grpo", GRPOAsTyped)
    runs = [tiny_base, *(tmp_path / name for name in ("sft", "dpo", "grpo", "online"))]
    names = [{"assistant": str(start), "out": str(out)} for start, out in pairwise(runs)]
    config = SFT(**COMMON, **names[0], train=str(pairs), max_steps=2)
    sft(config, read_dialogues(config))
    preferring = DPO(**COMMON, **names[1], train=str(pairs), max_steps=2)
    dpo(preferring, read_pairs(preferring))
    contexts = [Context(id=f"c{i}", turns=(Turn(role="user", text=f"plan {i}"),)) for i in range(2)]
    # It differs from reply to reply, whatever a random model says.
    monkeypatch.setitem(EXTRINSIC, "length", None)
    extrinsic("length")(lambda episode: float(len(episode.replies[0])))
    grpo(GRPO(**ONLINE, **names[2], max_steps=2, beta=0.1), contexts, user=ScriptedUser())
    online_dpo(OnlineDPO(**ONLINE, **names[3], max_steps=1, margin=0.0), contexts, user=ScriptedUser())
    functions = [loaded(run) for run in runs]
    for trainer, function, run in zip(kept, functions[1:], runs[1:], strict=False):
        trainer.model.set_adapter("default")
        assert close(logits(trainer.model), function)
        assert close(loaded(run, trainable=True), function)
    assert not any(close(one, other) for one, other in pairwise(functions))
    merge(str(runs[1]), str(tmp_path / "merged"))
    assert close(loaded(tmp_path / "merged"), functions[1])
    with pytest.raises(ConfigError, match="merged exists"):
        merge(str(runs[1]), str(tmp_path / "merged"))
    with pytest.raises(ConfigError, match="no adapter there"):
        merge(str(tiny_base), str(tmp_path / "other"))
    # The reference is where the run began, not the base: at the first step they are equal, the loss is ln 2.
    reference = kept[1].model
    reference.set_adapter("ref")
    assert close(logits(reference), functions[1])
    assert not close(logits(reference), functions[0])
    assert first_logged(runs[2])["loss"] == pytest.approx(math.log(2), abs=1e-3)
    assert first_logged(runs[3])["kl"] == pytest.approx(0, abs=1e-4)
    assert first_logged(runs[4])["rewards/margins"] == pytest.approx(0, abs=1e-4)
