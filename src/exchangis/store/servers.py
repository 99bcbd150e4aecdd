"""Which servers there are, and which of them hold work."""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy import Connection, delete, insert, select, update
from sqlalchemy.exc import IntegrityError

from exchangis.store.database import Database
from exchangis.store.execution_rows import ACTIVE
from exchangis.store.schema import servers, tasks


@dataclass(frozen=True, slots=True)
class ServerRecord:
    """A server as it last said of itself; times in milliseconds."""

    name: str
    address: str
    version: str
    started_at: int
    seen_at: int


class Servers:
    """The servers on this store."""

    def __init__(self, database: Database) -> None:
        self._db = database

    def heartbeat(self, name: str, address: str, version: str, *, now: int) -> None:
        """Say that the server is alive; the first time also makes it known."""

        def work(connection: Connection) -> None:
            seen = connection.execute(
                update(servers)
                .where(servers.c.name == name)
                .values(address=address, version=version, seen_at=now)
            )
            if seen.rowcount == 0:
                connection.execute(
                    insert(servers).values(
                        name=name, address=address, version=version, started_at=now, seen_at=now
                    )
                )

        try:
            self._db.transact(work)
        except IntegrityError:
            self._db.transact(work)  # inserted by a twin between the two statements: now updated

    def forget(self, name: str) -> None:
        """The server says good-bye; one that is unknown is no error."""
        self._db.transact(lambda c: c.execute(delete(servers).where(servers.c.name == name)))

    def all(self) -> list[ServerRecord]:
        """Every server known, by name."""
        with self._db.read() as connection:
            rows = connection.execute(select(servers).order_by(servers.c.name))
            return [ServerRecord(**row._mapping) for row in rows]

    def owners_with_work(self) -> list[str]:
        """Distinct owners of tasks under way, known as servers or not."""
        query = select(tasks.c.owner).where(tasks.c.state.in_(ACTIVE), tasks.c.owner.is_not(None))
        with self._db.read() as connection:
            return sorted(connection.execute(query.distinct()).scalars())

    def remove_stale(self, *, before_ms: int) -> int:
        """Forget servers not seen since; their tasks are taken over by lease. Returns how many."""
        return self._db.transact(
            lambda c: c.execute(delete(servers).where(servers.c.seen_at < before_ms)).rowcount
        )
