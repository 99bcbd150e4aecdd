"""Reading JSON Lines: Arrow's parser where it keeps every value, Python's where it would not.

Arrow's parser is exact for declared integers, decimals and text, and an order of magnitude faster.
What it refuses (a number in a text column, a nested value, a broken line) is parsed line by line
with numbers kept as their digits, so that the value is either taken exactly or refused with its
file, line and column.
"""

from __future__ import annotations

import io
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.json as arrow_json

from exchangis.connectors.files import json as files_json
from exchangis.connectors.files import types as files_types
from exchangis.connectors.files.arrow import Array
from exchangis.connectors.files.arrow import compute as pc
from exchangis.domain.errors import SourceError

# A run of digits that a double might not hold. Blocks with one go the careful way when a column
# of doubles was inferred.
_LONG_NUMBER = re.compile(rb"[0-9][0-9.]{15}|[eE][-+]?[0-9]{3}")


@dataclass(frozen=True)
class Lines:
    """Parses blocks of lines into columns.

    `kinds` are all columns in order. `strict`: a key that is no column is an error rather than
    left out. `inferred`: columns whose type was inferred from a sample.
    """

    name: str
    kinds: Mapping[str, pa.DataType]
    strict: bool = True
    inferred: frozenset[str] = frozenset()

    def parse(self, block: bytes, first_line: int) -> pa.RecordBatch | None:
        """The rows of a block; None when it holds none. SourceError names line and column."""
        try:
            block.decode()
        except UnicodeDecodeError as error:
            line = first_line + block[: error.start].count(b"\n")
            raise _no_text(self.name, line) from error
        if not block.strip():
            return None
        return self._fast(block) or self._careful(block, first_line)

    def _fast(self, block: bytes) -> pa.RecordBatch | None:
        """By Arrow's parser; None when it refuses or might not keep a value."""
        doubles = [n for n in self.inferred if pa.types.is_floating(self.kinds[n])]
        if doubles and _LONG_NUMBER.search(block):
            return None
        schema = pa.schema([(n, _as_read(k)) for n, k in self.kinds.items()])
        try:
            table = arrow_json.read_json(
                io.BytesIO(block),
                read_options=arrow_json.ReadOptions(use_threads=False, block_size=len(block) + 1),
                parse_options=arrow_json.ParseOptions(
                    explicit_schema=schema,
                    newlines_in_values=False,
                    unexpected_field_behavior="error" if self.strict else "ignore",
                ),
            )
            columns = [
                files_types.from_text(_one(table.column(name)), kind)
                if _as_read(kind) != kind
                else _one(table.column(name))
                for name, kind in self.kinds.items()
            ]
        except (pa.ArrowInvalid, UnicodeDecodeError):
            return None
        for name in doubles:
            if pc.any(pc.is_nan(columns[list(self.kinds).index(name)])).as_py():
                return None
        if table.num_rows != _line_count(block):
            return None
        return pa.RecordBatch.from_arrays(columns, names=list(self.kinds))

    def _careful(self, block: bytes, first_line: int) -> pa.RecordBatch | None:
        values: dict[str, list[str | None]] = {name: [] for name in self.kinds}
        numbers: list[int] = []
        for number, found in objects(block, first_line, self.name):
            if self.strict and not found.keys() <= self.kinds.keys():
                new = ", ".join(sorted(found.keys() - self.kinds.keys()))
                raise SourceError(
                    f"{self.name}: line {number} has a key that no row of the sample had: {new}.",
                    guidance="Declare all columns that you want with the option `schema`.",
                )
            numbers.append(number)
            for name, column in values.items():
                column.append(as_text(found.get(name)))
        if not numbers:
            return None
        columns = [
            self._typed(name, pa.array(values[name], pa.string()), kind, numbers)
            for name, kind in self.kinds.items()
        ]
        return pa.RecordBatch.from_arrays(columns, names=list(self.kinds))

    def _typed(self, name: str, texts: Array, kind: pa.DataType, numbers: Sequence[int]) -> Array:
        if name in self.inferred:
            plain = files_types.plain_spelling(kind)
            if not plain(texts):
                self._refuse(name, texts, files_types.first_misfit(texts, plain), kind, numbers)
        try:
            return files_types.from_text(texts, kind)
        except pa.ArrowInvalid:
            at = files_types.first_misfit(texts, lambda part: files_types.parses(part, kind))
            self._refuse(name, texts, at, kind, numbers)
            raise

    def _refuse(
        self, name: str, texts: Array, at: int, kind: pa.DataType, numbers: Sequence[int]
    ) -> None:
        value = str(texts[at])
        shown = repr(value if len(value) <= 60 else value[:57] + "...")
        raise SourceError(
            f"{self.name}: line {numbers[at]}, column {name}: {shown} is no {kind}.",
            guidance=f'Declare the column as text with the option schema {{"{name}": "string"}}:'
            " rows that do not fit the sink then become dirty records.",
        )


def _as_read(kind: pa.DataType) -> pa.DataType:
    """The type that Arrow's parser takes; the rest is parsed from text."""
    direct = (
        pa.types.is_integer(kind)
        or pa.types.is_floating(kind)
        or pa.types.is_boolean(kind)
        or pa.types.is_decimal(kind)
    )
    return kind if direct else pa.string()


def _one(column: Any) -> Array:
    """A chunked array's values in one piece."""
    joined: Array = column.chunk(0) if column.num_chunks == 1 else pa.concat_arrays(column.chunks)
    return joined


def _no_text(name: str, line: int) -> SourceError:
    return SourceError(
        f"{name}: line {line} is no UTF-8 text.", guidance="Give the right option `encoding`."
    )


def _line_count(block: bytes) -> int:
    """Lines that are not blank."""
    if b"\n\n" not in block and b"\n\r" not in block and b"\n " not in block:
        return block.strip().count(b"\n") + 1
    return sum(1 for line in block.split(b"\n") if line.strip())


def objects(block: bytes, first_line: int, name: str) -> Iterator[tuple[int, dict[str, Any]]]:
    """(line number, object) of each line, numbers exact; SourceError for what is no object."""
    for number, line in enumerate(block.split(b"\n"), first_line):
        text = line.strip()
        if not text:
            continue
        try:
            found = files_json.decode(text.decode())
        except UnicodeDecodeError as error:
            raise _no_text(name, number) from error
        except json.JSONDecodeError as error:
            raise SourceError(
                f"{name}: line {number} is no JSON: {error.msg} at character {error.colno}."
            ) from error
        except (ValueError, RecursionError) as error:
            raise SourceError(f"{name}: line {number} cannot be read: {error}.") from error
        if not isinstance(found, dict):
            raise SourceError(f"{name}: line {number} is no JSON object.")
        yield number, found


def as_text(value: Any) -> str | None:
    """A JSON value as text: text itself, a number's digits, anything else as JSON."""
    if value is None or isinstance(value, str):
        return None if value is None else str(value)
    return files_json.encode(value)


class Shape:
    """Finds the columns of JSON Lines and their types from rows that go by.

    Numbers get the narrowest type that keeps them; text stays text, also where it looks like a
    date; a column that mixes kinds is text, and so is a nested one (its JSON).
    """

    def __init__(self) -> None:
        self._numbers: dict[str, files_types.Inference] = {}
        self._kinds: dict[str, set[str]] = {}

    def look(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Take some rows into account."""
        digits: dict[str, list[str]] = {}
        for row in rows:
            for name, value in row.items():
                kinds = self._kinds.setdefault(name, set())
                if isinstance(value, files_json.Number):
                    kinds.add("number")
                    digits.setdefault(name, []).append(str(value))
                elif value is not None:
                    kinds.add("bool" if isinstance(value, bool) else "text")
        for name, values in digits.items():
            inference = self._numbers.setdefault(name, files_types.Inference())
            inference.look(pa.array(values, pa.string()))

    def types(self) -> dict[str, pa.DataType]:
        """Columns in the order of their first appearance."""
        found = {}
        for name, kinds in self._kinds.items():
            if kinds == {"number"}:
                found[name] = self._numbers[name].type()
            else:
                found[name] = pa.bool_() if kinds == {"bool"} else pa.string()
        return found
