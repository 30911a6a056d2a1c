"""First pass: reads sources, cleans batches and saves them as shards. `finish` runs the second pass."""

from __future__ import annotations

import time
from collections.abc import Iterator
from functools import partial
from itertools import islice
from typing import Any

from data_prep.cleaning.clean_batch import ChatBatch, CleanedBatch, clean
from data_prep.pipeline import workers as engines
from data_prep.pipeline.annotated import goals_for
from data_prep.pipeline.counts import versions
from data_prep.pipeline.run_context import Notice, PrepRun, quiet
from data_prep.pipeline.second_pass import finish
from data_prep.pipeline.shards import NAME, ShardStore, lock_output
from data_prep.raw_chats import RawChat, Source
from data_prep.settings import PrepSettings
from data_prep.sources import files_of, open_source
from usersim.errors import DataError


def prepare(settings: PrepSettings, notice: Notice = quiet, *, text: bool = True) -> dict[str, Any]:
    """Runs both passes: writes splits, datasheet.json and datasheet.html into `settings.out`.

    Args:
        settings: settings of the run.
        notice: progress callback.
        text: False leaves the text of chats out of datasheet.html.

    Returns:
        The datasheet.

    Raises:
        DataError: no usable conversation, or a file that cannot be read or written.
    """
    started = time.monotonic()
    run = PrepRun(settings, notice, goals_for(settings), open_sources(settings))
    with lock_output(settings.out):
        try:
            shards = ShardStore(settings.out, _shard_settings(settings))
            _clean(run, shards)
            sheet = finish(run, shards.done, started=started, text=text)
        except OSError as error:
            raise DataError(
                f"{settings.out}: {error.strerror or error}; its splits are unchanged, and cleaned chats are "
                f"kept in {settings.out / NAME}: make room and run the same command again"
            ) from error
        shards.remove()
    return sheet


def open_sources(settings: PrepSettings) -> list[Source]:
    sources = [
        open_source(s.spec, ends=s.ends, name=s.name, strict=settings.strict) for s in settings.sources
    ]
    return sources + [open_source(spec, strict=settings.strict) for spec in settings.held_out]


def _shard_settings(settings: PrepSettings) -> dict[str, Any]:
    specs = [*(source.spec for source in settings.sources), *settings.held_out]
    files = {str(path): path.stat() for spec in specs for path in files_of(spec)}
    return {
        **settings.cleaning(),
        "files": {name: [stat.st_size, stat.st_mtime_ns] for name, stat in files.items()},
        "versions": versions(),
    }


def _clean(run: PrepRun, shards: ShardStore) -> None:
    """Cleans all batches. Chats of finished shards are read again for their counts, but not cleaned again."""
    batches = _batches(run)
    for shard in shards.done:
        run.resumed += sum(len(batch.chats) for batch in islice(batches, len(shard.read)))
        run.notice("reading again", run.resumed)
    read = run.resumed
    finished: list[CleanedBatch] = []
    work = partial(clean, run.settings)
    for result in engines.run(run.settings.engine, run.settings.workers, work, batches):
        # A shard never mixes chats of the run with held-out ones.
        if finished and (
            len(finished) == run.settings.shard or run.is_own(finished[-1]) != run.is_own(result)
        ):
            shards.add(finished)
            finished = []
        finished.append(result)
        read += result.read
        run.notice("cleaning", read)
    if finished:
        shards.add(finished)


def _batches(run: PrepRun) -> Iterator[ChatBatch]:
    """Yields batches of one source each, and counts the chats of the run in its goals."""
    for index, source in enumerate(run.sources):
        chats: Iterator[RawChat] = islice(source.chats, run.settings.limit)
        while batch := list(islice(chats, run.settings.batch)):
            if index < len(run.settings.sources):
                for chat in batch:
                    run.goals.count_chat(chat.id)
            yield ChatBatch(index, batch)
