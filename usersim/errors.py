"""Exceptions of usersim.

Each message is one line with what is wrong, where, and what to do; commands print it, exit 2.
"""


class UsersimError(Exception):
    """Base of errors that the caller can fix. The message is one readable line."""


class ConfigError(UsersimError):
    """Invalid config file, override, argument or command line."""


class DataError(UsersimError):
    """Data that does not fit the schema. The message starts with path:line if there is one."""


class RenderError(UsersimError):
    """Conversation that cannot be rendered: roles do not alternate, or it exceeds the context window."""


class ContextOverflowError(RenderError):
    """Conversation that exceeds the context window. The caller can drop its oldest turns and retry."""


class GuardError(UsersimError):
    """The guards rejected every attempt at a user turn. `reasons` counts rejections by reason."""

    def __init__(self, message: str, *, reasons: dict[str, int]) -> None:
        super().__init__(message)
        self.reasons = reasons


class BackendError(UsersimError):
    """Failure of an engine, endpoint or model. `retryable` is True if a retry may succeed."""

    def __init__(self, message: str, *, retryable: bool = False) -> None:
        super().__init__(message)
        self.retryable = retryable


class EmptyReplyError(BackendError):
    """Empty reply of a model. A retry needs another seed; waiting does not help."""

    def __init__(self, message: str) -> None:
        super().__init__(message, retryable=True)
