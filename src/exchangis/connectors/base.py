"""The whole connector interface on one screen.

A connector is one module with a `Connector` subclass, named by an entry point in the group
`exchangis.connectors`. It declares itself as data (`params`, `capabilities`) and makes a `Source`
and a `Sink`. Threads: one `Source`/`Sink` object serves a whole task; `read` and `open_writer` are
called from several threads at once, each call with connections of its own; `cancel` may be called
from any thread at any time, more than once, and must make blocked calls raise within a second.

How a task is exchanged (see `exchangis.engine.native`):

    source.schema() -> sink.schema() -> columns mapped -> source.plan()
    sink.prepare()                      table, staging and commit marks; what earlier attempts did
    per lane: writer = sink.open_writer()
              per split: for batch in source.read(split): writer.write(batch)
                         writer.mark(split)
              writer.commit()           rows and marks in one transaction
    sink.publish()                      the atomic switch of overwrite and upsert
    sink.discard()                      instead, when the task ends otherwise for good
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal

import pyarrow as pa

from exchangis.domain.model import Connection, DataSet, Publish, WriteMode

Level = Literal["DEBUG", "INFO", "WARN", "ERROR"]


@dataclass(frozen=True, slots=True)
class Param:
    """One connection parameter, or one option of a data set, that a connector takes."""

    name: str
    description: str
    kind: Literal["text", "integer", "boolean", "choice"] = "text"
    required: bool = False
    secret: bool = False
    default: Any = None
    choices: tuple[str, ...] = ()
    minimum: int | None = None
    maximum: int | None = None


@dataclass(frozen=True, slots=True)
class Capabilities:
    """What a connector can do, checked before a task starts.

    `filters`: the source evaluates a `where` in its own SQL; otherwise the engine filters batches.
    `max_writers`: lanes that may write at once (1 for single-writer stores); None is no limit.
    `addressing`: whether a data set is named by `table` or by `uri`.
    """

    write_modes: frozenset[WriteMode] = frozenset({WriteMode.APPEND, WriteMode.OVERWRITE})
    publish: frozenset[Publish] = frozenset({Publish.TASK})
    filters: bool = False
    max_writers: int | None = None
    addressing: Literal["table", "uri"] = "table"
    databases: bool = True
    """Whether a data set may name a `database`."""
    staged: bool = False
    """Overwrite and upsert go to a staging area: splits may be committed before `publish()`."""
    redefines: bool = False
    """Files: an overwrite brings its own columns and types instead of fitting those that are there.
    `prepare` refuses what does not fit or may not be created; `schema()` may be None throughout."""


@dataclass(frozen=True, slots=True)
class Column:
    """A column as its system declares it, with the Arrow type its values travel in."""

    name: str
    type: pa.DataType
    native_type: str = ""
    nullable: bool = True


@dataclass(frozen=True, slots=True)
class TableSchema:
    """Columns in table order; `primary_key` names them in key order; `rows` is an estimate."""

    columns: tuple[Column, ...]
    primary_key: tuple[str, ...] = ()
    rows: int | None = None

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(column.name for column in self.columns)

    @property
    def arrow(self) -> pa.Schema:
        return pa.schema([pa.field(c.name, c.type, c.nullable) for c in self.columns])

    def column(self, name: str) -> Column | None:
        """The column of that name: exactly, else the only one that differs in case alone."""
        exact = [c for c in self.columns if c.name == name]
        loose = exact or [c for c in self.columns if c.name.lower() == name.lower()]
        return loose[0] if len(loose) == 1 else None


@dataclass(frozen=True, slots=True)
class Split:
    """A part of the source that one lane reads from beginning to end.

    `id` is stable over attempts; `data` is the connector's own JSON-ready description of the part;
    `rows` is an estimate used as weight. All splits of a plan together hold each row exactly once.
    """

    id: str
    label: str
    data: Mapping[str, Any] = field(default_factory=dict)
    rows: int | None = None


@dataclass(frozen=True, slots=True)
class ReadRequest:
    """What of a source a task wants: columns by name, and the filter when the source filters."""

    columns: tuple[str, ...]
    where: str | None = None
    parallelism: int = 1
    batch_rows: int = 16_384
    batch_bytes: int = 8 << 20
    resumable: bool = False
    """Splits are committed one by one, so a later attempt may read the rest of them, and not in the
    same snapshot: a row must stay in its split when it is updated meanwhile."""


@dataclass(frozen=True, slots=True)
class WriteRequest:
    """How a task writes: `schema` holds the columns it fills, named as in the sink.

    `create` says whether an absent table may be made. `key_columns` is empty for the primary key.
    """

    schema: TableSchema
    mode: WriteMode
    publish: Publish = Publish.TASK
    key_columns: tuple[str, ...] = ()
    create: bool = True


@dataclass(frozen=True, slots=True)
class Resume:
    """What earlier attempts of this task left in the sink.

    `plan` is the JSON text stored by the first attempt's `prepare` (this call's own if it is the
    first); `done` maps ids of committed splits to their rows; `published` says that the switch has
    happened already, so that nothing is left to do.
    """

    plan: str
    done: Mapping[str, int] = field(default_factory=dict)
    published: bool = False


@dataclass(frozen=True, slots=True)
class Rejected:
    """A row that the sink refused: its index in the batch, and why (no secret in it)."""

    index: int
    reason: str


@dataclass(frozen=True, slots=True)
class Written:
    """What became of a batch: `rows` taken, and those refused."""

    rows: int
    rejected: tuple[Rejected, ...] = ()


@dataclass(frozen=True)
class Context:
    """What a connector may use of its surroundings.

    `task_key` is the same over all attempts of a task and unique among tasks; `attempt` is its
    fencing number. `session` is told each database session opened, as ("source" | "sink", id), so
    that somebody else can end it if this process is killed. `roots` confines file paths (empty:
    anywhere). `workdir` is a folder of this attempt's own.
    """

    task_key: str
    attempt: int
    workdir: Path
    log: Callable[[Level, str], None]
    session: Callable[[str, str], None] = lambda _side, _id: None
    roots: tuple[Path, ...] = ()
    options: Mapping[str, str] = field(default_factory=dict)


class Source(ABC):
    """Reads one data set."""

    @abstractmethod
    def schema(self) -> TableSchema:
        """Columns and types; SourceError naming the table when it does not exist."""

    @abstractmethod
    def plan(self, request: ReadRequest) -> list[Split]:
        """Parts to read in parallel, at least one; includes rows whose split key is NULL."""

    @abstractmethod
    def read(self, split: Split, request: ReadRequest) -> Iterator[pa.RecordBatch]:
        """The split's rows in batches bounded by rows *and* bytes, columns as in the request.

        Types are exactly those of `schema()`. Memory is bounded whatever the split's size.
        Closing the iterator early must not read the rest.
        """

    @abstractmethod
    def cancel(self) -> None:
        """Make reads under way fail soon, ending their statements in the database too."""

    @abstractmethod
    def close(self) -> None:
        """Free everything; idempotent."""


class Writer(ABC):
    """One lane's way into the sink: one connection, one transaction at a time."""

    @abstractmethod
    def write(self, batch: pa.RecordBatch) -> Written:
        """Take a batch whose schema is the sink's; find refused rows by bisection."""

    @abstractmethod
    def mark(self, split: Split, rows: int) -> None:
        """Put the split's commit mark into the open transaction."""

    @abstractmethod
    def commit(self) -> None:
        """Make rows and marks durable together."""

    @abstractmethod
    def rollback(self) -> None:
        """Forget everything since the last commit."""

    @abstractmethod
    def close(self) -> None:
        """Free the connection, rolling back what is open; idempotent."""


class Sink(ABC):
    """Writes one data set."""

    @abstractmethod
    def schema(self) -> TableSchema | None:
        """Columns and types, or None when the data set does not exist yet."""

    @abstractmethod
    def proposed(self, wanted: TableSchema) -> TableSchema:
        """The schema that `prepare` would create for these columns: native types filled in.

        Also the types that a lossless round trip needs; used by dry runs.
        """

    @abstractmethod
    def prepare(self, request: WriteRequest, plan: str) -> Resume:
        """Create what is missing (table, staging, commit table), store `plan`, find marks.

        Idempotent; safe to call again after a crash at any point.
        """

    @abstractmethod
    def open_writer(self) -> Writer:
        """A lane; at most `capabilities.max_writers` are open at once."""

    @abstractmethod
    def publish(self) -> None:
        """Show the new rows in one atomic step; a no-op where the commits did so. Idempotent."""

    @abstractmethod
    def discard(self) -> None:
        """Remove staging and uncommitted leftovers of a task that ended without success.

        Committed rows stay (`publish: split`), and so does what other tasks made.
        """

    @abstractmethod
    def cancel(self) -> None:
        """Make writes under way fail soon, ending their statements in the database too."""

    @abstractmethod
    def close(self) -> None:
        """Free everything; idempotent."""


class Connector(ABC):
    """One kind of system. Stateless; the methods get the connection each time."""

    name: ClassVar[str]
    """Upper case, as in job contents: `MYSQL`."""
    title: ClassVar[str]
    """For people: `MySQL / MariaDB`."""
    type_id: ClassVar[int]
    """`dataSourceTypeId`: stable number for API clients; outside plugins choose from 1000."""
    params: ClassVar[tuple[Param, ...]]
    """Connection parameters: an allow-list; nothing else reaches the driver."""
    options: ClassVar[tuple[Param, ...]] = ()
    """Options of a data set in a task (`DataSet.options`)."""
    capabilities: ClassVar[Capabilities]

    @abstractmethod
    def test(self, connection: Connection, context: Context) -> str:
        """Connect for real and say what answered (`MariaDB 10.11.19`); else ConnectionFailed."""

    @abstractmethod
    def source(self, connection: Connection, dataset: DataSet, context: Context) -> Source:
        """A reader of the data set; connecting may be left to its first use."""

    @abstractmethod
    def sink(self, connection: Connection, dataset: DataSet, context: Context) -> Sink:
        """A writer of the data set; connecting may be left to its first use."""

    def end_sessions(
        self, connection: Connection, sessions: Sequence[str], context: Context
    ) -> None:
        """End sessions left behind by a killed process (ids as told to `Context.session`).

        Sessions that are gone are no error. Systems without sessions have nothing to do.
        """

    def databases(self, connection: Connection, context: Context) -> list[str]:
        """Names of databases (schemas) for browsing; empty where there are none."""
        return []

    def tables(self, connection: Connection, database: str | None, context: Context) -> list[str]:
        """Names of tables or files for browsing, sorted."""
        return []
