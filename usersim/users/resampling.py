"""Several turns drawn until the guards let each of them pass."""

from __future__ import annotations

from collections import Counter

from usersim.errors import GuardError
from usersim.types import UserTurn

CUT = "cut"
"""Refused only for being cut off: better than nothing, where no other attempt passes."""


class Tries:
    """Accepted and rejected attempts at `n` turns, by index. `lenient`: the first stands where none passes."""

    def __init__(self, n: int, *, lenient: bool = False) -> None:
        self.n, self.lenient = n, lenient
        self.accepted: dict[int, UserTurn] = {}
        self.first: dict[int, UserTurn] = {}
        self.cut: dict[int, UserTurn] = {}
        """The first one of each that was only cut."""
        self.rejected: dict[int, list[str]] = {index: [] for index in range(n)}

    @property
    def missing(self) -> list[int]:
        return [index for index in range(self.n) if index not in self.accepted]

    @property
    def reasons(self) -> Counter[str]:
        return Counter(why for reasons in self.rejected.values() for why in reasons)

    def add(self, index: int, said: UserTurn, why: str | None) -> None:
        """`why` the guards refused it; None: they did not."""
        if why is None:
            self.accepted[index] = said
            return
        self.rejected[index].append(why)
        self.first.setdefault(index, said)
        if why == CUT:
            self.cut.setdefault(index, said)

    def settle(self) -> None:
        """After the last attempt: a cut turn stands where there is no whole one."""
        for index in self.cut.keys() - self.accepted.keys():
            self.accepted[index] = self.cut[index]
            self.rejected[index].remove(CUT)
        if self.lenient:
            self.accepted = self.first | self.accepted

    def turns(self, attempts: int, *, prompt_tokens: int) -> list[UserTurn]:
        """All `n`, each with what was refused before it. Raises GuardError where one is missing."""
        if self.missing:
            raise self._exhausted(attempts)
        return [
            self.accepted[index].model_copy(
                update={"prompt_tokens": prompt_tokens, "rejected": tuple(self.rejected[index])}
            )
            for index in range(self.n)
        ]

    def _exhausted(self, attempts: int) -> GuardError:
        reasons = Counter(why for index in self.missing for why in self.rejected[index])
        listed = ", ".join(f"{why} {count}" for why, count in reasons.most_common())
        return GuardError(
            f"no acceptable user turn in {attempts} attempts ({listed}); "
            "loosen the guards, raise the temperature or give a richer goal",
            reasons=dict(reasons),
        )
