"""The commit marks of one task, in `exchangis_commits` of the target's database (see `marks`)."""

from __future__ import annotations

from dataclasses import dataclass

from exchangis.connectors import marks
from exchangis.connectors.mysql.session import Session, literal, quote


@dataclass(frozen=True, slots=True)
class Mark:
    """One mark: rows of a split, or the note of one of the special names."""

    attempt: int
    rows: int
    note: str | None


@dataclass(frozen=True, slots=True)
class Marks:
    """Statements over one task's marks. Each runs in the session's transaction."""

    database: str
    task_key: str

    @property
    def table(self) -> str:
        return f"{quote(self.database)}.{quote(marks.TABLE)}"

    def create(self, session: Session) -> None:
        """Make the table where it is missing. The binary collation keeps keys apart by byte."""
        session.run(
            f"CREATE TABLE IF NOT EXISTS {self.table} ("
            "task_key VARCHAR(64) NOT NULL, split_id VARCHAR(64) NOT NULL, attempt INT NOT NULL, "
            "row_count BIGINT NOT NULL DEFAULT 0, note LONGTEXT NULL, "
            "created_at TIMESTAMP NOT NULL DEFAULT CURRENT_TIMESTAMP, "
            "PRIMARY KEY (task_key, split_id), KEY created_at (created_at)"
            ") ENGINE=InnoDB DEFAULT CHARACTER SET utf8mb4 COLLATE utf8mb4_bin"
        )

    def read(self, session: Session) -> dict[str, Mark]:
        """All marks of the task by split id."""
        return {
            str(split): Mark(int(attempt), int(rows), None if note is None else str(note))
            for split, attempt, rows, note in session.rows(
                f"SELECT split_id, attempt, row_count, note FROM {self.table} "
                f"WHERE task_key = {literal(self.task_key)}"
            )
        }

    def _values(self, split_id: str, attempt: int, rows: int, note: str | None) -> str:
        shown = "NULL" if note is None else literal(note)
        return (
            f"INTO {self.table} (task_key, split_id, attempt, row_count, note) VALUES "
            f"({literal(self.task_key)}, {literal(split_id)}, {int(attempt)}, {int(rows)}, {shown})"
        )

    def add(self, session: Session, split_id: str, attempt: int, rows: int) -> None:
        """A split's mark; a duplicate is the driver's IntegrityError 1062."""
        session.run(f"INSERT {self._values(split_id, attempt, rows, None)}")

    def note(self, session: Session, name: str, attempt: int, note: str | None = None) -> None:
        """One of the special marks; the first one written stays."""
        session.run(
            f"INSERT {self._values(name, attempt, 0, note)} ON DUPLICATE KEY UPDATE note = note"
        )

    def forget(self, session: Session, *, keep: tuple[str, ...] = ()) -> None:
        """Remove the task's marks but for those to `keep`."""
        kept = "".join(f" AND split_id <> {literal(name)}" for name in keep)
        session.run(f"DELETE FROM {self.table} WHERE task_key = {literal(self.task_key)}{kept}")

    def sweep(self, session: Session) -> None:
        """Remove other tasks' marks that nobody can need any more, by primary key.

        Looked up first, without locks: a DELETE by date would wait for lanes that are at work.
        """
        old = session.rows(
            f"SELECT task_key FROM {self.table} WHERE task_key <> "
            f"{literal(self.task_key)} GROUP BY task_key HAVING MAX(created_at) < "
            f"CURRENT_TIMESTAMP - INTERVAL {marks.KEEP_DAYS} DAY LIMIT 1000"
        )
        for (task_key,) in old:
            session.run(f"DELETE FROM {self.table} WHERE task_key = {literal(str(task_key))}")
