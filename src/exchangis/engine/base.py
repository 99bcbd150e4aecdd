"""The engine interface: one task in, events out, a result at the end."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import asdict, dataclass, field
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Any, ClassVar, Protocol

from exchangis.connectors.base import Level
from exchangis.domain.errors import EngineError, InvalidRequest
from exchangis.domain.model import Connection, TaskSpec

GROUP = "exchangis.engines"


@dataclass(frozen=True, slots=True)
class Counters:
    """Rows and bytes of a task so far (contract, call 5).

    `read` = `exchanged` + `errors` + `ignored` when the task is done. While it runs, `exchanged`
    counts rows handed to the sink; at the end those committed there. `bytes` is Arrow memory read.
    """

    read: int = 0
    exchanged: int = 0
    errors: int = 0
    ignored: int = 0
    bytes: int = 0


@dataclass(frozen=True, slots=True)
class TaskResult:
    """How a task ended well. `seconds` is engine time; `dirty_file` holds refused rows, if any."""

    counters: Counters
    seconds: float
    dirty_file: str | None = None
    details: dict[str, Any] = field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


class Events(Protocol):
    """What an engine tells while it works; every call is thread-safe and returns at once."""

    def log(self, level: Level, text: str) -> None:
        """A line for the task log; may hold newlines (they become continuation lines)."""

    def planned(self, rows: int) -> None:
        """How many rows the task is about, as far as is known: its weight among its job's tasks."""

    def progress(self, fraction: float) -> None:
        """0..1; never falls within an attempt; 1.0 is left to success."""

    def counters(self, counters: Counters) -> None:
        """The task's counters now."""

    def session(self, side: str, session_id: str) -> None:
        """A database session was opened on `source` or `sink` (see `Context.session`)."""

    def external(self, external_id: str, info: str) -> None:
        """The id and link of the job in another engine (Spark, YARN, Linkis)."""


@dataclass(frozen=True)
class TaskRequest:
    """All that one attempt needs.

    `task_key` is the same over a task's attempts; `attempt` is the fencing number (from 1).
    `final_attempt` says that no other attempt follows if this one fails, so that the engine may
    clean up for good. `workdir` is this attempt's own folder; the dirty-record file goes to
    `dirty_file`. `roots` confines file paths.
    """

    task_key: str
    attempt: int
    spec: TaskSpec
    source: Connection
    sink: Connection
    workdir: Path
    dirty_file: Path
    roots: tuple[Path, ...] = ()
    default_parallelism: int = 2
    unknown_keys: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class PlannedColumn:
    """One column of a dry run: from which source type to which sink type, and what may go wrong."""

    source: str
    source_type: str
    sink: str
    sink_type: str
    note: str = ""


@dataclass(frozen=True, slots=True)
class Explanation:
    """What a task would do, found without writing anything."""

    columns: tuple[PlannedColumn, ...]
    splits: tuple[str, ...]
    rows: int | None
    creates_table: bool
    notes: tuple[str, ...] = ()


class Engine(ABC):
    """Carries out tasks of one kind. A fresh object serves one attempt."""

    name: ClassVar[str]
    title: ClassVar[str]

    @abstractmethod
    def check(self, spec: TaskSpec) -> None:
        """Refuse, with InvalidRequest naming the field, what this engine cannot honour."""

    @abstractmethod
    def explain(self, request: TaskRequest, events: Events) -> Explanation:
        """Plan without writing."""

    @abstractmethod
    def run(self, request: TaskRequest, events: Events) -> TaskResult:
        """Carry the task out; raises TaskError otherwise."""

    @abstractmethod
    def cancel(self) -> None:
        """From another thread: make `run` raise TaskCancelled soon, ending remote work too."""

    @abstractmethod
    def discard(self, request: TaskRequest, events: Events) -> None:
        """Remove what an unsuccessful task left half-written (staging); committed rows stay."""


@cache
def _found() -> dict[str, EntryPoint]:
    return {point.name.lower(): point for point in entry_points(group=GROUP)}


def engine_names() -> list[str]:
    """All names, sorted."""
    return sorted(_found())


def engine_class(name: str) -> type[Engine]:
    """The engine of that name (case does not count); InvalidRequest lists the known ones."""
    point = _found().get(name.lower())
    if point is None:
        raise InvalidRequest.field(
            "engineType", name, f"no such engine; known: {', '.join(engine_names())}"
        )
    loaded = point.load()
    if not (isinstance(loaded, type) and issubclass(loaded, Engine)):
        raise EngineError(f"Entry point {point.value} is not an engine.")
    return loaded
