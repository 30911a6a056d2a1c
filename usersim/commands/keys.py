"""`usersim keys COMMAND`: lists the keys of a command's config, with defaults."""

from __future__ import annotations

import argparse
import importlib
import sys

from usersim.errors import ConfigError
from usersim.storage.toml_config import keys_help

CONFIGS = {
    "train": "usersim.training.config:TrainConfig",
    "adapt": "usersim.adapt.config:AdaptConfig",
    "serve": "serve.config:ServeConfig",
    "eval run": "eval.fidelity.settings:EvalConfig",
    "collab mr": "collab_train.rollout.command:MRConfig",
    "collab pairs": "collab_train.trainers.pairs:PairsConfig",
    "collab sft": "collab_train.trainers.configs:SFT",
    "collab dpo": "collab_train.trainers.configs:DPO",
    "collab online-dpo": "collab_train.trainers.configs:OnlineDPO",
    "collab grpo": "collab_train.trainers.configs:GRPO",
    "collab rloo": "collab_train.trainers.configs:RLOO",
    "collab bench": "collab_train.bench.conditions:BenchConfig",
}


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="usersim keys", description=__doc__, epilog=f"COMMAND is one of: {', '.join(CONFIGS)}"
    )
    parser.add_argument("command", nargs="+", metavar="COMMAND")
    command = " ".join(parser.parse_args(argv).command)
    if command not in CONFIGS:
        raise ConfigError(f"{command!r} has no config; one of {', '.join(CONFIGS)}")
    module, _, name = CONFIGS[command].partition(":")
    sys.stdout.write(keys_help(getattr(importlib.import_module(module), name)) + "\n")
    return 0
