"""Two processes (gloo, DDP) train as one does, see every row once, and only the first writes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.usersim.training.test_train import chats, config
from usersim.storage.records import whole_lines, write_records

# Writes down which windows each process trained on and was scored on, and who wrote to the run.
WITNESS = """
import json, os, sys
from usersim.cli import run_main
from usersim.commands.train import main
from usersim.storage.runs import RunDir
from usersim.training.finetune import UserTrainer
from usersim.training.data import IGNORED

seen = open(f"{sys.argv[1]}/seen-{os.environ.get('RANK', '0')}.jsonl", "a", buffering=1)
loss, append = UserTrainer.compute_loss, RunDir._append

def watched_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
    ids, windows = inputs["input_ids"][0].tolist(), inputs["windows"]
    kind = "dev" if num_items_in_batch is None else "train"
    labels = inputs["labels"][0].tolist()
    for size in windows:
        if any(label != IGNORED for label in labels[:size]):
            print(json.dumps([kind, ids[:size]]), file=seen)
        ids, labels = ids[size:], labels[size:]
    return loss(self, model, inputs, return_outputs, num_items_in_batch)

def watched_append(self, name, line):
    print(json.dumps(["wrote", name]), file=seen)
    append(self, name, line)

UserTrainer.compute_loss, RunDir._append = watched_loss, watched_append
sys.exit(run_main(main, sys.argv[2:]))
"""


@pytest.fixture(scope="module")
def runs(tiny_base: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[int, Path]:
    """The same config on one and on two processes. 22 rows: the last step is a half one, and uneven for two."""
    folder = tmp_path_factory.mktemp("ddp")
    write_records(folder / "train.jsonl", chats(22))
    write_records(folder / "dev.jsonl", chats(3))
    (folder / "witness.py").write_text(WITNESS)
    return {count: launch(count, folder, tiny_base) for count in (1, 2)}


def launch(count: int, folder: Path, base: Path) -> Path:
    out = folder / f"on-{count}"
    out.mkdir()
    settings = config(base, folder, out / "run", max_steps=None, wandb="offline", save_every=2)
    (out / "run.toml").write_text(
        "".join(
            f"{key} = {json.dumps(value)}\n"
            for key, value in settings.model_dump(exclude_none=True).items()
            if not isinstance(value, dict)
        )
        + "lora = { rank = 4, alpha = 8 }\n"
    )
    together = (
        ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={count}"] if count > 1 else []
    )
    done = subprocess.run(
        [sys.executable, *together, str(folder / "witness.py"), str(out), str(out / "run.toml")],
        env={**os.environ, "PYTHONPATH": str(Path.cwd()), "OMP_NUM_THREADS": "1", "WANDB_MODE": "offline"},
        capture_output=True,
        text=True,
        timeout=180,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return out


def curve(out: Path, key: str) -> dict[int, float]:
    lines = [values for _, _, values in whole_lines(out / "run" / "metrics.jsonl")]
    steps = [line["step"] for line in lines if key in line]
    assert len(steps) == len(set(steps)), f"{key} is there twice for a step"
    return {line["step"]: line[key] for line in lines if key in line}


def seen(out: Path, rank: int) -> list[Any]:
    return [values for _, _, values in whole_lines(out / f"seen-{rank}.jsonl")]


def test_two_processes_learn_what_one_learns(runs: dict[int, Path]) -> None:
    one, two = (curve(runs[count], "loss") for count in (1, 2))
    assert one.keys() == two.keys() == {2, 4, 6}
    # Sums of gradients in another order, in fp32: 1e-4 of a loss of 5.6. Gradients halved would show as 1e-2.
    assert [two[step] for step in one] == pytest.approx([*one.values()], rel=1e-4)
    norms = [curve(runs[count], "grad_norm") for count in (1, 2)]
    assert [*norms[1].values()] == pytest.approx([*norms[0].values()], rel=1e-2)
    dev = [curve(runs[count], "eval_loss") for count in (1, 2)]
    assert dev[1] == pytest.approx(dev[0], rel=1e-4)
    amounts = [json.loads((runs[count] / "run/summary.json").read_text()) for count in (1, 2)]
    assert {**amounts[0], "out": "", "eval_loss": 0, "eval_perplexity": 0} == {
        **amounts[1], "out": "", "eval_loss": 0, "eval_perplexity": 0
    }  # fmt: skip


def test_every_row_is_seen_once_and_every_dev_window_scored_once(runs: dict[int, Path]) -> None:
    alone = seen(runs[1], 0)
    shared = [*seen(runs[2], 0), *seen(runs[2], 1)]
    for kind, times in (("train", 1), ("dev", 2)):  # dev losses at step 3 and 6
        rows = sorted(ids for what, ids in alone if what == kind)
        assert sorted(ids for what, ids in shared if what == kind) == rows
        assert len({tuple(ids) for ids in rows}) * times == len(rows)


def test_only_the_first_process_writes(runs: dict[int, Path]) -> None:
    assert {what for what, _ in seen(runs[2], 1)} == {"train", "dev"}
    assert {what for what, _ in seen(runs[2], 0)} == {"train", "dev", "wrote"}
    run = runs[2] / "run"
    assert len(list(run.glob("wandb/offline-run-*"))) == 1
    assert {path.name for path in (run / "checkpoints").glob("checkpoint-*")} == {
        "checkpoint-4",
        "checkpoint-6",
    }
    assert (run / "adapter" / "adapter_model.safetensors").is_file()
    assert not (run / ".rows").exists()
