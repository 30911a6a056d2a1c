"""Rewards for code that passes the tests of its task, run in a sandbox (`collab_train.sandbox.sandbox_run`)."""

from __future__ import annotations

import ast
import re
import textwrap
from collections.abc import Sequence

from collab_train.contexts import Context
from collab_train.rewards.registry import Episode, extrinsic
from collab_train.sandbox.sandbox_run import SandboxOutcome, refusal, run_tests

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
    """1 if the assistant's last code passes every test, as in BigCodeBench, else 0."""
    outcome = _outcome(episode)
    return float(outcome is not None and outcome.share == 1)


def _outcome(episode: Episode) -> SandboxOutcome | None:
    metadata = episode.context.metadata
    replies = [turn.text for turn in episode.conversation.turns if turn.role == "assistant"]
    code = last_code(replies, metadata.get("entry_point", ""))
    # The task's stub comes first: it has the imports, and the function in the reply replaces its function.
    return None if code is None else run_tests(metadata.get("prefix", "") + code, metadata["tests"])


def last_code(replies: Sequence[str], entry_point: str = "") -> str | None:
    """Returns the Python code of the last reply that contains any.

    This is its last block that defines `entry_point`, after the earlier blocks whose definitions that block uses. If
    no block defines `entry_point`, it is the last block.
    """
    for text in reversed(replies):
        blocks = [code for language, code in fenced_blocks(text) if language.lower() in PYTHON]
        if not blocks:
            continue
        defining_blocks = [
            at for at, code in enumerate(blocks) if entry_point and entry_point in _defined_names(code)
        ]
        if not defining_blocks:
            return blocks[-1]
        code = blocks[defining_blocks[-1]]
        for earlier in reversed(blocks[: defining_blocks[-1]]):
            names = _defined_names(earlier)
            # Earlier versions of the same definition are left out, and so are blocks that only call it.
            if (
                names
                and not names & _defined_names(code)
                and any(re.search(rf"\b{name}\b", code) for name in names)
            ):
                code = f"{earlier}\n{code}"
        return code
    return None


def fenced_blocks(text: str) -> list[tuple[str, str]]:
    """Returns (language, content) of each fenced block without indentation; the last block may be unclosed.

    A fence inside a string of a Python block does not close it: the block ends at the first fence at which it parses.
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


def _defined_names(code: str) -> set[str]:
    """Names that the code defines at its top level; if it does not parse, functions and classes found by pattern."""
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
