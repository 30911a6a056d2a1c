"""Seconds of a step of DPO on CPUs: TRL as it is, with memory kept (`usersim.training.malloc`), and with
prompts left out of the output layer besides (`collab_train.trainers.lora_tuning.project_replies_only`).

    python benchmarks/tuning.py --json-out tuning.json     # about eight minutes on two idle cores

The same steps of the same pairs through `collab dpo`'s own trainer, in processes of their own that take turns. The
first step of a process is not counted. Replies have 60 words, as in the embedded experiment; half of them answer an
opening, half the turn after it. The losses of all sides are compared.
"""

from __future__ import annotations

import argparse
import json
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from importlib import metadata
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch

from collab_train.rollout.simulation.best_path import Message
from collab_train.trainers import lora_tuning as tuning
from collab_train.trainers.configs import DPO
from collab_train.trainers.offline import dpo as dpo_module
from collab_train.trainers.offline.offline_training import read_pairs
from collab_train.trainers.pairs import Pair
from usersim.cli import console, emit_json, run_main
from usersim.storage.records import write_records

STEPS, PAIRS_A_STEP = 6, 8
OFF = {"trl": ("keep_pages", "project_replies_only"), "kept": ("project_replies_only",), "ours": ()}
SIDES = tuple(OFF)
TEXT = "the water near your small garden needs more light so put a bench there and paint it green"


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--quick", action="store_true", help="one round")
    parser.add_argument("--json-out", metavar="FILE")
    parser.add_argument("--side", choices=SIDES, help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    if args.side:
        sys.stdout.write(json.dumps(steps(args.side)) + "\n")
        return 0
    found: dict[str, list[dict[str, float]]] = {side: [] for side in SIDES}
    for number in range(1 if args.quick else args.rounds):
        for side, own in sorted(found.items(), reverse=number % 2 == 1):
            own.append(in_a_process(side))
            console.print(f"  round {number + 1}, {side}: {own[-1]}")
    report = summary(found)
    for key, value in report.items():
        console.print(f"  {key:24} {value}")
    emit_json(report, stdout=False, path=args.json_out)
    return 0


def in_a_process(side: str) -> dict[str, float]:
    command = [sys.executable, __file__, "--side", side]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    made: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return made


def steps(side: str) -> dict[str, float]:
    """Median seconds of a step, and what the kernel took of them."""
    for name in OFF[side]:
        setattr(tuning, name, lambda: False)
    stamps = list[tuple[float, float]]()

    class Timed(dpo_module.TokenisedDPOTrainer):
        def training_step(self, *args: Any, **kwargs: Any) -> Any:
            stamps.append((time.monotonic(), resource.getrusage(resource.RUSAGE_SELF).ru_stime))
            return super().training_step(*args, **kwargs)  # type: ignore[no-untyped-call]

    with tempfile.TemporaryDirectory() as folder:
        config = settings(Path(folder))
        setattr(dpo_module, "TokenisedDPOTrainer", Timed)  # noqa: B010
        loss = dpo_module.dpo(config, read_pairs(config))["loss"]
    parts = PAIRS_A_STEP // config.micro_batch
    whole = stamps[parts::parts]
    return {
        "step_s": round(statistics.median(b[0] - a[0] for a, b in pairwise(whole)), 3),
        "kernel_s": round(statistics.median(b[1] - a[1] for a, b in pairwise(whole)), 3),
        "last_loss": loss,
        "peak_mib": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024),
    }


def settings(folder: Path) -> DPO:
    write_records(folder / "pairs.jsonl", [pair(number) for number in range(STEPS * PAIRS_A_STEP)])
    return DPO(
        out=str(folder / "dpo"),
        train=str(folder / "pairs.jsonl"),
        batch=PAIRS_A_STEP,
        micro_batch=4,
        show=0,
        wandb="disabled",
    )


def pair(number: int) -> Pair:
    def said(shift: int) -> tuple[Message, ...]:
        known = TEXT.split()
        words = [known[(number * 7 + shift + place * (1 + shift)) % len(known)] for place in range(60)]
        return (Message(role="assistant", content=" ".join(words)),)

    opening = Message(role="user", content="how do i make my garden nicer")
    return Pair(
        context=f"c{number}",
        split="train",
        prompt=(opening, *said(1), opening) if number % 2 else (opening,),
        chosen=said(0),
        rejected=said(3),
        mr_chosen=1.0,
        mr_rejected=0.0,
        n_chosen=1,
        n_rejected=1,
    )


def summary(found: dict[str, list[dict[str, float]]]) -> dict[str, Any]:
    ratios = {
        side: [a["step_s"] / b["step_s"] for a, b in zip(found["trl"], own, strict=True)]
        for side, own in found.items()
        if side != "trl"
    }
    return {
        "speedup": round(statistics.median(ratios["ours"]), 2),
        "speedup_kept_alone": round(statistics.median(ratios["kept"]), 2),
        "speedup_range": [round(min(ratios["ours"]), 2), round(max(ratios["ours"]), 2)],
        "losses": sorted({one["last_loss"] for own in found.values() for one in own}),
        **{
            f"{side}_{key}": round(statistics.median(one[key] for one in own), 2)
            for side, own in found.items()
            for key in ("step_s", "kernel_s", "peak_mib")
        },
        "rounds": len(ratios["ours"]),
        "torch": metadata.version("torch"),
        "trl": metadata.version("trl"),
        "machine": platform.machine(),
        "threads": torch.get_num_threads(),
    }


if __name__ == "__main__":
    sys.exit(run_main(main))
