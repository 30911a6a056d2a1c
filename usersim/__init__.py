"""usersim: a User LM that plays the human in a human-AI chat.

    import usersim
    turn = usersim.sample(goal="plan a cheap weekend trip", persona="terse, lower case, impatient")

Importing this package imports no torch; the first call loads what it needs.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from usersim import renamed_modules

if TYPE_CHECKING:
    from usersim.api import (
        as_profile,
        as_turns,
        asample,
        connect,
        converse,
        load,
        population,
        sample,
        sample_many,
    )
    from usersim.types import (
        Conversation,
        Facet,
        Goal,
        Persona,
        Style,
        Turn,
        UserProfile,
        UserTurn,
    )

__all__ = [
    "Conversation",
    "Facet",
    "Goal",
    "Persona",
    "Style",
    "Turn",
    "UserProfile",
    "UserTurn",
    "as_profile",
    "as_turns",
    "asample",
    "connect",
    "converse",
    "load",
    "population",
    "sample",
    "sample_many",
]
__version__ = "0.1.0"
renamed_modules.install()
_API = {
    *("as_profile", "as_turns", "asample", "connect", "converse"),
    *("load", "population", "sample", "sample_many"),
}


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'usersim' has no attribute {name!r}")
    from usersim import api, types

    return getattr(api if name in _API else types, name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
