"""Rows as CSV lines made by the server, and Arrow batches made of them by Arrow's C++ parser.

The rules that keep every value (each was found by losing one):
- each column is wrapped, so that a NULL is an empty field and an empty text a quoted one, and
  nothing is skipped;
- a text is converted to utf8mb4 before it meets other texts, whose character sets may not mix;
- binary values travel as HEX, since one raw binary column makes the whole line binary;
- FLOAT is printed as a double: the server shows only six digits of a FLOAT;
- a function whose result would pass max_allowed_packet gives NULL, and so does the whole line. Such
  rows are counted, and then read column by column in the same snapshot.
"""

from __future__ import annotations

import binascii
import io
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute
from pyarrow import csv

from exchangis.connectors.mysql.session import literal, quote
from exchangis.connectors.mysql.types import (
    BINARY,
    DATETIME,
    DURATION,
    GEOMETRY,
    TEXT,
    TIMESTAMP,
    NativeColumn,
)
from exchangis.connectors.mysql.wire import RawRow
from exchangis.domain.errors import SourceError

pc: Any = pyarrow.compute
Array = Any
"""`pyarrow.Array`; the stubs know neither its buffers nor scalars beside it."""
Finish = Callable[[Array], Array]
_UNICODE = frozenset({"utf8mb4", "ascii"})
_QUOTE = "\x01"
"""Encloses texts in a line, doubled within. No sign of everyday text, since the servers' REPLACE
moves the rest of the text at each hit: doubling the double quotes of 1 MB of JSON takes seconds."""
_CSV_COLUMN = re.compile(r"In CSV column #(\d+)")
_CSV_VALUE = re.compile(r"invalid value '([^']*)'")


class _Text(str):
    """A literal among SQL expressions."""

    __slots__ = ()

    @property
    def sql(self) -> str:
        return literal(self)


@dataclass(frozen=True, slots=True)
class Field:
    """How one column is asked for, parsed and finished.

    `value` is the SQL of its text; `raw` what is selected when the row comes column by column;
    `wire` the type that the CSV parser gives; `finish` makes the column's own type of it.
    """

    name: str
    type: pa.DataType
    value: str
    raw: str
    wire: pa.DataType
    nullable: bool = True
    quoted: bool = False
    binary: bool = False
    finish: Finish | None = None

    @property
    def parts(self) -> list[str]:
        """SQL arguments of the outer CONCAT, which together are the CSV field."""
        if not self.quoted:
            return [f"IFNULL({self.value},'')" if self.nullable else self.value]
        if not self.nullable:
            return [_Text(_QUOTE), self.value, _Text(_QUOTE)]
        sign = _Text(_QUOTE).sql
        return [f"IF({self.raw} IS NULL,'',CONCAT({sign},{self.value},{sign}))"]

    def csv_of(self, raw: bytes | None) -> bytes:
        """The CSV field of a value that came raw."""
        if raw is None:
            return b""
        if not self.quoted:
            return raw
        quote_sign = _QUOTE.encode()
        text = binascii.hexlify(raw) if self.binary else raw.replace(quote_sign, quote_sign * 2)
        return quote_sign + text + quote_sign


def _unhexed(column: Array) -> Array:
    """Binary values of hexadecimal ones, all at once: the values' buffer holds them end to end."""
    validity, offsets, data = column.buffers()
    if column.offset:
        raise ValueError("expected an array of its own")
    ends = pa.Array.from_buffers(pa.int32(), len(column) + 1, [None, offsets])
    size = ends[-1].as_py()
    plain = binascii.unhexlify(memoryview(data)[:size]) if data and size else b""
    halves = pc.shift_right(ends, pa.scalar(1, pa.int32()))
    return pa.Array.from_buffers(
        pa.binary(), len(column), [validity, halves.buffers()[1], pa.py_buffer(plain)]
    )


def _instants(offset: int) -> Finish:
    def finish(column: Array) -> Array:
        if offset:
            column = pc.subtract(column, pa.scalar(offset, DURATION))
        return column.cast(TIMESTAMP)

    return finish


def _cast(target: pa.DataType) -> Finish:
    return lambda column: column.cast(target)


def _dated(name: str, zero_dates: str) -> str:
    """A date's text, or NULL for what is no date of any calendar (2020-00-00, 2020-02-31)."""
    if zero_dates != "null":
        return name
    return (
        f"IF(MONTH({name})=0 OR DAYOFMONTH({name})=0 OR LAST_DAY({name}) IS NULL "
        f"OR DAYOFMONTH({name})>DAYOFMONTH(LAST_DAY({name})),NULL,{name})"
    )


def make_field(  # noqa: PLR0911 - one line per family of types
    column: NativeColumn, *, nullable: bool, offset: int, zero_dates: str
) -> Field:
    """How to read a column in a session whose zone is `offset` microseconds east of UTC.

    Where the server keeps NULLs out (`nullable` is false) no time goes into looking for them.
    """
    name, kind, target = quote(column.name), column.type, column.arrow

    def plain(value: str, wire: pa.DataType, finish: Finish | None = None) -> Field:
        return Field(column.name, target, value, value, wire, nullable=nullable, finish=finish)

    def text(value: str, raw: str) -> Field:
        value = f"REPLACE({value},{_Text(_QUOTE).sql},{_Text(_QUOTE * 2).sql})"
        return Field(column.name, target, value, raw, pa.string(), nullable=nullable, quoted=True)

    if kind in BINARY or kind in GEOMETRY:
        raw = f"ST_AsWKB({name})" if kind in GEOMETRY else name
        return Field(
            column.name, target, f"HEX({raw})", raw, pa.string(), nullable=nullable, quoted=True,
            binary=True, finish=_unhexed,
        )  # fmt: skip
    if kind in TEXT or kind == "json":
        unicode = column.charset in _UNICODE
        return text(name if unicode else f"CONVERT({name} USING utf8mb4)", name)
    if kind == "decimal":
        if pa.types.is_decimal256(target):
            return plain(name, pa.string(), _cast(target))
        return plain(name, target)
    if kind in ("float", "double"):
        return plain(f"({name}+0e0)", target)
    if kind in ("timestamp", "datetime", "date"):
        value = _dated(name, zero_dates)
        if kind == "timestamp":
            return plain(value, DATETIME, _instants(offset))
        return plain(value, target)
    if kind == "time":
        # TIME_TO_SEC rounds in one server and truncates in the other; the parts do neither.
        micros = (
            f"(IF({name}<TIME'00:00:00',-1,1)*((HOUR({name})*3600+MINUTE({name})*60"
            f"+SECOND({name}))*1000000+MICROSECOND({name})))"
        )
        return plain(micros, pa.int64(), _cast(DURATION))
    if kind == "year":
        return plain(f"({name}+0)", target)
    if kind == "bit":
        return plain(f"CAST({name} AS UNSIGNED)", target)
    if column.is_integer:
        return plain(name, target)
    shown = f"CAST({name} AS CHAR CHARACTER SET utf8mb4)"
    return text(shown, shown)


@dataclass(frozen=True)
class RowFormat:
    """The select list of a read, and batches made of what it brings."""

    fields: tuple[Field, ...]
    table: str
    """The table's name, for messages."""

    @property
    def schema(self) -> pa.Schema:
        return pa.schema([(field.name, field.type) for field in self.fields])

    @property
    def line(self) -> str:
        """SQL of a row's line: NULL when, and only when, it would pass max_allowed_packet."""
        parts: list[str] = []
        for number, field in enumerate(self.fields):
            for part in [_Text(","), *field.parts] if number else field.parts:
                if isinstance(part, _Text) and parts and isinstance(parts[-1], _Text):
                    parts[-1] = _Text(parts[-1] + part)  # fewer arguments to go through per row
                else:
                    parts.append(part)
        parts.append(_Text(""))  # a CONCAT of one number alone may be no text
        return f"CONCAT({','.join(p.sql if isinstance(p, _Text) else p for p in parts)})"

    @property
    def columns(self) -> str:
        """The columns themselves behind an empty line, for rows that are too long for one."""
        return ",".join(["NULL", *(field.raw for field in self.fields)])

    def line_of(self, raw: RawRow) -> bytes:
        """The line of a row that came column by column."""
        return b",".join(field.csv_of(value) for field, value in zip(self.fields, raw, strict=True))

    def rows_within(self, rows: int, size: int) -> int:
        """How many rows a batch may have so that their fixed parts stay within `size` bytes."""
        width = sum(max(_width(field.type), _width(field.wire)) for field in self.fields)
        return max(1, min(rows, size // max(width, 1)))

    def batch(self, lines: Sequence[bytes]) -> pa.RecordBatch:
        """The Arrow batch of some lines; SourceError names a column whose value has no place."""
        data = b"\n".join(lines) + b"\n"
        names = [str(index) for index in range(len(self.fields))]
        try:
            parsed = csv.read_csv(
                io.BytesIO(data),
                read_options=csv.ReadOptions(
                    column_names=names, use_threads=False, block_size=len(data) + 1
                ),
                parse_options=csv.ParseOptions(
                    quote_char=_QUOTE, newlines_in_values=True, ignore_empty_lines=False
                ),
                convert_options=csv.ConvertOptions(
                    column_types={
                        name: field.wire for name, field in zip(names, self.fields, strict=True)
                    },
                    null_values=[""],
                    strings_can_be_null=True,
                    quoted_strings_can_be_null=False,
                ),
            )
        except pa.ArrowInvalid as error:
            raise self._refused(str(error)) from None
        if parsed.num_rows != len(lines):
            raise SourceError(
                f"{len(lines)} rows of {self.table} came out as {parsed.num_rows}: not exchanged."
            )
        arrays = []
        for field, column in zip(self.fields, parsed.columns, strict=True):
            # One block of input makes one chunk.
            array: Array = column.chunk(0)
            arrays.append(field.finish(array) if field.finish else array)
        return pa.RecordBatch.from_arrays(arrays, schema=self.schema)

    def _refused(self, reason: str) -> SourceError:
        found = _CSV_COLUMN.search(reason)
        field = self.fields[int(found[1])] if found and int(found[1]) < len(self.fields) else None
        if field is None:
            return SourceError(f"Rows of {self.table} could not be read: {reason}")
        value = _CSV_VALUE.search(reason)
        shown = repr(value[1]) if value else "a value"
        if pa.types.is_temporal(field.type) and field.type != DURATION:
            return SourceError(
                f"Column {field.name} of {self.table} holds {shown}, which is no date.",
                guidance="The source's option zero_dates is error; null reads such dates as NULL.",
            )
        return SourceError(
            f"Column {field.name} of {self.table} holds {shown}, which is no {field.type}: {reason}"
        )


def _width(kind: pa.DataType) -> int:
    try:
        return max(1, int(kind.bit_width) // 8)
    except ValueError:
        return 5  # an offset, and a share of the validity bits
