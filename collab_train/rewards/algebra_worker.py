"""The other side of `algebra`: reads [given, wanted] as JSON lines, answers true or false. Ends with its input."""

from __future__ import annotations

import json
import logging
import resource
import sys
from typing import Any

MEMORY = 3 * 1024**3
SECONDS = 4
"""For each step of math-verify, by a signal: here it has a main thread of its own."""


def answer(value: object) -> None:
    sys.stdout.write(json.dumps(value) + "\n")
    sys.stdout.flush()


def main() -> None:
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    import sympy  # type: ignore[import-untyped]
    from math_verify import ExprExtractionConfig, LatexExtractionConfig, parse, verify  # type: ignore[import-untyped]

    logging.disable(logging.CRITICAL)
    kinds = [LatexExtractionConfig(), ExprExtractionConfig()]

    def read(text: str) -> list[Any]:
        expressions: list[Any] = parse(f"${text}$", kinds, parsing_timeout=SECONDS)
        return [one for one in expressions if not isinstance(one, str)][:1]

    def same(given: list[Any], wanted: list[Any]) -> bool:
        if verify(wanted, given, timeout_seconds=SECONDS):
            return True
        left, right = (one[0] for one in (given, wanted))
        if isinstance(left, sympy.Expr) and isinstance(right, sympy.Expr):  # 1/i and -i
            left, right = (
                one.subs({symbol: sympy.I for symbol in one.free_symbols if symbol.name == "i"})
                for one in (left, right)
            )
            return left.has(sympy.I) and bool((left - right).equals(0))
        return False

    same(read("1"), read(r"\frac{2}{2}"))  # builds its tables
    answer("ready")
    for line in sys.stdin:
        given, wanted = (read(text) for text in json.loads(line))
        try:
            answer(bool(given and wanted and same(given, wanted)))
        except Exception:  # whatever is wrong with the text, it is no answer
            answer(False)


if __name__ == "__main__":
    main()
