"""First pass: read, clean in batches, keep what is finished in shards; `finish` does the rest."""

from __future__ import annotations

import time
from collections.abc import Iterator
from functools import partial
from itertools import islice
from typing import Any

from data_prep.cleaning.clean_batch import Batch, Cleaned, clean
from data_prep.pipeline import workers as engines
from data_prep.pipeline.annotated import goals_for
from data_prep.pipeline.counts import versions
from data_prep.pipeline.run_context import Notice, Run, quiet
from data_prep.pipeline.second_pass import finish
from data_prep.pipeline.shards import NAME, Shards, only_run
from data_prep.raw_chats import RawChat, Source
from data_prep.settings import Settings
from data_prep.sources import files_of, open_source
from usersim.errors import DataError


def prepare(settings: Settings, notice: Notice = quiet, *, text: bool = True) -> dict[str, Any]:
    """Writes splits, datasheet.json and datasheet.html into `settings.out`; returns the datasheet."""
    started = time.monotonic()
    run = Run(settings, notice, goals_for(settings), open_sources(settings))
    with only_run(settings.out):
        try:
            shards = Shards(settings.out, _made_with(settings))
            _clean(run, shards)
            sheet = finish(run, shards.done, started=started, text=text)
        except OSError as error:
            raise DataError(
                f"{settings.out}: {error.strerror or error}; nothing was changed there, and what is cleaned "
                f"is kept in {settings.out / NAME}: make room and run the same command again"
            ) from error
        shards.remove()
    return sheet


def open_sources(settings: Settings) -> list[Source]:
    opened = [open_source(s.spec, ends=s.ends, name=s.name, strict=settings.strict) for s in settings.sources]
    return opened + [open_source(spec, strict=settings.strict) for spec in settings.held_out]


def _made_with(settings: Settings) -> dict[str, Any]:
    specs = [*(source.spec for source in settings.sources), *settings.held_out]
    files = {str(path): path.stat() for spec in specs for path in files_of(spec)}
    return {
        **settings.cleaning(),
        "files": {name: [stat.st_size, stat.st_mtime_ns] for name, stat in files.items()},
        "versions": versions(),
    }


def _clean(run: Run, shards: Shards) -> None:
    """First pass. Chats of finished shards are read again, for their counts, but not cleaned again."""
    batches = _batches(run)
    for shard in shards.done:
        run.resumed += sum(len(batch.chats) for batch in islice(batches, len(shard.read)))
        run.notice("reading again", run.resumed)
    read = run.resumed
    finished: list[Cleaned] = []
    work = partial(clean, run.settings)
    for result in engines.run(run.settings.engine, run.settings.workers, work, batches):
        # A shard is all of the run's own chats or all held out.
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


def _batches(run: Run) -> Iterator[Batch]:
    """A batch never mixes sources; the goals are shown the ids of the run's own."""
    for index, source in enumerate(run.sources):
        chats: Iterator[RawChat] = islice(source.chats, run.settings.limit)
        while batch := list(islice(chats, run.settings.batch)):
            if index < len(run.settings.sources):
                for chat in batch:
                    run.goals.see(chat.id)
            yield Batch(index, batch)
