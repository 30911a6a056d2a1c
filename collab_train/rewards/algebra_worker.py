"""Worker process of `algebra`: reads JSON lines of [answer, reference] and writes true or false until end of input."""

from __future__ import annotations

import json
import logging
import resource
import sys
from typing import Any

MEMORY = 3 * 1024**3
SECONDS = 4
"""Timeout of each step of math-verify, by a signal; here it runs in the main thread."""


def write_answer(value: object) -> None:
    sys.stdout.write(json.dumps(value) + "\n")
    sys.stdout.flush()


def main() -> None:
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    import sympy  # type: ignore[import-untyped]
    from math_verify import ExprExtractionConfig, LatexExtractionConfig, parse, verify  # type: ignore[import-untyped]

    logging.disable(logging.CRITICAL)
    extractors = [LatexExtractionConfig(), ExprExtractionConfig()]

    def parsed_expressions(text: str) -> list[Any]:
        expressions: list[Any] = parse(f"${text}$", extractors, parsing_timeout=SECONDS)
        return [one for one in expressions if not isinstance(one, str)][:1]

    def are_equal(answers: list[Any], references: list[Any]) -> bool:
        if verify(references, answers, timeout_seconds=SECONDS):
            return True
        left, right = (one[0] for one in (answers, references))
        if isinstance(left, sympy.Expr) and isinstance(right, sympy.Expr):  # 1/i and -i
            left, right = (
                one.subs({symbol: sympy.I for symbol in one.free_symbols if symbol.name == "i"})
                for one in (left, right)
            )
            return left.has(sympy.I) and bool((left - right).equals(0))
        return False

    # sympy builds its tables on first use.
    are_equal(parsed_expressions("1"), parsed_expressions(r"\frac{2}{2}"))
    write_answer("ready")
    for line in sys.stdin:
        answers, references = (parsed_expressions(text) for text in json.loads(line))
        try:
            write_answer(bool(answers and references and are_equal(answers, references)))
        except Exception:  # a text that math-verify cannot process is not an answer
            write_answer(False)


if __name__ == "__main__":
    main()
