"""Moving tables through the file connectors as the engine does, for the tests of all formats."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path

import pyarrow as pa

from exchangis.connectors.base import (
    Column,
    Connector,
    Context,
    ReadRequest,
    Rejected,
    Resume,
    Sink,
    Source,
    Split,
    TableSchema,
    WriteRequest,
)
from exchangis.connectors.params import make_connection
from exchangis.domain.model import DataSet, WriteMode

D = Decimal


def context(base: Path, key: str = "task", attempt: int = 1, **more: object) -> Context:
    return Context(key, attempt, base, lambda _level, _text: None, **more)  # type: ignore[arg-type]


def open_source(
    connector: Connector, base: Path, uri: str, roots: tuple[Path, ...] = (), **options: str
) -> Source:
    return connector.source(
        make_connection(connector, {"path": str(base)}),
        DataSet(type=connector.name, uri=uri, options=options),
        context(base, roots=roots),
    )


def open_sink(
    connector: Connector,
    base: Path,
    uri: str,
    *,
    key: str = "task",
    attempt: int = 1,
    roots: tuple[Path, ...] = (),
    **options: str,
) -> Sink:
    return connector.sink(
        make_connection(connector, {"path": str(base)}),
        DataSet(type=connector.name, uri=uri, options=options),
        context(base, key, attempt, roots=roots),
    )


def read(
    connector: Connector,
    base: Path,
    uri: str,
    *,
    columns: tuple[str, ...] = (),
    parallelism: int = 2,
    batch_rows: int = 1000,
    **options: str,
) -> pa.Table:
    """All rows of all splits, with exactly the types of the schema."""
    source = open_source(connector, base, uri, **options)
    try:
        schema = source.schema()
        request = ReadRequest(columns or schema.names, None, parallelism, batch_rows)
        batches = []
        for split in source.plan(request):
            for batch in source.read(split, request):
                assert 0 < batch.num_rows <= batch_rows
                batches.append(batch)
        expected = pa.schema([(n, schema.column(n).type) for n in request.columns])  # type: ignore[union-attr]
        return pa.Table.from_batches(batches, expected)
    finally:
        source.close()


def wanted(sink: Sink, table: pa.Table) -> TableSchema:
    return sink.proposed(TableSchema(tuple(Column(f.name, f.type) for f in table.schema)))


def prepare(sink: Sink, table: pa.Table, mode: WriteMode, plan: str = "plan") -> Resume:
    return sink.prepare(WriteRequest(wanted(sink, table), mode), plan)


def pieces(table: pa.Table, count: int) -> dict[str, pa.Table]:
    """The table cut into splits by id."""
    step = -(-table.num_rows // count)
    return {f"s{i}": table.slice(i * step, step) for i in range(count)}


def write_splits(
    sink: Sink, splits: dict[str, pa.Table], resume: Resume | None = None
) -> list[Rejected]:
    """Write and commit what is not done yet, split by split."""
    writer = sink.open_writer()
    rejected: list[Rejected] = []
    try:
        for split, part in splits.items():
            if resume is not None and split in resume.done:
                continue
            rows = 0
            for batch in part.combine_chunks().to_batches():
                written = writer.write(batch)
                assert written.rows + len(written.rejected) == batch.num_rows
                rows += written.rows
                rejected.extend(written.rejected)
            writer.mark(Split(split, split), rows)
            writer.commit()
    finally:
        writer.close()
    return rejected


def write(
    connector: Connector,
    base: Path,
    uri: str,
    table: pa.Table,
    *,
    mode: WriteMode = WriteMode.APPEND,
    key: str = "task",
    splits: int = 2,
    **options: str,
) -> list[Rejected]:
    """A whole task of one attempt."""
    sink = open_sink(connector, base, uri, key=key, **options)
    try:
        resume = prepare(sink, table, mode)
        rejected = write_splits(sink, pieces(table, splits), resume)
        sink.publish()
        return rejected
    finally:
        sink.close()


def leftovers(base: Path) -> list[str]:
    """Staging folders and temporary files anywhere below `base`."""
    return [
        str(path.relative_to(base))
        for path in base.rglob("*")
        if path.name.startswith(".exchangis_stg") or path.name.endswith((".new", ".tmp"))
    ]


def raises(action: Callable[[], object], kind: type[Exception]) -> str:
    """The text of the error that `action` raises."""
    try:
        action()
    except kind as error:
        return str(error)
    raise AssertionError(f"{kind.__name__} was not raised")


def nasty() -> pa.Table:
    """Values that exchange products are known to bend, one row of extremes and one of NULLs."""
    return pa.table(
        {
            "i64": pa.array([-(2**63), 2**63 - 1, None], pa.int64()),
            "u64": pa.array([2**64 - 1, 0, None], pa.uint64()),
            "dec": pa.array(
                [D("-1234567890123456789012345678.0123456789"), D("1E-10"), None],
                pa.decimal128(38, 10),
            ),
            "f64": pa.array([0.1, -1.7976931348623157e308, None], pa.float64()),
            "yes": pa.array([True, False, None]),
            "text": pa.array(['"q",\n\r\n\t\x00;\\', "", None]),
            "wide": pa.array(["😀 中文 é", "NULL", None]),
            "code": pa.array(["007", "+1", None]),
            "day": pa.array([dt.date(1, 1, 1), dt.date(9999, 12, 31), None]),
            "at": pa.array(
                [dt.datetime(1969, 12, 31, 23, 59, 59, 999999), dt.datetime(9999, 12, 31), None],
                pa.timestamp("us"),
            ),
            "zoned": pa.array(
                [
                    dt.datetime(2024, 2, 29, 1, 2, 3, 4, tzinfo=dt.UTC),
                    dt.datetime(1, 1, 1, tzinfo=dt.UTC),
                    None,
                ],
                pa.timestamp("us", "UTC"),
            ),
            "time": pa.array([dt.time(23, 59, 59, 999999), dt.time(0), None], pa.time64("us")),
            "raw": pa.array([bytes(range(256)), b"", None], pa.binary()),
        }
    )


DECLARED = '{"code": "string", "time": "time", "raw": "binary", "day": "date", "at": "timestamp"'
"""Option `schema` for the columns of `nasty` whose types text alone does not tell; unclosed."""
