"""What happens to a batch between source and sink: filter, checks, transformers, casts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from exchangis.engine.cast import shown
from exchangis.engine.filtering import BatchFilter
from exchangis.engine.kinds import pc
from exchangis.engine.mapping import MappedColumn, Mapping


@dataclass(frozen=True, slots=True)
class BadRow:
    """A row that will not reach the sink: its index in the source's batch and why."""

    index: int
    column: str | None
    reason: str


@dataclass(frozen=True, slots=True)
class Prepared:
    """A batch ready for the sink.

    `rows` of the source's batch passed the filter; `ignored` of them were dropped by a transformer,
    `bad` cannot be written, the rest is `batch`. `origin` maps the batch's rows to the source's
    batch; None when they are the same.
    """

    rows: int
    batch: pa.RecordBatch
    bad: tuple[BadRow, ...]
    ignored: int
    origin: Any = None

    def source_index(self, index: int) -> int:
        """Where a row of `batch` stood in the source's batch."""
        return index if self.origin is None else int(self.origin[index].as_py())


class Pipeline:
    """One lane's steps; not for use by two threads at once (the filter is not)."""

    def __init__(self, mapping: Mapping, batch_filter: BatchFilter | None = None) -> None:
        self._columns = mapping.columns
        self._schema = mapping.target.arrow
        self._filter = batch_filter

    def apply(self, batch: pa.RecordBatch) -> Prepared:
        """Every row of the batch ends in exactly one place: filtered, ignored, bad or prepared.

        A row that a transformer drops is ignored, not dirty, whatever its other columns hold.
        """
        origin = self._filter.keep(batch) if self._filter is not None else None
        if origin is not None:
            batch = batch.take(origin)
        rows = batch.num_rows
        arrays: list[Any] = []
        bad: dict[int, BadRow] = {}
        drop: Any = None
        for column in self._columns:
            array, dropped = _column(column, batch.column(column.source.name), bad)
            arrays.append(array)
            if dropped is not None:
                drop = dropped if drop is None else pc.or_(drop, dropped)
        prepared = pa.RecordBatch.from_arrays(arrays, schema=self._schema)
        ignored = 0
        if drop is not None:
            ignored = pc.sum(drop).as_py() or 0
            bad = {index: row for index, row in bad.items() if not drop[index].as_py()}
        if bad or ignored:
            keep = _kept(rows, bad, drop)
            prepared = prepared.take(keep)
            located = tuple(_located(row, origin) for _, row in sorted(bad.items()))
            origin = keep if origin is None else origin.take(keep)
            return Prepared(rows, prepared, located, ignored, origin)
        return Prepared(rows, prepared, (), 0, origin)

    def close(self) -> None:
        """Free the filter; idempotent."""
        if self._filter is not None:
            self._filter.close()


def _located(row: BadRow, origin: Any) -> BadRow:
    if origin is None:
        return row
    return BadRow(int(origin[row.index].as_py()), row.column, row.reason)


def _kept(rows: int, bad: dict[int, BadRow], drop: Any) -> Any:
    wanted = pa.array([index not in bad for index in range(rows)], pa.bool_())
    if drop is not None:
        wanted = pc.and_(wanted, pc.invert(drop))
    return pc.indices_nonzero(wanted)


def _column(column: MappedColumn, array: Any, bad: dict[int, BadRow]) -> tuple[Any, Any]:
    """The column for the sink and the rows to drop; the first fault of a row goes into `bad`."""
    if column.plain:
        return array, None
    name = column.sink.name
    for check in column.checks:
        passed = pc.fill_null(check.predicate(array), False)
        if not pc.all(passed).as_py():
            for index in pc.indices_nonzero(pc.invert(passed)).to_pylist():
                reason = f"{column.source.name}: {shown(array[index])} fails {check.text!r}"
                bad.setdefault(index, BadRow(index, name, reason))
    drop: Any = None
    for transformer in column.transformers:
        outcome = transformer.apply(array)
        array = outcome.array
        for failure in outcome.failures:
            bad.setdefault(failure.index, BadRow(failure.index, name, f"{name}: {failure.reason}"))
        if outcome.drop is not None:
            drop = outcome.drop if drop is None else pc.or_(drop, outcome.drop)
    array, failures = column.caster.apply(array)
    for failure in failures:
        bad.setdefault(failure.index, BadRow(failure.index, name, f"{name}: {failure.reason}"))
    return array, drop
