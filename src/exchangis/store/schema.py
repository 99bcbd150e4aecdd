"""Tables of the store.

Times are milliseconds since the epoch. States are `exchangis.domain.states.State` values; every
change of one goes through `exchangis.store.queue`, whose UPDATEs name the states that may be left.
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Double,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    Text,
)
from sqlalchemy.dialects import mysql

metadata = MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "fk": "fk_%(table_name)s_%(column_0_N_name)s",
        "pk": "pk_%(table_name)s",
    }
)

# SQLite numbers rows by itself only in an INTEGER primary key.
_Id = BigInteger().with_variant(Integer, "sqlite")
_LongText = Text().with_variant(mysql.LONGTEXT, "mysql", "mariadb")
_Bytes = LargeBinary().with_variant(mysql.LONGBLOB, "mysql", "mariadb")
_Ms = BigInteger
# MySQL tables must not fold "a" and "A", nor cut 4-byte characters.
_MYSQL: dict[str, Any] = {"mysql_charset": "utf8mb4", "mysql_collate": "utf8mb4_bin"}

data_sources = Table(
    "data_sources",
    metadata,
    Column("id", _Id, primary_key=True, autoincrement=True),
    Column("name", String(255), nullable=False, unique=True),
    Column("type", String(32), nullable=False, index=True),
    Column("description", _LongText, nullable=False, default=""),
    Column("label", String(255), nullable=False, default=""),
    Column("params", _LongText, nullable=False, comment="JSON object, without secrets"),
    Column("secrets", _LongText, nullable=False, comment="JSON: their names, and them encrypted"),
    Column("version", Integer, nullable=False, default=1),
    Column("expired", Boolean, nullable=False, default=False),
    Column("created_by", String(128), nullable=False),
    Column("created_at", _Ms, nullable=False),
    Column("modified_by", String(128), nullable=False),
    Column("modified_at", _Ms, nullable=False),
    **_MYSQL,
)

jobs = Table(
    "jobs",
    metadata,
    Column("id", _Id, primary_key=True, autoincrement=True),
    Column("project_id", BigInteger, nullable=True, index=True),
    Column("name", String(255), nullable=False),
    Column("type", String(16), nullable=False, comment="OFFLINE or STREAM"),
    Column("engine", String(32), nullable=False),
    Column("description", _LongText, nullable=False, default=""),
    Column("labels", String(1024), nullable=False, default=""),
    Column("execute_user", String(128), nullable=False, default=""),
    Column("execute_node", String(255), nullable=False, default=""),
    Column("sync_type", String(16), nullable=False, default=""),
    Column("params", _LongText, nullable=True, comment="JSON object of the job's variables"),
    Column("content", _LongText, nullable=True, comment="JSON list of sub jobs"),
    Column("created_by", String(128), nullable=False),
    Column("created_at", _Ms, nullable=False),
    Column("modified_by", String(128), nullable=False),
    Column("modified_at", _Ms, nullable=False),
    **_MYSQL,
)

executions = Table(
    "executions",
    metadata,
    Column("id", _Id, primary_key=True, autoincrement=True),
    Column("execution_id", String(64), nullable=False, unique=True),
    Column("job_id", BigInteger, nullable=True),
    Column("project_id", BigInteger, nullable=True),
    Column("job_name", String(255), nullable=False, index=True),
    Column("engine", String(32), nullable=False),
    Column("execute_node", String(255), nullable=False, default=""),
    Column("content", _LongText, nullable=False, comment="JSON: the job content as submitted"),
    Column("params", _LongText, nullable=True, comment="JSON object of the job's variables"),
    Column("permit_partial", Boolean, nullable=False, default=False),
    Column("strict", Boolean, nullable=False, default=False),
    Column("state", String(20), nullable=False),
    Column("progress", Double, nullable=False, default=0.0),
    Column("total_tasks", Integer, nullable=False, default=0),
    Column("open_tasks", Integer, nullable=False, default=0, comment="tasks not final yet"),
    Column("flow", Double, nullable=False, default=0.0, comment="records/s over all tasks"),
    Column("created_by", String(128), nullable=False),
    Column("execute_user", String(128), nullable=False),
    Column("created_at", _Ms, nullable=False),
    Column("launched_at", _Ms, nullable=True, index=True),
    Column("updated_at", _Ms, nullable=False),
    Column("ended_at", _Ms, nullable=True, index=True),
    Column("timeout_ms", BigInteger, nullable=True),
    Column("deadline", _Ms, nullable=True, comment="set when the execution is submitted"),
    Column("kill_requested_at", _Ms, nullable=True),
    Column("kill_user", String(128), nullable=True),
    Column("owner", String(64), nullable=True, comment="server that generates the tasks"),
    Column("lease_until", _Ms, nullable=True),
    Column("error", _LongText, nullable=True),
    # Each with the id, by which the history is sorted and work is claimed.
    Index("ix_executions_state", "state", "id"),
    Index("ix_executions_job_id", "job_id", "id"),
    Index("ix_executions_project_id", "project_id", "id"),
    **_MYSQL,
)

tasks = Table(
    "tasks",
    metadata,
    Column("id", _Id, primary_key=True, autoincrement=True),
    Column(
        "execution_id",
        String(64),
        ForeignKey("executions.execution_id", ondelete="CASCADE"),
        nullable=False,
    ),
    Column("position", Integer, nullable=False),
    Column("name", String(255), nullable=False),
    Column("engine", String(32), nullable=False),
    Column("source_type", String(32), nullable=False),
    Column("sink_type", String(32), nullable=False),
    Column("execute_user", String(128), nullable=False),
    Column("spec", _LongText, nullable=False, comment="JSON of domain.model.TaskSpec"),
    Column("unknown_keys", _LongText, nullable=False, default="[]"),
    Column("state", String(20), nullable=False),
    Column("progress", Double, nullable=False, default=0.0),
    Column("weight", Double, nullable=True, comment="rows planned; null: not known yet"),
    Column("attempt", Integer, nullable=False, default=0, comment="fencing number"),
    Column("failures", Integer, nullable=False, default=0),
    Column("max_attempts", Integer, nullable=False, default=1),
    Column("owner", String(64), nullable=True),
    Column("lease_until", _Ms, nullable=True),
    Column("next_attempt_at", _Ms, nullable=True),
    Column("stop_requested_at", _Ms, nullable=True),
    Column("stop_state", String(20), nullable=True, comment="Cancelled or Timeout"),
    Column("created_at", _Ms, nullable=False),
    Column("launched_at", _Ms, nullable=True),
    Column("updated_at", _Ms, nullable=False),
    Column("ended_at", _Ms, nullable=True),
    Column("timeout_ms", BigInteger, nullable=True),
    Column("deadline", _Ms, nullable=True, comment="set when the task first runs"),
    Column("cpu", Double, nullable=False, default=0.0, comment="vcores in use"),
    Column("memory", BigInteger, nullable=False, default=0, comment="bytes in use"),
    Column("flow", Double, nullable=False, default=0.0, comment="records/s"),
    Column("read_records", BigInteger, nullable=False, default=0),
    Column("exchanged_records", BigInteger, nullable=False, default=0),
    Column("error_records", BigInteger, nullable=False, default=0),
    Column("ignored_records", BigInteger, nullable=False, default=0),
    Column("read_bytes", BigInteger, nullable=False, default=0),
    Column("external_id", String(255), nullable=True),
    Column("external_info", String(1024), nullable=True),
    Column("sessions", _LongText, nullable=True, comment="JSON list of [side, session id]"),
    Column("cleanup", Boolean, nullable=False, default=False, comment="leftovers to remove"),
    Column("error_code", String(64), nullable=True),
    Column("error", _LongText, nullable=True),
    Column("dirty_file", String(1024), nullable=True),
    Index("ix_tasks_execution_id", "execution_id", "position"),
    Index("ix_tasks_state", "state", "next_attempt_at", "id"),
    Index("ix_tasks_owner", "owner", "state"),
    Index("ix_tasks_cleanup", "cleanup", "next_attempt_at"),
    **_MYSQL,
)

log_streams = Table(
    "log_streams",
    metadata,
    Column("id", _Id, primary_key=True, autoincrement=True),
    Column("name", String(128), nullable=False, unique=True, comment="job:<id> or task:<id>"),
    Column("execution_id", String(64), nullable=False, index=True),
    Column("next_line", BigInteger, nullable=False, default=0),
    Column("closed", Boolean, nullable=False, default=False),
    **_MYSQL,
)

log_chunks = Table(
    "log_chunks",
    metadata,
    Column(
        "stream_id",
        BigInteger().with_variant(Integer, "sqlite"),
        ForeignKey("log_streams.id", ondelete="CASCADE"),
        primary_key=True,
    ),
    Column("first_line", BigInteger, primary_key=True, autoincrement=False),
    Column("line_count", Integer, nullable=False),
    Column("data", _Bytes, nullable=False, comment="compressed lines, see store.log_lines"),
    **_MYSQL,
)

servers = Table(
    "servers",
    metadata,
    Column("name", String(64), primary_key=True),
    Column("address", String(255), nullable=False),
    Column("version", String(32), nullable=False),
    Column("started_at", _Ms, nullable=False),
    Column("seen_at", _Ms, nullable=False),
    **_MYSQL,
)

mutexes = Table(
    "mutexes",
    metadata,
    Column("name", String(32), primary_key=True, comment="row locks that serialise claims"),
    **_MYSQL,
)
