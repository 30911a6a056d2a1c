"""Aims as a Markdown table, for a model card."""

from __future__ import annotations

from collections.abc import Mapping

from eval.versions.aims import Aim, written


def markdown(aims: Mapping[str, Aim]) -> str:
    """One row a number: key, value with its interval, n, aim, and whether it was reached."""
    rows = ["| number | value | n | aim | reached |", "| --- | --- | --- | --- | --- |"]
    for key, aim in aims.items():
        reached = {None: "", True: "yes", False: "**no**"}[aim.met]
        rows.append(f"| `{key}` | {written(aim)} | {aim.n} | {aim.aim or ''} | {reached} |")
    return "\n".join(rows) + "\n"
