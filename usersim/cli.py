"""What every command shares: logging to stderr, one readable line for what the operator can fix."""

from __future__ import annotations

import errno
import json
import logging
import os
import shlex
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from rich.console import Console

from usersim.errors import DataError, UsersimError
from usersim.storage.records import explain, read_conversations, write_json
from usersim.types import Conversation

# No markup and no emoji codes: what is printed holds other people's text, and `[/x]` in it would be an error.
console = Console(stderr=True, highlight=False, markup=False, emoji=False)


def run_main(main: Callable[[list[str]], int | None], argv: list[str] | None = None) -> int:
    """0; 2 with one line on stderr for a UsersimError; 130 on Ctrl-C. Anything else is a bug: its traceback shows."""
    level = os.environ.get("USERSIM_LOG", "WARNING").upper()
    logging.basicConfig(level=level, format="%(levelname)s %(name)s: %(message)s", stream=sys.stderr)
    try:
        return main(sys.argv[1:] if argv is None else argv) or 0
    except UsersimError as error:
        complain(str(error))
        return 2
    except ValidationError as error:
        complain(explain(error))
        return 2
    except BrokenPipeError:
        # The reader went away (`| head`); keep the interpreter from complaining about it at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        place = f"{error.filename}: " if error.filename else ""
        complain(f"{place}{error.strerror}; make room and run the same command again")
        return 2
    except KeyboardInterrupt:
        complain("interrupted")
        return 130


def quiet_transformers() -> None:
    """No progress bar for reading a file that takes a second."""
    from transformers.utils import logging as transformers_logging

    transformers_logging.disable_progress_bar()  # type: ignore[no-untyped-call]


def complain(message: str) -> None:
    sys.stderr.write(f"usersim: {message}\n")


def show(values: Mapping[str, Any]) -> None:
    """A summary for people on stderr, one line a value."""
    width = max(map(len, values), default=0)
    for name, value in values.items():
        console.print(f"  {name.replace('_', ' '):{width}}  {_shown(value)}", soft_wrap=True)


def _shown(value: Any) -> str:
    if isinstance(value, int) and not isinstance(value, bool):
        return f"{value:,}"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def readable(path: str | Path) -> str:
    """As Unicode text: a path, or a command that holds one, may have bytes that are none."""
    return os.fsencode(path).decode(errors="replace")


def command_line(words: Sequence[str] | None = None) -> str:
    """What was typed, or `words` after `usersim`, as Unicode text."""
    return readable(shlex.join(["usersim", *(sys.argv[1:] if words is None else words)]))


def tell_goals(where: str | Path, conversations: int, *, with_goal: int) -> None:
    """How many conversations there are and how many have a goal, in one line on stderr."""
    line = f"{readable(where)}: {conversations:,} conversations, {with_goal:,} with a goal"
    console.print(line, style="dim", soft_wrap=True)


def load_conversations(path: str | Path) -> list[Conversation]:
    """The conversations of a file, after a line on how many have a goal.

    Raises:
        DataError: there is none, or a line is no conversation.
    """
    conversations = read_conversations(path)
    if not conversations:
        raise DataError(f"{path}: no conversations")
    with_goal = sum(conversation.profile.goal is not None for conversation in conversations)
    tell_goals(path, len(conversations), with_goal=with_goal)
    return conversations


def emit_json(value: Any, *, stdout: bool, path: str | None) -> None:
    """The one JSON document of `--json` (stdout) and `--json-out FILE` (atomic)."""
    if path:
        write_json(path, value)
    if stdout:
        sys.stdout.write(json.dumps(value, ensure_ascii=False, indent=2) + "\n")
        sys.stdout.flush()
