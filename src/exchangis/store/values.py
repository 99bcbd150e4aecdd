"""What fits a table's columns, on every database alike."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sqlalchemy import String, Table, Text

from exchangis.domain.errors import FieldError, InvalidRequest

MAX_TEXT = 65_536
"""Characters of an error text that are kept."""


def check_texts(table: Table, values: Mapping[str, Any]) -> None:
    """Refuse texts that some database would cut or not take; InvalidRequest names each column.

    SQLite would store a name of any length, PostgreSQL no NUL character, and none a lone surrogate.
    """
    errors = []
    for name, value in values.items():
        kind = table.c[name].type
        if not isinstance(value, str) or not isinstance(kind, String):
            continue
        if "\x00" in value or any("\ud800" <= letter <= "\udfff" for letter in value):
            errors.append(FieldError(name, None, "must not hold NUL or surrogate characters"))
        elif not isinstance(kind, Text) and kind.length is not None and len(value) > kind.length:
            reason = f"must have at most {kind.length} characters, not {len(value)}"
            errors.append(FieldError(name, None, reason))
    if errors:
        message = "; ".join(f"{error.field}: {error.reason}" for error in errors)
        raise InvalidRequest(f"{message}.", errors=tuple(errors))


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
