"""What one task is: source, sink, columns and limits; the form that every engine takes.

All models are frozen and round-trip through JSON, since a task travels to its runner process
over a pipe. Secrets travel beside it in `Connection`, never in it.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, SecretStr, field_serializer


class Model(BaseModel):
    """Base of the domain's models: immutable, unknown fields refused."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class WriteMode(StrEnum):
    """What happens to the rows that the sink already holds."""

    APPEND = "append"
    OVERWRITE = "overwrite"
    UPSERT = "upsert"


class Publish(StrEnum):
    """When written rows become visible: all at once, or split by split (resumable)."""

    TASK = "task"
    SPLIT = "split"


class DataSet(Model):
    """One side of a task: a table of a database, or a file or folder of files.

    `type` is a connector's name in upper case (`MYSQL`). `data_source` is the stored data source's
    id where there is one. Databases use `database` and `table`; files use `uri`, relative to the
    data source's `path`. `options` holds the connector's own settings for this task
    (e.g. `delimiter`), as the connector declares them.
    """

    type: str
    data_source: int | None = None
    database: str | None = None
    table: str | None = None
    uri: str | None = None
    options: dict[str, str] = Field(default_factory=dict)

    @property
    def label(self) -> str:
        """How logs and messages name it, e.g. `MYSQL db.table`."""
        where = self.uri or ".".join(part for part in (self.database, self.table) if part)
        return f"{self.type} {where}".strip()


class FunctionCall(Model):
    """A transformer applied to a column, e.g. `ex_pad(r, 3, 0)`."""

    name: str
    params: tuple[str, ...] = ()


class ColumnMapping(Model):
    """One sink column and where it comes from.

    `validators` are conditions such as `> 1` or `like a%`: a row that fails one is dirty.
    `transformers` are applied in order, after the validators.
    """

    source: str
    sink: str
    validators: tuple[str, ...] = ()
    transformers: tuple[FunctionCall, ...] = ()


class Limits(Model):
    """Bounds of a task. Rates are per task over all splits; None means unlimited.

    `error_records` is the number of dirty records that a task may have and still succeed;
    `error_percentage` (0..100) is checked against the rows read at the end. `memory_mb` covers the
    runner's process tree. `timeout_seconds` covers one task over all attempts.
    """

    parallelism: int | None = Field(default=None, ge=1, le=64)
    memory_mb: int | None = Field(default=None, ge=64)
    records_per_second: int | None = Field(default=None, ge=1)
    bytes_per_second: int | None = Field(default=None, ge=1)
    error_records: int | None = Field(default=None, ge=0)
    error_percentage: float | None = Field(default=None, ge=0, le=100)
    timeout_seconds: float | None = Field(default=None, gt=0)
    max_attempts: int | None = Field(default=None, ge=1, le=100)
    batch_rows: int | None = Field(default=None, ge=1, le=1_000_000)


class TaskSpec(Model):
    """One task: moves `source` to `sink`.

    `columns` empty means every source column under its own name. `where` filters source rows.
    `key_columns` identify a row for `upsert`; empty means the sink's primary key.
    """

    name: str
    engine: str = "native"
    source: DataSet
    sink: DataSet
    columns: tuple[ColumnMapping, ...] = ()
    where: str | None = None
    write_mode: WriteMode = WriteMode.APPEND
    publish: Publish = Publish.TASK
    key_columns: tuple[str, ...] = ()
    create_table: bool = True
    limits: Limits = Limits()


class Connection(Model):
    """How to reach a data source: checked parameters, and the secret ones apart.

    The two dictionaries together are what the connector declares in `params`. `secrets` never
    shows in repr or `model_dump`; only `reveal` gives the values, for the pipe to the runner.
    """

    type: str
    params: dict[str, Any] = Field(default_factory=dict)
    secrets: dict[str, SecretStr] = Field(default_factory=dict)

    @field_serializer("secrets")
    def _hide(self, secrets: dict[str, SecretStr]) -> dict[str, str]:
        return {name: str(value) for name, value in secrets.items()}

    def get(self, name: str, default: Any = None) -> Any:
        """A parameter's value, secret or not."""
        if name in self.secrets:
            return self.secrets[name].get_secret_value()
        return self.params.get(name, default)

    def reveal(self) -> dict[str, Any]:
        """A JSON-ready form *with* the secrets: for the runner's pipe alone."""
        return {
            "type": self.type,
            "params": self.params,
            "secrets": {name: value.get_secret_value() for name, value in self.secrets.items()},
        }
