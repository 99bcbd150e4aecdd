"""Parquet files and folders of them, as source and sink.

Source. All files must agree on their columns; splits are runs of row groups. Memory is bounded by
the batch, not by the row group, which is decoded page by page. `files.parquet` lists the types.

Sink. Types are kept as they are. A single file that is appended to, or made of several parts, is
written anew row group by row group, since Parquet files cannot be put one after another; a folder
needs no second writing, so it is the better target for large loads by several lanes.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa
import pyarrow.parquet as pq

from exchangis.connectors.base import (
    Capabilities,
    Column,
    Connector,
    Context,
    Param,
    ReadRequest,
    Source,
    Split,
    TableSchema,
)
from exchangis.connectors.files import datasets
from exchangis.connectors.files.bytes import open_plain
from exchangis.connectors.files.datasets import DataFile
from exchangis.connectors.files.format import FileFormat, PartFile, Stored
from exchangis.connectors.files.parquet import plain_type, plain_values
from exchangis.connectors.files.sink import FileSink, fitted_to
from exchangis.connectors.params import check_params
from exchangis.domain.errors import SinkError, SourceError, TaskCancelled
from exchangis.domain.model import Connection, DataSet

SUFFIXES = (".parquet", ".pq")
ROW_GROUP_BYTES = 64 << 20
BUFFER = 1 << 20

OPTIONS = (
    Param(
        "compression",
        "Sink only: codec of the pages.",
        kind="choice",
        default="zstd",
        choices=("zstd", "snappy", "gzip", "lz4", "none"),
    ),
    Param(
        "row_group_rows",
        "Sink only: rows of a row group at most; one of more than 64 MiB ends earlier.",
        kind="integer",
        default=131_072,
        minimum=1,
        maximum=10_000_000,
    ),
)


@contextlib.contextmanager
def _opened(path: Path, name: str) -> Iterator[pq.ParquetFile]:
    """The file open, its metadata read; SourceError when it is no Parquet file."""
    with open_plain(path) as raw:
        try:
            opened = pq.ParquetFile(raw, pre_buffer=False, buffer_size=BUFFER)
        except (pa.ArrowException, OSError) as error:
            if isinstance(error, OSError) and error.errno is not None:
                raise
            raise SourceError(f"{name} is no readable Parquet file: {error}") from error
        with opened:
            yield opened


class ParquetSource(Source):
    """Reads Parquet files by runs of row groups."""

    def __init__(self, found: Sequence[DataFile], context: Context) -> None:
        self._files = found
        self._context = context
        self._cancelled = threading.Event()
        self._lock = threading.Lock()
        self._schema: TableSchema | None = None
        self._groups: dict[str, list[int]] = {}

    def schema(self) -> TableSchema:
        with self._lock:
            if self._schema is None:
                self._schema = self._look()
            return self._schema

    def _look(self) -> TableSchema:
        first: pa.Schema | None = None
        rows = 0
        for file in self._files:
            try:
                with _opened(file.path, file.name) as opened:
                    found = opened.schema_arrow
                    meta = opened.metadata
                    counts = [meta.row_group(i).num_rows for i in range(meta.num_row_groups)]
            except OSError as error:
                datasets.source_failed(error, file.name)
            if first is None:
                first = found
                _refuse_twice(found, file.name)
            _refuse_difference(first, found, self._files[0].name, file.name)
            self._groups[file.name] = counts
            rows += sum(counts)
        assert first is not None, "data_files gives at least one"
        return TableSchema(
            tuple(Column(f.name, plain_type(f.type), str(f.type), f.nullable) for f in first),
            rows=rows,
        )

    def plan(self, request: ReadRequest) -> list[Split]:
        total = self.schema().rows or 0
        wanted = max(1, total // max(1, 4 * request.parallelism))
        splits: list[Split] = []
        for file in self._files:
            begin = rows = 0
            counts = self._groups[file.name]
            for group, count in enumerate(counts):
                rows += count
                if rows >= wanted or group == len(counts) - 1:
                    splits.append(self._split(len(splits), file, begin, group + 1, rows))
                    begin, rows = group + 1, 0
        return splits or [self._split(0, self._files[0], 0, 0, 0)]

    @staticmethod
    def _split(number: int, file: DataFile, begin: int, end: int, rows: int) -> Split:
        label = f"{file.name} row groups {begin}-{end - 1}" if end else f"{file.name} (empty)"
        return Split(f"s{number}", label, datasets.planned(file, begin=begin, end=end), rows)

    def read(self, split: Split, request: ReadRequest) -> Iterator[pa.RecordBatch]:
        schema = self.schema()
        file = datasets.find_planned(self._files, split.data)
        groups = list(range(split.data["begin"], split.data["end"]))
        if not groups:
            return
        kinds = {}
        for name in request.columns:
            column = schema.column(name)
            if column is None:
                raise SourceError(f"{file.name} has no column {name}.")
            kinds[column.name] = column.type
        try:
            with _opened(file.path, file.name) as opened:
                yield from self._batches(opened, file.name, groups, kinds, request)
        except OSError as error:
            if error.errno is None:
                raise SourceError(f"{file.name} is damaged: {error}") from error
            datasets.source_failed(error, file.name)

    def _batches(
        self,
        opened: pq.ParquetFile,
        name: str,
        groups: list[int],
        kinds: Mapping[str, pa.DataType],
        request: ReadRequest,
    ) -> Iterator[pa.RecordBatch]:
        try:
            for batch in opened.iter_batches(
                batch_size=_batch_rows(opened, groups, request),
                row_groups=groups,
                columns=_leaves(opened, kinds),
                use_threads=False,
            ):
                columns = [
                    plain_values(batch.column(batch.schema.get_field_index(column)), kind)
                    for column, kind in kinds.items()
                ]
                plain = pa.RecordBatch.from_arrays(columns, names=list(kinds))
                for piece in datasets.bounded(plain, request.batch_rows, request.batch_bytes):
                    if self._cancelled.is_set():
                        raise TaskCancelled()
                    yield piece
        except (pa.ArrowInvalid, ValueError) as error:
            raise SourceError(f"{name} cannot be read: {error}") from error

    def cancel(self) -> None:
        self._cancelled.set()

    def close(self) -> None:
        """Files are open during reads alone."""


def _leaves(opened: pq.ParquetFile, kinds: Mapping[str, pa.DataType]) -> list[str] | None:
    """What to tell Arrow to read: None for everything, as names with dots would be ambiguous."""
    names = opened.schema_arrow.names
    if any("." in name for name in names) or set(names) == set(kinds):
        return None
    return list(kinds)


def _batch_rows(opened: pq.ParquetFile, groups: Sequence[int], request: ReadRequest) -> int:
    """Rows of a batch that has about the bytes asked for, by the sizes in the metadata."""
    metas = [opened.metadata.row_group(group) for group in groups]
    rows = sum(meta.num_rows for meta in metas)
    size = sum(meta.total_byte_size for meta in metas)
    return max(1, min(request.batch_rows, request.batch_bytes * max(1, rows) // max(1, size)))


def _refuse_twice(schema: pa.Schema, name: str) -> None:
    twice = sorted({column for column in schema.names if schema.names.count(column) > 1})
    if twice:
        raise SourceError(f"{name} has more than one column {', '.join(twice)}.")


def _refuse_difference(first: pa.Schema, other: pa.Schema, name: str, other_name: str) -> None:
    """SourceError naming the first column on which two files differ."""
    for column in dict.fromkeys((*first.names, *other.names)):
        kinds = [
            str(plain_type(schema.field(column).type)) if column in schema.names else "absent"
            for schema in (first, other)
        ]
        if kinds[0] != kinds[1]:
            raise SourceError(
                f"Files differ in column {column}: {kinds[0]} in {name}, {kinds[1]} in"
                f" {other_name}.",
                guidance="Exchange them by tasks of their own.",
            )


@dataclass(frozen=True)
class Layout:
    """How Parquet files are written."""

    compression: Literal["zstd", "snappy", "gzip", "lz4", "none"]
    row_group_rows: int


class ParquetPart(PartFile):
    """A Parquet file under way: rows are gathered until they make a row group."""

    def __init__(self, path: Path, schema: pa.Schema, layout: Layout) -> None:
        self._layout = layout
        self._schema = schema
        self._waiting: list[pa.RecordBatch] = []
        self._rows = 0
        self._size = 0
        self._raw = pa.OSFile(str(path), "wb")
        try:
            self._writer = pq.ParquetWriter(
                self._raw, schema, compression=layout.compression, version="2.6"
            )
        except BaseException:
            self._raw.close()
            raise

    def write(self, batch: pa.RecordBatch) -> str | None:
        while batch.num_rows:
            piece = batch.slice(0, self._layout.row_group_rows - self._rows)
            self._waiting.append(piece)
            self._rows += piece.num_rows
            self._size += piece.nbytes
            if self._rows >= self._layout.row_group_rows or self._size >= ROW_GROUP_BYTES:
                self._flush()
            batch = batch.slice(piece.num_rows)
        return None

    def _flush(self) -> None:
        if self._waiting:
            table = pa.Table.from_batches(self._waiting, self._schema)
            self._writer.write_table(table, row_group_size=self._rows)
            self._waiting, self._rows, self._size = [], 0, 0

    def close(self) -> None:
        if self._raw.closed:
            return
        try:
            self._flush()
            self._writer.close()
        finally:
            self._raw.close()


class ParquetFormat(FileFormat):
    """Writes Parquet."""

    suffixes = SUFFIXES

    def __init__(self, layout: Layout) -> None:
        self._layout = layout

    def part_suffix(self) -> str:
        return self.suffixes[0]

    def fitting(self, wanted: TableSchema) -> TableSchema:
        columns = []
        for column in wanted.columns:
            kind = column.type
            if isinstance(kind, pa.DictionaryType):
                kind = kind.value_type
            if isinstance(kind, pa.TimestampType) and kind.unit == "s":
                kind = pa.timestamp("ms", kind.tz)
            if pa.types.is_time32(kind):
                kind = pa.time32("ms")
            if pa.types.is_interval(kind) or pa.types.is_union(kind):
                raise SinkError(f"Column {column.name}: Parquet cannot hold {kind}.")
            columns.append(Column(column.name, kind, str(kind)))
        return TableSchema(tuple(columns), rows=wanted.rows)

    def existing(self, path: Path, name: str) -> pa.Schema | None:
        try:
            with _opened(path, name) as opened:
                return opened.schema_arrow.remove_metadata()
        except SourceError as error:
            raise SinkError(f"{name} cannot be appended to: {error.message}") from error

    def open_part(self, path: Path, schema: pa.Schema, name: str) -> PartFile:
        return ParquetPart(path, schema, self._layout)

    def merge(
        self,
        existing: Path | None,
        parts: Sequence[Stored],
        out: Path,
        schema: pa.Schema,
        cancelled: threading.Event,
    ) -> None:
        target = ParquetPart(out, schema, self._layout)
        try:
            for path in [*([existing] if existing else []), *(part.path for part in parts)]:
                with _opened(path, path.name) as opened:
                    for batch in opened.iter_batches(batch_size=16_384, use_threads=False):
                        if cancelled.is_set():
                            raise TaskCancelled()
                        target.write(fitted_to(batch, schema))
        finally:
            target.close()


class Parquet(Connector):
    """Parquet files below a folder."""

    name = "PARQUET"
    title = "Parquet files"
    type_id = 32
    params = (datasets.PATH,)
    options = OPTIONS
    capabilities = Capabilities(addressing="uri", databases=False, staged=True, redefines=True)

    def test(self, connection: Connection, context: Context) -> str:
        return datasets.tested(connection, context, SUFFIXES)

    def source(self, connection: Connection, dataset: DataSet, context: Context) -> ParquetSource:
        self._options(dataset)
        base = datasets.base_folder(connection, context)
        return ParquetSource(datasets.data_files(base, dataset, context, SUFFIXES), context)

    def sink(self, connection: Connection, dataset: DataSet, context: Context) -> FileSink:
        options = self._options(dataset)
        layout = Layout(options["compression"], options["row_group_rows"])
        base = datasets.base_folder(connection, context)
        return FileSink(base, dataset, context, ParquetFormat(layout))

    def _options(self, dataset: DataSet) -> dict[str, Any]:
        return check_params(self.options, dataset.options, prefix="options")

    def tables(self, connection: Connection, database: str | None, context: Context) -> list[str]:
        return datasets.listed(datasets.base_folder(connection, context), SUFFIXES)
