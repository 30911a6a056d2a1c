"""Trajectories of NVIDIA NeMo UserSim: its partitioned parquet folder, or rows exported as JSON Lines."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from eval.convert.files import rows
from eval.convert.turns import Converted, Excluded, conversation
from usersim.errors import ConfigError, DataError
from usersim.types import Conversation, EndedBy, Persona, UserProfile

COLUMNS = (
    *("trajectory_id", "persona_uuid", "locale", "persona"),
    *("conversation_messages", "conversation_metadata", "simulation_outcome"),
)


def convert(path: Path, *, source: str | None = None) -> Converted:
    """Converts trajectories. Rows with the outcome "failed" are excluded. There is no goal in the data; `group` is
    the persona.

    The tool ends conversations itself: "user" where its check found that the user had finished, "cut" where it
    stopped because the assistant gave in, else "turn_cap".
    """
    converted, name = Converted(), source or "nemo-usersim"
    named_rows = _parquet(path) if path.is_dir() or path.suffix == ".parquet" else rows(path)
    return converted.take(
        (
            str(row.get("trajectory_id") or key) if isinstance(row, Mapping) else key,
            partial(_one, row, name, converted),
        )
        for key, row in named_rows
    )


def _parquet(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    try:
        import pyarrow.dataset as ds  # type: ignore[import-untyped]
    except ImportError as error:
        raise ConfigError(f"{path}: reading parquet needs `pip install pyarrow`") from error
    try:
        data = ds.dataset(path, format="parquet", partitioning="hive")
        table = data.to_table(columns=[name for name in COLUMNS if name in data.schema.names])
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: cannot be read as parquet ({error})") from error
    yield from ((str(index), row) for index, row in enumerate(table.to_pylist(), start=1))


def _one(row: Any, source: str, converted: Converted) -> Conversation:
    if not isinstance(row, Mapping) or "conversation_messages" not in row:
        raise Excluded("no `conversation_messages`")
    outcome, metadata = _object(row.get("simulation_outcome")), _object(row.get("conversation_metadata"))
    if outcome.get("status") == "failed":
        raise Excluded(f"failed run ({outcome.get('failure_class') or 'no reason given'})")
    ended_by: EndedBy = "turn_cap"
    if outcome.get("early_stop"):
        ended_by = "cut" if metadata.get("stopped_on_capitulation") else "user"
    messages = row["conversation_messages"]
    group = row.get("persona_uuid")
    return conversation(
        _json(messages) if isinstance(messages, str) else messages,
        source=source,
        ended_by=ended_by,
        profile=UserProfile(persona=_persona(row)),
        group=None if group is None else str(group),
        notes=converted.notes,
    )


def _persona(row: Mapping[str, Any]) -> Persona | None:
    language = str(row.get("locale") or "en").partition("_")[0]
    text = row.get("persona")
    return Persona(description=text if isinstance(text, str) else "", language=language)


def _object(value: Any) -> dict[str, Any]:
    parsed = _json(value) if isinstance(value, str) and value else value
    return dict(parsed) if isinstance(parsed, Mapping) else {}


def _json(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError as error:
        raise Excluded("a cell that is not JSON") from error
