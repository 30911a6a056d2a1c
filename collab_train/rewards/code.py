"""Code that has to pass the tests of its task, run in a sandbox (`collab_train.sandbox.sandbox_run`)."""

from __future__ import annotations

import ast
import re
import textwrap
from collections.abc import Sequence

from collab_train.contexts import Context
from collab_train.rewards.registry import Episode, extrinsic
from collab_train.sandbox.sandbox_run import Outcome, refusal, run_tests

FENCE = re.compile(r"[ \t]*(?:[-*+>]|\d+[.)])?[ \t]*(`{3,}|~{3,})[ \t]*([\w+-]*)[^\n`]*")
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
    """The Python of the last reply with some.

    Its last block that defines `entry_point`, with the blocks before it that define what that one lacks; without such
    a block, the last one.
    """
    for text in reversed(replies):
        blocks = [code for language, code in fenced_blocks(text) if language.lower() in PYTHON]
        if not blocks:
            continue
        places = [at for at, code in enumerate(blocks) if entry_point and entry_point in _defined(code)]
        if not places:
            return blocks[-1]
        code = blocks[places[-1]]
        for earlier in reversed(blocks[: places[-1]]):
            names = _defined(earlier)
            # An earlier version of the same thing is no help to it, and neither are calls that try it out.
            if (
                names
                and not names & _defined(code)
                and any(re.search(rf"\b{name}\b", code) for name in names)
            ):
                code = f"{earlier}\n{code}"
        return code
    return None


def fenced_blocks(text: str) -> list[tuple[str, str]]:
    """(language, content) of each fenced block, less the indentation of its fence; the last may be cut off.

    A block of Python goes on where a fence inside of it is part of a text: as long as it does not parse without.
    """
    blocks, lines, at = list[tuple[str, str]](), text.split("\n"), 0
    while at < len(lines):
        opening = FENCE.fullmatch(lines[at])
        at += 1
        if opening is None:
            continue
        ends = [end for end in range(at, len(lines)) if _closes(lines[end], opening[1])] or [len(lines)]
        end = ends[0]
        if opening[2].lower() in PYTHON and not _parses(_content(lines[at:end])):
            end = next((later for later in ends[1:] if _parses(_content(lines[at:later]))), end)
        blocks.append((opening[2], _content(lines[at:end]) + ("\n" if end < len(lines) else "")))
        at = end + 1
    return blocks


def _closes(line: str, fence: str) -> bool:
    bare = line.strip()
    return len(bare) >= len(fence) and set(bare) == {fence[0]}


def _content(lines: Sequence[str]) -> str:
    return textwrap.dedent("\n".join(lines))


def _parses(code: str) -> bool:
    return _tree(code) is not None


def _tree(code: str) -> ast.Module | None:
    try:
        return ast.parse(code)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None


def _defined(code: str) -> set[str]:
    """Functions, classes and names that the code defines at its top level, as far as it parses."""
    tree = _tree(code)
    if tree is None:
        return set(re.findall(r"^(?:async )?(?:def|class) (\w+)", code, re.MULTILINE))
    names = set[str]()
    for node in tree.body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            names.add(node.name)
        elif isinstance(node, ast.Assign):
            names |= {target.id for target in node.targets if isinstance(target, ast.Name)}
        elif isinstance(node, ast.Import | ast.ImportFrom):
            names |= {(alias.asname or alias.name).partition(".")[0] for alias in node.names}
    return names
