"""OpenAssistant (OASST1, OASST2): trees of messages by volunteers; one thread is taken from each.

From the root the best-ranked reply is followed to a leaf; among replies without a rank, the one with the
longest thread below it. Deleted messages and what hangs on them are left out. Two things make the threads
unlike a person's chat: different volunteers wrote the turns (then there is no `user_key`, and the flag
`several_authors`), and a thread ends where nobody added to it, so the end is unknown. Replies are by
volunteers too, not by a model.

Rows are either whole trees (`.trees.jsonl`) or single messages (the `datasets` name, `.messages.jsonl`).
Messages of a tree stand together in the published files; up to `OPEN_TREES` trees may be mixed with each
other, and a message that comes after its tree was given up is counted as malformed.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

from data_prep.raw_chats import RawChat, RawRole, RawTurn, SourceReport
from data_prep.sources.corpus import Corpus
from data_prep.sources.jsonrows import Row
from data_prep.sources.languages import language_code
from data_prep.sources.turns import read_key, sound

ROLES: dict[str, RawRole] = {"prompter": "user", "assistant": "assistant"}
OPEN_TREES = 256
TOXIC = 0.5
"""Detoxify's score in the corpus from which a message makes its thread `toxic`."""

Message = dict[str, Any]


@dataclass
class Tree:
    id: str
    place: str
    messages: dict[str, Message] = field(default_factory=dict)
    """By their ids: one parent each, so what is reached from the root is a tree."""


def recognises(row: dict[str, Any]) -> bool:
    return "message_tree_id" in row and ("message_id" in row or "prompt" in row)


def _read(rows: Iterator[Row], report: SourceReport) -> Iterator[RawChat]:
    for tree in _trees(rows, report):
        report.counts["trees"] += 1
        path = _best_path(tree.messages.values())
        if not path:
            report.reject("no root message", tree.place)
        elif path[0].get("role") != "prompter":
            report.reject("does not begin with the user", tree.place)
        else:
            yield _chat(tree, path, report)


def _trees(rows: Iterator[Row], report: SourceReport) -> Iterator[Tree]:
    growing: dict[str, Tree] = {}  # the one touched longest ago first
    done: set[str] = set()
    for place, row in rows:
        id_ = read_key(row, "message_tree_id")
        if id_ is None or id_ in done:
            report.reject("apart from its tree" if id_ else "no message_tree_id", place)
            continue
        tree = growing.pop(id_, None) or Tree(id_, place)
        for message in _nested(row["prompt"]) if isinstance(row.get("prompt"), dict) else [row]:
            reason = _why_not(message, tree)
            if reason:
                report.reject(reason, place)
            else:
                tree.messages[message["message_id"]] = message
        if tree.messages:
            growing[id_] = tree
        if len(growing) > OPEN_TREES:
            oldest = next(iter(growing))
            done.add(oldest)
            yield growing.pop(oldest)
    yield from growing.values()


def _nested(prompt: Message) -> list[Message]:
    """The messages of a whole tree, each after the one it answers."""
    found = [prompt | {"parent_id": None}]
    for message in found:
        replies = message.get("replies")
        for reply in replies if isinstance(replies, list) else ():
            parent = {"parent_id": message.get("message_id")}
            found.append(reply | parent if isinstance(reply, dict) else parent)
    return found


def _why_not(message: Message, tree: Tree) -> str | None:
    if not isinstance(message.get("message_id"), str):
        return "no message_id"
    if message["message_id"] in tree.messages:
        return "message_id twice"
    if not isinstance(message.get("parent_id"), str | None):
        return "parent_id is no id"
    if str(message.get("role")) not in ROLES:
        return "unknown role"
    if not isinstance(message.get("text"), str):
        return "text of a message is not text"
    return None


def _best_path(messages: Iterable[Message]) -> list[Message]:
    replies: dict[str | None, list[Message]] = {}
    for message in messages:
        if message.get("deleted") is not True:
            replies.setdefault(message.get("parent_id"), []).append(message)
    if not replies.get(None):
        return []
    heights = _heights(replies)
    path = [replies[None][0]]
    while offered := replies.get(path[-1]["message_id"]):
        path.append(min(offered, key=lambda m: (_rank(m), -heights.get(m["message_id"], 0))))
    return path


def _heights(replies: dict[str | None, list[Message]]) -> dict[str, int]:
    """Messages in the longest thread that begins with each; what does not hang on a root has none."""
    order = list(replies[None][:1])
    for message in order:
        order.extend(replies.get(message["message_id"], ()))
    heights: dict[str, int] = {}
    for message in reversed(order):
        below = replies.get(message["message_id"], ())
        heights[message["message_id"]] = 1 + max((heights[m["message_id"]] for m in below), default=0)
    return heights


def _rank(message: Message) -> float:
    rank = message.get("rank")
    return float(rank) if isinstance(rank, int | float) and rank == rank else float("inf")


def _chat(tree: Tree, path: list[Message], report: SourceReport) -> RawChat:
    people = {read_key(message, "user_id") for message in path if message["role"] == "prompter"}
    flags = [("several_authors", len(people) > 1), ("toxic", any(_toxic(message) for message in path))]
    return RawChat(
        id=tree.id,
        source=report.name,
        place=tree.place,
        turns=tuple(RawTurn(role=ROLES[m["role"]], text=sound(m["text"])) for m in path),
        user_key=people.pop() if len(people) == 1 else None,
        language=language_code(path[0].get("lang")),
        flags=tuple(name for name, found in flags if found),
        ended_by="unknown",
    )


def _toxic(message: Message) -> bool:
    scores = message.get("detoxify")
    score = scores.get("toxicity") if isinstance(scores, dict) else None
    return isinstance(score, int | float) and score >= TOXIC


OASST = Corpus("oasst", recognises, _read, name="oasst")
