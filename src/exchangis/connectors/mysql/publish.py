"""The steps that show staged rows, each repeatable after a crash at any point."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from exchangis.connectors.marks import PUBLISHED, PUBLISHING
from exchangis.connectors.mysql.catalog import table_exists
from exchangis.connectors.mysql.marks import Marks
from exchangis.connectors.mysql.session import Session, quote

SEQUENCE = "exchangis_seq"
"""Column of an upsert's staging table: the order in which rows came."""


@dataclass(frozen=True, slots=True)
class Replacement:
    """An overwrite by renaming: staging takes the target's name, the old table goes.

    Marks tell how far it came: with PUBLISHING set and the staging table gone the renaming has
    happened, since nothing else removes the staging table of a task that is still alive.
    """

    database: str
    target: str
    staging: str
    marks: Marks
    attempt: int

    @property
    def old(self) -> str:
        return f"{self.staging}_old"

    def _sql(self, name: str) -> str:
        return f"{quote(self.database)}.{quote(name)}"

    def begin(self, session: Session) -> None:
        """Step 1: say that the renaming comes next."""
        self.marks.note(session, PUBLISHING, self.attempt)

    def rename(self, session: Session) -> None:
        """Step 2: both names change at once; readers see the old or the new table."""
        if not table_exists(session, self.database, self.staging):
            return
        if table_exists(session, self.database, self.target):
            session.run(f"DROP TABLE IF EXISTS {self._sql(self.old)}")
            session.run(
                f"RENAME TABLE {self._sql(self.target)} TO {self._sql(self.old)}, "
                f"{self._sql(self.staging)} TO {self._sql(self.target)}"
            )
        else:
            session.run(f"RENAME TABLE {self._sql(self.staging)} TO {self._sql(self.target)}")

    def finish(self, session: Session) -> None:
        """Step 3: say that it is done, and drop the old table."""
        self.marks.note(session, PUBLISHED, self.attempt)
        session.run(f"DROP TABLE IF EXISTS {self._sql(self.old)}")


def insert_select(target: str, staging: str, columns: Sequence[str]) -> str:
    """SQL that copies the staged columns; the others keep their defaults."""
    names = ", ".join(map(quote, columns))
    return f"INSERT INTO {target} ({names}) SELECT {names} FROM {staging}"


def upsert_select(target: str, staging: str, columns: Sequence[str], keys: Sequence[str]) -> str:
    """SQL that inserts staged rows in their order, or updates the row that has the same key."""
    folded = {key.lower() for key in keys}
    updated = [name for name in columns if name.lower() not in folded] or list(keys[:1])
    changes = ", ".join(f"{quote(name)} = VALUES({quote(name)})" for name in updated)
    return (
        f"{insert_select(target, staging, columns)} ORDER BY {quote(SEQUENCE)} "
        f"ON DUPLICATE KEY UPDATE {changes}"
    )
