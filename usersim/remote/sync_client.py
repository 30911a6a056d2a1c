"""Synchronous client of the User LM endpoint: `usersim.connect(url, sync=True)`. Works in notebooks too."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from typing import Any

from usersim.errors import UsersimError
from usersim.remote.async_client import RemoteUser
from usersim.types import Turn, UserProfile, UserTurn
from usersim.users.background_loop import run
from usersim.users.protocols import Leaving, TurnPiece


class SyncRemoteUser:
    """Synchronous wrapper of `RemoteUser`, with the same methods and options."""

    def __init__(self, user: RemoteUser) -> None:
        self.user = user

    @property
    def name(self) -> str:
        return self.user.name

    def __call__(self, profile: UserProfile, turns: Sequence[Turn], *, seed: int | None = None) -> UserTurn:
        return run(self.user(profile, turns, seed=seed))

    def sample(self, profile: UserProfile, turns: Sequence[Turn], **options: Any) -> list[UserTurn]:
        return run(self.user.sample(profile, turns, **options))

    def stream(
        self, profile: UserProfile, turns: Sequence[Turn], **options: Any
    ) -> Generator[TurnPiece | UserTurn, None, None]:
        """Streams one turn. Leaving the loop early or closing the generator cancels the request."""
        stream = self.user.stream(profile, turns, **options)

        async def next_piece() -> TurnPiece | UserTurn | None:
            return await anext(stream, None)

        try:
            while (piece := run(next_piece())) is not None:
                yield piece
        finally:
            run(stream.aclose())

    def termination(self, profile: UserProfile, turns: Sequence[Turn], **options: Any) -> Leaving:
        return run(self.user.termination(profile, turns, **options))

    def batch(
        self, requests: Sequence[tuple[UserProfile, Sequence[Turn]]], **options: Any
    ) -> list[UserTurn | UsersimError]:
        return run(self.user.batch(requests, **options))

    def profiles(self, n: int = 1, *, seed: int | None = None) -> list[UserProfile]:
        return run(self.user.profiles(n, seed=seed))

    def close(self) -> None:
        run(self.user.aclose())

    def __enter__(self) -> SyncRemoteUser:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
