"""Conversation loop between a simulated user and an assistant, from an empty or a given history."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

from usersim.errors import UsersimError
from usersim.types import Conversation, EndedBy, Turn, UserProfile, UserTurn
from usersim.users.plain_functions import PlainAssistant, PlainUser, as_assistant, as_user
from usersim.users.protocols import User


class Assistant(Protocol):
    """Assistant under test.

    It receives the turns, ending with the user's, and its system prompt; never the user's goal.
    """

    async def __call__(
        self, turns: Sequence[Turn], *, system: str | None = None, seed: int | None = None
    ) -> str: ...


Watcher = Callable[[Turn | None, UserTurn | None], None]
"""Callback after every turn: (turn, its `UserTurn` or None); (None, `UserTurn`) when the user leaves."""


async def converse(
    user: User | PlainUser,
    assistant: Assistant | PlainAssistant,
    profile: UserProfile,
    *,
    turns: Sequence[Turn] = (),
    max_user_turns: int = 8,
    system: str | None = None,
    seed: int | None = None,
    id: str = "conversation",  # noqa: A002 - the record's own field name
    source: str = "userlm",
    watch: Watcher | None = None,
) -> Conversation:
    """Runs a conversation until the user leaves or has written `max_user_turns` new turns.

    The last turn is the assistant's unless the user left before.

    Args:
        user: Simulated user. A plain function is wrapped (`usersim.users.plain_functions`).
        assistant: Assistant under test. A plain function is wrapped too.
        profile: Goal and persona of the user. The assistant does not see it.
        turns: History to start from. The role that did not write the last turn is next; the user writes first.
        max_user_turns: Limit of new user turns. The conversation is cut there.
        system: System prompt of the assistant. The user does not see it.
        seed: Seed of the conversation. Every turn has its own seed derived from it.
        id: Id of the record.
        source: Source of the record, usually the name of the simulator.
        watch: Callback after each turn.

    Returns:
        The conversation. `ended_by` is `user` if the user left, else `turn_cap`.

    Raises:
        UsersimError: The assistant returned something other than text.
        Exception: Errors of `user` and `assistant` propagate, so that the caller can count them.
    """
    user, assistant = as_user(user), as_assistant(assistant, system=system)
    spoken, ended_by = list(turns), "turn_cap"
    new_user_turns = 0
    while True:
        if spoken and spoken[-1].role == "user":
            reply = await assistant(spoken, system=system, seed=_turn_seed(seed, len(spoken)))
            if not isinstance(reply, str):
                raise UsersimError(
                    f"the assistant returned a {type(reply).__name__}, not the text of its reply"
                )
            spoken.append(Turn(role="assistant", text=reply))
            if watch:
                watch(spoken[-1], None)
        if new_user_turns == max_user_turns:
            break
        user_turn = await user(profile, spoken, seed=_turn_seed(seed, len(spoken)))
        if user_turn.ends:
            ended_by = "user"
            if watch:
                watch(None, user_turn)
            break
        spoken.append(Turn(role="user", text=user_turn.text))
        new_user_turns += 1
        if watch:
            watch(spoken[-1], user_turn)
    ended: EndedBy = "user" if ended_by == "user" else "turn_cap"
    return Conversation(
        id=id,
        origin="simulated",
        source=source,
        system=system,
        turns=tuple(spoken),
        profile=profile,
        ended_by=ended,
    )


def _turn_seed(seed: int | None, position: int) -> int | None:
    # Far enough apart that the n samples and retries of neighbouring turns never share a seed.
    return None if seed is None else seed * 1_009 + position * 7_919
