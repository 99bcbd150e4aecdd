"""What a MySQL or MariaDB error number means for a task: a bad row, a retry, or the end.

Numbers are the servers' own (MySQL Server Error Message Reference; MariaDB Error Code Reference);
those below 2000 and above 3000 come from the server, the 2000s from the client side.
"""

from __future__ import annotations

import ssl
from typing import Literal

import pymysql
import pymysql.err

from exchangis.domain.errors import ConnectionFailed, SinkError, SourceError, TaskError

Side = Literal["source", "sink"]

ROW_FAULTS = frozenset(
    {
        1048,  # NULL into NOT NULL
        1062, 1169, 1586,  # duplicate key
        1118,  # this row's values are too large for the row format
        1138, 1263,  # invalid use of NULL
        1216, 1452,  # foreign key: no such parent
        1264, 1690,  # out of range
        1265, 1292, 1366, 1367, 1411, 1918,  # truncated or malformed value
        1301,  # a function's result is larger than max_allowed_packet
        1364,  # no value and no default
        1369,  # CHECK OPTION of a view
        1406,  # too long
        1416, 3037, 3055,  # malformed geometry
        1526,  # no partition for the value
        1644,  # SIGNAL of a trigger
        3140, 3141, 3143, 3144, 3146,  # malformed JSON
        3819, 4025,  # CHECK constraint (MySQL, MariaDB)
    }
)  # fmt: skip
"""Errors that a single row causes: found by bisection, counted as dirty records."""

LOSSY_WARNINGS = ROW_FAULTS | {1261, 1262}
"""Warnings that mean a value was changed or dropped, or a row was cut short."""

_CONNECTION_LOST = frozenset(
    {
        1053,  # server shutdown in progress
        1077, 1079, 1152, 1184, 1158, 1159, 1160, 1161,  # aborted connections, network trouble
        1927, 3169,  # this connection was killed (MariaDB, MySQL)
        2002, 2003, 2005, 2006, 2013, 2055, 4031,
    }
)  # fmt: skip
_RETRYABLE = frozenset(
    {
        1020,  # record has changed since last read
        1047,  # cluster node not ready
        1205, 1213, 1614, 3572,  # lock wait, deadlock
        1317,  # interrupted
        1969, 3024,  # statement time limit
        1412,  # table definition has changed since the transaction began
        1615,  # statement needs to be prepared anew
    }
)  # fmt: skip
_TOO_MANY = frozenset({1040, 1203, 1226})
_REFUSED: dict[int, str] = {
    1044: "Grant this user access to the database, or name another one.",
    1045: "Check user name and password, and from which hosts the user may connect.",
    1049: "Create the database, or correct its name.",
    1129: "The server blocks this host after too many failed connections: FLUSH HOSTS there.",
    1130: "The server does not let this host connect: grant the user access from it.",
    1156: "The server's answer is no MySQL protocol; check the port.",
    1251: "The server asks for an authentication method that is not supported.",
    1524: "The server asks for an authentication plugin that it has not loaded.",
    1698: "This user logs in by another method than a password; use another user.",
    1820: "The password has expired: set a new one.",
    1862: "The password has expired: set a new one.",
    2026: "The server offers no TLS; set ssl_mode to preferred or disabled, or enable TLS there.",
    2059: "The server asks for an authentication plugin that is not supported.",
    3118: "The account is locked: ALTER USER ... ACCOUNT UNLOCK.",
    3159: "The server accepts encrypted connections alone; set ssl_mode to required.",
    4151: "The account is locked: ALTER USER ... ACCOUNT UNLOCK.",
}
_GUIDANCE: dict[int, str] = {
    1142: "Grant the user the right that is missing.",
    1143: "Grant the user the right that is missing.",
    1227: "Grant the user the right that is missing.",
    1146: "Check the table's name and database.",
    1205: "Another transaction holds the rows; look for long-running ones on the server.",
    1290: "The server refuses writes; use its primary.",
    1836: "The server refuses writes; use its primary.",
    1665: "Set binlog_format to ROW or MIXED on the server.",
}


def number_of(error: BaseException) -> int:
    """The error number; 0 when there is none."""
    code = error.args[0] if error.args else 0
    return code if isinstance(code, int) else 0


def text_of(error: BaseException) -> str:
    """The server's words, with the number."""
    code = number_of(error)
    words = str(error.args[1]) if len(error.args) > 1 else str(error)
    return f"{words or type(error).__name__} (error {code})" if code else words


def is_row_fault(error: BaseException) -> bool:
    """Whether a single row may be to blame."""
    return isinstance(error, pymysql.err.Error) and number_of(error) in ROW_FAULTS


def is_lost(error: BaseException) -> bool:
    """Whether the connection is gone, so that nothing can be said to the server on it any more."""
    return number_of(error) in _CONNECTION_LOST or isinstance(error, pymysql.err.InterfaceError)


def connect_error(error: BaseException, where: str) -> ConnectionFailed:
    """Why connecting to `where` (`host:port`) failed; retryable unless it must fail again."""
    code = number_of(error)
    if isinstance(getattr(error, "original_exception", None), ssl.SSLError):
        return ConnectionFailed(
            f"TLS with {where} failed: {text_of(error)}.",
            guidance="Check ssl_mode, ssl_ca and the server's certificate.",
            retryable=False,
        )
    if code in _REFUSED:
        return ConnectionFailed(
            f"{where} refused the connection: {text_of(error)}.",
            guidance=_REFUSED[code],
            retryable=False,
        )
    if code in _TOO_MANY:
        guidance = "Raise the server's connection limit, or lower the parallelism."
    else:
        guidance = "Check that the server runs and that host and port are right."
    return ConnectionFailed(f"Cannot connect to {where}: {text_of(error)}.", guidance=guidance)


def statement_error(error: BaseException, side: Side, doing: str) -> TaskError:
    """What a failed statement means; `doing` says what it was for, e.g. `reading db.t`."""
    code = number_of(error)
    if is_lost(error):
        return ConnectionFailed(f"The connection was lost while {doing}: {text_of(error)}.")
    kind = SourceError if side == "source" else SinkError
    return kind(
        f"Error while {doing}: {text_of(error)}.",
        guidance=_GUIDANCE.get(code, ""),
        retryable=code in _RETRYABLE or code in _TOO_MANY,
    )
