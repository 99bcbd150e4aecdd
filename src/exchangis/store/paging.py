"""One page of a list, and the one way to read it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from sqlalchemy import ColumnElement, Connection, Select, Table, func, select

from exchangis.domain.errors import InvalidRequest

T = TypeVar("T")
MAX_SIZE = 1000


@dataclass(frozen=True, slots=True)
class Page(Generic[T]):
    """`items` of one page; `total` counts those of all pages."""

    total: int
    items: tuple[T, ...]


def contains(column: ColumnElement[str], text: str) -> ColumnElement[bool]:
    """Whether the column holds `text`, in whatever case; its `%` and `_` are no wildcards.

    Both sides are folded by the database, so that what is spelled alike is found on each of them.
    """
    return column.icontains(text, autoescape=True, escape="|")


def read_page(
    connection: Connection,
    table: Table,
    columns: Sequence[ColumnElement[Any]],
    conditions: Sequence[ColumnElement[bool]],
    make: Callable[[Any], T],
    *,
    page: int,
    size: int,
) -> Page[T]:
    """Rows of `table` that meet all conditions, newest first: one query and one count.

    `page` counts from 1, `size` is 1..1000; InvalidRequest names the one that is not. The ids of
    the page are found on an index first, so that far pages don't read the rows that they skip.
    """
    if page < 1:
        raise InvalidRequest.field("page", page, "must be at least 1")
    if not 1 <= size <= MAX_SIZE:
        raise InvalidRequest.field("size", size, f"must be between 1 and {MAX_SIZE}")
    total = connection.execute(
        select(func.count()).select_from(table).where(*conditions)
    ).scalar_one()
    offset = (page - 1) * size
    if offset >= total:
        return Page(total, ())
    wanted = _page_ids(table, conditions, offset, size)
    rows = connection.execute(
        select(*columns).join(wanted, table.c.id == wanted.c.id).order_by(table.c.id.desc())
    )
    return Page(total, tuple(make(row) for row in rows))


def _page_ids(
    table: Table, conditions: Sequence[ColumnElement[bool]], offset: int, size: int
) -> Any:
    ids: Select[Any] = select(table.c.id).where(*conditions).order_by(table.c.id.desc())
    return ids.limit(size).offset(offset).subquery()
