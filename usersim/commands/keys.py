"""`usersim keys COMMAND`: the keys of a command's config, with their defaults."""

from __future__ import annotations

import argparse
import importlib
import os
import sys
import warnings

from usersim.config import keys_help
from usersim.errors import ConfigError

CONFIGS = {
    "train": "usersim.train_config:TrainConfig",
    "serve": "serve.config:ServeConfig",
    "eval run": "eval.settings:EvalConfig",
    "collab mr": "collab_train.mr:MRConfig",
    "collab pairs": "collab_train.pairs:PairsConfig",
    "collab sft": "collab_train.sft:SFT",
    "collab dpo": "collab_train.dpo:DPO",
    "collab online-dpo": "collab_train.online_dpo:OnlineDPO",
    "collab grpo": "collab_train.grpo:GRPO",
    "collab rloo": "collab_train.rloo:RLOO",
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
    os.environ.setdefault("TRL_EXPERIMENTAL_SILENCE", "1")
    warnings.simplefilter("ignore")  # of what the module imports
    module, _, name = CONFIGS[command].partition(":")
    sys.stdout.write(keys_help(getattr(importlib.import_module(module), name)) + "\n")
    return 0
