"""Rows of one running query, taken off the connection's buffered socket packet by packet.

Each row's first column is a line that the server made; Python looks at a header and a length per
row and at no value. Packet layout: the client/server protocol's text result set (three bytes of
length, one of sequence, then length-encoded strings; 0xFB is NULL).
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Any

import pymysql.err
from pymysql.constants import COMMAND

from exchangis.connectors.mysql.session import Session

_HEADER = struct.Struct("<I")
_MAX_PACKET = 0xFFFFFF
_CHUNK = 1 << 18
_NULL = 0xFB
_EOF = 0xFE
_ERROR = 0xFF

RawRow = list[bytes | None]


def _length(buffer: bytes, at: int) -> tuple[int, int]:
    """A length-encoded integer (not NULL) at `at`, and where its bytes end."""
    first = buffer[at]
    if first < _NULL:
        return first, at + 1
    width = {0xFC: 2, 0xFD: 3, 0xFE: 8}[first]
    return int.from_bytes(buffer[at + 1 : at + 1 + width], "little"), at + 1 + width


class RowStream:
    """The rows of one query, unbuffered: only what `take` has asked for is in memory.

    Rows whose line is NULL are counted in `unlined` and left out, unless `line_of` makes a line out
    of the columns that follow. `rows` counts the lines taken.
    """

    def __init__(
        self, session: Session, sql: str, line_of: Callable[[RawRow], bytes] | None = None
    ) -> None:
        raw = session.raw
        raw._execute_command(COMMAND.COM_QUERY, sql.encode())
        first = raw._read_packet()
        if first.is_ok_packet() or first.is_load_local_packet():
            raise pymysql.err.OperationalError(2013, "The server's answer is no result set")
        for _ in range(first.read_length_encoded_integer()):
            raw._read_packet()
        if not raw._read_packet().is_eof_packet():
            raise pymysql.err.OperationalError(2013, "The server's answer breaks the protocol")
        self._raw: Any = raw
        self._file = raw._rfile
        self._line_of = line_of
        self.unlined = 0
        self.rows = 0
        self._buffer = b""
        self._at = 0
        self.done = False
        self.warnings = 0

    def _fill(self, needed: int) -> bytes:
        """The buffer from the current position on, with at least `needed` bytes."""
        parts = [self._buffer[self._at :]]
        have = len(parts[0])
        while have < needed:
            data = self._file.read1(max(_CHUNK, min(needed - have, 64 * _CHUNK)))
            if not data:
                raise pymysql.err.OperationalError(2013, "Lost connection during query")
            parts.append(data)
            have += len(data)
        self._buffer, self._at = b"".join(parts), 0
        return self._buffer

    def take(self, rows: int, size: int) -> list[bytes]:
        """Up to `rows` lines, stopping after `size` bytes; fewer than both only at the end."""
        lines: list[bytes] = []
        append = lines.append
        unpack = _HEADER.unpack_from
        buffer, at = self._buffer, self._at
        end = len(buffer)
        left = size
        while not self.done and left > 0 and len(lines) < rows:
            if end - at < 5:
                self._at = at
                buffer, at = self._fill(5), 0
                end = len(buffer)
            length = unpack(buffer, at)[0] & _MAX_PACKET
            stop = at + 4 + length
            if stop > end:
                self._at = at
                buffer, at = self._fill(4 + length), 0
                end, stop = len(buffer), 4 + length
            first = buffer[at + 4]
            if first < _NULL and length < _MAX_PACKET:
                line = buffer[at + 5 : at + 5 + first]
            elif first == 0xFC and length < _MAX_PACKET:
                line = buffer[at + 7 : at + 7 + buffer[at + 5] + (buffer[at + 6] << 8)]
            else:
                self._at = at
                found = self._unusual(length)
                buffer, stop, end = self._buffer, self._at, len(self._buffer)
                if found is None:
                    at = stop
                    continue
                line = found
            at = stop
            append(line)
            left -= len(line) + 1
        self._buffer, self._at = buffer, at
        self.rows += len(lines)
        return lines

    def _unusual(self, length: int) -> bytes | None:
        """A long line, or None for a row without one and at the end of the result."""
        payload = self._buffer[self._at + 4 : self._at + 4 + length]
        self._at += 4 + length
        parts = [payload]
        while length == _MAX_PACKET:  # a row of 16 MB and more goes on in the next packet
            self._fill(4)
            length = _HEADER.unpack_from(self._buffer, self._at)[0] & _MAX_PACKET
            self._fill(4 + length)
            parts.append(self._buffer[self._at + 4 : self._at + 4 + length])
            self._at += 4 + length
        payload = b"".join(parts)
        kind = payload[0]
        if kind == _EOF and len(payload) < 9:
            self.done = True
            self.warnings = int.from_bytes(payload[1:3], "little")
            return None
        if kind == _ERROR:
            self.done = True
            pymysql.err.raise_mysql_exception(payload)
        if kind == _NULL:
            if self._line_of is not None:
                return self._line_of(_raw_row(payload, 1))
            self.unlined += 1
            return None
        size, start = _length(payload, 0)
        return payload[start : start + size]


def _raw_row(payload: bytes, at: int) -> RawRow:
    values: RawRow = []
    while at < len(payload):
        if payload[at] == _NULL:
            values.append(None)
            at += 1
        else:
            size, at = _length(payload, at)
            values.append(payload[at : at + size])
            at += size
    return values
