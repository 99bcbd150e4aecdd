"""JSON Lines (one object a line) and folders of such files, as source and sink.

Source. Columns are the keys of all rows of up to 16 MiB of plain files, of more data of a sample;
absent keys and nulls are NULL, nested values JSON text. With the option `schema` only the declared
columns are read. A key or a value that the schema cannot hold fails the task with file and line.

Sink. Numbers are written with all of their digits, times and binary (base64) as text, nested values
as JSON. JSON has no NaN and no infinity: rows with one are dirty records.
"""

from __future__ import annotations

import itertools
import json
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa

from exchangis.connectors.base import (
    Capabilities,
    Connector,
    Context,
    Param,
    ReadRequest,
    Source,
    Split,
    TableSchema,
)
from exchangis.connectors.files import datasets
from exchangis.connectors.files import json as files_json
from exchangis.connectors.files import jsonl as files_jsonl
from exchangis.connectors.files import text as files_text
from exchangis.connectors.files import types as files_types
from exchangis.connectors.files.arrow import Array, Codec
from exchangis.connectors.files.arrow import compute as pc
from exchangis.connectors.files.bytes import Bytes, cut_points, is_utf8, line_blocks
from exchangis.connectors.files.csv import ENCODINGS
from exchangis.connectors.files.datasets import DataFile
from exchangis.connectors.files.format import FileFormat, PartFile, Stored
from exchangis.connectors.files.sink import FileSink, table_schema
from exchangis.connectors.files.textsink import SUFFIX_OF, TextPart, merge_text
from exchangis.connectors.params import check_params
from exchangis.domain.errors import InvalidRequest, SourceError, TaskCancelled
from exchangis.domain.model import Connection, DataSet

SUFFIXES = (".jsonl", ".ndjson", ".json")
WHOLE_SCAN = 16 << 20
SAMPLE_ROWS = 10_000
SAMPLE_FILES = 20
SPLIT_BYTES = 16 << 20
BLOCK = 1 << 20
LONGEST_LINE = 256 << 20

OPTIONS = (
    Param(
        "schema",
        'Source only: the columns to read and their types as a JSON object, e.g. {"id": "int64",'
        ' "price": "decimal(12,2)"}; other keys are left out.',
    ),
    Param("encoding", "Encoding of the text.", kind="choice", default="utf-8", choices=ENCODINGS),
    Param(
        "compression",
        "Compression; `auto` goes by the suffix (.gz, .zst, .bz2).",
        kind="choice",
        default="auto",
        choices=("auto", "none", "gzip", "zstd", "bz2"),
    ),
)


@dataclass(frozen=True)
class Settings:
    """Checked options; see OPTIONS."""

    declared: Mapping[str, pa.DataType]
    encoding: str
    compression: Codec | Literal["auto", "none"]

    def codec(self, name: str) -> Codec | None:
        """Compression of a file of that name."""
        if self.compression == "auto":
            return datasets.compression_of(name)
        return None if self.compression == "none" else self.compression


class JsonLinesSource(Source):
    """Reads JSON Lines block by block."""

    def __init__(self, found: Sequence[DataFile], settings: Settings, context: Context) -> None:
        self._files = found
        self._settings = settings
        self._context = context
        self._cancelled = threading.Event()
        self._lock = threading.Lock()
        self._schema: TableSchema | None = None
        self._sampled = False
        self._row_bytes = 200.0

    def schema(self) -> TableSchema:
        with self._lock:
            if self._schema is None:
                try:
                    self._schema = self._look()
                except OSError as error:
                    datasets.source_failed(error, self._files[0].name)
            return self._schema

    def _look(self) -> TableSchema:
        declared = self._settings.declared
        total = sum(file.size for file in self._files)
        packed = any(self._settings.codec(file.name) for file in self._files)
        whole = total <= WHOLE_SCAN and not packed and not declared
        shape = files_jsonl.Shape()
        rows = size = 0
        step = max(1, len(self._files) // SAMPLE_FILES)
        for number, file in enumerate(self._files if whole else self._files[::step]):
            limit = None if whole else SAMPLE_ROWS if number == 0 else SAMPLE_ROWS // 10
            for block, first in self._blocks(file, 0, None):
                found = [row for _, row in files_jsonl.objects(block, first, file.name)]
                rows += len(found)
                size += len(block)
                shape.look(found)
                if limit is not None and (limit := limit - len(found)) <= 0:
                    break
        self._row_bytes = max(1.0, size / rows) if rows else 200.0
        if not whole:
            rows = int(total / self._row_bytes) * (4 if packed else 1)
        self._sampled = not whole and not declared
        types = dict(declared) or shape.types()
        if not types:
            raise SourceError(
                f"{self._files[0].name} holds no row that would tell its columns.",
                guidance="Declare them with the option `schema`.",
            )
        return table_schema(pa.schema(list(types.items())), rows)

    def _blocks(self, file: DataFile, start: int, end: int | None) -> Iterator[tuple[bytes, int]]:
        """Blocks of whole lines, each with the number of its first line after `start`."""
        line = 1
        with Bytes(
            file,
            compression=self._settings.codec(file.name),
            encoding=self._settings.encoding,
            start=start,
            end=end,
            cancelled=self._cancelled.is_set,
        ) as stream:
            for block in line_blocks(stream, BLOCK, LONGEST_LINE, file.name):
                yield block, line
                line += block.count(b"\n")

    def plan(self, request: ReadRequest) -> list[Split]:
        self.schema()
        splits: list[Split] = []
        try:
            for file in self._files:
                splits.extend(self._splits(file, request.parallelism, len(splits)))
        except OSError as error:
            datasets.source_failed(error, self._files[0].name)
        return splits

    def _splits(self, file: DataFile, lanes: int, number: int) -> Iterator[Split]:
        plain = not self._settings.codec(file.name) and is_utf8(self._settings.encoding)
        parts = min(4 * lanes, file.size // SPLIT_BYTES) if lanes > 1 and plain else 1
        points = cut_points(file, 0, max(1, parts))
        for start, end in itertools.pairwise(points):
            ranged = len(points) > 2
            yield Split(
                f"s{number}",
                f"{file.name} bytes {start}-{end}" if ranged else file.name,
                datasets.planned(file, start=start, end=end if ranged else None),
                int((end - start) / self._row_bytes),
            )
            number += 1

    def read(self, split: Split, request: ReadRequest) -> Iterator[pa.RecordBatch]:
        schema = self.schema()
        file = datasets.find_planned(self._files, split.data)
        kinds = {column.name: column.type for column in schema.columns}
        lines = files_jsonl.Lines(
            file.name,
            kinds,
            strict=not self._settings.declared,
            inferred=frozenset(kinds) if self._sampled else frozenset(),
        )
        start = split.data["start"]
        try:
            before = _newlines_before(file, start)
            for block, line in self._blocks(file, start, split.data["end"]):
                batch = lines.parse(block, before + line)
                if batch is None:
                    continue
                chosen = batch.select(list(request.columns))
                for piece in datasets.bounded(chosen, request.batch_rows, request.batch_bytes):
                    if self._cancelled.is_set():
                        raise TaskCancelled()
                    yield piece
        except OSError as error:
            datasets.source_failed(error, file.name)

    def cancel(self) -> None:
        self._cancelled.set()

    def close(self) -> None:
        """Files are open during reads alone."""


def _newlines_before(file: DataFile, offset: int) -> int:
    """Lines before an offset, so that errors name the file's own line numbers."""
    if not offset:
        return 0
    count = 0
    with Bytes(file, end=offset) as stream:
        while data := stream.read(BLOCK):
            count += data.count(b"\n")
    return count


class JsonLinesFormat(FileFormat):
    """Writes JSON Lines."""

    suffixes = SUFFIXES

    def __init__(self, settings: Settings) -> None:
        if settings.encoding != "utf-8":
            raise InvalidRequest.field(
                "options.encoding", settings.encoding, "a JSON Lines sink writes UTF-8 only"
            )
        self._settings = settings

    def part_suffix(self) -> str:
        return self.suffixes[0] + SUFFIX_OF[self._settings.codec("")]

    def fitting(self, wanted: TableSchema) -> TableSchema:
        files_text.refuse_unknown(wanted.arrow, "JSON Lines")
        return wanted

    def existing(self, path: Path, name: str) -> pa.Schema | None:
        """Objects may have any keys: there is nothing that new rows would have to fit."""
        return None

    def open_part(self, path: Path, schema: pa.Schema, name: str) -> PartFile:
        return TextPart(path, self._settings.codec(name), b"", _lines)

    def merge(
        self,
        existing: Path | None,
        parts: Sequence[Stored],
        out: Path,
        schema: pa.Schema,
        cancelled: threading.Event,
    ) -> None:
        merge_text(existing, parts, out, self._settings.codec(out.name), cancelled)


def _lines(batch: pa.RecordBatch) -> bytes:
    parts: list[Any] = []
    for number, (name, column) in enumerate(zip(batch.schema.names, batch.columns, strict=True)):
        key = json.dumps(name, ensure_ascii=False)
        parts.append(f"{',' if number else '{'}{key}:")
        parts.append(_json(column))
    return files_text.lines([*parts, "}\n"])


def _json(values: Array) -> Array:
    """The values as JSON; ValueError for NaN and infinity."""
    kind = values.type
    if files_text.is_nested(kind):
        return pa.array([files_json.encode(value) for value in values.to_pylist()], pa.string())
    if pa.types.is_floating(kind):
        finite = pc.all(pc.is_finite(values), min_count=0).as_py()
        if finite is False:
            raise ValueError("JSON has no NaN and no infinity")
    text = files_text.to_text(values)
    bare = pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind)
    if not bare and not pa.types.is_boolean(kind):
        text = _quoted(text)
    filled: Array = pc.fill_null(text, "null")
    return filled


def _quoted(text: Array) -> Array:
    if pc.any(pc.match_substring_regex(text, r"[\x00-\x1f]")).as_py():
        escaped = [
            None if t is None else json.dumps(t, ensure_ascii=False) for t in text.to_pylist()
        ]
        return pa.array(escaped, pa.string())
    text = pc.replace_substring(pc.replace_substring(text, "\\", "\\\\"), '"', '\\"')
    quoted: Array = pc.binary_join_element_wise('"', text, '"', "")
    return quoted


class JsonLines(Connector):
    """JSON Lines files below a folder."""

    name = "JSONL"
    title = "JSON Lines files"
    type_id = 31
    params = (datasets.PATH,)
    options = OPTIONS
    capabilities = Capabilities(addressing="uri", databases=False, staged=True, redefines=True)

    def test(self, connection: Connection, context: Context) -> str:
        return datasets.tested(connection, context, SUFFIXES)

    def source(self, connection: Connection, dataset: DataSet, context: Context) -> JsonLinesSource:
        base = datasets.base_folder(connection, context)
        found = datasets.data_files(base, dataset, context, SUFFIXES)
        return JsonLinesSource(found, self._settings(dataset), context)

    def sink(self, connection: Connection, dataset: DataSet, context: Context) -> FileSink:
        base = datasets.base_folder(connection, context)
        return FileSink(base, dataset, context, JsonLinesFormat(self._settings(dataset)))

    def _settings(self, dataset: DataSet) -> Settings:
        options = check_params(self.options, dataset.options, prefix="options")
        return Settings(
            files_types.parse_schema(options.get("schema")),
            options["encoding"],
            options["compression"],
        )

    def tables(self, connection: Connection, database: str | None, context: Context) -> list[str]:
        return datasets.listed(datasets.base_folder(connection, context), SUFFIXES)
