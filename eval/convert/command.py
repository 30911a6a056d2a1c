"""`usersim eval convert`: converts finished conversations of other tools to Conversation records."""

from __future__ import annotations

import argparse
from pathlib import Path

from eval.convert import collabllm, messages, nemo_usersim, tau2
from eval.convert.turns import Converted
from usersim.cli import console, emit_json
from usersim.errors import ConfigError, DataError
from usersim.storage.records import write_records

LAYOUTS = ("tau2", "collabllm", "nemo-usersim", "messages")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("layout", choices=LAYOUTS)
    add("file", type=Path, metavar="FILE", help="file or folder, as the tool wrote it")
    add("--out", type=Path, required=True, metavar="FILE", help="output file of Conversation records (JSONL)")
    add("--source", metavar="NAME", help="simulator name in the records (default: from the file)")
    add(
        "--stop",
        action="append",
        default=[],
        metavar="MARK",
        help="layout `messages`: further mark that ends a conversation; repeat for more",
    )
    add("--human", action="store_true", help="layout `messages`: the conversations are of people")
    add("--json", action="store_true")
    add("--json-out", metavar="FILE")


def run(args: argparse.Namespace) -> int:
    converted = _converted(args)
    if not converted.conversations:
        reasons = ", ".join(f"{reason} {count}" for reason, count in converted.excluded.most_common())
        raise DataError(f"{args.file}: no conversation could be converted ({reasons or 'it is empty'})")
    write_records(args.out, converted.conversations)
    with_goal = sum(c.profile.goal is not None for c in converted.conversations)
    by_user = sum(c.ended_by == "user" for c in converted.conversations)
    summary = {
        "conversations": len(converted.conversations),
        "with_goal": with_goal,
        "ended_by_user": by_user,
    }
    counts = {
        "excluded": dict(converted.excluded.most_common()),
        "notes": dict(converted.notes.most_common()),
    }
    emit_json({**summary, **counts, "out": str(args.out)}, stdout=args.json, path=args.json_out)
    if not args.json:
        console.print(
            f"{len(converted.conversations)} conversations in {args.out}; {with_goal} with a goal, "
            f"{by_user} ended by the user",
            markup=False,
        )
        for kind, label in (("excluded", "excluded: "), ("notes", "")):
            for reason, count in counts[kind].items():
                console.print(f"  {label}{reason}: {count}")
    return 0


def _converted(args: argparse.Namespace) -> Converted:
    if args.layout == "messages":
        return messages.convert(
            args.file,
            source=args.source,
            origin="human" if args.human else "simulated",
            stop=tuple(args.stop),
        )
    if args.human or args.stop:
        raise ConfigError(f"{args.layout}: --human and --stop go with the layout `messages`")
    layouts = {"tau2": tau2.convert, "collabllm": collabllm.convert, "nemo-usersim": nemo_usersim.convert}
    return layouts[args.layout](args.file, source=args.source)
