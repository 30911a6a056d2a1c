"""`usersim prep --inspect N`: prints random chats before and after cleaning, with the changes marked."""

from __future__ import annotations

import random
import re
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice

from rich.console import Console
from rich.rule import Rule
from rich.table import Table
from rich.text import Text

from data_prep.cleaning.clean_batch import stages_of
from data_prep.cleaning.differences import Piece, clipped, differences
from data_prep.cleaning.stages import Rejected, Stage
from data_prep.cleaning.terminal_safe import one_line, visible
from data_prep.pipeline.first_pass import open_sources
from data_prep.raw_chats import RawChat
from data_prep.settings import PrepSettings
from usersim.cli import console as stderr
from usersim.errors import DataError

AROUND, MOST = 120, 500
"""Characters shown around a change, and at most of a turn or a change."""
FIRST_TURNS = 4
"""Turns at the front that are always shown, like the last one."""
PLACEHOLDER = re.compile(r"\[[A-Z_]+\]")
STYLE = {"same": "", "removed": "red strike", "added": "green"}
PLAIN = {"same": ("", ""), "removed": ("[-", "-]"), "added": ("{+", "+}")}
"""Marks on a terminal without colours, as in `wdiff`."""
ROLE = {"user": "bold cyan", "assistant": "magenta", "system": "yellow", "tool": "yellow"}

Pair = tuple[RawChat, RawChat | Rejected]


def inspect(settings: PrepSettings, count: int, *, text: bool) -> int:
    """Prints `count` random chats through the cleaning stages; duplicates are not searched. Returns the exit status."""
    stages = stages_of(settings)
    with stderr.status("reading"):
        sample = draw(_chats(settings), count, seed=settings.seed)
    if not sample:
        raise DataError(f"{', '.join(source.spec for source in settings.sources)}: no chat to inspect")
    traced = [trace(chat, stages) for chat in sample]
    pairs = [(chat, after) for chat, (after, _) in zip(sample, traced, strict=True)]
    show(pairs, Console(highlight=False), text=text, notes=[notes for _, notes in traced])
    return 0


def _chats(settings: PrepSettings) -> Iterator[RawChat]:
    for source in open_sources(settings)[: len(settings.sources)]:
        yield from islice(source.chats, settings.limit)


def draw(chats: Iterator[RawChat], count: int, *, seed: int) -> list[RawChat]:
    """Returns `count` random chats in their order (reservoir sampling: at most `count` are held)."""
    generator = random.Random(seed)
    reservoir: list[tuple[int, RawChat]] = []
    for number, chat in enumerate(chats):
        if len(reservoir) < count:
            reservoir.append((number, chat))
        elif (place := generator.randrange(number + 1)) < count:
            reservoir[place] = (number, chat)
    return [chat for _, chat in sorted(reservoir, key=lambda item: item[0])]


def trace(chat: RawChat, stages: Mapping[str, Stage]) -> tuple[RawChat | Rejected, list[str]]:
    """Returns the cleaned chat or its rejection, and a note for each stage that changed it."""
    notes: list[str] = []
    for name, stage in stages.items():
        done = stage([chat])
        result = done.chats[0]
        if isinstance(result, Rejected):
            return result, [*notes, f"{name}: rejected"]
        effects = [f"{count} {kind}" for kind, count in done.counts.most_common()] + changes(chat, result)
        if effects:
            notes.append(f"{name}: {', '.join(effects)}")
        chat = result
    return chat, notes


def changes(before: RawChat, after: RawChat) -> list[str]:
    """Describes changes other than the text of turns, which is shown."""
    descriptions = [
        f"{name} {getattr(before, name)} → {getattr(after, name)}"
        for name in ("language", "ended_by", "flags")
        if getattr(before, name) != getattr(after, name)
    ]
    fewer = len(before.turns) - len(after.turns)
    return descriptions + ([f"{fewer} of {len(before.turns)} turns gone"] if fewer else [])


def show(
    pairs: Sequence[Pair], console: Console, *, text: bool = True, notes: Sequence[Sequence[str]] = ()
) -> None:
    """Prints pairs with removed text red and added text green; `text=False` prints sizes instead of text."""
    for index, (before, after) in enumerate(pairs):
        console.print(
            Rule(Text(f"{one_line(before.source)} · {one_line(before.id)}"), align="left", style="dim")
        )
        if isinstance(after, Rejected):
            console.print(Text(f"rejected: {one_line(after.reason)}", style="bold red"))
        for note in notes[index] if notes else ():
            console.print(Text(one_line(note), style="dim"))
        console.print(_turns(before, after, colour=console.color_system is not None, text=text))


def _turns(before: RawChat, after: RawChat | Rejected, *, colour: bool, text: bool) -> Table:
    rows = list(_rows(before, before if isinstance(after, Rejected) else after))
    grid = Table.grid(padding=(0, 1))
    grid.add_column(width=9)
    grid.add_column(overflow="fold")
    skipped = 0
    for index, (role, old, new) in enumerate(rows):
        if old == new and FIRST_TURNS <= index < len(rows) - 1:
            skipped += 1
            continue
        if skipped:
            grid.add_row("", Text(f"… {skipped} turns as they were", style="dim"))
            skipped = 0
        body = _marked(old or "", new or "", colour) if text else _sizes(old, new)
        grid.add_row(Text(role, style=ROLE.get(role, "")), body)
    return grid


def _rows(before: RawChat, after: RawChat) -> Iterator[tuple[str, str | None, str | None]]:
    """(role, text before, text after); system messages at the front are the system prompt."""
    front = 0
    while front < len(before.turns) and before.turns[front].role == "system":
        front += 1
    # A rejected chat is compared with itself.
    to_system = front if len(after.turns) < len(before.turns) else 0
    old_system = "\n\n".join(turn.text for turn in before.turns[:to_system]) or before.system
    if old_system or after.system:
        yield "system", old_system, after.system
    old, new = before.turns[to_system:], after.turns
    for index in range(max(len(old), len(new))):
        turn = old[index] if index < len(old) else new[index]
        yield (
            turn.role,
            old[index].text if index < len(old) else None,
            new[index].text if index < len(new) else None,
        )


def _marked(before: str, after: str, colour: bool) -> Text:
    marked = Text()
    for piece in clipped(differences(before, after), around=AROUND, most=MOST):
        _append(marked, piece, colour)
    return marked


def _append(marked: Text, piece: Piece, colour: bool) -> None:
    start, end = ("", "") if colour else PLAIN[piece.kind]
    visible_text = visible(piece.text)
    if colour and piece.kind != "same" and not visible_text.strip():
        # Spaces show no colour.
        visible_text = visible_text.replace("\n", "⏎\n").replace(" ", "·")
    words = Text(f"{start}{visible_text}{end}", style=STYLE[piece.kind])
    if piece.kind == "added":
        words.highlight_regex(PLACEHOLDER, style="bold green")
    marked.append_text(words)


def _sizes(old: str | None, new: str | None) -> Text:
    if old is None or new is None:
        present = old if new is None else new
        return Text(
            f"{len(present or ''):,} characters, {'removed' if new is None else 'added'}", style="red"
        )
    if old == new:
        return Text(f"{len(old):,} characters", style="dim")
    places = sum(piece.kind != "same" for piece in differences(old, new))
    return Text(f"{len(old):,} → {len(new):,} characters, {places} pieces removed or added")
