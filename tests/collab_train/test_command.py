"""`usersim collab`: plans, bad input, and whole runs of mr, pairs and dpo on tiny real models."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from usersim.__main__ import main

pytest.importorskip("trl", reason="trl is not installed (pip install 'usersim-lm[collab]')")

MR = (
    "contexts='{contexts}'",
    "user='{user}'",
    "assistant='{assistant}'",
    "user_tokens=12",
    "assistant_tokens=16",
)


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "config.toml"
    path.write_text("# usersim collab …\n", encoding="utf-8")
    return path


def collab(*words: str | Path) -> int:
    return main(["collab", *map(str, words)])


def contexts(path: Path) -> Path:
    rows = [
        {
            "id": f"c{i}",
            "turns": [{"role": "user", "text": "plan a trip"}],
            "goal": {"summary": "plan a trip", "facets": [{"text": "by train"}]},
            "candidates": ["Go by train.", "Go by plane, which is a good deal faster."],
            "split": split,
        }
        for i, split in enumerate(["train"] * 4 + ["heldout"] * 2)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def test_dry_run_prints_the_plan_and_makes_nothing(
    config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    assert collab("mr", config, f"out='{out}'", "limit=3", "n=4", "w=2", "--dry-run", "--json") == 0
    plan = json.loads(capsys.readouterr().out)
    # 3 contexts of each split, 2 sampled replies each, 4 futures of 2 user turns.
    assert (plan["contexts"], plan["candidates"], plan["futures"]) == (6, 12, 48)
    assert plan["user_turns_at_most"] == 96
    assert plan["user_tokens_at_most"] == 96 * 64
    assert plan["assistant_tokens_at_most"] == (96 + 12) * 160
    words = ("limit=3", "n=4", "w=2", "turns=3")
    assert collab("pairs", config, f"out='{out}'", *words, "--dry-run", "--json") == 0
    longer = json.loads(capsys.readouterr().out)
    assert (longer["candidates"], longer["user_turns_at_most"], longer["pairs_at_most"]) == (36, 288, 18)
    assert longer["assistant_tokens_at_most"] == 3 * (96 + 12) * 160
    assert not out.exists()


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (["mr", "wn=3"], "override 'wn=3': unknown key 'wn'"),
        (["mr", "w=-1"], "w: Input should be greater"),
        (["mr", "task=nosuch"], "task: unknown task 'nosuch'"),
        (["mr", 'ids=["x-99"]'], "ids: unknown context x-99"),
        (["mr", "rewards.nosuch=1"], "rewards.nosuch: unknown reward"),
        (["mr", "rewards.bleu=1"], "reward bleu needs a reference"),
        (["mr", "contexts=nosuch.jsonl"], "nosuch.jsonl: no such file"),
        (["mr", "user=nosuch"], "nosuch: no model there"),
        (["pairs", "margin=-1"], "margin: Input should be greater"),
        (["dpo", "train=nosuch.jsonl"], "nosuch.jsonl: no such file"),
        (["dpo", "batch=3"], "batch=3 is not a multiple of micro_batch=2"),
        (["bench", "tasks=[{name='nosuch'}]"], "task: unknown task 'nosuch'"),
    ],
)
def test_what_the_operator_can_fix_is_one_line_and_exit_code_2(
    config: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    words: list[str],
    complaint: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert collab(words[0], config, *words[1:], "--json") == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("usersim: ")
    assert complaint in captured.err
    assert captured.err.count("\n") == 1


def run_mr(command: str, config: Path, tmp_path: Path, user: Path, assistant: Path, *more: str) -> Any:
    """The JSON of `command` on six contexts with given candidates."""
    names = {"contexts": contexts(tmp_path / "contexts.jsonl"), "user": user, "assistant": assistant}
    report = tmp_path / f"{command}.json"
    words = [word.format(**names) for word in MR]
    assert collab(command, config, *words, f"out='{tmp_path / command}'", *more, "--json-out", report) == 0
    return json.loads(report.read_text(encoding="utf-8"))


def test_mr_of_given_candidates_with_real_models_and_its_resumption(
    config: Path,
    tmp_path: Path,
    tiny_userlm: Path,
    tiny_base: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    first = run_mr("mr", config, tmp_path, tiny_userlm, tiny_base, "w=1", "n=2")
    assert first["summary"]["futures"] == 24
    assert len(first["contexts"]) == 6
    printed = capsys.readouterr().err
    assert "Go by train." in printed
    assert "coverage" in printed
    samples = (tmp_path / "mr" / "samples.jsonl").read_bytes()
    again = run_mr("mr", config, tmp_path, tiny_userlm, tiny_base, "w=1", "n=2")
    kept = [line for line in samples.splitlines() if b'"error"' not in line]
    assert len((tmp_path / "mr" / "samples.jsonl").read_bytes().splitlines()) == 48 - len(kept)
    assert again["summary"]["futures_resumed"] == len(kept)
    if len(kept) == 24:
        assert again["contexts"] == first["contexts"]
    assert collab("mr", config, f"out='{tmp_path / 'mr'}'", "w=3") == 2
    assert "another config" in capsys.readouterr().err


def test_pairs_then_dpo_move_the_weights_and_the_margin(
    config: Path, tmp_path: Path, tiny_userlm: Path, tiny_base: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import torch
    from safetensors.torch import load_file

    pairs = run_mr("pairs", config, tmp_path, tiny_userlm, tiny_base, "w=0")
    # Immediate rewards: the train is what was wanted, so every context makes a pair.
    assert pairs["pairs"] == {"train": 4, "heldout": 2}
    files = [f"train='{tmp_path / 'pairs/train.jsonl'}'", f"heldout='{tmp_path / 'pairs/heldout.jsonl'}'"]
    options = [
        f"assistant='{tiny_base}'",
        "lr=1e-2",
        "rank=4",
        "wandb=disabled",
        "show_tokens=8",
    ]
    report, out = tmp_path / "dpo.json", tmp_path / "dpo"
    words = [*files, *options, "batch=2", "epochs=2", f"out='{out}'", "--json-out", str(report)]
    capsys.readouterr()
    assert collab("dpo", config, *words, "--json") == 0
    summary = json.loads(report.read_text(encoding="utf-8"))
    assert json.loads(capsys.readouterr().out) == summary
    assert summary["steps"] == 4
    assert summary["train_margin"]["n"] == 4
    assert summary["train_margin"]["change"] > 0.1
    assert summary["heldout_margin"]["change"] > 0.1
    weights = load_file(out / "adapter" / "adapter_model.safetensors")
    assert any(name.endswith("lora_B.weight") and bool(torch.any(w != 0)) for name, w in weights.items())
    assert not any("ref" in name.split(".") for name in weights)
    logged = [json.loads(line) for line in (out / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    assert any("rewards/margins" in row for row in logged)
    # The run is an assistant like any other, and a second training goes on from its adapter.
    chained = [*files, *options[1:], f"assistant='{out}'", f"out='{tmp_path / 'more'}'", "max_steps=1"]
    assert collab("dpo", config, *chained, "batch=2", "--json-out", str(report)) == 0
    later = json.loads(report.read_text(encoding="utf-8"))
    assert later["train_margin"]["before"] == pytest.approx(summary["train_margin"]["after"], abs=0.05)


def test_sft_makes_the_chosen_replies_likelier(config: Path, tmp_path: Path, tiny_base: Path) -> None:
    from collab_train.rollout.engines.models import load_assistant
    from collab_train.trainers.margins import reply_logprob
    from collab_train.trainers.pairs import Message, Pair
    from usersim.storage.records import write_records

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
    write_records(tmp_path / "pairs.jsonl", [pair, pair])
    out = tmp_path / "sft"
    words = [
        f"train='{tmp_path / 'pairs.jsonl'}'",
        f"assistant='{tiny_base}'",
        f"out='{out}'",
        "lr=1e-2",
        "show=0",
    ]
    assert collab("sft", config, *words, "wandb=disabled", "batch=2", "max_steps=3") == 0

    def likelihood(where: Path) -> float:
        model, tokenizer = load_assistant(str(where), trainable=False)
        return reply_logprob(model, tokenizer, pair.prompt, pair.chosen, max_length=256)

    assert likelihood(out) > likelihood(tiny_base) + 0.1


@pytest.mark.parametrize("exact", [False, True])
def test_local_models_decode_together_and_in_turns_unless_it_must_be_exact(
    tiny_userlm: Path, tiny_base: Path, exact: bool
) -> None:
    from collab_train.decoding.dynamic_batching import BatchedSampler
    from collab_train.rollout.command import MRConfig, open_speakers

    config = MRConfig(user=str(tiny_userlm), assistant=str(tiny_base), exact=exact, concurrency=7)
    user, assistant = open_speakers(config)
    batched = [isinstance(speaker.sampler, BatchedSampler) for speaker in (user, assistant)]
    assert batched == [not exact, not exact]
    if not exact:
        assert user.sampler._turns is assistant.sampler._turns
        assert user.sampler.rows == 7
