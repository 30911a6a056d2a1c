"""`population.json`: record of a fitted population, and its path in a model folder."""

from __future__ import annotations

import base64
import zlib
from pathlib import Path

from pydantic import ValidationError

from usersim.errors import ConfigError, DataError
from usersim.storage.records import atomic_writer, explain
from usersim.types import Record, Style
from usersim.weights.default_model import POPULATION_FILE, own_folder

ATTRIBUTES = tuple(Style.model_fields)
STATED, TRAIT = "stated:", "trait:"
"""Prefixes of binary columns: a style attribute is stated; a person has a trait."""
LEVELS = 254
"""Resolution of stored ranks of fitted people: steps of the unit interval, one byte per attribute."""
NOT_STATED = 255


class PatienceStratum(Record):
    """People of similar patience: a Gaussian copula over their marginals."""

    first_turns: int
    """Minimum user turns of its people."""
    last_turns: int | None
    """Maximum user turns of its people; None: no limit."""
    share: float
    """Share of the population."""
    people: int
    marginals: dict[str, tuple[float, ...]]
    """Values by attribute at the quantile levels (i + 0.5) / k, over people with the attribute."""
    shares: dict[str, float]
    """Share of people by binary column."""
    columns: tuple[str, ...]
    """Columns that vary, in the order of `correlation`."""
    correlation: tuple[float, ...]
    """Latent correlations: the lower triangle without its diagonal, row by row."""


class RankScale(Record):
    """Piecewise linear map of an attribute's values to ranks between 0 and 1."""

    values: tuple[float, ...]
    ranks: tuple[float, ...]


class PopulationRecord(Record):
    """Content of a population file: numbers only, no text of chats or personas."""

    version: int = 1
    people: int
    """Number of fitted people, one conversation each."""
    described: int
    """Number of people with a persona description."""
    ends: int
    """Number of people who ended their conversation. With too few of them patience is not stated."""
    states_patience: bool
    sources: dict[str, int]
    """Number of people by corpus."""
    strata: tuple[PatienceStratum, ...]
    scales: dict[str, RankScale]
    """Rank maps by attribute over all fitted people, the units of `distance`."""
    distance: float
    """Minimum distance of a sampled user to each fitted person, in the attribute that differs most."""
    styles: str
    """Ranks of fitted people in 254 steps: sorted distinct rows, one byte per attribute, zlib, base64."""

    def style_rows(self) -> list[bytes]:
        """Returns one row of bytes per distinct style; `NOT_STATED` for missing values."""
        raw = zlib.decompress(base64.b64decode(self.styles))
        height = len(raw) // len(ATTRIBUTES)
        columns = [raw[i * height : (i + 1) * height] for i in range(len(ATTRIBUTES))]
        return [bytes(row) for row in zip(*columns, strict=True)]


def pack_rows(rows: set[bytes]) -> str:
    """Packs rows for `PopulationRecord.styles`, column by column, which compresses best."""
    ordered = sorted(rows)
    columns = b"".join(bytes(row[i] for row in ordered) for i in range(len(ATTRIBUTES)))
    return base64.b64encode(zlib.compress(columns, 9)).decode("ascii")


def population_file(model: str | Path | None = None) -> Path:
    """Returns the path of a model's population, which may not exist.

    Args:
        model: As for `usersim.load`, or the population file itself.
    """
    if model is not None and Path(model).suffix == ".json":
        return Path(model)
    return own_folder(model) / POPULATION_FILE


def read_population(file: Path) -> PopulationRecord:
    """Reads a population. Raises ConfigError if it is missing or damaged."""
    try:
        record = PopulationRecord.model_validate_json(file.read_text(encoding="utf-8"))
        record.style_rows()
    except OSError as error:
        raise ConfigError(
            f"{file}: no population there; fit one with `usersim population fit CONVERSATIONS --out MODEL`"
        ) from error
    except ValidationError as error:
        raise ConfigError(f"{file}: not a population: {explain(error)}") from error
    except (ValueError, zlib.error) as error:
        raise ConfigError(f"{file}: damaged ({error}); copy it again") from error
    return record


def write_population(record: PopulationRecord, file: Path) -> None:
    """Writes a population atomically. Raises DataError if its folder does not exist."""
    if not file.parent.is_dir():
        raise DataError(f"{file.parent}: no such folder; give a model folder, or a path that ends in .json")
    with atomic_writer(file) as stream:
        stream.write(record.model_dump_json() + "\n")
