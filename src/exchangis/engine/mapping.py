"""Which source column fills which sink column, through which conditions, functions and casts."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from exchangis.connectors.base import Column, TableSchema
from exchangis.domain.errors import ExchangisError, InvalidRequest, SinkError, SourceError
from exchangis.domain.model import ColumnMapping, TaskSpec, WriteMode
from exchangis.engine import validators
from exchangis.engine.cast import Caster, caster
from exchangis.engine.conditions import Predicate
from exchangis.engine.functions import BadCall, Call, parse_call
from exchangis.engine.transformer import Transformer


@dataclass(frozen=True, slots=True)
class ColumnRules:
    """The checked conditions and functions of one mapping; `field` names it in errors."""

    field: str
    validators: tuple[validators.Validator, ...] = ()
    calls: tuple[Call, ...] = ()


@dataclass(frozen=True, slots=True)
class Check:
    """A condition bound to its column's type."""

    text: str
    predicate: Predicate


@dataclass(frozen=True, slots=True)
class MappedColumn:
    """One sink column's way: source values, checks, transformers, cast."""

    source: Column
    sink: Column
    checks: tuple[Check, ...]
    transformers: tuple[Transformer, ...]
    caster: Caster

    @property
    def plain(self) -> bool:
        """Whether values go through as they are."""
        return not (self.checks or self.transformers) and self.caster.source == self.caster.target


@dataclass(frozen=True, slots=True)
class Mapping:
    """All columns of a task. `target` holds the sink columns that are filled, in that order."""

    columns: tuple[MappedColumn, ...]
    target: TableSchema
    creates: bool

    @property
    def source_names(self) -> tuple[str, ...]:
        """The source columns to read, each once."""
        return tuple(dict.fromkeys(column.source.name for column in self.columns))


def parse_rules(spec: TaskSpec) -> tuple[ColumnRules, ...]:
    """The rules of each mapping in `spec.columns`; InvalidRequest names the field that is wrong."""
    seen: dict[str, str] = {}
    rules = []
    for index, mapping in enumerate(spec.columns):
        field = f"columns[{index}]"
        earlier = seen.setdefault(mapping.sink, field)
        if earlier != field:
            raise InvalidRequest.field(
                f"{field}.sink", mapping.sink, f"{earlier} already fills this sink column"
            )
        rules.append(_rules_of(mapping, field))
    filled = {mapping.sink.lower() for mapping in spec.columns}
    for index, key in enumerate(spec.key_columns):
        if spec.columns and key.lower() not in filled:
            raise InvalidRequest.field(
                f"key_columns[{index}]", key, "no mapping fills this key column"
            )
    return tuple(rules)


def _rules_of(mapping: ColumnMapping, field: str) -> ColumnRules:
    try:
        conditions = validators.parse_all(mapping.validators)
    except ValueError as error:
        raise InvalidRequest.field(
            f"{field}.validators", list(mapping.validators), str(error)
        ) from error
    calls = []
    for index, call in enumerate(mapping.transformers):
        try:
            calls.append(parse_call(call))
        except BadCall as error:
            value = call.name if error.part == "name" else list(call.params)
            raise InvalidRequest.field(
                f"{field}.transformers[{index}].{error.part}", value, str(error)
            ) from error
    return ColumnRules(field, conditions, tuple(calls))


def _pairs(spec: TaskSpec, source: TableSchema) -> list[tuple[Column, str, ColumnRules]]:
    """Source column, sink name and rules of each mapping; all columns when none is given."""
    if not spec.columns:
        return [
            (column, column.name, ColumnRules(f"column {column.name}")) for column in source.columns
        ]
    pairs = []
    for mapping, rules in zip(spec.columns, parse_rules(spec), strict=True):
        column = source.column(mapping.source)
        if column is None:
            raise _unknown(SourceError, "source", mapping.source, spec.source.label, source.names)
        pairs.append((column, mapping.sink, rules))
    return pairs


def _unknown(
    error: type[ExchangisError], side: str, name: str, label: str, known: Iterable[str]
) -> ExchangisError:
    return error(
        f"There is no column {name} in the {side} {label}.",
        guidance=f"Its columns are {', '.join(known)}.",
    )


def _bind_transformers(rules: ColumnRules, data_type: Any) -> tuple[Transformer, ...]:
    bound: list[Transformer] = []
    for index, call in enumerate(rules.calls):
        try:
            transformer = call.bind(data_type)
        except ValueError as error:
            raise InvalidRequest.field(
                f"{rules.field}.transformers[{index}]", call.function.name, str(error)
            ) from error
        bound.append(transformer)
        data_type = transformer.result
    return tuple(bound)


def _bind_checks(rules: ColumnRules, data_type: Any) -> tuple[Check, ...]:
    checks = []
    for validator in rules.validators:
        try:
            checks.append(Check(validator.text, validator.bind(data_type)))
        except ValueError as error:
            raise InvalidRequest.field(
                f"{rules.field}.validators", validator.text, str(error)
            ) from error
    return tuple(checks)


def wanted_schema(spec: TaskSpec, source: TableSchema) -> TableSchema:
    """What the sink is asked to hold when it has to be created: types after the transformers.

    The primary key comes along when each of its columns is mapped as it is: a function might make
    two keys equal.
    """
    columns: list[Column] = []
    kept: dict[str, str] = {}
    for column, name, rules in _pairs(spec, source):
        transformers = _bind_transformers(rules, column.type)
        if transformers:
            columns.append(Column(name, transformers[-1].result))
        else:
            columns.append(Column(name, column.type, column.native_type, column.nullable))
            kept.setdefault(column.name, name)
    _refuse_twins(spec, columns)
    whole = all(name in kept for name in source.primary_key)
    key = tuple(kept[name] for name in source.primary_key) if whole else ()
    if spec.key_columns and spec.write_mode is WriteMode.UPSERT:
        key = tuple(_key_column(name, columns, spec) for name in spec.key_columns)
    return TableSchema(tuple(columns), key, source.rows)


def _key_column(name: str, columns: list[Column], spec: TaskSpec) -> str:
    column = TableSchema(tuple(columns)).column(name)
    if column is None:
        raise _unknown(SinkError, "sink", name, spec.sink.label, (c.name for c in columns))
    return column.name


def _refuse_twins(spec: TaskSpec, columns: list[Column]) -> None:
    """Two mappings may reach one sink column by names that differ in case alone."""
    seen: set[str] = set()
    for column in columns:
        if column.name in seen:
            raise SinkError(f"Two mappings fill the column {column.name} of {spec.sink.label}.")
        seen.add(column.name)


def map_columns(
    spec: TaskSpec, source: TableSchema, sink: TableSchema, *, creates: bool
) -> Mapping:
    """Bind every mapping to the sink's columns; `sink` is its schema, or the proposed one.

    SourceError or SinkError for a column that is not there and for types with no lossless reading
    of each other; InvalidRequest for a condition or function that does not fit its column.
    """
    mapped = []
    for column, name, rules in _pairs(spec, source):
        target = sink.column(name)
        if target is None:
            raise _unknown(SinkError, "sink", name, spec.sink.label, sink.names)
        transformers = _bind_transformers(rules, column.type)
        given = transformers[-1].result if transformers else column.type
        cast = caster(given, target.type)
        if cast is None:
            raise SinkError(
                f"Column {name}: a value of type {_typed(column, given)} cannot become "
                f"{_typed(target, target.type)} in {spec.sink.label}.",
                guidance="Map another column, or apply a function that gives text.",
            )
        mapped.append(
            MappedColumn(column, target, _bind_checks(rules, column.type), transformers, cast)
        )
    _refuse_twins(spec, [column.sink for column in mapped])
    filled = {column.sink.name for column in mapped}
    whole = set(sink.primary_key) <= filled
    key = sink.primary_key if whole else ()
    written = TableSchema(tuple(column.sink for column in mapped), key)
    return Mapping(tuple(mapped), written, creates)


def _typed(column: Column, data_type: pa.DataType) -> str:
    return f"{column.native_type} ({data_type})" if column.native_type else str(data_type)
