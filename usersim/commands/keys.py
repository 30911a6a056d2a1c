"""`usersim keys COMMAND`: the keys of a command's config, with their defaults."""

from __future__ import annotations

import argparse
import importlib
import sys

from usersim.config import keys_help
from usersim.errors import ConfigError

CONFIGS = {
    "train": "usersim.train_config:TrainConfig",
    "adapt": "usersim.adapt.config:AdaptConfig",
    "serve": "serve.config:ServeConfig",
    "eval run": "eval.settings:EvalConfig",
    "collab mr": "collab_train.mr:MRConfig",
    "collab pairs": "collab_train.pairs:PairsConfig",
    "collab sft": "collab_train.training_configs:SFT",
    "collab dpo": "collab_train.training_configs:DPO",
    "collab online-dpo": "collab_train.training_configs:OnlineDPO",
    "collab grpo": "collab_train.training_configs:GRPO",
    "collab rloo": "collab_train.training_configs:RLOO",
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
