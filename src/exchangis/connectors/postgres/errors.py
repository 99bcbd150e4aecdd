"""What PostgreSQL's errors mean for a task: whose fault, whether trying again can help.

Codes are SQLSTATE (PostgreSQL manual, appendix A). psycopg gives none for errors met while
connecting: those are told apart by the server's message.
"""

from __future__ import annotations

import re

import psycopg

from exchangis.domain.errors import ConnectionFailed, SinkError, SourceError, TaskError
from exchangis.domain.masking import Masker

# Lost or refused connections, shutdown, serialization failure, deadlock, exhausted resources,
# lock not available: another attempt may well succeed.
_RETRYABLE = ("08", "53", "57P01", "57P02", "57P03", "40001", "40P01", "55P03")
# A row's own fault: data and integrity errors, a value of the wrong type, a value too long for an
# index, a trigger or a view's check that says no.
_ROW = ("22", "23", "42804", "54000", "P0001", "44000")
_GUIDANCE = {
    "42501": "Ask for the missing privilege; loading also needs CREATE on the target's schema.",
    "3F000": "Create the schema first, or name another one.",
    "57014": "The statement was cancelled in the database or ran into its time limit.",
}
_FINAL_CONNECT = (
    (r"password authentication failed|no password supplied", "Check username and password."),
    (r"database .* does not exist", "Check the database's name; it is case-sensitive."),
    (r"role .* (does not exist|is not permitted to log in)", "Check the username."),
    (r"no pg_hba\.conf entry|pg_hba\.conf rejects", "The server's pg_hba.conf must allow this."),
    (r"permission denied for database", "Ask for the CONNECT privilege on the database."),
    (r"root certificate|certificate verify failed|does not match host", "Check sslrootcert."),
    (r"server does not support SSL", "Choose another sslmode, or turn TLS on in the server."),
)
_COLUMN = re.compile(r"COPY .*?, line \d+, column (?P<name>.+?)(?:: |$)")
_LONGEST = 300


def _short(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= _LONGEST else line[: _LONGEST - 3] + "..."


def is_row_fault(error: psycopg.Error) -> bool:
    """Whether a row's value made the statement fail, so that finding that row is worth it."""
    return (error.sqlstate or "").startswith(_ROW)


def row_reason(error: psycopg.Error) -> str:
    """Why the server refused a row, in one short line naming the column where it says so."""
    message = error.diag.message_primary or str(error)
    detail = error.diag.message_detail
    found = _COLUMN.search((error.diag.context or "").split("\n", 1)[0])
    text = message + (f" ({detail})" if detail else "")
    if found and found["name"] not in message:
        text += f" [column {found['name']}]"
    return _short(text)


def connect_failure(error: psycopg.Error, where: str, mask: Masker) -> ConnectionFailed:
    """The error of an attempt to connect; final where only the user can help."""
    text = mask(_short(str(error)))
    for pattern, guidance in _FINAL_CONNECT:
        if re.search(pattern, text):
            return ConnectionFailed(
                f"Cannot connect to {where}: {text}", guidance=guidance, retryable=False
            )
    return ConnectionFailed(
        f"Cannot connect to {where}: {text}", guidance="Check host, port and network."
    )


def failure(
    error: psycopg.Error, kind: type[SourceError] | type[SinkError], doing: str, mask: Masker
) -> TaskError:
    """The error of a statement; `doing` says what failed, e.g. `Reading public.orders`."""
    state = error.sqlstate
    if state is None and isinstance(error, psycopg.OperationalError | psycopg.InterfaceError):
        return ConnectionFailed(f"{doing} failed: {mask(_short(str(error)))}")
    message = error.diag.message_primary or str(error)
    detail = error.diag.message_detail
    text = mask(_short(message + (f" ({detail})" if detail else "")))
    return kind(
        f"{doing} failed: {text}" + (f" [{state}]" if state else ""),
        guidance=_GUIDANCE.get(state or "", ""),
        retryable=(state or "").startswith(_RETRYABLE),
    )
