"""What fits a table's columns, on every database alike."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sqlalchemy import BigInteger, Integer, String, Table, Text
from sqlalchemy.types import TypeEngine

from exchangis.domain.errors import FieldError, InvalidRequest

MAX_TEXT = 65_536
"""Characters of an error text that are kept."""
_BITS = 63


def is_id(value: int) -> bool:
    """Whether a row may have this number; what is larger makes SQLite's driver fail."""
    return 0 < value < 1 << _BITS


def check_values(table: Table, values: Mapping[str, Any]) -> None:
    """Refuse what some database would cut or not take; InvalidRequest names each column.

    SQLite would store a name of any length, PostgreSQL no NUL character, and none a lone surrogate.
    """
    errors = [
        FieldError(name, None, reason)
        for name, value in values.items()
        if (reason := _misfit(table.c[name].type, value))
    ]
    if errors:
        message = "; ".join(f"{error.field}: {error.reason}" for error in errors)
        raise InvalidRequest(f"{message}.", errors=tuple(errors))


def _misfit(kind: TypeEngine[Any], value: Any) -> str | None:
    if isinstance(value, str) and isinstance(kind, String):
        if "\x00" in value or any("\ud800" <= letter <= "\udfff" for letter in value):
            return "must not hold NUL or surrogate characters"
        if not isinstance(kind, Text) and kind.length is not None and len(value) > kind.length:
            return f"must have at most {kind.length} characters, not {len(value)}"
    if isinstance(value, int) and isinstance(kind, Integer):
        bits = _BITS if isinstance(kind, BigInteger) else 31
        if not -(1 << bits) <= value < 1 << bits:
            return "is too large a number"
    return None


def fit(table: Table, values: Mapping[str, Any]) -> dict[str, Any]:
    """`values` with texts made to fit, whatever is in them: what a runner says must be storable.

    An error text that the database refused would leave its task without an end.
    """
    fitted = {}
    for name, value in values.items():
        kind = table.c[name].type
        if isinstance(value, str) and isinstance(kind, String):
            limit = MAX_TEXT if isinstance(kind, Text) or kind.length is None else kind.length
            clean = value.encode("utf-8", "backslashreplace").decode().replace("\x00", "\\x00")
            fitted[name] = clean if len(clean) <= limit else f"{clean[: limit - 3]}..."
        else:
            fitted[name] = value
    return fitted
