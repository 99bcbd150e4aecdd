"""LOAD DATA LOCAL from memory: the fast way in, taken only when nothing was lost on it.

The statement turns errors into warnings, even in strict mode: 300 becomes 127 and a bad date
0000-00-00. So a load counts only when every line became a row and no warning was given; otherwise
the caller rolls it back and asks INSERT, which says what is wrong with which row.

The server answers the statement by naming a file to read. Whatever it names, only the stream that
we hold is sent; the driver's own file reading is switched off (see `Server.connect`).
"""

from __future__ import annotations

import pymysql.err
from pymysql.constants import COMMAND
from pymysql.protocol import OKPacketWrapper

from exchangis.connectors.mysql.session import Session

_PIECE = 1 << 18
_NOT_ALLOWED = frozenset({1148, 2068, 3948, 4166})


class LoadNotAllowed(Exception):
    """This server takes no LOAD DATA LOCAL."""


def load_allowed(session: Session) -> bool:
    """Whether the server says that it takes LOAD DATA LOCAL."""
    found = session.one("SELECT @@local_infile")
    return bool(found and int(found[0]))


def load_lines_into(session: Session, table: str, columns: str, lines: memoryview) -> int | None:
    """Load the lines; the number of rows that they became, or None when there were warnings.

    `table` is quoted; `columns` is the column list with its SET clause.
    """
    raw = session.raw
    statement = (
        f"LOAD DATA LOCAL INFILE 'exchangis' INTO TABLE {table} CHARACTER SET utf8mb4 "
        f"FIELDS TERMINATED BY '\\t' ENCLOSED BY '' ESCAPED BY '\\\\' "
        f"LINES TERMINATED BY '\\n' STARTING BY '' {columns}"
    )
    try:
        raw._execute_command(COMMAND.COM_QUERY, statement.encode())
        packet = raw._read_packet()
        if not packet.is_load_local_packet():
            raise pymysql.err.OperationalError(2013, "The server's answer to LOAD DATA is odd")
        for start in range(0, len(lines), _PIECE):
            raw.write_packet(bytes(lines[start : start + _PIECE]))
        raw.write_packet(b"")
        answer = OKPacketWrapper(raw._read_packet())
    except pymysql.err.Error as error:
        if error.args and error.args[0] in _NOT_ALLOWED:
            raise LoadNotAllowed() from None
        raise
    raw.server_status = answer.server_status
    return None if answer.warning_count else int(answer.affected_rows)
