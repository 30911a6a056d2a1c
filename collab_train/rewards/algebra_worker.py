"""The other side of `algebra`: reads [left, right] as JSON lines, answers true or false. Ends with its input."""

from __future__ import annotations

import json
import resource
import sys

MEMORY = 2 * 1024**3


def answer(value: object) -> None:
    sys.stdout.write(json.dumps(value) + "\n")
    sys.stdout.flush()


def main() -> None:
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    import sympy  # type: ignore[import-untyped]
    from sympy.parsing import sympy_parser as parser  # type: ignore[import-untyped]

    rules = (*parser.standard_transformations, parser.implicit_multiplication_application)
    names = {
        name: getattr(sympy, name) for name in ("sqrt", "sin", "cos", "tan", "log", "ln", "exp", "pi", "oo")
    }
    names["abs"] = sympy.Abs
    letters = {letter: sympy.Symbol(letter) for letter in "abcdefghijklmnopqrstuvwxyz"}

    def read(text: str) -> sympy.Expr:
        return parser.parse_expr(text, local_dict={**letters, **names}, transformations=rules)

    answer("ready")
    for line in sys.stdin:
        left, right = json.loads(line)
        try:
            answer(bool(read(left).equals(read(right))))
        except Exception:  # whatever is wrong with the text, it is no answer
            answer(False)


if __name__ == "__main__":
    main()
