"""`usersim eval convert`: finished conversations of other tools to Conversation records."""

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
    add("file", type=Path, metavar="FILE", help="or folder, as the tool wrote it")
    add("--out", type=Path, required=True, metavar="FILE", help="Conversation JSON Lines")
    add("--source", metavar="NAME", help="recorded as the simulator's name (else what the file says)")
    add("--stop", action="append", default=[], metavar="MARK", help="messages: also ends a conversation")
    add("--human", action="store_true", help="messages: these are of people")
    add("--json", action="store_true")
    add("--json-out", metavar="FILE")


def run(args: argparse.Namespace) -> int:
    made = _converted(args)
    if not made.conversations:
        reasons = ", ".join(f"{reason} {count}" for reason, count in made.excluded.most_common())
        raise DataError(f"{args.file}: no conversation could be taken over ({reasons or 'it is empty'})")
    write_records(args.out, made.conversations)
    with_goal = sum(c.profile.goal is not None for c in made.conversations)
    by_user = sum(c.ended_by == "user" for c in made.conversations)
    summary = {"conversations": len(made.conversations), "with_goal": with_goal, "ended_by_user": by_user}
    counts = {"excluded": dict(made.excluded.most_common()), "notes": dict(made.notes.most_common())}
    emit_json({**summary, **counts, "out": str(args.out)}, stdout=args.json, path=args.json_out)
    if not args.json:
        console.print(
            f"{len(made.conversations)} conversations in {args.out}; {with_goal} with a goal, "
            f"{by_user} ended by the user",
            markup=False,
        )
        for what, label in (("excluded", "excluded: "), ("notes", "")):
            for reason, count in counts[what].items():
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
