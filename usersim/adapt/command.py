"""`usersim adapt`: trains a User LM on chat logs and compares it with the people in them.

usersim adapt configs/adapt/my-logs.toml --dry-run
usersim adapt configs/adapt/my-logs.toml

The same command resumes an interrupted run. Stages whose inputs are unchanged are skipped.
"""

from __future__ import annotations

import argparse

from usersim.adapt.config import AdaptConfig
from usersim.cli import console, emit_json
from usersim.errors import ConfigError, DataError
from usersim.storage.toml_config import load_config


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="usersim adapt",
        description=__doc__,
        epilog="the keys of its config: usersim keys adapt",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("config", help="a TOML file; see configs/adapt/")
    parser.add_argument("overrides", nargs="*", metavar="key=value")
    parser.add_argument("--dry-run", action="store_true", help="print the plan and stop")
    parser.add_argument(
        "--no-probe", action="store_true", help="plan without preparing the first chats of each source"
    )
    parser.add_argument(
        "--again", metavar="STAGE", help="run this stage again although its inputs are unchanged"
    )
    parser.add_argument("--json", action="store_true", help="one JSON document on stdout")
    parser.add_argument("--json-out", metavar="FILE", help="write the JSON document to FILE")
    args = parser.parse_intermixed_args(argv)
    config = load_config(AdaptConfig, args.config, args.overrides)
    from usersim.adapt.plan import estimates, make_plan, plan_lines
    from usersim.adapt.stage_runner import run_stages
    from usersim.adapt.stages import Pipeline

    pipeline = Pipeline(config)
    if args.dry_run:
        plan = make_plan(pipeline, probe=not args.no_probe)
        emit_json(
            {**plan.model_dump(mode="json"), "seconds": plan.seconds}, stdout=args.json, path=args.json_out
        )
        for line in plan_lines(plan):
            console.print(line, soft_wrap=True)
        for warning in plan.warnings:
            console.print(f"warning: {warning}", style="yellow", soft_wrap=True)
        if plan.stop:
            raise DataError(plan.stop)
        return 0
    names = [stage.name for stage in pipeline.stages]
    if args.again is not None and args.again not in names:
        raise ConfigError(f"--again {args.again}: no such stage; one of {', '.join(names)}")
    if config.machine.gpus:
        console.print("machine.gpus is only for plans; this run uses this machine", style="yellow")
    result = run_stages(
        pipeline, estimate=lambda: estimates(pipeline, pipeline.measured_facts()), again=args.again
    )
    emit_json({"out": str(result)}, stdout=args.json, path=args.json_out)
    console.print(f"usersim serve --model {result}", soft_wrap=True)
    return 0
