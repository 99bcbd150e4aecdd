"""CSV files and folders of them, as source and sink.

Source. An empty unquoted field is NULL, a quoted one empty text (option `null_text`). Column types
are inferred from all rows of up to 64 MiB of plain files, of more data from a sample; they can be
declared (`schema`) or left to the sink (`types: text`). A value that its column's type cannot hold
fails the task with file, line, column and value: nothing is bent, skipped or cut off. Types that
were inferred from a sample are held to the same spelling as in the sample, so that a later `007`
in a column of integers is refused and not turned into 7.

Sink. Text is always quoted and NULL never is, so both come back as they were; the other values
are written as `files.text` says. What the encoding cannot say is a dirty record.
"""

from __future__ import annotations

import itertools
import threading
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa

from exchangis.connectors.base import (
    Capabilities,
    Connector,
    Context,
    ReadRequest,
    Source,
    Split,
    TableSchema,
)
from exchangis.connectors.files import csv as files_csv
from exchangis.connectors.files import datasets
from exchangis.connectors.files import text as files_text
from exchangis.connectors.files import types as files_types
from exchangis.connectors.files.arrow import Array
from exchangis.connectors.files.arrow import compute as pc
from exchangis.connectors.files.bytes import Bytes, cut_points, holds_byte, is_utf8
from exchangis.connectors.files.csv import Dialect, Section
from exchangis.connectors.files.datasets import DataFile
from exchangis.connectors.files.format import FileFormat, PartFile, Stored
from exchangis.connectors.files.sink import FileSink, table_schema
from exchangis.connectors.files.textsink import SUFFIX_OF, TextPart, merge_text
from exchangis.connectors.params import check_params
from exchangis.domain.errors import InvalidRequest, SinkError, SourceError, TaskCancelled
from exchangis.domain.model import Connection, DataSet

SUFFIXES = (".csv", ".tsv", ".txt")
WHOLE_SCAN = 64 << 20
SAMPLE_ROWS = 10_000
SAMPLE_FILES = 20
SPLIT_BYTES = 16 << 20


class CsvSource(Source):
    """Reads CSV files with Arrow's parser, block by block."""

    def __init__(self, found: Sequence[DataFile], d: Dialect, context: Context) -> None:
        self._files = found
        self._dialect = d
        self._context = context
        self._cancelled = threading.Event()
        self._lock = threading.Lock()
        self._schema: TableSchema | None = None
        self._heads: dict[str, files_csv.Head] = {}
        self._sampled: frozenset[str] = frozenset()
        self._row_bytes = 100.0

    def schema(self) -> TableSchema:
        with self._lock:
            if self._schema is None:
                try:
                    self._schema = self._look()
                except OSError as error:
                    datasets.source_failed(error, self._files[0].name)
            return self._schema

    def _look(self) -> TableSchema:
        heads = {file.name: files_csv.read_head(file, self._dialect) for file in self._files}
        self._heads = {name: head for name, head in heads.items() if head.names}
        if not self._heads:
            raise SourceError(f"{self._files[0].name} is empty: it does not even name its columns.")
        first, names = next((name, head.names) for name, head in self._heads.items())
        for name, head in self._heads.items():
            other = sorted(set(names) ^ set(head.names))
            if other:
                raise SourceError(
                    f"{name} and {first} have different columns: {', '.join(other)} is not in both."
                )
        unknown = sorted(set(self._dialect.declared) - set(names))
        if unknown:
            raise InvalidRequest.field(
                "options.schema",
                ", ".join(unknown),
                f"no such column in {first}; it has {', '.join(names)}",
            )
        types, rows = self._types(names)
        return table_schema(pa.schema([(name, types[name]) for name in names]), rows)

    def _types(self, names: Sequence[str]) -> tuple[dict[str, pa.DataType], int]:
        """Type of each column, and the (estimated) number of rows."""
        d = self._dialect
        readable = [file for file in self._files if file.name in self._heads]
        total = sum(file.size for file in readable)
        packed = any(d.codec(file.name) for file in readable)
        whole = total <= WHOLE_SCAN and not packed and d.infer
        open_names = [n for n in names if n not in d.declared] if d.infer else []
        text_columns = self._text_columns(readable[0])
        columns = {n: files_types.Inference() for n in open_names if n not in text_columns}
        rows = size = 0
        step = max(1, len(readable) // SAMPLE_FILES)
        for number, file in enumerate(readable if whole else readable[::step]):
            limit = None if whole else SAMPLE_ROWS if number == 0 else SAMPLE_ROWS // 10
            for batch in _limited(self._section(file).batches(_texts(names)), limit):
                rows += batch.num_rows
                size += _text_bytes(batch)
                for name, inference in columns.items():
                    inference.look(batch.column(name))
        self._row_bytes = max(1.0, size / rows) if rows else 100.0
        if not whole:
            self._sampled = frozenset(columns)
            rows = int(total / self._row_bytes) * (4 if packed else 1)
        types = {name: pa.string() for name in names} | dict(d.declared)
        types |= {name: inference.type() for name, inference in columns.items()}
        return types, rows

    def _text_columns(self, file: DataFile) -> set[str]:
        """Columns that the file's writer marked as text by quoting all of their values."""
        d = self._dialect
        with Bytes(file, compression=d.codec(file.name), encoding=d.encoding) as stream:
            sample = stream.read(1 << 16).decode("utf-8", "replace")
        records = sample[: sample.rfind("\n") + 1] or sample
        if d.header:
            records = records.partition("\n")[2]
        names = self._heads[file.name].names
        return {names[i] for i in files_csv.always_quoted(records, d) if i < len(names)}

    def _section(self, file: DataFile, start: int = 0, end: int | None = None) -> Section:
        return Section(
            file,
            self._dialect,
            self._heads[file.name].names,
            start,
            end,
            self._cancelled.is_set,
        )

    def plan(self, request: ReadRequest) -> list[Split]:
        self.schema()
        splits: list[Split] = []
        try:
            for file in self._files:
                if file.name in self._heads:
                    splits.extend(self._splits(file, request.parallelism, len(splits)))
        except OSError as error:
            datasets.source_failed(error, self._files[0].name)
        return splits

    def _splits(self, file: DataFile, lanes: int, number: int) -> Iterator[Split]:
        parts = min(4 * lanes, file.size // SPLIT_BYTES) if lanes > 1 else 1
        if parts < 2 or not self._may_be_cut(file):
            rows = int(file.size / self._row_bytes)
            yield Split(f"s{number}", file.name, datasets.planned(file, start=0, end=None), rows)
            return
        points = cut_points(file, self._heads[file.name].offset, parts)
        for start, end in itertools.pairwise(points):
            yield Split(
                f"s{number}",
                f"{file.name} bytes {start}-{end}",
                datasets.planned(file, start=start, end=end),
                int((end - start) / self._row_bytes),
            )
            number += 1

    def _may_be_cut(self, file: DataFile) -> bool:
        """Whether every newline ends a record: so where nothing is quoted, or as promised."""
        d = self._dialect
        if d.codec(file.name) or not is_utf8(d.encoding) or d.escape is not None:
            return False
        return not d.newlines or d.quote is None or not holds_byte(file, d.quote.encode())

    def read(self, split: Split, request: ReadRequest) -> Iterator[pa.RecordBatch]:
        schema = self.schema()
        file = datasets.find_planned(self._files, split.data)
        section = self._section(file, split.data["start"], split.data["end"])
        kinds = {}
        for name in request.columns:
            column = schema.column(name)
            if column is None:
                raise SourceError(f"{file.name} has no column {name}.")
            kinds[name] = column.type
        try:
            yield from self._rows(section, kinds, request)
        except OSError as error:
            datasets.source_failed(error, file.name)

    def _rows(
        self, section: Section, kinds: Mapping[str, pa.DataType], request: ReadRequest
    ) -> Iterator[pa.RecordBatch]:
        done = 0
        as_read = {name: self._read_type(name, kind) for name, kind in kinds.items()}
        for batch in section.batches(as_read):
            columns = [
                self._converted(section, done, name, batch.column(name), kind)
                for name, kind in kinds.items()
            ]
            done += batch.num_rows
            converted = pa.RecordBatch.from_arrays(columns, names=list(kinds))
            for piece in datasets.bounded(converted, request.batch_rows, request.batch_bytes):
                if self._cancelled.is_set():
                    raise TaskCancelled()
                yield piece

    def _read_type(self, name: str, kind: pa.DataType) -> pa.DataType:
        """The type that Arrow's parser gives; text where the value is looked at before."""
        looked_at = name in self._sampled or pa.types.is_binary(kind) or pa.types.is_floating(kind)
        return pa.string() if looked_at else kind

    def _converted(
        self, section: Section, done: int, name: str, values: Array, kind: pa.DataType
    ) -> Array:
        if values.type == kind:
            return values
        if name in self._sampled:
            plain = files_types.plain_spelling(kind)
            if not plain(values):
                at = files_types.first_misfit(values, plain)
                section.refuse(done + at, name, f"no {kind} as in the sample of the data")
        try:
            return files_types.from_text(values, kind)
        except pa.ArrowInvalid as error:
            at = files_types.first_misfit(values, lambda part: files_types.parses(part, kind))
            section.refuse(done + at, name, f"no {kind}", cause=error)
            raise

    def cancel(self) -> None:
        self._cancelled.set()

    def close(self) -> None:
        """Files are open during reads alone."""


def _texts(names: Sequence[str]) -> dict[str, pa.DataType]:
    return {name: pa.string() for name in names}


def _limited(batches: Iterator[pa.RecordBatch], rows: int | None) -> Iterator[pa.RecordBatch]:
    left = rows
    for batch in batches:
        if left is None:
            yield batch
            continue
        yield batch.slice(0, left)
        left -= batch.num_rows
        if left <= 0:
            return


def _text_bytes(batch: pa.RecordBatch) -> int:
    """About the bytes that the rows take in the file: their text and the delimiters."""
    text = sum(pc.sum(pc.binary_length(column)).as_py() or 0 for column in batch.columns)
    return text + batch.num_rows * batch.num_columns


class CsvFormat(FileFormat):
    """Writes CSV."""

    suffixes = SUFFIXES

    def __init__(self, d: Dialect) -> None:
        if d.quote is None:
            raise InvalidRequest.field("options.quote", "none", "a sink must be able to quote")
        if d.encoding == "utf-16":
            raise InvalidRequest.field("options.encoding", d.encoding, "is for sources only")
        self._dialect = d
        self._quote = d.quote

    def part_suffix(self) -> str:
        return self.suffixes[0] + SUFFIX_OF[self._dialect.codec("")]

    def fitting(self, wanted: TableSchema) -> TableSchema:
        files_text.refuse_unknown(wanted.arrow, "CSV")
        return wanted

    def existing(self, path: Path, name: str) -> pa.Schema | None:
        facts = path.stat()
        file = DataFile(path, path.name, facts.st_size, facts.st_mtime_ns)
        try:
            names = files_csv.read_head(file, self._dialect).names
        except SourceError as error:
            raise SinkError(f"{name} cannot be appended to: {error.message}") from error
        if not names or not self._dialect.header:
            return None
        return pa.schema([(column, pa.null()) for column in names])

    def open_part(self, path: Path, schema: pa.Schema, name: str) -> PartFile:
        d = self._dialect
        head = d.delimiter.join(self._name(column) for column in schema.names) + "\n"
        return TextPart(path, d.codec(name), self._bytes(head) if d.header else b"", self._lines)

    def merge(
        self,
        existing: Path | None,
        parts: Sequence[Stored],
        out: Path,
        schema: pa.Schema,
        cancelled: threading.Event,
    ) -> None:
        merge_text(existing, parts, out, self._dialect.codec(out.name), cancelled)

    def _bytes(self, text: str) -> bytes:
        return text.encode(self._dialect.encoding)

    def _name(self, column: str) -> str:
        special = {self._dialect.delimiter, self._quote, self._dialect.escape, "\n", "\r", " "}
        if column and not special & set(column):
            return column
        return self._quote + self._escaped(column) + self._quote

    def _escaped(self, text: str) -> str:
        escape = self._dialect.escape
        if escape is None:
            return text.replace(self._quote, self._quote * 2)
        return text.replace(escape, escape * 2).replace(self._quote, escape + self._quote)

    def _lines(self, batch: pa.RecordBatch) -> bytes:
        parts: list[Any] = []
        for column in batch.columns:
            text = files_text.to_text(column)
            if files_text.is_text(column.type):
                text = self._quoted(text)
            parts.append(pc.fill_null(text, self._dialect.null_text))
            parts.append(self._dialect.delimiter)
        parts[-1] = "\n"
        data = files_text.lines(parts)
        return data if is_utf8(self._dialect.encoding) else self._transcoded(data)

    def _quoted(self, text: Array) -> Array:
        escape = self._dialect.escape
        if escape is None:
            text = pc.replace_substring(text, self._quote, self._quote * 2)
        else:
            text = pc.replace_substring(text, escape, escape * 2)
            text = pc.replace_substring(text, self._quote, escape + self._quote)
        quoted: Array = pc.binary_join_element_wise(self._quote, text, self._quote, "")
        return quoted

    def _transcoded(self, data: bytes) -> bytes:
        try:
            return data.decode().encode(self._dialect.encoding)
        except UnicodeEncodeError as error:
            bad = error.object[error.start]
            raise ValueError(
                f"U+{ord(bad):04X} does not exist in {self._dialect.encoding}"
            ) from error


class Csv(Connector):
    """CSV files below a folder."""

    name = "CSV"
    title = "CSV files"
    type_id = 30
    params = (datasets.PATH,)
    options = files_csv.OPTIONS
    capabilities = Capabilities(addressing="uri", databases=False, staged=True, redefines=True)

    def test(self, connection: Connection, context: Context) -> str:
        return datasets.tested(connection, context, SUFFIXES)

    def source(self, connection: Connection, dataset: DataSet, context: Context) -> CsvSource:
        d = self._dialect(dataset)
        base = datasets.base_folder(connection, context)
        return CsvSource(datasets.data_files(base, dataset, context, SUFFIXES), d, context)

    def sink(self, connection: Connection, dataset: DataSet, context: Context) -> FileSink:
        base = datasets.base_folder(connection, context)
        return FileSink(base, dataset, context, CsvFormat(self._dialect(dataset)))

    def _dialect(self, dataset: DataSet) -> Dialect:
        return files_csv.dialect(check_params(self.options, dataset.options, prefix="options"))

    def tables(self, connection: Connection, database: str | None, context: Context) -> list[str]:
        return datasets.listed(datasets.base_folder(connection, context), SUFFIXES)
