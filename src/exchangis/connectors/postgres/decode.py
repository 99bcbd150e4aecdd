"""From COPY's CSV to Arrow: column by column in C++; Python touches a cell only where a value is
one that Arrow's own readers do not know (years of five digits, infinities)."""

from __future__ import annotations

import binascii
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import date
from typing import Any, cast

import pyarrow as pa
import pyarrow.compute
from psycopg import sql
from pyarrow import csv

from exchangis.connectors.postgres.catalog import Attribute
from exchangis.connectors.postgres.types import Values, arrow_type
from exchangis.domain.errors import SourceError

pc: Any = pyarrow.compute
_INFINITE = r"infinity| BC$"
_FAR = re.compile(
    r"(?P<year>\d+)-(?P<month>\d\d)-(?P<day>\d\d)"
    r"(?: (?P<h>\d\d):(?P<m>\d\d):(?P<s>\d\d)(?:\.(?P<f>\d{1,6}))?)?(?:\+00)?"
)
_DAYS_IN_400_YEARS = 146_097
_UNIX_EPOCH = date(1970, 1, 1).toordinal()


@dataclass(frozen=True, slots=True)
class Policies:
    """What to do with values that the Arrow type cannot hold: "error" or "null"."""

    infinite_dates: str = "error"
    nan_numerics: str = "error"


def _hex_to_binary(column: Values) -> Values:
    """Hexadecimal digits to bytes, a whole column at once: all of its text lies in one buffer."""
    validity, offsets, data = column.buffers()
    bounds = pa.Array.from_buffers(
        pa.int32(), len(column) + 1, [None, offsets], offset=column.offset
    )
    first, last = bounds[0].as_py(), bounds[-1].as_py()
    raw = binascii.unhexlify(memoryview(data)[first:last]) if last > first else b""
    halved = pc.divide(pc.subtract(bounds, pa.scalar(first, pa.int32())), pa.scalar(2, pa.int32()))
    if column.offset:
        validity = column.is_valid().buffers()[1]
    return pa.Array.from_buffers(
        pa.binary(), len(column), [validity, halved.buffers()[1], pa.py_buffer(raw)]
    )


def _days(year: int, month: int, day: int) -> int:
    cycles, rest = divmod(year - 1, 400)
    return date(rest + 1, month, day).toordinal() + cycles * _DAYS_IN_400_YEARS - _UNIX_EPOCH


def _far_value(text: str, target: pa.DataType) -> int:
    """Days or microseconds since 1970 of a date whose year has five digits or more."""
    match = _FAR.fullmatch(text)
    if match is None:
        raise ValueError(text)
    days = _days(int(match["year"]), int(match["month"]), int(match["day"]))
    if pa.types.is_date(target):
        return days
    seconds = ((days * 24 + int(match["h"])) * 60 + int(match["m"])) * 60 + int(match["s"])
    return seconds * 1_000_000 + int((match["f"] or "").ljust(6, "0"))


@dataclass(frozen=True)
class Decoder:
    """How one column is asked for, parsed and finished."""

    attribute: Attribute
    policies: Policies

    @property
    def type(self) -> pa.DataType:
        return arrow_type(self.attribute.type)

    @property
    def csv_type(self) -> pa.DataType:
        """What pyarrow's CSV reader makes of it; text where it cannot do the rest."""
        if pa.types.is_decimal256(self.type) or pa.types.is_binary(self.type):
            return pa.string()
        return self.type

    @property
    def expression(self) -> sql.Composable:
        """The column in the SELECT."""
        name = sql.Identifier(self.attribute.name)
        native = self.attribute.type
        if native.json_array:
            return sql.SQL("pg_catalog.array_to_json({})").format(name)
        if native.builtin and native.name == "bytea":
            return sql.SQL("pg_catalog.encode({}, 'hex')").format(name)
        if native.builtin and native.name == "money":
            return sql.SQL("{}::pg_catalog.numeric").format(name)
        return name

    @property
    def width(self) -> int:
        """Bytes that Arrow takes for a value at least, text not counted."""
        try:
            return max(1, self.type.bit_width // 8)
        except ValueError:
            return 4

    @property
    def doubtful(self) -> bool:
        """Whether a value may be one that the fast path refuses."""
        return pa.types.is_temporal(self.type) or pa.types.is_decimal(self.type)

    def finish(self, column: Values) -> Values:
        """The parsed column in its Arrow type; ArrowInvalid where `careful` is needed."""
        if pa.types.is_binary(self.type):
            return _hex_to_binary(column)
        return column if column.type == self.type else column.cast(self.type)

    def careful(self, column: Values) -> Values:
        """A doubtful column from its text, with the policies applied."""
        if pa.types.is_decimal(self.type):
            odd = pc.is_in(column, value_set=pa.array(["NaN", "Infinity", "-Infinity"]))
            self._refuse(column, odd, self.policies.nan_numerics, "nan_numerics")
            return pc.if_else(odd, pa.scalar(None, pa.string()), column).cast(self.type)
        if pa.types.is_time(self.type):
            odd = pc.equal(column, "24:00:00")
        else:
            odd = pc.match_substring_regex(column, _INFINITE)
        self._refuse(column, odd, self.policies.infinite_dates, "infinite_dates")
        text = pc.if_else(odd, pa.scalar(None, pa.string()), column)
        far = pc.fill_null(pc.match_substring_regex(text, r"^\d{5,}-"), False)
        near = pc.if_else(far, pa.scalar(None, pa.string()), text)
        if pa.types.is_time(self.type):  # Arrow casts text to moments only
            moments = pc.binary_join_element_wise("1970-01-01", near, " ")
            return moments.cast(pa.timestamp("us")).cast(self.type)
        near = near.cast(self.type)
        if not pc.any(far).as_py():
            return near
        width = pa.int32() if pa.types.is_date(self.type) else pa.int64()
        values = [_far_value(value, self.type) for value in text.filter(far).to_pylist()]
        return pc.replace_with_mask(near, far, pa.array(values, width).cast(self.type))

    def _refuse(self, column: Values, odd: Values, policy: str, option: str) -> None:
        if policy == "error" and pc.any(odd).as_py():
            value = column.filter(odd)[0].as_py()
            raise SourceError(
                f"Column {self.attribute.name} holds {value}, which its type"
                f" {self.attribute.type.text} shares with no other system.",
                guidance=f"Set the source's option {option} to null, or filter such rows out.",
            )


class BlockDecoder:
    """Turns blocks of whole CSV rows into record batches of one schema."""

    def __init__(self, decoders: Sequence[Decoder]) -> None:
        self._decoders = decoders
        # CSV headers are ours: a table may have columns that pyarrow would find ambiguous.
        self._names = [f"c{index}" for index in range(len(decoders))]
        self.schema = pa.schema(
            [pa.field(d.attribute.name, d.type, d.attribute.nullable) for d in decoders]
        )
        self.width = sum(decoder.width for decoder in decoders)

    def _parse(self, block: bytes, types: dict[str, pa.DataType]) -> list[Values]:
        table = csv.read_csv(
            cast(Any, pa.BufferReader(block)),
            read_options=csv.ReadOptions(
                column_names=self._names, use_threads=False, block_size=len(block) + 1
            ),
            parse_options=csv.ParseOptions(newlines_in_values=True, ignore_empty_lines=False),
            convert_options=csv.ConvertOptions(
                column_types=types,
                null_values=[""],
                true_values=["t"],
                false_values=["f"],
                strings_can_be_null=True,
                quoted_strings_can_be_null=False,
            ),
        )
        return [_one(table.column(index)) for index in range(table.num_columns)]

    def decode(self, block: bytes) -> pa.RecordBatch:
        """All rows of `block`; SourceError for a value that the policies refuse."""
        types = {n: d.csv_type for n, d in zip(self._names, self._decoders, strict=True)}
        try:
            parsed = self._parse(block, types)
            columns = [d.finish(c) for d, c in zip(self._decoders, parsed, strict=True)]
        except pa.ArrowInvalid:
            columns = self._decode_carefully(block, types)
        return pa.RecordBatch.from_arrays(columns, schema=self.schema)

    def _decode_carefully(self, block: bytes, types: dict[str, pa.DataType]) -> list[Values]:
        as_text = {
            name: pa.string() if decoder.doubtful else types[name]
            for name, decoder in zip(self._names, self._decoders, strict=True)
        }
        try:
            parsed = self._parse(block, as_text)
        except pa.ArrowInvalid as error:
            raise SourceError(f"The server sent a row that cannot be read: {error}") from error
        columns = []
        for decoder, column in zip(self._decoders, parsed, strict=True):
            convert: Callable[[Any], Any] = decoder.careful if decoder.doubtful else decoder.finish
            try:
                columns.append(convert(column))
            except (pa.ArrowInvalid, ValueError) as error:
                raise SourceError(
                    f"Column {decoder.attribute.name} ({decoder.attribute.type.text}) holds a value"
                    f" that does not fit {decoder.type}: {error}"
                ) from error
        return columns


def _one(column: Values) -> Values:
    return column.chunk(0) if column.num_chunks == 1 else pa.concat_arrays(column.chunks)
