"""What an exchange tells about itself: the lines of its log and of a dry run."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from exchangis.domain.model import TaskSpec
from exchangis.engine import mapping as mappings
from exchangis.engine.base import Counters, PlannedColumn


def unknown_key(key: str) -> str:
    return f"No engine knows the setting {key}; ignored."


def mapping(spec: TaskSpec, mapped: mappings.Mapping) -> str:
    """The sink and its columns, one per line, each with its source, types and rules."""
    verb = "creates and fills" if mapped.creates else "fills"
    head = f"{verb} {spec.sink.label} ({spec.write_mode}); columns:"
    return "\n".join([head, *(f"  {_column(column)}" for column in mapped.columns)])


def _column(column: mappings.MappedColumn) -> str:
    source = f"{column.source.name} {column.source.native_type or column.source.type}"
    sink = f"{column.sink.name} {column.sink.native_type or column.sink.type}"
    parts = [f"{source} -> {sink}"]
    if column.caster.source != column.caster.target:
        parts.append(f"cast {column.caster.source} to {column.caster.target}")
    parts.extend(f"must be {check.text}" for check in column.checks)
    if column.transformers:
        parts.append(f"{len(column.transformers)} transformers")
    return ", ".join(parts)


def planned(column: mappings.MappedColumn) -> PlannedColumn:
    """One column of a dry run."""
    return PlannedColumn(
        source=column.source.name,
        source_type=column.source.native_type or str(column.source.type),
        sink=column.sink.name,
        sink_type=column.sink.native_type or str(column.sink.type),
        note="values that do not fit become dirty records" if column.caster.lossy else "",
    )


def plan(
    splits: int, done: Mapping[str, int], published: bool, commit_per_split: bool
) -> Iterator[str]:
    """How many splits, how they are committed, and what earlier attempts did."""
    if published:
        yield "an earlier attempt has published everything already"
        return
    how = "each committed when written" if commit_per_split else "committed together at the end"
    yield f"{splits} {'split' if splits == 1 else 'splits'}, {how}"
    if done:
        yield (
            f"resumed: an earlier attempt has committed {len(done)} of them "
            f"with {sum(done.values()):,} rows"
        )


def summary(counters: Counters, seconds: float) -> str:
    """The last line of a task that ended well."""
    return (
        f"done: {counters.read:,} rows read, {counters.exchanged:,} exchanged, "
        f"{counters.errors:,} dirty, {counters.ignored:,} ignored in {seconds:.2f} s "
        f"({counters.exchanged / max(seconds, 1e-6):,.0f} rows/s)"
    )
