"""`usersim collab mr|pairs|sft|dpo|online-dpo|grpo|rloo|bench CONFIG [key=value…]`, `usersim collab merge RUN OUT`."""

from __future__ import annotations

import argparse
import os
import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from collab_train.run_lock import exclusive
from usersim.cli import console, emit_json, run_main
from usersim.storage.runs import RunDir
from usersim.storage.toml_config import load_config


def main(argv: list[str]) -> int:
    args = _parser().parse_args(argv)
    if getattr(args, "config", None) and "=" in args.config and not Path(args.config).exists():
        args.overrides, args.config = (
            [args.config, *args.overrides],
            None,
        )  # no config file, only overrides
    commands: dict[str, Callable[[argparse.Namespace], Any]] = {
        "mr": _mr,
        "pairs": _pairs,
        "sft": _sft,
        "dpo": _dpo,
        "online-dpo": _online_dpo,
        "grpo": _grpo,
        "rloo": _rloo,
        "bench": _bench,
        "merge": _merge,
    }
    result = commands[args.command](args)
    if os.environ.get("RANK", "0") == "0":
        emit_json(result, stdout=args.json, path=args.json_out)
    return 0


def _mr(args: argparse.Namespace) -> Any:
    from collab_train.rollout.accounting.progress import candidate_table
    from collab_train.rollout.command import MRConfig, choose_contexts, plan, run_mr
    from collab_train.rollout.scored import best_first, summarise

    config = load_config(MRConfig, args.config, args.overrides)
    contexts = choose_contexts(config)
    if args.dry_run:
        return _show(args, plan(config, contexts))
    with exclusive(config.out):
        scored = run_mr(config, contexts, RunDir(config.out, config))
    summary = summarise(scored)
    if not args.json:
        for context, result in zip(scored.contexts, scored.results, strict=True):
            last_user_text = " ".join(context.turns[-1].text.split())[:80]
            console.print(candidate_table(f"{context.id}: {last_user_text}", best_first(result)))
    results = [result.model_dump(mode="json") for result in scored.results]
    return {"summary": _show(args, summary), "contexts": results, "out": config.out}


def _pairs(args: argparse.Namespace) -> Any:
    from collab_train.rollout.command import choose_contexts
    from collab_train.trainers.pairs import PairsConfig, plan, run_pairs

    config = load_config(PairsConfig, args.config, args.overrides)
    contexts = choose_contexts(config)
    if args.dry_run:
        return _show(args, plan(config, contexts))
    with exclusive(config.out):
        summary = run_pairs(config, contexts, RunDir(config.out, config.scoring))
    return _show(args, summary)


def _sft(args: argparse.Namespace) -> Any:
    from collab_train.trainers.configs import SFT
    from collab_train.trainers.offline.sft import plan, read_dialogues, sft

    config = load_config(SFT, args.config, args.overrides)
    dialogues = read_dialogues(config)
    if args.dry_run:
        return _show(args, plan(config, dialogues))
    with exclusive(config.out):
        summary = sft(config, dialogues)
    return _show(args, summary)


def _dpo(args: argparse.Namespace) -> Any:
    from collab_train.trainers.configs import DPO
    from collab_train.trainers.offline.dpo import dpo, plan
    from collab_train.trainers.offline.offline_training import read_pairs

    config = load_config(DPO, args.config, args.overrides)
    pairs = read_pairs(config)
    if args.dry_run:
        return _show(args, plan(config, pairs))
    with exclusive(config.out):
        summary = dpo(config, pairs)
    return _show(args, summary)


def _online_dpo(args: argparse.Namespace) -> Any:
    _quiet_trl()
    from collab_train.trainers.configs import OnlineDPO
    from collab_train.trainers.online.online_dpo import online_dpo

    return _online(args, load_config(OnlineDPO, args.config, args.overrides), online_dpo)


def _grpo(args: argparse.Namespace) -> Any:
    _quiet_trl()
    from collab_train.trainers.configs import GRPO
    from collab_train.trainers.online.grpo import grpo

    return _online(args, load_config(GRPO, args.config, args.overrides), grpo)


def _rloo(args: argparse.Namespace) -> Any:
    _quiet_trl()
    from collab_train.trainers.configs import RLOO
    from collab_train.trainers.online.rloo import rloo

    return _online(args, load_config(RLOO, args.config, args.overrides), rloo)


def _quiet_trl() -> None:
    """Silences TRL, which warns about experimental trainers and about a vLLM that the run may not use."""
    os.environ.setdefault("TRL_EXPERIMENTAL_SILENCE", "1")
    warnings.filterwarnings("ignore", message="TRL currently supports vLLM")


def _online(args: argparse.Namespace, config: Any, train: Callable[[Any, Any], dict[str, Any]]) -> Any:
    from collab_train.trainers.online.online_training import plan, read_online

    contexts = read_online(config)
    if args.dry_run:
        return _show(args, plan(config, contexts))
    with exclusive(config.out):
        summary = train(config, contexts)
    return _show(args, summary)


def _bench(args: argparse.Namespace) -> Any:
    from collab_train.bench.command import run

    return run(args)


def _merge(args: argparse.Namespace) -> Any:
    from collab_train.trainers.merge import merge

    return _show(args, merge(args.run, args.out))


def _show(args: argparse.Namespace, values: dict[str, Any]) -> dict[str, Any]:
    """Prints `values` as text, unless --json is set, and returns them."""
    if not args.json:
        for key, value in _flat(values):
            console.print(f"  {key:26} {value}", markup=False)
    return values


def _flat(values: dict[str, Any], above: str = "") -> Iterator[tuple[str, str]]:
    """Yields (key, text) pairs; nested tables get dotted keys."""
    for key, value in values.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{above}{key}.") if value else [(f"{above}{key}", "-")]
        elif isinstance(value, list | tuple):
            yield f"{above}{key}", ", ".join(map(str, value)) or "-"
        elif isinstance(value, float):
            yield f"{above}{key}", f"{value:.6g}"
        else:
            yield f"{above}{key}", "-" if value is None else str(value)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="usersim collab", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, text in (
        ("mr", "multiturn-aware reward of candidate replies"),
        ("pairs", "preference pairs from those rewards"),
        ("sft", "LoRA fine-tuning on the best conversations or replies"),
        ("dpo", "LoRA preference training on pairs"),
        ("online-dpo", "DPO on fresh replies, ranked by their rewards"),
        ("grpo", "GRPO with multiturn-aware rewards of fresh replies"),
        ("rloo", "RLOO with multiturn-aware rewards of fresh replies"),
        ("bench", "comparison of assistants on tasks and simulated users"),
    ):
        keys = f"List the config keys: usersim keys collab {name}"
        command = commands.add_parser(name, help=text, description=text, epilog=keys)
        command.add_argument(
            "config", nargs="?", help="TOML file; see configs/collab/ (default: built-in defaults)"
        )
        command.add_argument("overrides", nargs="*", metavar="key=value")
        command.add_argument("--dry-run", action="store_true", help="print the plan and stop")
        command.add_argument("--json", action="store_true", help="print one JSON document on stdout")
        command.add_argument("--json-out", metavar="FILE", help="write the JSON document to FILE")
        if name == "bench":
            command.add_argument(
                "--only", nargs="+", metavar="PART", help="run only these parts of the config"
            )
    text = "merge the adapter of a trained assistant into a model folder"
    command = commands.add_parser("merge", help=text, description=text)
    command.add_argument("run", help="run directory of sft, dpo, online-dpo, grpo or rloo")
    command.add_argument("out", help="folder to create")
    command.add_argument("--json", action="store_true", help="print one JSON document on stdout")
    command.add_argument("--json-out", metavar="FILE", help="write the JSON document to FILE")
    return parser


if __name__ == "__main__":
    sys.exit(run_main(main))
