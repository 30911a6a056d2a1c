"""The errors that somebody catches. One line each, saying what to do; `main` prints them bare and exits 2."""


class UsersimError(Exception):
    """Something the operator can fix. The message is one readable line."""


class ConfigError(UsersimError):
    """A config file, an override or a command line that cannot be used."""


class DataError(UsersimError):
    """Data that breaks the schema. The message names path:line where there is one."""


class RenderError(UsersimError):
    """A conversation that cannot become tokens: it does not alternate, or it is longer than the window."""


class ContextOverflowError(RenderError):
    """A conversation longer than the window; a caller can drop its oldest turns and try again."""


class GuardError(UsersimError):
    """Every attempt at a user turn was rejected by the guards; `reasons` counts why."""

    def __init__(self, message: str, *, reasons: dict[str, int]) -> None:
        super().__init__(message)
        self.reasons = reasons


class BackendError(UsersimError):
    """An engine, endpoint or model that did not answer as it should. `retryable`: trying again may help."""

    def __init__(self, message: str, *, retryable: bool = False) -> None:
        super().__init__(message)
        self.retryable = retryable


class EmptyReplyError(BackendError):
    """A model that answered without a word. Another seed may bring words; waiting does not."""

    def __init__(self, message: str) -> None:
        super().__init__(message, retryable=True)
