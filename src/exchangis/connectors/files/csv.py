"""Reading CSV: the dialect, records with their line numbers, and Arrow's parser over a stream."""

from __future__ import annotations

import codecs
import csv
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import IO, Any, Literal, cast

import pyarrow as pa
import pyarrow.csv as arrow_csv

from exchangis.connectors.base import Param
from exchangis.connectors.files.arrow import Codec
from exchangis.connectors.files.bytes import Bytes, open_plain
from exchangis.connectors.files.datasets import DataFile, compression_of
from exchangis.connectors.files.types import parse_schema
from exchangis.domain.errors import InvalidRequest, SourceError

# The limit of Python's own reader (128 KiB) would make the search for a bad line fail.
csv.field_size_limit(1 << 30)

BLOCK = 2 << 20
LARGEST_RECORD = 256 << 20
ENCODINGS = (
    "utf-8", "ascii", "latin1", "cp1252", "gbk", "gb18030", "gb2312", "big5",
    "shift_jis", "euc-jp", "euc-kr", "koi8-r", "cp1251", "utf-16",
)  # fmt: skip
_TRUE = ["true", "TRUE", "True", "t", "T", "1"]
_FALSE = ["false", "FALSE", "False", "f", "F", "0"]
_ROW = re.compile(r"Row #(\d+)")
_COLUMN = re.compile(r"In CSV column #(\d+)")

OPTIONS = (
    Param("delimiter", "One character between fields; `tab` or `\\t` for a tab.", default=","),
    Param("quote", "Quote character, or `none`.", default='"'),
    Param("escape", "Escape character inside of fields, or `none`.", default="none"),
    Param("header", "Whether the first record names the columns.", kind="boolean", default=True),
    Param(
        "null_text",
        "Unquoted text that stands for NULL; by default an empty unquoted field is NULL and"
        ' a quoted one ("") is empty text.',
        default="",
    ),
    Param("encoding", "Encoding of the text.", kind="choice", default="utf-8", choices=ENCODINGS),
    Param(
        "compression",
        "Compression; `auto` goes by the suffix (.gz, .zst, .bz2).",
        kind="choice",
        default="auto",
        choices=("auto", "none", "gzip", "zstd", "bz2"),
    ),
    Param(
        "types",
        "Source only: `infer` column types from the data, or take every column as `text`, so that"
        " the sink's types decide and rows that do not fit become dirty records.",
        kind="choice",
        default="infer",
        choices=("infer", "text"),
    ),
    Param(
        "schema",
        'Source only: types of columns as a JSON object, e.g. {"id": "int64", "price":'
        ' "decimal(12,2)"}; the others are inferred.',
    ),
    Param(
        "newlines_in_values",
        "Source only: false promises that no quoted field holds a newline, so that large files are"
        " read by several lanes.",
        kind="boolean",
        default=True,
    ),
)


@dataclass(frozen=True)
class Dialect:
    """How a CSV file is written; see OPTIONS."""

    delimiter: str = ","
    quote: str | None = '"'
    escape: str | None = None
    header: bool = True
    null_text: str = ""
    encoding: str = "utf-8"
    compression: Codec | Literal["auto", "none"] = "auto"
    infer: bool = True
    declared: Mapping[str, pa.DataType] = field(default_factory=dict)
    newlines: bool = True

    def codec(self, name: str) -> Codec | None:
        """Compression of a file of that name."""
        if self.compression == "auto":
            return compression_of(name)
        return None if self.compression == "none" else self.compression


def dialect(options: Mapping[str, Any]) -> Dialect:
    """The dialect of checked options; InvalidRequest for characters that cannot serve."""
    delimiter = {"tab": "\t", "\\t": "\t"}.get(options["delimiter"], options["delimiter"])
    quote = _character(options, "quote")
    escape = _character(options, "escape")
    if (
        len(delimiter) != 1
        or delimiter.isalnum()
        or delimiter in "\r\n.-+:"
        or ord(delimiter) > 126
    ):
        raise InvalidRequest.field(
            "options.delimiter", options["delimiter"], "must be one ASCII character between fields"
        )
    if len({delimiter, quote, escape} - {None}) < 1 + (quote is not None) + (escape is not None):
        raise InvalidRequest.field(
            "options.quote", quote, "delimiter, quote and escape must be different characters"
        )
    null_text = options.get("null_text", "")
    if any(c in null_text for c in {delimiter, "\n", "\r", quote} - {None}):
        raise InvalidRequest.field(
            "options.null_text", null_text, "must hold no delimiter, quote or newline"
        )
    return Dialect(
        delimiter=delimiter,
        quote=quote,
        escape=escape,
        header=options["header"],
        null_text=null_text,
        encoding=options["encoding"],
        compression=options["compression"],
        infer=options["types"] == "infer",
        declared=parse_schema(options.get("schema")),
        newlines=options["newlines_in_values"],
    )


def _character(options: Mapping[str, Any], name: str) -> str | None:
    value = str(options[name])
    if value == "none":
        return None
    if len(value) != 1 or value in "\r\n" or ord(value) > 126:
        raise InvalidRequest.field(f"options.{name}", value, "must be one ASCII character or none")
    return value


@dataclass
class Records:
    """Records by Python's own reader, which knows their lines: for headers and for finding faults.

    `unfinished` is true once the text ended inside of quotes.
    """

    stream: Bytes
    dialect: Dialect
    consumed: int = 0
    unfinished: bool = False
    _rest: bytes = b""
    _exhausted: bool = False

    def _lines(self) -> Iterator[str]:
        pieces: list[bytes] = []
        while True:
            cut = self._rest.find(b"\n") + 1
            if not cut:
                pieces.append(self._rest)
                self._rest = self.stream.read(1 << 16)
                if self._rest:
                    continue
            pieces.append(self._rest[:cut])
            self._rest = self._rest[cut:]
            line = b"".join(pieces)
            pieces.clear()
            if not line:
                self._exhausted = True
                return
            self.consumed += len(line)
            yield line.decode("utf-8", "replace")

    def __iter__(self) -> Iterator[tuple[int, list[str]]]:
        """(number of its first line, fields) of every record; empty lines give no fields."""
        d = self.dialect
        reader = csv.reader(
            self._lines(),
            delimiter=d.delimiter,
            quotechar=d.quote,
            quoting=csv.QUOTE_NONE if d.quote is None else csv.QUOTE_MINIMAL,
            escapechar=d.escape,
        )
        line = 1
        for record in reader:
            self.unfinished = self._exhausted
            yield line, record
            line = reader.line_num + 1

    def give_back(self) -> None:
        """Let the stream go on right after the last record taken."""
        self.stream.push_back(self._rest)
        self._rest = b""


@dataclass(frozen=True)
class Head:
    """What a file begins with: its columns, and where its first data record lies."""

    names: tuple[str, ...]
    offset: int


def read_head(file: DataFile, d: Dialect) -> Head:
    """The columns of a file; without a header they are named c1, c2 ... or as declared."""
    with Bytes(file, compression=d.codec(file.name), encoding=d.encoding) as stream:
        records = Records(stream, d)
        try:
            first = next((record for _, record in records if record), None)
        except csv.Error as error:
            raise SourceError(f"{file.name}: line 1 is no CSV: {error}.") from error
        if first is None:
            return Head((), 0)
        if not d.header:
            names = tuple(f"c{number + 1}" for number in range(len(first)))
            if len(d.declared) == len(names):
                names = tuple(d.declared)
            return Head(names, _mark_length(file))
        names = tuple(name or f"c{number + 1}" for number, name in enumerate(first))
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise SourceError(f"{file.name}: the header names {', '.join(twice)} more than once.")
        return Head(names, records.consumed + _mark_length(file))


def _mark_length(file: DataFile) -> int:
    with open_plain(file.path) as raw:
        return len(codecs.BOM_UTF8) if raw.read(3) == codecs.BOM_UTF8 else 0


@dataclass(frozen=True)
class Section:
    """A file, or the part of it between two offsets, that is read as CSV."""

    file: DataFile
    dialect: Dialect
    names: tuple[str, ...]
    start: int = 0
    end: int | None = None
    cancelled: Callable[[], bool] = lambda: False

    def _stream(self, quote: str | None = None) -> Bytes:
        return Bytes(
            self.file,
            compression=self.dialect.codec(self.file.name),
            encoding=self.dialect.encoding,
            start=self.start,
            end=self.end,
            cancelled=self.cancelled,
            quote=(quote or "").encode(),
        )

    @property
    def _begins_with_head(self) -> bool:
        return self.start == 0 and self.dialect.header

    def batches(self, types: Mapping[str, pa.DataType]) -> Iterator[pa.RecordBatch]:
        """The rows with the columns of `types`, block by block.

        SourceError names the line, the column and the value that cannot be read.
        """
        done = 0
        block = BLOCK
        while True:
            try:
                for batch in self._parsed(types, block, done):
                    done += batch.num_rows
                    yield batch
                return
            except pa.ArrowInvalid as error:
                if "straddling" not in str(error):
                    self._refuse(error)
                if block >= LARGEST_RECORD:
                    raise SourceError(
                        f"{self.file.name}: after {done} rows comes a record of more than"
                        f" {LARGEST_RECORD >> 20} MiB; is a quote left open?"
                    ) from error
                block *= 8

    def _parsed(
        self, types: Mapping[str, pa.DataType], block: int, skip: int
    ) -> Iterator[pa.RecordBatch]:
        d = self.dialect
        with self._stream(d.quote) as stream:
            if self._begins_with_head:
                records = Records(stream, d)
                next((record for _, record in records if record), None)
                records.give_back()
            probe = stream.read(1)
            if not probe:
                return
            stream.push_back(probe)
            try:
                reader = arrow_csv.open_csv(
                    cast("IO[Any]", stream),
                    read_options=arrow_csv.ReadOptions(
                        use_threads=False, block_size=block, column_names=list(self.names)
                    ),
                    parse_options=arrow_csv.ParseOptions(
                        delimiter=d.delimiter,
                        quote_char=d.quote or False,
                        escape_char=d.escape or False,
                        newlines_in_values=d.newlines and d.quote is not None,
                        # The line of a single NULL is empty.
                        ignore_empty_lines=len(self.names) > 1,
                    ),
                    convert_options=arrow_csv.ConvertOptions(
                        column_types=dict(types),
                        include_columns=list(types),
                        null_values=[d.null_text],
                        strings_can_be_null=True,
                        quoted_strings_can_be_null=False,
                        true_values=_TRUE,
                        false_values=_FALSE,
                    ),
                )
            except pa.ArrowInvalid as error:
                if "Empty CSV file" in str(error):
                    return
                raise
            with reader:
                for batch in reader:
                    fresh = batch.slice(min(skip, batch.num_rows))
                    skip -= batch.num_rows - fresh.num_rows
                    if fresh.num_rows:
                        yield fresh
            if stream.quotes % 2:
                self._refuse_open_quote()

    def _records(self) -> Iterator[tuple[int, list[str], Records]]:
        """Data records with their line numbers in the file: slow, for finding faults."""
        before = self._lines_before()
        head = self._begins_with_head
        with self._stream() as stream:
            records = Records(stream, self.dialect)
            for line, record in records:
                if not record and (head or len(self.names) > 1):
                    continue
                if head:
                    head = False
                    continue
                yield before + line, record, records

    def _lines_before(self) -> int:
        count, left = 0, self.start
        if left:
            with open_plain(self.file.path) as raw:
                while left and (data := raw.read(min(left, BLOCK))):
                    count += data.count(b"\n")
                    left -= len(data)
        return count

    def _refuse_open_quote(self) -> None:
        """An odd number of quotes passed: refuse a text that ends inside of them."""
        last, unfinished = 0, False
        for line, _, records in self._records():
            last, unfinished = line, records.unfinished
        if unfinished:
            raise SourceError(
                f"{self.file.name}: the record at line {last} opens a quote that is never closed."
            )

    def _refuse(self, error: pa.ArrowInvalid) -> None:
        text = str(error)
        row, column = _ROW.search(text), _COLUMN.search(text)
        if row is None:
            raise SourceError(f"{self.file.name}: {text}") from error
        self.refuse(
            int(row[1]) - 1, self.names[int(column[1])] if column else None, text, cause=error
        )

    def refuse(
        self, row: int, column: str | None, reason: str, *, cause: BaseException | None = None
    ) -> None:
        """Raise SourceError for a data row (from 0 in this section), naming line and value."""
        line, record = self._find(row)
        where = self.file.name if line is None else f"{self.file.name}: line {line}"
        if column is None:
            count = len(record)
            raise SourceError(
                f"{where} has {count} field{'' if count == 1 else 's'}"
                f" instead of {len(self.names)}.",
                guidance="Check the options delimiter, quote and escape.",
            ) from cause
        index = self.names.index(column)
        value = record[index] if index < len(record) else ""
        shown = repr(value if len(value) <= 60 else value[:57] + "...")
        if "UTF8" in reason:
            raise SourceError(
                f"{where}, column {column}: {shown} is no {self.dialect.encoding} text.",
                guidance="Give the right option `encoding`.",
            ) from cause
        raise SourceError(
            f"{where}, column {column}: {shown} is {_plain(reason)}",
            guidance=f'Declare the column as text with the option schema {{"{column}": "string"}},'
            " or set the option types to text: rows that do not fit the sink then become dirty"
            " records.",
        ) from cause

    def _find(self, row: int) -> tuple[int | None, list[str]]:
        try:
            for number, (line, record, _) in enumerate(self._records()):
                if number == row:
                    return line, record
        except csv.Error:
            return None, []
        return None, []


def _plain(reason: str) -> str:
    """Arrow's reason without its own positions and the value that is shown already."""
    found = re.search(r"CSV conversion error to ([^:]+): invalid value", reason)
    if found:
        return f"no {found[1]}."
    text = re.sub(r"^In CSV column #\d+: (?:Row #\d+: )?", "refused: ", reason)
    return text.rstrip(".") + "."


def always_quoted(text: str, d: Dialect) -> set[int]:
    """Indices of columns whose values are all quoted while other columns' values are not.

    Who quotes some columns and not others tells text from numbers; who quotes all of them does not.
    `text` is a sample of whole records.
    """
    if d.quote is None or d.escape is not None:
        return set()
    q, separator = re.escape(d.quote), re.escape(d.delimiter)
    fields = re.compile(
        f"(?P<value>{q}(?:[^{q}]|{q}{q})*{q}|[^{separator}\r\n]*)(?P<end>{separator}|\r?\n|$)"
    )
    quoted: set[int] = set()
    bare: set[int] = set()
    column = 0
    for found in fields.finditer(text):
        value = found["value"]
        if value.startswith(d.quote):
            quoted.add(column)
        elif value and value != d.null_text:
            bare.add(column)
        column = column + 1 if found["end"] == d.delimiter else 0
    return quoted - bare if bare else set()
