"""The plan of a task: its splits, kept in the sink as JSON so that a later attempt uses the same.

    {"version": 1, "fingerprint": hex, "splits": [{"id", "label", "data", "rows"}, ...]}

The fingerprint covers whatever decides which rows and values reach the sink: a resumed attempt of
a task that has been changed since must not mix its rows with those of the earlier one.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence

from exchangis.connectors.base import Split
from exchangis.domain.errors import SinkError, SourceError
from exchangis.domain.model import TaskSpec
from exchangis.engine.mapping import Mapping

VERSION = 1


def fingerprint(spec: TaskSpec, mapping: Mapping) -> str:
    """SHA-256 over source, sink, mappings, filter and modes."""
    described = {
        "source": spec.source.model_dump(mode="json"),
        "sink": spec.sink.model_dump(mode="json"),
        "rules": [column.model_dump(mode="json") for column in spec.columns],
        "columns": [[c.source.name, c.sink.name] for c in mapping.columns],
        "where": spec.where,
        "write_mode": spec.write_mode,
        "publish": spec.publish,
        "key_columns": spec.key_columns,
    }
    return hashlib.sha256(json.dumps(described, sort_keys=True).encode()).hexdigest()


def dump_plan(splits: Sequence[Split], mark: str) -> str:
    """The plan's JSON text."""
    return json.dumps(
        {
            "version": VERSION,
            "fingerprint": mark,
            "splits": [
                {"id": s.id, "label": s.label, "data": dict(s.data), "rows": s.rows} for s in splits
            ],
        },
        ensure_ascii=False,
        separators=(",", ":"),
    )


def load_plan(text: str, mark: str) -> list[Split]:
    """The splits of a stored plan; SinkError when it is that of a different task."""
    try:
        plan = json.loads(text)
        found, version = plan["fingerprint"], plan["version"]
        splits = [Split(s["id"], s["label"], s["data"], s["rows"]) for s in plan["splits"]]
    except (ValueError, KeyError, TypeError) as error:
        raise SinkError("The plan that an earlier attempt left in the sink is damaged.") from error
    if version != VERSION or found != mark:
        raise SinkError(
            "The task was changed since its first attempt, whose rows may be in the sink already.",
            guidance="Execute the job anew instead of trying this task again.",
        )
    return splits


def check_splits(splits: Sequence[Split]) -> None:
    """SourceError when a source's plan cannot be right: no splits, or two of one name."""
    if not splits:
        raise SourceError("The source planned no splits.")
    if len({split.id for split in splits}) != len(splits):
        raise SourceError("The source planned two splits of the same id.")


def planned_rows(splits: Sequence[Split]) -> int | None:
    """Estimated rows of all splits together; None when that of any is unknown."""
    rows = [split.rows for split in splits if split.rows is not None]
    return sum(rows) if len(rows) == len(splits) else None
