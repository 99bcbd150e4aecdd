"""The first schema.

Revision ID: 0001
Revises:
"""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from alembic import op
from sqlalchemy import Column
from sqlalchemy.dialects import mysql
from sqlalchemy.schema import SchemaItem

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

_ID = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
_LONG_TEXT = sa.Text().with_variant(mysql.LONGTEXT(), "mysql", "mariadb")
_BYTES = sa.LargeBinary().with_variant(mysql.LONGBLOB(), "mysql", "mariadb")
_MYSQL: dict[str, Any] = {"mysql_charset": "utf8mb4", "mysql_collate": "utf8mb4_bin"}


def upgrade() -> None:
    _table(
        "data_sources",
        Column("id", _ID, autoincrement=True, nullable=False),
        Column("name", sa.String(length=255), nullable=False),
        Column("type", sa.String(length=32), nullable=False),
        Column("description", _LONG_TEXT, nullable=False),
        Column("label", sa.String(length=255), nullable=False),
        Column("params", _LONG_TEXT, nullable=False, comment="JSON object, without secrets"),
        Column(
            "secrets", _LONG_TEXT, nullable=False, comment="JSON: their names, and them encrypted"
        ),
        Column("version", sa.Integer(), nullable=False),
        Column("expired", sa.Boolean(), nullable=False),
        Column("created_by", sa.String(length=128), nullable=False),
        Column("created_at", sa.BigInteger(), nullable=False),
        Column("modified_by", sa.String(length=128), nullable=False),
        Column("modified_at", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_data_sources"),
        sa.UniqueConstraint("name", name="uq_data_sources_name"),
        **_MYSQL,
    )
    _index("ix_data_sources_type", "data_sources", ["type"])
    _table(
        "executions",
        Column("id", _ID, autoincrement=True, nullable=False),
        Column("execution_id", sa.String(length=64), nullable=False),
        Column("job_id", sa.BigInteger(), nullable=True),
        Column("project_id", sa.BigInteger(), nullable=True),
        Column("job_name", sa.String(length=255), nullable=False),
        Column("engine", sa.String(length=32), nullable=False),
        Column("execute_node", sa.String(length=255), nullable=False),
        Column("content", _LONG_TEXT, nullable=False, comment="JSON: the job content as submitted"),
        Column("params", _LONG_TEXT, nullable=True, comment="JSON object of the job's variables"),
        Column("permit_partial", sa.Boolean(), nullable=False),
        Column("strict", sa.Boolean(), nullable=False),
        Column("state", sa.String(length=20), nullable=False),
        Column("progress", sa.Double(), nullable=False),
        Column("total_tasks", sa.Integer(), nullable=False),
        Column("open_tasks", sa.Integer(), nullable=False, comment="tasks not final yet"),
        Column("flow", sa.Double(), nullable=False, comment="records/s over all tasks"),
        Column("created_by", sa.String(length=128), nullable=False),
        Column("execute_user", sa.String(length=128), nullable=False),
        Column("created_at", sa.BigInteger(), nullable=False),
        Column("launched_at", sa.BigInteger(), nullable=True),
        Column("updated_at", sa.BigInteger(), nullable=False),
        Column("ended_at", sa.BigInteger(), nullable=True),
        Column("timeout_ms", sa.BigInteger(), nullable=True),
        Column(
            "deadline",
            sa.BigInteger(),
            nullable=True,
            comment="set when the execution is submitted",
        ),
        Column("kill_requested_at", sa.BigInteger(), nullable=True),
        Column("kill_user", sa.String(length=128), nullable=True),
        Column(
            "owner", sa.String(length=64), nullable=True, comment="server that generates the tasks"
        ),
        Column("lease_until", sa.BigInteger(), nullable=True),
        Column("error", _LONG_TEXT, nullable=True),
        sa.PrimaryKeyConstraint("id", name="pk_executions"),
        sa.UniqueConstraint("execution_id", name="uq_executions_execution_id"),
        **_MYSQL,
    )
    _index("ix_executions_ended_at", "executions", ["ended_at"])
    _index("ix_executions_job_id", "executions", ["job_id", "id"])
    _index("ix_executions_job_name", "executions", ["job_name"])
    _index("ix_executions_launched_at", "executions", ["launched_at"])
    _index("ix_executions_project_id", "executions", ["project_id", "id"])
    _index("ix_executions_state", "executions", ["state", "id"])
    _table(
        "jobs",
        Column("id", _ID, autoincrement=True, nullable=False),
        Column("project_id", sa.BigInteger(), nullable=True),
        Column("name", sa.String(length=255), nullable=False),
        Column("type", sa.String(length=16), nullable=False, comment="OFFLINE or STREAM"),
        Column("engine", sa.String(length=32), nullable=False),
        Column("description", _LONG_TEXT, nullable=False),
        Column("labels", sa.String(length=1024), nullable=False),
        Column("execute_user", sa.String(length=128), nullable=False),
        Column("execute_node", sa.String(length=255), nullable=False),
        Column("sync_type", sa.String(length=16), nullable=False),
        Column("params", _LONG_TEXT, nullable=True, comment="JSON object of the job's variables"),
        Column("content", _LONG_TEXT, nullable=True, comment="JSON list of sub jobs"),
        Column("created_by", sa.String(length=128), nullable=False),
        Column("created_at", sa.BigInteger(), nullable=False),
        Column("modified_by", sa.String(length=128), nullable=False),
        Column("modified_at", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_jobs"),
        **_MYSQL,
    )
    _index("ix_jobs_project_id", "jobs", ["project_id"])
    _table(
        "log_streams",
        Column("id", _ID, autoincrement=True, nullable=False),
        Column("name", sa.String(length=128), nullable=False, comment="job:<id> or task:<id>"),
        Column("execution_id", sa.String(length=64), nullable=False),
        Column("next_line", sa.BigInteger(), nullable=False),
        Column("closed", sa.Boolean(), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_log_streams"),
        sa.UniqueConstraint("name", name="uq_log_streams_name"),
        **_MYSQL,
    )
    _index("ix_log_streams_execution_id", "log_streams", ["execution_id"])
    _table(
        "mutexes",
        Column(
            "name", sa.String(length=32), nullable=False, comment="row locks that serialise claims"
        ),
        sa.PrimaryKeyConstraint("name", name="pk_mutexes"),
        **_MYSQL,
    )
    _table(
        "servers",
        Column("name", sa.String(length=64), nullable=False),
        Column("address", sa.String(length=255), nullable=False),
        Column("version", sa.String(length=32), nullable=False),
        Column("started_at", sa.BigInteger(), nullable=False),
        Column("seen_at", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("name", name="pk_servers"),
        **_MYSQL,
    )
    _table(
        "log_chunks",
        Column("stream_id", _ID, nullable=False),
        Column("first_line", sa.BigInteger(), autoincrement=False, nullable=False),
        Column("line_count", sa.Integer(), nullable=False),
        Column("data", _BYTES, nullable=False, comment="compressed lines, see store.log_lines"),
        sa.ForeignKeyConstraint(
            ["stream_id"], ["log_streams.id"], name="fk_log_chunks_stream_id", ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("stream_id", "first_line", name="pk_log_chunks"),
        **_MYSQL,
    )
    _table(
        "tasks",
        Column("id", _ID, autoincrement=True, nullable=False),
        Column("execution_id", sa.String(length=64), nullable=False),
        Column("position", sa.Integer(), nullable=False),
        Column("name", sa.String(length=255), nullable=False),
        Column("engine", sa.String(length=32), nullable=False),
        Column("source_type", sa.String(length=32), nullable=False),
        Column("sink_type", sa.String(length=32), nullable=False),
        Column("execute_user", sa.String(length=128), nullable=False),
        Column("spec", _LONG_TEXT, nullable=False, comment="JSON of domain.model.TaskSpec"),
        Column("unknown_keys", _LONG_TEXT, nullable=False),
        Column("state", sa.String(length=20), nullable=False),
        Column("progress", sa.Double(), nullable=False),
        Column("weight", sa.Double(), nullable=True, comment="rows planned; null: not known yet"),
        Column("attempt", sa.Integer(), nullable=False, comment="fencing number"),
        Column("failures", sa.Integer(), nullable=False),
        Column("max_attempts", sa.Integer(), nullable=False),
        Column("owner", sa.String(length=64), nullable=True),
        Column("lease_until", sa.BigInteger(), nullable=True),
        Column("next_attempt_at", sa.BigInteger(), nullable=True),
        Column("stop_requested_at", sa.BigInteger(), nullable=True),
        Column("stop_state", sa.String(length=20), nullable=True, comment="Cancelled or Timeout"),
        Column("created_at", sa.BigInteger(), nullable=False),
        Column("launched_at", sa.BigInteger(), nullable=True),
        Column("updated_at", sa.BigInteger(), nullable=False),
        Column("ended_at", sa.BigInteger(), nullable=True),
        Column("timeout_ms", sa.BigInteger(), nullable=True),
        Column("deadline", sa.BigInteger(), nullable=True, comment="set when the task first runs"),
        Column("cpu", sa.Double(), nullable=False, comment="vcores in use"),
        Column("memory", sa.BigInteger(), nullable=False, comment="bytes in use"),
        Column("flow", sa.Double(), nullable=False, comment="records/s"),
        Column("read_records", sa.BigInteger(), nullable=False),
        Column("exchanged_records", sa.BigInteger(), nullable=False),
        Column("error_records", sa.BigInteger(), nullable=False),
        Column("ignored_records", sa.BigInteger(), nullable=False),
        Column("read_bytes", sa.BigInteger(), nullable=False),
        Column("external_id", sa.String(length=255), nullable=True),
        Column("external_info", sa.String(length=1024), nullable=True),
        Column("sessions", _LONG_TEXT, nullable=True, comment="JSON list of [side, session id]"),
        Column("cleanup", sa.Boolean(), nullable=False, comment="leftovers to remove"),
        Column("error_code", sa.String(length=64), nullable=True),
        Column("error", _LONG_TEXT, nullable=True),
        Column("dirty_file", sa.String(length=1024), nullable=True),
        sa.ForeignKeyConstraint(
            ["execution_id"],
            ["executions.execution_id"],
            name="fk_tasks_execution_id",
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("id", name="pk_tasks"),
        **_MYSQL,
    )
    _index("ix_tasks_cleanup", "tasks", ["cleanup", "next_attempt_at"])
    _index("ix_tasks_execution_id", "tasks", ["execution_id", "position"])
    _index("ix_tasks_owner", "tasks", ["owner", "state"])
    _index("ix_tasks_state", "tasks", ["state", "next_attempt_at", "id"])

    mutexes = sa.table("mutexes", sa.column("name"))
    if op.get_bind().execute(sa.select(mutexes.c.name)).first() is None:
        op.bulk_insert(mutexes, [{"name": "claim"}])


def _table(name: str, *parts: SchemaItem, **options: Any) -> None:
    # MySQL commits each statement: an upgrade that was cut off goes on where it stopped.
    op.create_table(name, *parts, **options, if_not_exists=True)


def _index(name: str, table: str, columns: list[str]) -> None:
    there = {index["name"] for index in sa.inspect(op.get_bind()).get_indexes(table)}
    if name not in there:
        op.create_index(name, table, columns)
