"""Shared parts of the commands: error lines and logging on stderr, summaries, JSON output."""

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

# No markup and no emoji codes: printed text is user data, where `[/x]` would be an error.
console = Console(stderr=True, highlight=False, markup=False, emoji=False)


def run_main(main: Callable[[list[str]], int | None], argv: list[str] | None = None) -> int:
    """Runs a command and returns its exit status.

    It is 0; 2 for a UsersimError, with one line on stderr; 130 on Ctrl-C. Other exceptions are bugs and propagate.
    """
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
        # The reader closed the pipe (`| head`); avoid the interpreter's error message at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        place = f"{error.filename}: " if error.filename else ""
        complain(f"{place}{error.strerror}; free disk space and run the same command again")
        return 2
    except KeyboardInterrupt:
        complain("interrupted")
        return 130


def quiet_transformers() -> None:
    """Disables the progress bars of transformers, which show for loads of a second."""
    from transformers.utils import logging as transformers_logging

    transformers_logging.disable_progress_bar()  # type: ignore[no-untyped-call]


def complain(message: str) -> None:
    """Prints an error as one line on stderr."""
    sys.stderr.write(f"usersim: {message}\n")


def show(values: Mapping[str, Any]) -> None:
    """Prints a summary on stderr, one line per value."""
    width = max(map(len, values), default=0)
    for name, value in values.items():
        console.print(f"  {name.replace('_', ' '):{width}}  {_format(value)}", soft_wrap=True)


def _format(value: Any) -> str:
    if isinstance(value, int) and not isinstance(value, bool):
        return f"{value:,}"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def readable(path: str | Path) -> str:
    """Returns a path or command as valid Unicode text, with invalid bytes replaced."""
    return os.fsencode(path).decode(errors="replace")


def command_line(words: Sequence[str] | None = None) -> str:
    """Returns the command line as typed, or `usersim` with `words`, as Unicode text."""
    return readable(shlex.join(["usersim", *(sys.argv[1:] if words is None else words)]))


def tell_goals(where: str | Path, conversations: int, *, with_goal: int) -> None:
    """Prints the number of conversations, and of those with a goal, in one line on stderr."""
    line = f"{readable(where)}: {conversations:,} conversations, {with_goal:,} with a goal"
    console.print(line, style="dim", soft_wrap=True)


def load_conversations(path: str | Path) -> list[Conversation]:
    """Reads the conversations of a file and prints their number on stderr.

    Raises:
        DataError: The file has no conversations, or a line is not a conversation.
    """
    conversations = read_conversations(path)
    if not conversations:
        raise DataError(f"{path}: no conversations; give a JSON Lines file with one conversation per line")
    with_goal = sum(conversation.profile.goal is not None for conversation in conversations)
    tell_goals(path, len(conversations), with_goal=with_goal)
    return conversations


def emit_json(value: Any, *, stdout: bool, path: str | None) -> None:
    """Writes the JSON document of `--json` to stdout and of `--json-out FILE` atomically to a file."""
    if path:
        write_json(path, value)
    if stdout:
        sys.stdout.write(json.dumps(value, ensure_ascii=False, indent=2) + "\n")
        sys.stdout.flush()
