"""The pure parts of the MySQL connector."""

from __future__ import annotations

import io
from itertools import pairwise
from types import SimpleNamespace
from typing import Any

import pyarrow as pa
import pymysql.err
import pytest
from hypothesis import given
from hypothesis import strategies as st

from exchangis.connectors.base import Column, TableSchema
from exchangis.connectors.mysql.errors import connect_error, is_row_fault, statement_error
from exchangis.connectors.mysql.plan import _boundaries, _ranges
from exchangis.connectors.mysql.read import RowFormat, make_field
from exchangis.connectors.mysql.session import offset_us, quote
from exchangis.connectors.mysql.types import NativeColumn, created_schema
from exchangis.connectors.mysql.wire import RowStream
from exchangis.domain.errors import ConnectionFailed, InvalidRequest, SinkError, SourceError


def _length(size: int) -> bytes:
    if size < 251:
        return bytes([size])
    if size < 1 << 16:
        return b"\xfc" + size.to_bytes(2, "little")
    return b"\xfd" + size.to_bytes(3, "little")


def _packets(payloads: list[bytes]) -> bytes:
    return b"".join(
        len(p).to_bytes(3, "little") + bytes([n % 256]) + p for n, p in enumerate(payloads)
    )


class Dribble(io.BytesIO):
    """A socket's file that gives as few bytes at a time as it is told."""

    def __init__(self, data: bytes, step: int) -> None:
        super().__init__(data)
        self.step = step

    def read1(self, size: int | None = -1, /) -> bytes:
        return self.read(min(self.step, size or self.step))


def _stream(data: bytes, step: int, line_of: Any = None) -> RowStream:
    answers = [
        SimpleNamespace(
            is_ok_packet=lambda: False,
            is_load_local_packet=lambda: False,
            read_length_encoded_integer=lambda: 1,
        ),
        None,
        SimpleNamespace(is_eof_packet=lambda: True),
    ]
    raw = SimpleNamespace(
        _execute_command=lambda _command, _sql: None,
        _read_packet=lambda: answers.pop(0),
        _rfile=Dribble(data, step),
    )
    return RowStream(SimpleNamespace(raw=raw), "SELECT 1", line_of)  # type: ignore[arg-type]


@given(
    lines=st.lists(
        st.one_of(
            st.none(),
            st.binary(max_size=20),
            st.integers(240, 260).map(lambda n: b"x" * n),
            st.sampled_from([b"y" * 65535, b"z" * 65536]),
        ),
        max_size=12,
    ),
    step=st.sampled_from([1, 3, 7, 1000, 1 << 20]),
    rows=st.integers(1, 5),
    size=st.integers(1, 300),
)
def test_every_line_comes_once_however_the_bytes_arrive(
    lines: list[bytes | None], step: int, rows: int, size: int
) -> None:
    payloads = [b"\xfb" if line is None else _length(len(line)) + line for line in lines]
    step = step if sum(map(len, payloads)) < 5000 else max(step, 1000)
    stream = _stream(_packets([*payloads, b"\xfe\x02\0\0\0"]), step)
    taken = []
    while not stream.done:
        some = stream.take(rows, size)
        assert len(some) <= rows
        taken += some
    assert taken == [line for line in lines if line is not None]
    assert (stream.rows, stream.unlined) == (len(taken), lines.count(None))
    assert stream.warnings == 2


def test_connection_that_ends_within_a_row_is_lost() -> None:
    stream = _stream(_packets([b"\x05hello"])[:-1], 100)
    with pytest.raises(pymysql.err.OperationalError, match="Lost connection"):
        stream.take(10, 100)


def test_error_within_a_result_is_raised() -> None:
    stream = _stream(_packets([b"\x01a", b"\xff\x25\x05#70100Query was interrupted"]), 100)
    with pytest.raises(pymysql.err.OperationalError, match="interrupted"):
        stream.take(10, 100)


@given(st.text(min_size=1).filter(lambda name: "\0" not in name))
def test_quoted_name_holds_no_lone_backtick(name: str) -> None:
    inner = quote(name)[1:-1]
    assert "`" not in inner.replace("``", "")
    assert inner.replace("``", "`") == name


@given(keys=st.sets(st.integers(-1000, 10**12), min_size=2, max_size=200), count=st.integers(1, 8))
def test_ranges_and_cuts_are_in_order_and_lose_nothing(keys: set[int], count: int) -> None:
    def estimate(start: int, end: int) -> int:
        return sum(start <= key < end for key in keys)

    low, high = min(keys), max(keys)
    pieces = _ranges(low, high, max(1, len(keys) // (count * 4)), estimate)
    assert (pieces[0][0], pieces[-1][1]) == (low, high + 1)
    assert all(left[1] == right[0] for left, right in pairwise(pieces))
    cuts = _boundaries(pieces, count)
    assert len(cuts) < count
    assert cuts == sorted(set(cuts))


def test_offsets_alone_are_time_zones() -> None:
    assert offset_us("+08:00") == 8 * 3600 * 10**6
    assert offset_us("-03:30") == -12600 * 10**6
    for wrong in ("UTC", "+8:00", "+15:00", "+00:60", "", "+00:00'"):
        with pytest.raises(InvalidRequest):
            offset_us(wrong)


@pytest.mark.parametrize(
    ("code", "fault", "retryable", "kind"),
    [
        (1062, True, False, SinkError),
        (1213, False, True, SinkError),
        (1205, False, True, SinkError),
        (2013, False, True, ConnectionFailed),
        (1927, False, True, ConnectionFailed),
        (1146, False, False, SinkError),
        (1142, False, False, SinkError),
    ],
)
def test_errors_say_whether_trying_again_helps(
    code: int, fault: bool, retryable: bool, kind: type
) -> None:
    error = pymysql.err.OperationalError(code, "words")
    assert is_row_fault(error) is fault
    translated = statement_error(error, "sink", "writing db.t")
    assert type(translated) is kind
    assert translated.retryable is retryable
    assert "db.t" in translated.message


def test_refused_login_is_not_retried_and_a_dead_server_is() -> None:
    assert not connect_error(pymysql.err.OperationalError(1045, "denied"), "h:1").retryable
    assert connect_error(pymysql.err.OperationalError(2003, "refused"), "h:1").retryable
    assert connect_error(pymysql.err.OperationalError(1040, "too many"), "h:1").retryable


def test_created_types_are_native_and_hold_the_values() -> None:
    wanted = TableSchema(
        tuple(
            Column(str(number), kind)
            for number, kind in enumerate(
                [
                    pa.string(), pa.binary(), pa.uint64(), pa.decimal128(38, 10),
                    pa.decimal256(70, 5), pa.timestamp("ns", "Asia/Tokyo"), pa.bool_(),
                    pa.dictionary(pa.int32(), pa.string()), pa.list_(pa.int8()), pa.null(),
                    pa.decimal128(5, -2), pa.time32("s"), pa.date64(),
                ]
            )
        )
    )  # fmt: skip
    made = created_schema(wanted, ("0",), "utf8mb4_bin")
    assert [column.native_type for column in made.columns] == [
        "VARCHAR(255) CHARACTER SET utf8mb4 COLLATE utf8mb4_bin", "LONGBLOB", "BIGINT UNSIGNED",
        "DECIMAL(38,10)", "LONGTEXT", "DATETIME(6)", "TINYINT(1)", "LONGTEXT", "JSON", "LONGTEXT",
        "DECIMAL(7,0)", "TIME(6)", "DATE",
    ]  # fmt: skip
    assert not made.columns[0].nullable
    with pytest.raises(InvalidRequest, match="month_day_nano"):
        created_schema(TableSchema((Column("i", pa.month_day_nano_interval()),)), (), "utf8mb4_bin")


def test_value_without_a_place_names_its_column() -> None:
    field = make_field(
        NativeColumn("when", "date", "date"), nullable=True, offset=0, zero_dates="error"
    )
    rows = RowFormat((field,), "db.t")
    assert rows.batch([b"2020-01-01", b""]).column(0).null_count == 1
    with pytest.raises(SourceError, match=r"Column when of db\.t.*0000-00-00"):
        rows.batch([b"0000-00-00"])
