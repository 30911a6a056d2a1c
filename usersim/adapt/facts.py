"""Counts of prepared splits, and the feasible stages for them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from pydantic import Field, ValidationError

from usersim.errors import DataError
from usersim.storage.records import explain
from usersim.types import Conversation, Record

SAMPLED = 2_000
"""Number of conversations of a split that are read for its counts."""
CHARACTERS_A_TOKEN = 4.2
TURN_TOKENS = 5
"""Tokens of a message's header and end."""
PROFILE_TOKENS = 40
"""Mean tokens of goal and persona after condition dropout."""
FEW_TO_TRAIN = 100
FEW_DECISIONS = 20
"""Minimum number of ends, and of continuations, for a calibration."""
FEW_TO_CHOOSE = 20
FEWEST_TO_CERTIFY, FEW_TO_CERTIFY = 10, 50
FEWEST_PEOPLE = 30
"""Minimum number of people to fit a population, and to compare one."""
SPLITS = ("train", "dev", "test")


class Lengths(Record):
    """Tokens of one conversation, estimated from its characters, with messages truncated as for the model."""

    opening: int
    whole: int
    user_turns: int
    has_goal: bool


class SplitFacts(Record):
    """Counts of one split, extrapolated from a sample for a large one."""

    conversations: int = 0
    people: int = 0
    user_turns: int = 0
    answered: int = 0
    """Number of conversations with an assistant message."""
    left: int = 0
    """Number of known ends, where a person left."""
    went_on: int = 0
    """Number of continuations, where a person wrote another turn after the first."""
    with_goal: int = 0
    lengths: tuple[Lengths, ...] = Field(default=(), repr=False)
    """Lengths of the sampled conversations."""

    def scaled(self, factor: float) -> SplitFacts:
        return self.model_copy(update={name: round(getattr(self, name) * factor) for name in COUNTS})


COUNTS = ("conversations", "people", "user_turns", "answered", "left", "went_on", "with_goal")


def together(splits: Sequence[SplitFacts]) -> SplitFacts:
    """Returns the sums of several splits' counts."""
    sums = {name: sum(getattr(split, name) for split in splits) for name in COUNTS}
    return SplitFacts(**sums, lengths=tuple(length for split in splits for length in split.lengths))


def split_facts(file: Path, *, user_limit: int, assistant_limit: int, sampled: int = SAMPLED) -> SplitFacts:
    """Counts a file of conversations; zeros if there is no file.

    Args:
        file: A split of `usersim prep`.
        user_limit: Longest user message that the model reads, in tokens.
        assistant_limit: Longest assistant message, in tokens.
        sampled: Maximum number of conversations read, evenly spaced.

    Raises:
        DataError: A line is not a conversation.
    """
    if not file.is_file():
        return SplitFacts()
    with file.open("rb") as lines:
        total = sum(1 for line in lines if line.strip())
    every = max(1, total // sampled)
    read = list(_every(file, every))
    if not read:
        return SplitFacts()
    limits = {"user": user_limit, "assistant": assistant_limit}
    user_turns = [sum(turn.role == "user" for turn in conversation.turns) for conversation in read]
    facts = SplitFacts(
        conversations=len(read),
        people=len({c.user or c.group or c.id for c in read}),
        user_turns=sum(user_turns),
        answered=sum(any(turn.role == "assistant" for turn in c.turns) for c in read),
        left=sum(c.ended_by == "user" and bool(c.turns) and c.turns[-1].role == "assistant" for c in read),
        went_on=sum(max(0, count - 1) for count in user_turns),
        with_goal=sum(c.profile.goal is not None for c in read),
        lengths=tuple(_lengths(c, limits) for c in read),
    )
    return facts.scaled(total / len(read))


def _every(file: Path, every: int) -> Iterator[Conversation]:
    with file.open("rb") as lines:
        for number, line in enumerate(lines):
            if number % every == 0 and line.strip():
                try:
                    yield Conversation.model_validate_json(line)
                except ValidationError as error:
                    raise DataError(f"{file}:{number + 1}: {explain(error)}") from error


def _lengths(conversation: Conversation, limits: Mapping[str, int]) -> Lengths:
    tokens = [
        TURN_TOKENS + min(limits[turn.role], round(len(turn.text) / CHARACTERS_A_TOKEN))
        for turn in conversation.turns
    ]
    first = next((t for t, turn in zip(tokens, conversation.turns, strict=True) if turn.role == "user"), 0)
    return Lengths(
        opening=PROFILE_TOKENS + first,
        whole=PROFILE_TOKENS + sum(tokens),
        user_turns=sum(turn.role == "user" for turn in conversation.turns),
        has_goal=conversation.profile.goal is not None,
    )


class Feasibility(Record):
    """Feasibility of the stages for given data."""

    stop: str | None = None
    """Reason why no User LM can be trained, with the remedy."""
    left_out: dict[str, str] = Field(default={})
    """Reason by left-out stage."""
    warnings: tuple[str, ...] = ()


def feasibility(
    splits: Mapping[str, SplitFacts], *, writes_goals: bool = False, is_part: bool = False
) -> Feasibility:
    """Decides which stages are feasible for prepared splits.

    Args:
        splits: Counts of train, dev and test. A missing split counts as empty.
        writes_goals: True if chats without a goal get one later. Then missing goals give no warning.
        is_part: True if the counts are of a part of the logs. Then low counts are ignored.
    """
    train, dev, test = (splits.get(name, SplitFacts()) for name in SPLITS)
    if reason := _stop(train, dev, test):
        return Feasibility(stop=reason)
    warnings, left_out = [], dict[str, str]()
    if not train.answered:
        warnings.append(
            "No chat has an assistant message: the model can learn how people open a chat, and neither replies nor "
            "when to leave. Export the assistant's messages, too."
        )
    elif not train.left:
        warnings.append(
            "No chat ends where a person is known to have left: the model learns no ends. Leave `ends` out if the logs "
            "are whole, or serve it with end.mode=never."
        )
    if train.conversations < FEW_TO_TRAIN and not is_part:
        warnings.append(
            f'Only {train.conversations} training chats: train on from a User LM (start = "userlm-135m") with few '
            "steps; it can take over how these people write, hardly what they want."
        )
    if not train.with_goal and not writes_goals:
        warnings.append(
            "No chat has a goal: the model cannot be given one. Set goals.writer, or name annotations in data.goals."
        )
    if is_part:
        return Feasibility(warnings=tuple(warnings))
    if dev.left < FEW_DECISIONS or dev.went_on < FEW_DECISIONS:
        left_out["calibrate"] = (
            f"dev has {dev.left} ends and {dev.went_on} turns after the first, and needs {FEW_DECISIONS} of each: "
            "P(end) stays as trained"
        )
    if dev.answered < FEW_TO_CHOOSE or dev.people < 2:
        left_out["decoding"] = (
            f"dev has {dev.answered} answered chats of {dev.people} people, and needs {FEW_TO_CHOOSE} of 2: "
            "sampling parameters stay at their defaults"
        )
    if train.people < FEWEST_PEOPLE:
        left_out["population"] = f"train has {train.people} people, and a population needs {FEWEST_PEOPLE}"
    if test.answered < FEWEST_TO_CERTIFY or test.people < 2:
        left_out["certificate"] = (
            f"test has {test.answered} answered chats of {test.people} people, and needs {FEWEST_TO_CERTIFY} of 2: "
            "the model is not measured"
        )
    elif test.answered < FEW_TO_CERTIFY:
        warnings.append(
            f"Only {test.answered} test chats: the certificate tells most differences only from {FEW_TO_CERTIFY} on; a "
            "larger test share (data.split_fractions) helps."
        )
    return Feasibility(left_out=left_out, warnings=tuple(warnings))


def _stop(train: SplitFacts, dev: SplitFacts, test: SplitFacts) -> str | None:
    total = train.conversations + dev.conversations + test.conversations
    if not total:
        return (
            "No chat is left after cleaning: look at a few with `usersim prep SOURCE --inspect 5`. Chats without "
            "assistant messages are rejected where two user messages follow each other."
        )
    if train.people + dev.people + test.people == 1 and total > 1:
        return (
            f"All {total} chats are of one person or group, which stays in one split: nothing is left to choose and "
            "measure with. Take the person's id out of the logs to split by chat; the model and its certificate then "
            "speak of this one person."
        )
    for name, split in (("train", train), ("dev", dev)):
        if not split.conversations:
            return (
                f"No chat of {total} falls into {name}: give it a larger share, such as data.split_fractions = "
                "[0.6, 0.2, 0.2]."
            )
    return None
