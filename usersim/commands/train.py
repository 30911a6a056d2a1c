"""`usersim train`: fine-tunes a User LM.

usersim train configs/train/userlm-135m.toml lora.rank=16 out=runs/trial
"""

from __future__ import annotations

import argparse
import os

from usersim.cli import emit_json, show
from usersim.storage.toml_config import keys_help, load_config
from usersim.training.config import TrainConfig


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="usersim train",
        description=__doc__,
        epilog=keys_help(TrainConfig),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("config", help="a TOML file; see configs/train/")
    parser.add_argument("overrides", nargs="*", metavar="key=value")
    parser.add_argument("--dry-run", action="store_true", help="print the plan and stop")
    parser.add_argument(
        "--export", action="store_true", help="export the last checkpoint as the result, without training"
    )
    parser.add_argument("--json", action="store_true", help="one JSON document on stdout")
    parser.add_argument("--json-out", metavar="FILE", help="write the JSON document to FILE")
    args = parser.parse_args(argv)
    config = load_config(TrainConfig, args.config, args.overrides)
    from usersim.training.finetune import dry_run, train  # torch and TRL take longer than all of the above

    summary = dry_run(config) if args.dry_run else {"out": str(train(config, export=args.export))}
    if os.environ.get("RANK", "0") == "0":
        emit_json(summary, stdout=args.json, path=args.json_out)
        if not args.json:
            show(summary)
    return 0
