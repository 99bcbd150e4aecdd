"""Finding the rows of a batch that a DuckDB table would refuse, before they are inserted.

An error aborts DuckDB's whole transaction, and it has no savepoints: a refused batch could not be
tried again in halves. So the rows are asked first, with set-wise queries over the batch that cost
nothing where a table demands nothing:

    NOT NULL               counted in Arrow
    types                  TRY_CAST of the columns that need a cast
    CHECK                  the constraint's own expression, on the batch
    FOREIGN KEY            rows without a partner
    PRIMARY KEY, UNIQUE    twice in the batch: the first row stays (in an upsert the last); already
                           in the table: INSERT ... ON CONFLICT DO NOTHING tells which rows it took
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.compute

from exchangis.connectors.base import Context
from exchangis.connectors.duckdb.database import TableInfo, run
from exchangis.connectors.duckdb.types import literal, quote, writing
from exchangis.domain.errors import SinkError

pc: Any = pyarrow.compute  # the stubs know too few of its overloads

BATCH = "exchangis_batch"
Key = tuple[str, ...]


class Rows:
    """The queries over batches that go into one table.

    A batch is registered as `BATCH` with a column `number` that counts its rows; `pattern` names
    a column that tells which unique keys hold a NULL.
    """

    def __init__(
        self,
        connection: duckdb.DuckDBPyConnection,
        info: TableInfo,
        names: Sequence[str],
        upsert_key: Key,
        context: Context,
    ) -> None:
        self._connection = connection
        self._info = info
        self._names = tuple(names)
        self._upsert_key = upsert_key
        self.table = f"{quote(info.schema_name)}.{quote(info.name)}"
        self.number = "exchangis_row"
        self.pattern = "exchangis_nulls"
        while {self.number, self.pattern} & {name.lower() for name in self._names}:
            self.number, self.pattern = f"{self.number}_", f"{self.pattern}_"
        self._native = {column.name: column.native_type for column in info.schema.columns}
        self._required = [
            column.name
            for column in info.schema.columns
            if not column.nullable and column.name in self._names
        ]
        values = [(name, writing(name, self._native[name])) for name in self._names]
        self.values = ", ".join(
            way.value if way.value == quote(name) else f"{way.value} AS {quote(name)}"
            for name, way in values
        )
        self.keys = self._unique_keys()
        self._nullable = any(
            column.nullable and any(column.name in key for key in self.keys)
            for column in info.schema.columns
        )
        self._key_columns = list(dict.fromkeys(name for key in self.keys for name in key))
        self._questions = [
            (way.unfit, f"column {name}: does not fit {self._native[name]}: ", name)
            for name, way in values
            if way.unfit is not None
        ]
        self._checks = [check for check in self._usable_checks() if self._binds(check, context)]

    def _unique_keys(self) -> list[Key]:
        keys: list[Key] = []
        for key in self._info.unique:
            if key is None:
                raise SinkError(
                    f"{self.table} has a unique index on an expression, which rows cannot be"
                    " checked against.",
                    guidance="Drop the index for the load, or index plain columns.",
                )
            filled = all(name in self._names for name in key)
            # Absent columns take their default: a constant one repeats, a sequence does not.
            if filled and key not in keys:
                keys.append(key)
        return keys

    def _usable_checks(self) -> Iterable[tuple[str, str]]:
        """CHECK constraints with the SELECT list that gives the columns which they read."""
        for expression, names in self._info.checks:
            columns = []
            for name in names:
                default = self._info.defaults.get(name, "NULL")
                if name in self._names:
                    columns.append(quote(name))
                elif name in self._info.writable and "nextval" not in default.lower():
                    columns.append(f"CAST(({default}) AS {self._native[name]}) AS {quote(name)}")
                else:
                    break
            else:
                yield expression, ", ".join(columns)

    def _check_query(self, expression: str, columns: str) -> str:
        values = f"(SELECT {self.values}, {quote(self.number)} FROM {BATCH})"
        inner = f"(SELECT {columns or '1'}, {quote(self.number)} FROM {values})"
        # TRY gives NULL for an expression that fails; one that is NULL itself passes a CHECK.
        return (
            f"SELECT {quote(self.number)} FROM {inner}"
            f" WHERE TRY(({expression}) IS NOT FALSE) IS NOT TRUE"
        )

    def _binds(self, check: tuple[str, str], context: Context) -> bool:
        """Whether the check can be asked apart from its table; if not, say what that means."""
        empty = pa.schema([pa.field(c.name, c.type) for c in self._filled()]).empty_table()
        try:
            with self._registered(self.numbered(empty.to_batches() or [], empty.schema)):
                run(self._connection, self._check_query(*check))
        except duckdb.Error as error:
            context.log(
                "WARN",
                f"rows cannot be checked against CHECK ({check[0]}) beforehand ({error}):"
                " a row that violates it fails the task",
            )
            return False
        return True

    def _filled(self) -> Iterable[Any]:
        by_name = {column.name: column for column in self._info.schema.columns}
        return (by_name[name] for name in self._names)

    def numbered(self, batches: Sequence[pa.RecordBatch], schema: pa.Schema) -> pa.RecordBatch:
        """The batch with its row numbers, the columns named as in the table."""
        arrays = list(batches[0].columns) if batches else [pa.nulls(0, f.type) for f in schema]
        count = batches[0].num_rows if batches else 0
        numbers = pa.array(range(count), pa.int32())
        return pa.RecordBatch.from_arrays([*arrays, numbers], names=[*self._names, self.number])

    def _registered(self, batch: pa.RecordBatch) -> _Registered:
        return _Registered(self._connection, batch)

    def _ask(self, query: str) -> list[tuple[Any, ...]]:
        return run(self._connection, query)

    # ------------------------------------------------------------------ questions to a batch

    def insert(self, batch: pa.RecordBatch) -> dict[int, str]:
        """Insert what the table takes; the rest by row number, with reasons."""
        refused = self._nulls(batch)
        batch = self._without(batch, refused)
        with self._registered(batch):
            found = self._unfit()
            for question in (self._failed_checks, self._orphans):
                found.update({n: r for n, r in question().items() if n not in found})
        refused.update(found)
        batch = self._without(batch, found)
        with self._registered(batch):
            doubles, replaced = self._doubles()
        refused.update(doubles)
        batch = self._without(batch, {**doubles, **dict.fromkeys(replaced, "")})
        if batch.num_rows:
            with self._registered(batch):
                refused.update(self._insert(batch.num_rows))
        return refused

    def _without(self, batch: pa.RecordBatch, refused: Mapping[int, str]) -> pa.RecordBatch:
        if not refused:
            return batch
        numbers = batch.column(batch.num_columns - 1)
        return batch.filter(pc.invert(pc.is_in(numbers, pa.array(list(refused), pa.int32()))))

    def _nulls(self, batch: pa.RecordBatch) -> dict[int, str]:
        refused: dict[int, str] = {}
        for name in self._required:
            array = batch.column(self._names.index(name))
            if array.null_count:
                for number in pc.indices_nonzero(pc.is_null(array)).to_pylist():
                    refused.setdefault(number, f"column {name}: must not be NULL")
        return refused

    def _unfit(self) -> dict[int, str]:
        if not self._questions:
            return {}
        reason = " ".join(
            f"WHEN {unfit} THEN {literal(text)} || left(CAST({quote(name)} AS VARCHAR), 80)"
            for unfit, text, name in self._questions
        )
        query = f"SELECT {quote(self.number)}, CASE {reason} END AS reason FROM {BATCH}"
        return dict(self._ask(f"SELECT * FROM ({query}) WHERE reason IS NOT NULL"))

    def _failed_checks(self) -> dict[int, str]:
        refused: dict[int, str] = {}
        for check in self._checks:
            for (number,) in self._ask(self._check_query(*check)):
                refused.setdefault(number, f"CHECK ({check[0]}) failed")
        return refused

    def _orphans(self) -> dict[int, str]:
        refused: dict[int, str] = {}
        for key in self._info.foreign:
            if key.table == self._info.name or not set(key.columns) <= set(self._names):
                continue
            pairs = list(zip(key.columns, key.references, strict=True))
            present = " AND ".join(f"b.{quote(name)} IS NOT NULL" for name in key.columns)
            equal = " AND ".join(f"o.{quote(other)} = b.{quote(name)}" for name, other in pairs)
            other = f"{quote(self._info.schema_name)}.{quote(key.table)}"
            query = (
                f"SELECT {quote(self.number)}"
                f" FROM (SELECT {self.values}, {quote(self.number)} FROM {BATCH}) b"
                f" WHERE {present} AND NOT EXISTS (SELECT 1 FROM {other} o WHERE {equal})"
            )
            for (number,) in self._ask(query):
                refused.setdefault(
                    number,
                    f"foreign key ({', '.join(key.columns)}): no such row in {key.table}",
                )
        return refused

    def _texts(self, names: Sequence[str]) -> str:
        return ", ".join(f"CAST({quote(name)} AS VARCHAR)" for name in names)

    def _converted(self, rows: str) -> list[tuple[Any, ...]]:
        """Row number and key columns, as the table's types print them, in row order."""
        return self._ask(
            f"SELECT {quote(self.number)}, {self._texts(self._key_columns)} FROM {rows}"
            f" ORDER BY {quote(self.number)}"
        )

    def _doubles(self) -> tuple[dict[int, str], set[int]]:
        """Rows whose key comes earlier in the batch; in an upsert those replaced by a later one."""
        if not self.keys or not self._has_doubles():
            return {}, set()
        rows = [(row[0], dict(zip(self._key_columns, row[1:], strict=True)))
                for row in self._converted(self._where())]  # fmt: skip
        replaced: set[int] = set()
        if self._upsert_key:
            last: dict[tuple[Any, ...], int] = {}
            for number, values in rows:
                mine = tuple(values[name] for name in self._upsert_key)
                if None not in mine and mine in last:
                    replaced.add(last[mine])
                last[mine] = number
        refused: dict[int, str] = {}
        seen: dict[Key, set[tuple[Any, ...]]] = {key: set() for key in self.keys}
        for number, values in rows:
            if number in replaced:
                continue
            mine_by_key = {key: tuple(values[name] for name in key) for key in self.keys}
            clash = [k for k, mine in mine_by_key.items() if None not in mine and mine in seen[k]]
            if clash:
                refused[number] = _duplicate(clash[0], mine_by_key[clash[0]], "in this batch")
                continue
            for key, mine in mine_by_key.items():
                seen[key].add(mine)
        return refused, replaced

    def _has_doubles(self) -> bool:
        counts = []
        for key in self.keys:
            present = " AND ".join(f"{quote(name)} IS NOT NULL" for name in key)
            row = f"({', '.join(map(quote, key))})" if len(key) > 1 else quote(key[0])
            counts.append(f"count(*) FILTER ({present}) - count(DISTINCT {row}) FILTER ({present})")
        query = f"SELECT {', '.join(counts)} FROM (SELECT {self.values} FROM {BATCH})"
        return any(self._ask(query)[0])

    def _insert(self, count: int) -> dict[int, str]:
        """Insert the registered rows; the row numbers that a unique key refused, with reasons.

        `ON CONFLICT DO NOTHING` drops rows whose key is NULL as if NULL were equal to NULL
        (duckdb/duckdb#26066). So the rows are inserted in groups by which of their keys hold a
        NULL, and a conflict is asked about for the others alone.
        """
        if not self.keys:
            self._ask(f"{self._into} SELECT {self.values} FROM {BATCH}")
            return {}
        refused = self._foreign_clashes() if self._upsert_key else {}
        for pattern, rows in self._groups(count).items():
            whole = [key for n, key in enumerate(self.keys) if not pattern & 1 << n]
            if self._upsert_key:
                self._upsert(pattern, refused, known=set(self._upsert_key) in map(set, whole))
                continue
            clashes: dict[int, str] = {}
            for key in whole[1:] if len(whole) < len(self.keys) else ():
                clashes.update(self._already_there(key, pattern))
            refused.update(clashes)
            left = self._where(pattern, clashes)
            if not whole:
                self._ask(f"{self._into} SELECT {self._list} FROM {left}")
                continue
            target = "" if len(whole) == len(self.keys) else f"({_list(whole[0])})"
            taken = self._ask(
                f"{self._into} SELECT {self._list} FROM {left} ON CONFLICT {target} DO NOTHING"
                f" RETURNING {self._texts(self._key_columns)}"
            )
            if len(taken) < rows - len(clashes):
                known = set(taken)
                for number, *values in self._converted(left):
                    if tuple(values) not in known:
                        reason = _duplicate(self._key_columns, values, "in the table")
                        refused.setdefault(number, reason)
        return refused

    @property
    def _into(self) -> str:
        return f"INSERT INTO {self.table} ({self._list})"

    @property
    def _list(self) -> str:
        return _list(self._names)

    def _groups(self, count: int) -> dict[int, int]:
        """Rows by pattern: bit n is set where unique key n holds a NULL."""
        if not self._nullable:
            return {0: count}
        return dict(self._ask(f"SELECT {self.pattern}, count(*) FROM {self._where()} GROUP BY ALL"))

    def _where(self, pattern: int | None = None, refused: Iterable[int] = ()) -> str:
        """The converted rows as a subquery, of one group and without the refused ones."""
        bits = " + ".join(
            f"CASE WHEN {' OR '.join(f'{quote(name)} IS NULL' for name in key)}"
            f" THEN {1 << n} ELSE 0 END"
            for n, key in enumerate(self.keys)
        )
        rows = f"(SELECT {self.values}, {quote(self.number)} FROM {BATCH})"
        parts = []
        if pattern is not None and self._nullable:
            parts.append(f"{self.pattern} = {pattern}")
        if numbers := ", ".join(map(str, refused)):
            parts.append(f"{quote(self.number)} NOT IN ({numbers})")
        condition = f" WHERE {' AND '.join(parts)}" if parts else ""
        return f"(SELECT * FROM (SELECT *, {bits} AS {self.pattern} FROM {rows}){condition})"

    def _already_there(self, key: Key, pattern: int) -> dict[int, str]:
        equal = " AND ".join(f"t.{quote(name)} = b.{quote(name)}" for name in key)
        found = self._ask(
            f"SELECT DISTINCT b.{quote(self.number)} FROM {self._where(pattern)} b"
            f" JOIN {self.table} t ON {equal}"
        )
        return {number: f"duplicate key ({', '.join(key)}) in the table" for (number,) in found}

    def _upsert(self, pattern: int, refused: Iterable[int], *, known: bool) -> None:
        insert = f"{self._into} SELECT {self._list} FROM {self._where(pattern, refused)}"
        if known:
            key = set(self._upsert_key)
            changed = ", ".join(
                f"{quote(n)} = excluded.{quote(n)}" for n in self._names if n not in key
            )
            action = f"UPDATE SET {changed}" if changed else "NOTHING"
            insert += f" ON CONFLICT ({_list(self._upsert_key)}) DO {action}"
        self._ask(insert)

    def _foreign_clashes(self) -> dict[int, str]:
        """Rows of an upsert that clash, by another unique key, with a row of another identity."""
        refused: dict[int, str] = {}
        for key in self.keys:
            if set(key) == set(self._upsert_key):
                continue
            equal = " AND ".join(f"t.{quote(n)} = b.{quote(n)}" for n in key)
            other = " OR ".join(
                f"t.{quote(n)} IS DISTINCT FROM b.{quote(n)}" for n in self._upsert_key
            )
            for (number,) in self._ask(
                f"SELECT DISTINCT {quote(self.number)}"
                f" FROM (SELECT {self.values}, {quote(self.number)} FROM {BATCH}) b"
                f" JOIN {self.table} t ON {equal} WHERE {other}"
            ):
                refused.setdefault(number, f"duplicate key ({', '.join(key)}) of another row")
        return refused


class _Registered:
    """A batch under its name for the length of a block."""

    def __init__(self, connection: duckdb.DuckDBPyConnection, batch: pa.RecordBatch) -> None:
        self._connection = connection
        self._batch = batch

    def __enter__(self) -> None:
        self._connection.register(BATCH, self._batch)

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None:  # after an error the transaction is aborted, and the name with it
            self._connection.unregister(BATCH)


def _list(names: Iterable[str]) -> str:
    return ", ".join(map(quote, names))


def _duplicate(key: Sequence[str], values: Sequence[Any], where: str) -> str:
    shown = ", ".join(f"{name}={str(value)[:40]}" for name, value in zip(key, values, strict=True))
    return f"duplicate key ({shown}) {where}"
