"""OpenAssistant (OASST1, OASST2): trees of messages by volunteers; one thread is read from each tree.

The thread follows the best-ranked reply from the root to a leaf; among replies without a rank, the one with the
longest thread below it. Deleted messages and their replies are left out. The threads differ from a person's chat:

- Different volunteers may write the turns; then there is no `user_key`, and the flag is `several_authors`.
- A thread ends where no reply was added, so its end is unknown.
- Replies are by volunteers, not by a model.

Rows are whole trees (`.trees.jsonl`) or single messages (the `datasets` name, `.messages.jsonl`). Messages of a tree
are adjacent in the published files, but up to `OPEN_TREES` trees may be interleaved. A message that comes after its
tree was closed is counted as malformed.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

from data_prep.raw_chats import RawChat, RawRole, RawTurn, SourceReport
from data_prep.sources.corpus import ChatFormat
from data_prep.sources.jsonrows import Row
from data_prep.sources.languages import language_code
from data_prep.sources.turns import read_key, repaired

ROLES: dict[str, RawRole] = {"prompter": "user", "assistant": "assistant"}
OPEN_TREES = 256
TOXIC = 0.5
"""Detoxify score in the corpus from which a message makes its thread `toxic`."""

Message = dict[str, Any]


@dataclass
class MessageTree:
    id: str
    place: str
    messages: dict[str, Message] = field(default_factory=dict)
    """Messages by id. Each has one parent, so those reached from the root form a tree."""


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


def _trees(rows: Iterator[Row], report: SourceReport) -> Iterator[MessageTree]:
    open_trees: dict[str, MessageTree] = {}  # least recently used first
    closed: set[str] = set()
    for place, row in rows:
        id_ = read_key(row, "message_tree_id")
        if id_ is None or id_ in closed:
            report.reject("apart from its tree" if id_ else "no message_tree_id", place)
            continue
        tree = open_trees.pop(id_, None) or MessageTree(id_, place)
        for message in _nested(row["prompt"]) if isinstance(row.get("prompt"), dict) else [row]:
            reason = _message_fault(message, tree)
            if reason:
                report.reject(reason, place)
            else:
                tree.messages[message["message_id"]] = message
        if tree.messages:
            open_trees[id_] = tree
        if len(open_trees) > OPEN_TREES:
            oldest = next(iter(open_trees))
            closed.add(oldest)
            yield open_trees.pop(oldest)
    yield from open_trees.values()


def _nested(prompt: Message) -> list[Message]:
    """Returns the messages of a whole tree, each after its parent."""
    messages = [prompt | {"parent_id": None}]
    for message in messages:
        replies = message.get("replies")
        for reply in replies if isinstance(replies, list) else ():
            parent = {"parent_id": message.get("message_id")}
            messages.append(reply | parent if isinstance(reply, dict) else parent)
    return messages


def _message_fault(message: Message, tree: MessageTree) -> str | None:
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
    while children := replies.get(path[-1]["message_id"]):
        path.append(min(children, key=lambda m: (_rank(m), -heights.get(m["message_id"], 0))))
    return path


def _heights(replies: dict[str | None, list[Message]]) -> dict[str, int]:
    """Returns the length of the longest thread below each message; messages not connected to a root have none."""
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


def _chat(tree: MessageTree, path: list[Message], report: SourceReport) -> RawChat:
    people = {read_key(message, "user_id") for message in path if message["role"] == "prompter"}
    flags = [("several_authors", len(people) > 1), ("toxic", any(_toxic(message) for message in path))]
    return RawChat(
        id=tree.id,
        source=report.name,
        place=tree.place,
        turns=tuple(RawTurn(role=ROLES[m["role"]], text=repaired(m["text"])) for m in path),
        user_key=people.pop() if len(people) == 1 else None,
        language=language_code(path[0].get("lang")),
        flags=tuple(name for name, is_set in flags if is_set),
        ended_by="unknown",
    )


def _toxic(message: Message) -> bool:
    scores = message.get("detoxify")
    score = scores.get("toxicity") if isinstance(scores, dict) else None
    return isinstance(score, int | float) and score >= TOXIC


OASST = ChatFormat("oasst", recognises, _read, name="oasst")
