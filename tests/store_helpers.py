"""A store under test, and the shortest ways to bring it into a state."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from zoneinfo import ZoneInfo

import psycopg
import pymysql
from psycopg import sql
from sqlalchemy import URL, delete

from exchangis.domain.loglines import LogLevel, LogLine, make_lines
from exchangis.domain.states import State
from exchangis.logs.reader import LogQuery, LogReader
from exchangis.store.database import Database
from exchangis.store.executions import Executions, TaskRecord
from exchangis.store.queue import Claim, NewTask, Queue
from exchangis.store.schema import metadata
from exchangis.store.settle import Outcome, Settler
from exchangis.store.upgrade import upgrade
from tests.services import Service

BACKENDS = ("sqlite", "postgres", "mariadb")
LEASE = 1000
_NUMBERS = itertools.count(1)


def story(level: LogLevel, text: str) -> list[LogLine]:
    return make_lines(level, text, at_ms=0, zone=ZoneInfo("UTC"), mask=str)


@contextlib.contextmanager
def fresh_url(folder: Path, service: Service | None) -> Iterator[str]:
    """The URL of a database of its own that is empty."""
    name = f"store_{next(_NUMBERS)}"
    if service is None:
        yield f"sqlite:///{folder / name}.db"
        return
    driver = {"POSTGRESQL": "postgresql", "MYSQL": "mysql"}[service.kind]
    url = URL.create(
        driver, service.user, service.password, service.host, service.port, name
    ).render_as_string(hide_password=False)
    if service.kind == "MYSQL":
        with (
            pymysql.connect(
                host=service.host, port=service.port, user=service.user, password=service.password
            ) as connection,
            connection.cursor() as cursor,
        ):
            # The server's default is not ours: the tables must say what they need.
            cursor.execute(f"CREATE DATABASE {name} CHARACTER SET latin1")
            yield url
            cursor.execute(f"DROP DATABASE {name}")
        return
    with psycopg.connect(
        host=service.host, port=service.port, user=service.user, password=service.password,
        dbname="postgres", autocommit=True,
    ) as connection:  # fmt: skip
        connection.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))
        yield url
        connection.execute(sql.SQL("DROP DATABASE {}").format(sql.Identifier(name)))


@contextlib.contextmanager
def fresh_database(folder: Path, service: Service | None) -> Iterator[Database]:
    """An upgraded store of its own."""
    with fresh_url(folder, service) as url, contextlib.closing(Database(url)) as database:
        upgrade(database)
        yield database


def empty(database: Database) -> None:
    """Remove all rows but the mutexes."""
    with database.begin() as connection:
        for table in reversed(metadata.sorted_tables):
            if table.name != "mutexes":
                connection.execute(delete(table))


@dataclass
class World:
    """A store with a clock that only the test moves, in milliseconds."""

    database: Database
    now: int = 1_000_000
    executions: Executions = field(init=False)
    settler: Settler = field(init=False)
    logs: LogReader = field(init=False)

    def __post_init__(self) -> None:
        self.executions = Executions(self.database)
        self.settler = Settler(self.database, story)
        self.logs = LogReader(self.database)

    def queue(self, owner: str = "server-1") -> Queue:
        return Queue(self.database, owner)

    def submit(
        self,
        *,
        job_id: int | None = None,
        project_id: int | None = None,
        job_name: str = "job",
        user: str = "ann",
        permit: bool = False,
        timeout_ms: int | None = None,
    ) -> str:
        execution_id = f"x{next(_NUMBERS):08d}"
        self.executions.submit(
            execution_id,
            job_id=job_id,
            project_id=project_id,
            job_name=job_name,
            engine="native",
            content="[]",
            permit_partial=permit,
            created_by=user,
            execute_user=user,
            timeout_ms=timeout_ms,
            story=story("INFO", "Submitted."),
            now=self.now,
        )
        return execution_id

    def generate(
        self, execution_id: str, count: int, *, attempts: int = 3, timeout_ms: int | None = None
    ) -> list[TaskRecord]:
        queue = self.queue("generator")
        work = queue.claim_generation(now=self.now, lease_ms=LEASE)
        assert work is not None and work.execution_id == execution_id
        new = [
            NewTask(f"t{n}", "native", "CSV", "CSV", "{}", (), attempts, timeout_ms)
            for n in range(count)
        ]
        assert queue.generated(work, new, story("INFO", "Generated."), now=self.now)
        return self.tasks(execution_id)

    def job(self, count: int, *, attempts: int = 3, **options: object) -> str:
        """An execution with waiting tasks."""
        task_timeout = options.pop("task_timeout_ms", None)
        execution_id = self.submit(**options)  # type: ignore[arg-type]
        self.generate(execution_id, count, attempts=attempts, timeout_ms=task_timeout)  # type: ignore[arg-type]
        return execution_id

    def claim(self, limit: int = 100, owner: str = "server-1") -> list[Claim]:
        return self.queue(owner).claim_tasks(limit=limit, now=self.now, lease_ms=LEASE)

    def run(self, limit: int = 100, owner: str = "server-1") -> list[Claim]:
        """Claim and start."""
        claims = self.claim(limit, owner)
        moved = self.queue(owner).mark_running([(claim, ()) for claim in claims], now=self.now)
        assert moved == {claim.task_id for claim in claims}
        return claims

    def finish(
        self, claim: Claim, state: State, *, owner: str = "server-1", **more: object
    ) -> bool:
        """Whether the outcome was taken."""
        outcome = Outcome(claim.task_id, claim.execution_id, claim.attempt, state, **more)  # type: ignore[arg-type]
        return not self.settler.finish(owner, [outcome], now=self.now)

    def state(self, execution_id: str) -> State:
        return self.executions.status(execution_id).state

    def tasks(self, execution_id: str) -> list[TaskRecord]:
        return self.executions.task_list(execution_id)

    def states(self, execution_id: str) -> list[State]:
        return [task.state for task in self.tasks(execution_id)]

    def job_log(self, execution_id: str) -> Sequence[str]:
        return self.logs.job_log(execution_id, LogQuery(page_size=10_000)).all
