"""What a server's information_schema says about a table."""

from __future__ import annotations

from dataclasses import dataclass

from exchangis.connectors.base import TableSchema
from exchangis.connectors.mysql.session import Session, literal
from exchangis.connectors.mysql.types import NativeColumn, arrow_column


@dataclass(frozen=True, slots=True)
class Index:
    """A unique index: its columns in order (a prefix or expression index is not listed)."""

    name: str
    columns: tuple[str, ...]

    @property
    def primary(self) -> bool:
        return self.name == "PRIMARY"


@dataclass(frozen=True, slots=True)
class Table:
    """A table or view as the server describes it. `rows` is the server's estimate."""

    database: str
    name: str
    kind: str
    engine: str
    rows: int | None
    columns: tuple[NativeColumn, ...]
    indexes: tuple[Index, ...]

    @property
    def is_view(self) -> bool:
        return "VIEW" in self.kind

    @property
    def primary_key(self) -> tuple[str, ...]:
        return next((index.columns for index in self.indexes if index.primary), ())

    def column(self, name: str) -> NativeColumn | None:
        return next((column for column in self.columns if column.name == name), None)

    def schema(self, *, writable: bool) -> TableSchema:
        """The columns; `writable` leaves out those that the server computes."""
        return TableSchema(
            columns=tuple(
                arrow_column(column)
                for column in self.columns
                if not (writable and column.generated)
            ),
            primary_key=self.primary_key,
            rows=self.rows,
        )


def _pick(found: list[str], wanted: str, session: Session) -> str | None:
    """The table meant: that very name, else its other case where the server ignores case."""
    if wanted in found:
        return wanted
    setting = session.one("SELECT @@lower_case_table_names")
    loose = [name for name in found if name.lower() == wanted.lower()]
    return loose[0] if setting and int(setting[0]) and len(loose) == 1 else None


def find_table(session: Session, database: str, name: str) -> Table | None:
    """The table's description, or None when there is none."""
    where = f"TABLE_SCHEMA = {literal(database)} AND TABLE_NAME = {literal(name)}"
    tables = session.rows(
        "SELECT TABLE_NAME, TABLE_TYPE, COALESCE(ENGINE, ''), TABLE_ROWS "
        f"FROM information_schema.TABLES WHERE {where}"
    )
    actual = _pick([str(row[0]) for row in tables], name, session)
    if actual is None:
        return None
    kind, engine, rows = next(row[1:] for row in tables if row[0] == actual)
    columns = session.rows(
        "SELECT TABLE_NAME, COLUMN_NAME, DATA_TYPE, COLUMN_TYPE, IS_NULLABLE, "
        "NUMERIC_PRECISION, NUMERIC_SCALE, CHARACTER_SET_NAME, EXTRA, "
        "COALESCE(GENERATION_EXPRESSION, '') "
        f"FROM information_schema.COLUMNS WHERE {where} ORDER BY ORDINAL_POSITION"
    )
    return Table(
        database=database,
        name=actual,
        kind=str(kind),
        engine=str(engine),
        rows=None if rows is None else int(rows),
        columns=tuple(
            NativeColumn(
                name=str(row[1]),
                type=str(row[2]).lower(),
                full_type=str(row[3]),
                nullable=row[4] == "YES",
                precision=None if row[5] is None else int(row[5]),
                scale=None if row[6] is None else int(row[6]),
                charset=None if row[7] is None else str(row[7]),
                generated=bool(row[9]),
                auto_increment="auto_increment" in str(row[8]).lower(),
            )
            for row in columns
            if row[0] == actual
        ),
        indexes=_unique_indexes(session, where, actual),
    )


def _unique_indexes(session: Session, where: str, actual: str) -> tuple[Index, ...]:
    found: dict[str, list[str | None]] = {}
    for table, index, column, prefix in session.rows(
        "SELECT TABLE_NAME, INDEX_NAME, COLUMN_NAME, SUB_PART FROM information_schema.STATISTICS "
        f"WHERE {where} AND NON_UNIQUE = 0 ORDER BY INDEX_NAME, SEQ_IN_INDEX"
    ):
        if table == actual:
            found.setdefault(str(index), []).append(str(column) if column and not prefix else None)
    indexes = [
        Index(name, tuple(str(column) for column in columns))
        for name, columns in found.items()
        if all(column is not None for column in columns)
    ]
    return tuple(sorted(indexes, key=lambda index: (not index.primary, index.name)))


def has_triggers_or_foreign_keys(session: Session, database: str, name: str) -> bool:
    """Whether replacing the table by renaming would lose triggers or break references to it."""
    schema, table = literal(database), literal(name)
    found = session.one(
        f"SELECT EXISTS(SELECT 1 FROM information_schema.TRIGGERS WHERE EVENT_OBJECT_SCHEMA = "
        f"{schema} AND EVENT_OBJECT_TABLE = {table}) OR EXISTS(SELECT 1 FROM "
        f"information_schema.REFERENTIAL_CONSTRAINTS WHERE (CONSTRAINT_SCHEMA = {schema} AND "
        f"TABLE_NAME = {table}) OR (UNIQUE_CONSTRAINT_SCHEMA = {schema} AND "
        f"REFERENCED_TABLE_NAME = {table}))"
    )
    return bool(found and found[0])


def table_exists(session: Session, database: str, name: str) -> bool:
    """Whether a table or view of exactly that name exists."""
    return any(
        str(row[0]) == name
        for row in session.rows(
            f"SELECT TABLE_NAME FROM information_schema.TABLES WHERE TABLE_SCHEMA = "
            f"{literal(database)} AND TABLE_NAME = {literal(name)}"
        )
    )
