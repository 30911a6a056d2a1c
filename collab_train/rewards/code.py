"""Code that has to pass the tests of its task, run in a sandbox (`collab_train.sandbox`)."""

from __future__ import annotations

import re
from collections.abc import Sequence

from collab_train.contexts import Context
from collab_train.rewards.registry import Episode, extrinsic
from collab_train.sandbox import Outcome, refusal, run_tests

BLOCK = re.compile(r"```([\w+-]*)[^\n]*\n(.*?)(?:```|\Z)", re.DOTALL)
PYTHON = frozenset({"", "py", "python", "python3"})


def _no_tests(context: Context) -> str | None:
    return refusal() if context.metadata.get("tests") else "tests (metadata.tests)"


@extrinsic("pass_rate", lacks=_no_tests, blocking=True)
def pass_rate(episode: Episode) -> float:
    """Share of the tests that the assistant's last code passes; 0 where there is no code."""
    outcome = _outcome(episode)
    return outcome.share if outcome else 0.0


@extrinsic("pass_all", lacks=_no_tests, blocking=True)
def pass_all(episode: Episode) -> float:
    """1 if it passes every test, as BigCodeBench counts, else 0."""
    outcome = _outcome(episode)
    return float(outcome is not None and outcome.share == 1)


def _outcome(episode: Episode) -> Outcome | None:
    known = episode.context.metadata
    said = [turn.text for turn in episode.conversation.turns if turn.role == "assistant"]
    code = last_code(said, known.get("entry_point", ""))
    # The stub before it: its imports are the task's to give, and the reply's own function replaces it.
    return None if code is None else run_tests(known.get("prefix", "") + code, known["tests"])


def last_code(replies: Sequence[str], entry_point: str = "") -> str | None:
    """The last Python block of the last reply with one; a block that defines `entry_point` before one that uses it."""
    for text in reversed(replies):
        blocks = [str(code) for language, code in BLOCK.findall(text) if language.lower() in PYTHON]
        if blocks:
            defining = [code for code in blocks if entry_point and f"def {entry_point}" in code]
            return (defining or blocks)[-1]
    return None
