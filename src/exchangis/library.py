"""Exchangis as a library: `exchange(source, sink)` moves a table in this process, with no server.

>>> from exchangis import exchange
>>> exchange(
...     {"type": "SQLITE", "path": "shop.db", "table": "orders"},
...     {"type": "PARQUET", "path": "out", "uri": "orders.parquet"},
...     mode="overwrite",
... )  # doctest: +SKIP
ExchangeResult(read=1000000, exchanged=1000000, ...)
"""

from __future__ import annotations

import logging
import secrets
import tempfile
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from exchangis.connectors.base import Connector, Level
from exchangis.connectors.params import make_connection
from exchangis.connectors.registry import connector
from exchangis.domain.errors import ExchangisError, FieldError, InvalidRequest
from exchangis.domain.masking import Masker
from exchangis.domain.model import (
    ColumnMapping,
    Connection,
    DataSet,
    Limits,
    Publish,
    TaskSpec,
    WriteMode,
)
from exchangis.engine.base import Counters, Engine, TaskRequest, TaskResult, engine_class

_LEVELS: dict[Level, int] = {
    "DEBUG": logging.DEBUG,
    "INFO": logging.INFO,
    "WARN": logging.WARNING,
    "ERROR": logging.ERROR,
}
_OF_DATA_SET = frozenset({"database", "table", "uri", "options"})

ColumnLike = str | tuple[str, str] | ColumnMapping | Mapping[str, Any]
"""A name on both sides, (source, sink), or a mapping with validators and transformers."""


@dataclass(frozen=True, slots=True)
class ExchangeResult:
    """How an exchange ended well: rows, Arrow bytes read, seconds, the dirty-record file if any."""

    read: int
    exchanged: int
    errors: int
    ignored: int
    bytes: int
    seconds: float
    dirty_file: Path | None = None

    @property
    def rows_per_second(self) -> float:
        """Exchanged rows per second of engine time."""
        return self.exchanged / self.seconds if self.seconds > 0 else 0.0


@dataclass(frozen=True, slots=True)
class Progress:
    """What `on_progress` is told: 0..1, and the counters so far."""

    fraction: float
    counters: Counters


class _Events:
    """Logs through `exchangis.exchange`, secrets masked; passes progress on."""

    def __init__(self, masker: Masker, on_progress: Callable[[Progress], None] | None) -> None:
        self._logger = logging.getLogger("exchangis.exchange")
        self._masker = masker
        self._on_progress = on_progress
        self._fraction = 0.0
        self._counters = Counters()

    def log(self, level: Level, text: str) -> None:
        if self._logger.isEnabledFor(_LEVELS[level]):
            self._logger.log(_LEVELS[level], "%s", self._masker(text))

    def planned(self, rows: int) -> None:
        """One task has nothing to be weighed against."""

    def progress(self, fraction: float) -> None:
        self._fraction = fraction
        self._tell()

    def counters(self, counters: Counters) -> None:
        self._counters = counters
        self._tell()

    def _tell(self) -> None:
        if self._on_progress is not None:
            self._on_progress(Progress(self._fraction, self._counters))

    def session(self, side: str, session_id: str) -> None:
        """Nobody else needs to end our sessions: they end with this process."""

    def external(self, external_id: str, info: str) -> None:
        self.log("INFO", f"{external_id} {info}")


def exchange(
    source: Mapping[str, Any],
    sink: Mapping[str, Any],
    *,
    columns: Iterable[ColumnLike] = (),
    where: str | None = None,
    mode: WriteMode | str = WriteMode.APPEND,
    publish: Publish | str = Publish.TASK,
    key_columns: Iterable[str] = (),
    create_table: bool = True,
    limits: Limits | Mapping[str, Any] | None = None,
    engine: str = "native",
    name: str = "exchange",
    task_key: str | None = None,
    dirty_file: str | Path | None = None,
    on_progress: Callable[[Progress], None] | None = None,
) -> ExchangeResult:
    """Move the rows of `source` to `sink` and return when they are there.

    Both ends are one dictionary each: `type` (`exchangis connectors` lists them), the connection's
    parameters, and the data set (`table` or `uri`, `database`, `options`). A key that is both, such
    as `database`, goes to the connection where the connector declares it.

    `columns` empty takes every source column under its own name. `mode` is append, overwrite or
    upsert. `limits` is a `Limits` or its fields: `{"parallelism": 4, "error_records": 10}`.
    `task_key` names the task: calling again with the same key after a crash resumes it; random
    unless given. `dirty_file` holds rows that could not be written; a temporary file unless given.

    Raises InvalidRequest for what cannot be done as asked, TaskError for what failed; in both
    cases the sink shows what it showed before (but for `publish="split"`).
    """
    with tempfile.TemporaryDirectory(prefix="exchangis-") as workdir:
        request, masker = _request(
            source, sink,
            spec={
                "name": name, "engine": engine, "where": where, "write_mode": mode,
                "publish": publish, "key_columns": tuple(key_columns),
                "create_table": create_table, "limits": limits or Limits(),
                "columns": tuple(_column(column) for column in columns),
            },
            task_key=task_key, dirty_file=dirty_file, workdir=Path(workdir),
        )  # fmt: skip
        return _result(_run(engine_class(engine), request, _Events(masker, on_progress)))


def _run(engine: type[Engine], request: TaskRequest, events: _Events) -> TaskResult:
    engine().check(request.spec)
    try:
        return engine().run(request, events)
    except BaseException:
        try:
            engine().discard(request, events)
        except ExchangisError as error:
            # Why the exchange failed matters more than that cleaning up did as well.
            events.log("WARN", f"cleaning up failed: {error}")
        raise


def _result(result: TaskResult) -> ExchangeResult:
    counters = result.counters
    return ExchangeResult(
        read=counters.read,
        exchanged=counters.exchanged,
        errors=counters.errors,
        ignored=counters.ignored,
        bytes=counters.bytes,
        seconds=result.seconds,
        dirty_file=Path(result.dirty_file) if result.dirty_file else None,
    )


def _column(column: ColumnLike) -> ColumnMapping:
    if isinstance(column, str):
        return ColumnMapping(source=column, sink=column)
    if isinstance(column, tuple):
        return ColumnMapping(source=column[0], sink=column[1])
    if isinstance(column, ColumnMapping):
        return column
    mapping: ColumnMapping = _validated(ColumnMapping, dict(column), "columns")
    return mapping


def _validated(model: type[Any], values: dict[str, Any], prefix: str) -> Any:
    """The model from these values; InvalidRequest names every field that is wrong."""
    try:
        return model(**values)
    except ValidationError as error:
        fields = tuple(
            FieldError(
                ".".join(filter(None, (prefix, *map(str, e["loc"])))), e.get("input"), e["msg"]
            )
            for e in error.errors(include_url=False)
        )
        raise InvalidRequest(
            "; ".join(f"{field.field}: {field.reason}" for field in fields), errors=fields
        ) from error


def _end(values: Mapping[str, Any], side: str) -> tuple[DataSet, Connection]:
    """One end's dictionary as data set and connection."""
    kind = values.get("type")
    if not isinstance(kind, str):
        raise InvalidRequest.field(f"{side}.type", kind, "name a data source type, e.g. SQLITE")
    able: Connector = connector(kind)
    declared = {param.name for param in able.params}
    data_set: dict[str, Any] = {"type": able.name}
    connection: dict[str, Any] = {}
    for key, value in values.items():
        if key == "type":
            continue
        if key in _OF_DATA_SET - declared:
            data_set[key] = value
        else:
            connection[key] = str(value) if isinstance(value, Path) else value
    return _validated(DataSet, data_set, side), make_connection(able, connection)


def _request(
    source: Mapping[str, Any],
    sink: Mapping[str, Any],
    *,
    spec: dict[str, Any],
    task_key: str | None,
    dirty_file: str | Path | None,
    workdir: Path,
) -> tuple[TaskRequest, Masker]:
    source_set, source_connection = _end(source, "source")
    sink_set, sink_connection = _end(sink, "sink")
    key = task_key or secrets.token_hex(16)
    kept = Path(dirty_file) if dirty_file else Path(tempfile.gettempdir()) / f"dirty-{key}.jsonl"
    hidden = [
        secret.get_secret_value()
        for connection in (source_connection, sink_connection)
        for secret in connection.secrets.values()
    ]
    request = TaskRequest(
        task_key=key,
        attempt=1,
        spec=_validated(TaskSpec, {**spec, "source": source_set, "sink": sink_set}, ""),
        source=source_connection,
        sink=sink_connection,
        workdir=workdir,
        dirty_file=kept,
    )
    return request, Masker(hidden)
