"""The ledger beside a User LM's weights: what it was trained on, run by run, and where in its rows each run stopped.

Between machines only what is committed survives. A run that goes on from an adapter reads there which windows of the
pass are behind it (`skip = "ledger"`). A model card reads there how much of a pass was trained on.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from usersim.errors import ConfigError
from usersim.storage.records import explain, write_json
from usersim.types import Record

LEDGER = "ledger.json"


class Stretch(Record):
    """Training data of one run: windows `first` to `last` (the first that was not) of a pass over its rows.

    Of runs before there was a ledger the card alone tells; what it does not tell is None.
    """

    run: str
    rows_sha256: str | None = None
    """Over every token and label of the pass, in order."""
    pass_windows: int | None = None
    pass_tokens: int | None = None
    first: int | None = None
    last: int | None = None
    tokens: int
    supervised_tokens: int | None = None
    steps: int
    batch: int
    lr: float
    schedule: str
    emphasis: tuple[float, float]
    """At the first step and at the last."""
    averaged: int = 1
    """Checkpoints that the weights are the mean of."""
    eval_loss: float | None = None


@dataclass
class RowCounter:
    """Counts the rows that go through `over`; all there are, also those that are skipped after it."""

    windows: int = 0
    tokens: int = 0
    _digest: Any = field(default_factory=hashlib.sha256)

    def over(self, rows: Iterable[dict[str, list[int]]]) -> Iterator[dict[str, list[int]]]:
        for row in rows:
            self.windows += 1
            self.tokens += len(row["input_ids"])
            self._digest.update(json.dumps([row["input_ids"], row["labels"]]).encode())
            yield row

    @property
    def sha256(self) -> str:
        return str(self._digest.hexdigest())


def read_ledger(folder: Path) -> tuple[Stretch, ...]:
    """Empty where `folder` has none; raises ConfigError for a damaged one."""
    file = folder / LEDGER
    if not file.is_file():
        return ()
    try:
        return tuple(Stretch.model_validate(entry) for entry in json.loads(file.read_bytes()))
    except ValidationError as error:
        raise ConfigError(
            f"{file}: damaged ({explain(error)}); take it from where the adapter came from"
        ) from error
    except (ValueError, TypeError) as error:
        raise ConfigError(f"{file}: damaged ({error}); take it from where the adapter came from") from error


def write_ledger(folder: Path, stretches: Iterable[Stretch]) -> None:
    write_json(folder / LEDGER, [stretch.model_dump(mode="json") for stretch in stretches])


def refuse_other_rows(ledger: tuple[Stretch, ...], rows: RowCounter, *, where: Path) -> None:
    """Raises ConfigError where the last run of the ledger went through other rows than these."""
    if ledger[-1].rows_sha256 != rows.sha256:
        raise ConfigError(
            f"skip=ledger: {where / LEDGER} stopped at window {ledger[-1].last} of {ledger[-1].pass_windows} in "
            f"other rows than these {rows.windows} (data, config or version differ); restore them or give skip=N"
        )
