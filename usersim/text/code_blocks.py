"""Rule-based split of a message into prose and code, line by line."""

from __future__ import annotations

import re
from dataclasses import dataclass

LOOKED_AT = 1000
"""Number of characters of a turn that are measured; text after them is nearly always pasted."""

FENCE = "```"
CODE_HEAD = re.compile(
    r"""
    \s*+(?:import\s+[\w.{*"'][^\s,;]*\s*(?:$|[,;{}]|\b(?:as|from)\b)
        | from\s+[\w.]+\s+import\b | def\s+\w+\( | class\s+\w+\s*[:({]
        | (?:async\s+)?function\b.*\( | (?:const|let|var)\s+[\w{\[]+.*= | \#\s*(?:include|define)\b
        | (?:public|private|protected|static)\s+\w+ | return\b.*; | (?:if|for|while|switch)\s*\(.*[{;:]\s*$
        | \}?\s*else\s*[{:] | (?:elif|except|try|finally)\b.*: | print(?:f|ln)?\( | console\.
        | SELECT\s.+\sFROM\b | (?:INSERT\s+INTO|CREATE\s+TABLE|DELETE\s+FROM|ALTER\s+TABLE)\b
        | (?:\$|>>>)\s+\w | (?:pip|npm|sudo|apt|docker|git|kubectl)\s+[\w-]+(?:\s+[\w./:@=-]+)*\s*$
        | @\w+\s*(?:\(.*)?$ | </?[A-Za-z][\w-]*(?:\s[^<>]*)?/?> | [{}()\[\],;]+\s*$ | //\s | /\*
        | "[\w-]+"\s*: | for\s\w+(?:,\s?\w+)?\sin\s.*:\s*$ | (?:if|while|with)\s.*[=<>(_].*:\s*$
        | [\w.\[\]"']++(?:\s*(?:[-+*/:]?=)\s*\S | \([^()]*\)[;:]?\s*$))
    | \s+(?:return\b | \#\s)
    """,
    re.VERBOSE,
)
CODE_INSIDE = re.compile(r"=>|===?\s|&&|\|\||!==?|</\w+>|<\w+>|\((?<=\w\()\)|\[(?<=\w\[)\w+\]|::(?<=\w::)\w")
INLINE = re.compile(r"`[^`]*`")


@dataclass(frozen=True)
class ProseAndCode:
    """Prose of a message, and its numbers of characters."""

    prose: str
    code_characters: int
    characters: int
    """Characters of prose and code, without line breaks and blank lines."""


def is_code(line: str) -> bool:
    """Returns True if the line looks like code; text in `backticks` is ignored."""
    if "`" in line:
        line = INLINE.sub("", line)
    end = line.rstrip()[-2:]
    if end[-1:] in ("{", "}") or (end[-1:] == ";" and (end[0].isalnum() or end[0] in "_)]\"'%")):
        return True
    return CODE_HEAD.match(line) is not None or CODE_INSIDE.search(line) is not None


def split(text: str) -> ProseAndCode:
    """Splits the first 1,000 characters into prose and code.

    Code is inside ``` fences, or a line that looks like code.
    """
    # Cut at a blank: half a word would be a typo.
    excerpt = text if len(text) <= LOOKED_AT else text[:LOOKED_AT].rsplit(maxsplit=1)[0]
    prose, code, fenced = [], 0, False
    for line in excerpt.splitlines():
        if line.lstrip().startswith(FENCE):
            # "```x```" opens and closes; the fence itself counts as code.
            fenced ^= line.count(FENCE) == 1
            code += len(line)
        elif fenced or is_code(line):
            code += len(line)
        else:
            prose.append(line)
    return ProseAndCode("\n".join(prose), code, code + sum(map(len, prose)))
