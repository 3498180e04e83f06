"""The exceptions of the service. Each has a ``text`` for the user."""

from __future__ import annotations

from typing import ClassVar, Final, NamedTuple

EXIT_START: Final = 1
"""The exit status of a service that could not start."""
EXIT_USAGE: Final = 2
"""The exit status when settings or flags are bad."""
EXIT_RESET: Final = 3
"""The exit status of a follower that cannot be told everything any more."""
EXIT_FAILED: Final = 70
"""The exit status when the store or the worker failed: a supervisor starts the service again."""
EXIT_STUCK: Final = 75
"""The exit status when a commit did not come back during the stop."""


class ServiceError(Exception):
    """The base of all exceptions of the service."""

    text: ClassVar[str] = "Something went wrong."
    """What the user reads unless there is a detail. ``python -OO`` would remove a docstring."""

    applied: bool | None = False
    """Whether the write was applied: False means certainly not, None means unknown."""

    retry_after: ClassVar[int | None] = None
    """The seconds after which a retry makes sense."""

    exit_status: ClassVar[int] = EXIT_START
    """What a command that it ends returns."""

    def __init__(self, detail: str | None = None) -> None:
        super().__init__(detail or self.text)

    @property
    def detail(self) -> str:
        """One sentence for the client. It never contains the text of another exception."""
        return str(self.args[0])

    def concede(self, detail: str) -> None:
        """Say that something was applied before this, or that all was but the answer failed."""
        self.args = (detail,)
        self.applied = None


# What a client did.


class Fault(NamedTuple):
    """One thing that is wrong with the input: a JSON pointer to it, and a message."""

    pointer: str
    message: str


class Invalid(ServiceError):
    text = "The request is not valid."

    def __init__(self, *faults: Fault, detail: str | None = None) -> None:
        super().__init__(detail or (faults[0].message if len(faults) == 1 else None))
        self.faults = faults


class Unauthorized(ServiceError):
    text = "A valid bearer token is needed."


class Forbidden(ServiceError):
    text = "This request is not allowed."


class NotFound(ServiceError):
    text = "There is nothing here."
    no_task: ClassVar[str] = "No task has this history number."


class MethodNotAllowed(ServiceError):
    text = "This method is not allowed here."

    def __init__(self, allow: tuple[str, ...] = ()) -> None:
        super().__init__()
        self.allow = allow


class RequestTimeout(ServiceError):
    text = "The request did not arrive in time."


class AlreadyFinished(ServiceError):
    text = "The task is finished already."


class Gone(ServiceError):
    text = "The task is finished, and retention has removed it."


class TooLarge(ServiceError):
    text = "The request is too large."


class MediaType(ServiceError):
    text = "Send the body as JSON, with the header Content-Type: application/json."


class KeyReused(ServiceError):
    text = "This idempotency key was used for a different request."


# What the service cannot do now.


class QueueFull(ServiceError):
    text = "The queue is full."
    retry_after = 10


class Stopping(ServiceError):
    text = "The service is stopping."
    retry_after = 5


class TooBusy(ServiceError):
    text = "There are as many event streams as there may be."
    retry_after = 10


class DiskFull(ServiceError):
    text = "The disk is full: nothing can be added, and nothing was."
    retry_after = 5


class StoreUnavailable(ServiceError):
    text = "The store cannot be reached now; nothing was changed."
    retry_after = 2


class OutcomeUnknown(ServiceError):
    text = "The store failed during the commit: whether the request was applied is not known."
    applied = None


class Internal(ServiceError):
    text = "The service failed on this request; its log says why."
    applied = None


# What ends the process or its start.


class SettingsError(ServiceError):
    text = "The settings are not valid."
    exit_status = EXIT_USAGE


class Usage(SettingsError):
    text = "The command line is not valid."


class StartError(ServiceError):
    text = "The service cannot start."


class NotOwner(StartError):
    text = "Another process owns this queue."


class StoreFailed(ServiceError):
    text = "The store failed, and what it holds is not known until the next start."
    applied = None

    def __init__(self, kind: str, detail: str) -> None:
        super().__init__(detail)
        self.kind = kind


class StoreBusy(ServiceError):
    text = "Another program holds the database's write lock."


class NotHead(ServiceError):
    text = "Only the started head can be finished."
