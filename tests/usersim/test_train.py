"""Real training of a tiny model: the loss of exactly the user's words, resumed, saved, merged, loaded."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

import usersim
from tests.usersim.test_render import talk
from usersim.base import load_user_base
from usersim.errors import ConfigError, DataError
from usersim.model import resolve
from usersim.records import write_records
from usersim.train import LoraSettings, TrainConfig, main, train
from usersim.train_data import IGNORED, collate, load_corpus, row, training_rows
from usersim.types import Conversation, Goal, UserProfile


def chats(count: int = 24) -> list[Conversation]:
    made = []
    for i in range(count):
        base = talk(f"tell me about {i}", f"it is number {i}", "ok thanks", "bye")
        goal = Goal(summary=f"learn about {i}") if i % 2 else None
        made.append(base.model_copy(update={"id": f"c{i}", "profile": UserProfile(goal=goal)}))
    return made


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    write_records(folder / "train.jsonl", chats())
    write_records(folder / "dev.jsonl", chats(4))
    return folder


def config(tiny_base: Path, data: Path, out: Path, **changes: Any) -> TrainConfig:
    values: dict[str, Any] = {
        "out": str(out),
        "base": str(tiny_base),
        "train": (str(data / "train.jsonl"),),
        "dev": (str(data / "dev.jsonl"),),
        "lora": LoraSettings(rank=4, alpha=8),
        "max_steps": 6,
        "batch": 4,
        "micro_batch": 2,
        "lr": 5e-3,
        "eval_every": 3,
        "context_tokens": 1024,
        "wandb": "disabled",
    }
    return TrainConfig(**{**values, **changes})


def losses(out: Path) -> dict[int, float]:
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    return {line["step"]: line["eval_loss"] for line in lines if "eval_loss" in line}


@pytest.mark.parametrize("method", ["lora", "full"])
def test_training_lowers_the_dev_loss_and_the_result_loads(
    tiny_base: Path, data: Path, tmp_path: Path, method: str
) -> None:
    out = tmp_path / "run"
    train(config(tiny_base, data, out, method=method, max_steps=12, eval_every=6))
    curve = losses(out)
    assert curve[12] < curve[6] < 5.6  # a uniform guess over the 264 rows costs ln 264 = 5.58
    assert json.loads((out / "config.json").read_text())["method"] == method
    assert json.loads((out / "summary.json").read_text())["conversations"] == 24
    user = usersim.load(resolve(out))
    assert user.renderer.settings.end_of_conversation_id == 3


def test_the_end_row_is_trained_and_survives_the_merge(
    tiny_base: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("USERSIM_HOME", str(tmp_path / "home"))
    train(config(tiny_base, data, tmp_path / "run", lr=2e-2))
    merged = load_user_base(resolve(tmp_path / "run"))
    start = load_user_base(tiny_base)
    end = merged.settings.end_of_conversation_id
    before, after = (b.model.get_input_embeddings().weight for b in (start, merged))
    assert not torch.allclose(before[end], after[end], atol=1e-3)
    others = [i for i in range(before.shape[0]) if i != end]
    assert torch.allclose(before[others], after[others], atol=1e-2)


def test_an_interrupted_run_continues_to_the_same_loss(tiny_base: Path, data: Path, tmp_path: Path) -> None:
    straight, broken = tmp_path / "straight", tmp_path / "broken"
    train(config(tiny_base, data, straight))
    full = config(tiny_base, data, broken)
    train(full)
    # As after a kill at step 5: only the checkpoint of step 3 is left.
    import shutil

    shutil.rmtree(broken / "checkpoints" / "checkpoint-6")
    shutil.rmtree(broken / "adapter")
    (broken / "metrics.jsonl").unlink()
    train(full)
    assert losses(broken)[6] == pytest.approx(losses(straight)[6], abs=1e-6)
    assert 3 not in losses(broken)


def test_the_last_checkpoint_can_be_made_the_result(tiny_base: Path, data: Path, tmp_path: Path) -> None:
    settings = config(tiny_base, data, tmp_path / "run")
    with pytest.raises(ConfigError, match="no checkpoint to export"):
        train(settings, export=True)
    trained = train(settings) / "adapter_model.safetensors"
    weights = load_file(trained)
    trained.unlink()
    exported = load_file(train(settings, export=True) / "adapter_model.safetensors")
    assert weights.keys() == exported.keys()
    assert all(torch.equal(weights[name], exported[name]) for name in weights)
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert (summary["steps"], summary["windows_seen"]) == (6, 24)


def test_packed_windows_do_not_see_each_other(tiny_base: Path) -> None:
    base = load_user_base(tiny_base)
    rows = [row(next(iter(base.renderer.examples(c)))) for c in chats(3)]

    def loss(batch: dict[str, Any]) -> float:
        labels = batch.pop("labels")[0, 1:]
        logits = base.model(**batch, use_cache=False).logits[0, :-1].float()
        total = torch.nn.functional.cross_entropy(logits, labels, ignore_index=IGNORED, reduction="sum")
        return float(total.detach())

    apart = sum(loss(collate([one])) for one in rows)
    assert loss(collate(rows)) == pytest.approx(apart, rel=1e-4)


def test_each_epoch_is_drawn_anew_and_reproducibly(tiny_base: Path) -> None:
    renderer = load_user_base(tiny_base).renderer

    def rows(epochs: int) -> list[dict[str, list[int]]]:
        return list(training_rows(chats(8), renderer, max_tokens=400, epochs=epochs, seed=1))

    assert rows(2) == rows(2)
    assert rows(2)[:8] == rows(1)
    assert rows(2)[8:] != rows(1)


def test_simulated_text_is_never_trained_on(data: Path, tmp_path: Path) -> None:
    fake = chats(1)[0].model_copy(update={"origin": "simulated"})
    write_records(tmp_path / "fake.jsonl", [fake])
    with pytest.raises(DataError, match="learns from people only"):
        load_corpus([str(tmp_path / "fake.jsonl")], keep_without_goal=1.0, seed=0)


def test_conversations_without_goal_can_be_thinned_out(data: Path) -> None:
    corpus = load_corpus([str(data / "train.jsonl")], keep_without_goal=0.0, seed=0)
    assert (len(corpus.conversations), corpus.without_goal_left_out) == (12, 12)


def test_a_base_without_chat_tokens_is_refused(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_text('{"added_tokens": [{"id": 0, "content": "<s>"}]}')
    with pytest.raises(ConfigError, match="neither ChatML nor Llama-3"):
        load_user_base(tmp_path)


def test_the_dry_run_prints_the_plan(
    tiny_base: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "run.toml"
    file.write_text(
        f'base = "{tiny_base}"\ntrain = ["{data}/train.jsonl"]\nout = "{tmp_path}/r"\nbatch = 4\n'
    )
    assert main([str(file), "--dry-run", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["steps"] == 6
    assert not (tmp_path / "r").exists()


def test_json_is_the_only_thing_on_stdout(
    tiny_base: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "run.toml"
    file.write_text(
        f'base = "{tiny_base}"\ntrain = ["{data}/train.jsonl"]\ndev = ["{data}/dev.jsonl"]\n'
        f'out = "{tmp_path}/r"\nmax_steps = 2\nwandb = "disabled"\nlora = {{ rank = 2 }}\n'
    )
    assert main([str(file), "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"out": f"{tmp_path}/r/adapter"}
