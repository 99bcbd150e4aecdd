"""Column mappings of a sub job: `transforms` of Exchangis content, or the readable `columns`."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from exchangis.domain.content_keys import is_storable, plain_name, text
from exchangis.domain.errors import InvalidRequest
from exchangis.domain.model import ColumnMapping, FunctionCall

# Deployed clients send one condition as two list entries, ["like", "a%"].
_OPERATORS = frozenset({"like", "not like", "in", "not in", "=", "==", "!=", "<>", "<",
                        "<=", ">", ">=", "between", "not between", "regexp", "not regexp", "rlike",
                        "not rlike"})  # fmt: skip
_COLUMN = {"from": "source", "source": "source", "to": "sink", "sink": "sink",
           "validators": "validators", "validator": "validators",
           "transformers": "transformers", "transformer": "transformers"}  # fmt: skip


def read_columns(plain: Mapping[str, Any], path: str) -> tuple[ColumnMapping, ...]:
    """The mappings in order; empty means every column under its own name."""
    mapped = _from_transforms(plain.get("transforms"), f"{path}.transforms")
    listed = _from_columns(plain.get("columns"), f"{path}.columns")
    if mapped and listed:
        raise InvalidRequest.field(
            f"{path}.columns", None, "both columns and transforms.mapping are given; keep one"
        )
    columns = mapped or listed
    seen: dict[str, int] = {}
    for index, column in enumerate(columns):
        if seen.setdefault(column.sink, index) != index:
            raise InvalidRequest.field(
                f"{path}.columns[{index}]", column.sink, "this sink column is filled twice"
            )
    return columns


def _from_transforms(transforms: Any, path: str) -> tuple[ColumnMapping, ...]:
    if transforms in (None, "", {}, []):
        return ()
    if not isinstance(transforms, dict):
        raise InvalidRequest.field(path, transforms, "must be an object with type and mapping")
    kind = transforms.get("type")
    if str(kind or "MAPPING").upper() != "MAPPING":
        raise InvalidRequest.field(
            f"{path}.type", kind, "only MAPPING can be carried out",
            guidance="Use a column mapping with validators and transformers instead.",
        )  # fmt: skip
    mapping = transforms.get("mapping")
    if mapping in (None, ""):
        return ()
    if not isinstance(mapping, list):
        raise InvalidRequest.field(f"{path}.mapping", mapping, "must be a list")
    columns = []
    for index, entry in enumerate(mapping):
        place = f"{path}.mapping[{index}]"
        if not isinstance(entry, dict):
            raise InvalidRequest.field(place, entry, "must be an object")
        columns.append(
            ColumnMapping(
                source=_name(entry.get("source_field_name"), f"{place}.source_field_name"),
                sink=_name(entry.get("sink_field_name"), f"{place}.sink_field_name"),
                validators=_validators(entry.get("validator"), f"{place}.validator"),
                transformers=_transformers(entry.get("transformer"), f"{place}.transformer"),
            )
        )
    return tuple(columns)


def _from_columns(columns: Any, path: str) -> tuple[ColumnMapping, ...]:
    if columns in (None, "", "*", []):
        return ()
    if isinstance(columns, dict):
        columns = [{source: sink} for source, sink in columns.items()]
    if not isinstance(columns, list):
        raise InvalidRequest.field(path, columns, "must be a list of columns")
    return tuple(_column(entry, f"{path}[{index}]") for index, entry in enumerate(columns))


def _column(entry: Any, path: str) -> ColumnMapping:
    if isinstance(entry, str):
        name = _name(entry, path)
        return ColumnMapping(source=name, sink=name)
    if not isinstance(entry, dict) or not entry:
        raise InvalidRequest.field(
            path, entry, "must be a column's name, {from: to}, or {from, to, validators, ...}"
        )
    if not set(entry) & {"from", "source"}:
        if len(entry) == 1:
            ((source, sink),) = entry.items()
            return ColumnMapping(source=_name(source, path), sink=_name(sink, path))
        raise InvalidRequest.field(f"{path}.from", None, "is missing")
    known = {}
    for name, value in entry.items():
        target = _COLUMN.get(plain_name(str(name)))
        if target is None or target in known:
            raise InvalidRequest.field(
                f"{path}.{name}", value, "unknown or given twice",
                guidance="Known are from, to, validators, transformers.",
            )  # fmt: skip
        known[target] = value
    source = _name(known["source"], f"{path}.from")
    sink = known.get("sink")
    return ColumnMapping(
        source=source,
        sink=source if sink is None else _name(sink, f"{path}.to"),
        validators=_validators(known.get("validators"), f"{path}.validators"),
        transformers=_transformers(known.get("transformers"), f"{path}.transformers"),
    )


def _name(value: Any, path: str) -> str:
    if not isinstance(value, str) or not value or len(value) > 1024 or not is_storable(value):
        raise InvalidRequest.field(path, value, "must be a column's name")
    return value


def _validators(value: Any, path: str) -> tuple[str, ...]:
    if value in (None, "", []):
        return ()
    given = value if isinstance(value, list) else [value]
    conditions: list[str] = []
    pending: str | None = None
    for index, entry in enumerate(given):
        if entry in (None, ""):
            continue
        try:
            shown = text(entry).strip()
        except ValueError as error:
            raise InvalidRequest.field(f"{path}[{index}]", entry, str(error)) from None
        if pending is not None:
            conditions.append(f"{pending} {shown}")
            pending = None
        elif re.sub(r"\s+", " ", shown).lower() in _OPERATORS:
            pending = shown
        else:
            conditions.append(shown)
    if pending is not None:
        raise InvalidRequest.field(path, value, f"{pending} needs a value", guidance='E.g. "> 1".')
    return tuple(conditions)


def _transformers(value: Any, path: str) -> tuple[FunctionCall, ...]:
    if value in (None, "", {}, []):
        return ()
    given = value if isinstance(value, list) else [value]
    return tuple(
        call
        for index, entry in enumerate(given)
        if (call := _function(entry, f"{path}[{index}]" if isinstance(value, list) else path))
    )


def _function(entry: Any, path: str) -> FunctionCall | None:
    if isinstance(entry, str):
        entry = {"name": entry}
    if isinstance(entry, dict) and "name" not in entry and len(entry) == 1:
        ((name, params),) = entry.items()
        entry = {"name": name, "params": params}
    if not isinstance(entry, dict):
        raise InvalidRequest.field(path, entry, "must be a function's name, or {name, params}")
    name = entry.get("name")
    if name in (None, ""):  # a form whose function was cleared
        return None
    if not isinstance(name, str):
        raise InvalidRequest.field(f"{path}.name", name, "must be text")
    params = entry.get("params")
    if params is None:
        params = []
    if not isinstance(params, list):
        params = [params]
    try:
        return FunctionCall(name=name.strip(), params=tuple(text(param) for param in params))
    except ValueError as error:
        raise InvalidRequest.field(f"{path}.params", params, str(error)) from None
