"""Every error that a user of Exchangis can meet.

ExchangisError
├── InvalidRequest            bad input: names field, value and reason
├── NotLoggedIn / PermissionDenied
├── NotFound / Conflict       unknown id / not in this state
├── TooLarge / Overloaded
└── TaskError                 a task attempt failed; `retryable` says whether trying again can help
    ├── ConnectionFailed      (retryable)
    ├── SourceError / SinkError
    ├── DirtyLimitExceeded
    ├── VerificationFailed
    ├── MemoryLimitExceeded / TimeLimitExceeded
    ├── TaskCancelled
    ├── RunnerLost            (retryable)
    └── EngineError

The class docstring is the default message. `guidance` says what the user can do about it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar


@dataclass(frozen=True, slots=True)
class FieldError:
    """One wrong field of a request, as listed in `data.errors` of the envelope."""

    field: str
    value: Any
    reason: str


class ExchangisError(Exception):
    """Something went wrong in Exchangis."""

    code: ClassVar[str] = "error"

    def __init__(
        self,
        message: str | None = None,
        *,
        guidance: str = "",
        errors: tuple[FieldError, ...] = (),
        retryable: bool = False,
    ) -> None:
        self.message = message or (type(self).__doc__ or "").strip()
        self.guidance = guidance
        self.errors = errors
        self.retryable = retryable
        super().__init__(self.message)

    def __str__(self) -> str:
        return f"{self.message} {self.guidance}".strip()


class InvalidRequest(ExchangisError):
    """The request is wrong."""

    code = "invalid_request"

    @classmethod
    def field(cls, field: str, value: Any, reason: str, *, guidance: str = "") -> InvalidRequest:
        """Refuse one field; the message names the field, the value and the reason."""
        shown = repr(value)
        if len(shown) > 120:
            shown = shown[:117] + "..."
        return cls(
            f"{field}: {reason} (got {shown})",
            guidance=guidance,
            errors=(FieldError(field, value, reason),),
        )


class NotLoggedIn(ExchangisError):
    """You are not logged in."""

    code = "not_logged_in"


class PermissionDenied(ExchangisError):
    """You may not do this."""

    code = "permission_denied"


class NotFound(ExchangisError):
    """There is no such thing."""

    code = "not_found"


class Conflict(ExchangisError):
    """This cannot be done in the present state."""

    code = "conflict"


class TooLarge(ExchangisError):
    """The request is too large."""

    code = "too_large"


class Overloaded(ExchangisError):
    """The server is busy; try again shortly."""

    code = "overloaded"


class TaskError(ExchangisError):
    """The task failed."""

    code = "task_failed"


class ConnectionFailed(TaskError):
    """The data source cannot be reached."""

    code = "connection_failed"

    def __init__(
        self, message: str | None = None, *, guidance: str = "", retryable: bool = True
    ) -> None:
        super().__init__(message, guidance=guidance, retryable=retryable)


class SourceError(TaskError):
    """Reading the source failed."""

    code = "source_failed"


class SinkError(TaskError):
    """Writing the sink failed."""

    code = "sink_failed"


class DirtyLimitExceeded(TaskError):
    """More dirty records than the task allows."""

    code = "dirty_limit_exceeded"


class VerificationFailed(TaskError):
    """Source and sink do not agree after the exchange."""

    code = "verification_failed"


class MemoryLimitExceeded(TaskError):
    """The task used more memory than it may."""

    code = "memory_limit_exceeded"


class TimeLimitExceeded(TaskError):
    """The task or job outran its time limit."""

    code = "time_limit_exceeded"


class TaskCancelled(TaskError):
    """The task was cancelled."""

    code = "cancelled"


class RunnerLost(TaskError):
    """The runner process ended without an outcome."""

    code = "runner_lost"

    def __init__(self, message: str | None = None, *, guidance: str = "") -> None:
        super().__init__(message, guidance=guidance, retryable=True)


class EngineError(TaskError):
    """The engine failed."""

    code = "engine_failed"
