"""Job contents: what users and deployed clients write, read into tasks.

Two ways of writing are one language here; every key may be used in either (contract, "Job
content").

*Exchangis content* is a JSON list of sub jobs, or `{"subJobs": [...]}`, as JSON or as JSON text:

    [{"subJobName": "orders",
      "dataSources": {"source_id": "MYSQL.1.shop.orders", "sink_id": "POSTGRESQL.2.public.orders"},
      "params": {"sources": [item], "sinks": [item]},
      "transforms": {"type": "MAPPING", "mapping": [{"source_field_name", "sink_field_name", ...}]},
      "settings": [item]}]

with item = `{"config_key", "config_name", "config_value", "sort"}` (`key`/`k`, `name`/`n`,
`value`/`v` are accepted). A side is `source_id` (`TYPE.id.database.table`, a table's dots count to
it; for files `TYPE.id.uri`), or an object `source`:
`{"type", "id", "name", "creator", "db", "table", "uri"}`, in `dataSources`, `dataSourceIds` or in
the sub job itself. What keys mean is in `exchangis.domain.content_keys`.

*The readable form* says the same in YAML or JSON:

    name: orders                     # or a list of these, or {"tasks": [...]}, {"jobs": [...]}
    engine: native
    source: {type: MYSQL, id: 1, db: shop, table: orders}
    sink: {type: CSV, id: 3, uri: orders.csv, delimiter: ";"}
    columns:                         # absent: every column under its own name
      - id
      - {name: customer}             # source name: sink name
      - from: price
        to: price
        validators: ["> 0"]
        transformers: [{name: ex_pad, params: [r, 3, 0]}]
    where: id > 100
    mode: upsert                     # append, overwrite
    key_columns: [id]
    publish: task                    # split
    create_table: true
    limits: {parallelism: 2, memory_mb: 512, error_records: 10, timeout: 60, max_attempts: 3,
             bytes_per_second: 1000000, records_per_second: 5000, batch_rows: 1000}

Keys that mean nothing are collected by name, or refused when `strict`. Every other mistake is an
`InvalidRequest` that names the place (`content[0].sink.table`), the value and the way out.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from pydantic import SecretStr

from exchangis.domain.content_columns import read_columns
from exchangis.domain.content_keys import (
    LIMIT_WORDS,
    PLAIN_WORDS,
    Area,
    Word,
    find_word,
    plain_name,
)
from exchangis.domain.content_sides import Catalog, RememberingCatalog, Side, read_sides
from exchangis.domain.content_variables import fill_variables
from exchangis.domain.errors import InvalidRequest
from exchangis.domain.model import Limits, Publish, TaskSpec, WriteMode
from exchangis.domain.nesting import MAX_DEPTH, is_too_deep

MAX_SUB_JOBS = 10_000
_LISTS = ("subJobs", "tasks", "jobs")
_IGNORED = frozenset({"description", "desc", "comment", "project_id", "job_id", "sort", "id"})
_STRUCTURE = frozenset(
    {"sub_job_name", "name", "engine_type", "engine", "data_sources", "data_source_ids", "source",
     "sink", "params", "transforms", "settings", "columns", "limits"}
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class ParsedTask:
    """One task of a content.

    `engine` is the engine as the content or its job names it (lower case); `spec.engine` is the
    one that aliases lead to. `source_connection` and `sink_connection` are connection parameters
    written into the content itself, which only `exchangis run` takes.
    """

    spec: TaskSpec
    unknown_keys: tuple[str, ...] = ()
    engine: str = "native"
    source_connection: Mapping[str, SecretStr] | None = None
    sink_connection: Mapping[str, SecretStr] | None = None


@dataclass
class _Draft:
    """What has been read of one sub job so far."""

    path: str
    values: dict[str, Any] = field(default_factory=dict)
    origins: dict[str, str] = field(default_factory=dict)
    unknown: list[str] = field(default_factory=list)

    def set(self, word: Word, path: str, value: Any) -> None:
        if value is None or value == "":
            return
        try:
            parsed = word.parse(value)
        except ValueError as error:
            raise InvalidRequest.field(path, value, str(error)) from None
        earlier = self.values.get(word.target)
        if earlier is not None and earlier != parsed:
            raise InvalidRequest.field(
                path, value, f"contradicts {self.origins[word.target]}; keep one of the two"
            )
        self.values[word.target] = parsed
        self.origins[word.target] = path

    def where_of(self, target: str) -> str:
        return self.origins.get(target, f"{self.path}.{target}")


def load_sub_jobs(content: Any, *, path: str = "content") -> list[dict[str, Any]]:
    """The sub jobs of a content in any of its outer forms, unread; empty for none."""
    if isinstance(content, str | bytes):
        if not content.strip():
            return []
        content = _parse_text(content, path)
    if content is None:
        return []
    if isinstance(content, dict):
        name = next((name for name in _LISTS if name in content), None)
        if name is not None:
            return load_sub_jobs(content[name], path=f"{path}.{name}" if content[name] else path)
        content = [content] if content else []
    if not isinstance(content, list):
        raise InvalidRequest.field(
            path, content, "must be a list of sub jobs",
            guidance='Send [{"subJobName": ..., "source": ..., "sink": ...}].',
        )  # fmt: skip
    if len(content) > MAX_SUB_JOBS:
        raise InvalidRequest.field(path, len(content), f"holds more than {MAX_SUB_JOBS} sub jobs")
    for index, sub_job in enumerate(content):
        if not isinstance(sub_job, dict):
            raise InvalidRequest.field(f"{path}[{index}]", sub_job, "must be an object")
    return content


def _parse_text(content: str | bytes, path: str) -> Any:
    data = content.encode("utf-8", "replace") if isinstance(content, str) else content
    if is_too_deep(data):
        raise InvalidRequest.field(path, None, f"is nested deeper than {MAX_DEPTH} levels")
    try:
        return json.loads(content)
    except ValueError as error:
        reason = getattr(error, "msg", "not UTF-8")
        raise InvalidRequest.field(
            path, content, f"is not valid JSON: {reason}",
            guidance="Send a list of sub jobs, as JSON or as JSON text.",
        ) from None  # fmt: skip


def parse_content(
    content: Any,
    *,
    catalog: Catalog,
    engine: str = "native",
    aliases: Mapping[str, str] | None = None,
    strict: bool = False,
    variables: Mapping[str, str] | None = None,
) -> list[ParsedTask]:
    """The tasks of a content, in its order; at least one.

    `engine` is the job's, for sub jobs that name none; `aliases` lead from an engine's name to the
    one that does its work. `variables` fill `${name}`. `catalog` knows the systems and the stored
    data sources. The mistakes of all sub jobs are reported together.
    """
    sub_jobs = load_sub_jobs(content)
    if not sub_jobs:
        raise InvalidRequest.field(
            "content", content, "holds no sub job",
            guidance="Give the job at least one sub job with a source and a sink.",
        )  # fmt: skip
    lowered = {name.lower(): target.lower() for name, target in (aliases or {}).items()}
    tasks: list[ParsedTask] = []
    failures: list[InvalidRequest] = []
    names: dict[str, int] = {}
    catalog = RememberingCatalog(catalog)
    for index, sub_job in enumerate(sub_jobs):
        path = f"content[{index}]"
        try:
            filled = fill_variables(sub_job, variables or {}, path)
            task = _read_task(filled, path, index, catalog, engine, lowered.get)
            first = names.setdefault(task.spec.name, index)
            if first != index:
                raise InvalidRequest.field(
                    f"{path}.subJobName", task.spec.name, f"is content[{first}]'s name already",
                    guidance="Give each sub job a name of its own.",
                )  # fmt: skip
            if strict and task.unknown_keys:
                raise InvalidRequest.field(
                    path, ", ".join(task.unknown_keys), "has keys that no engine knows",
                    guidance="Remove them, or do not ask for strict checking.",
                )  # fmt: skip
            tasks.append(task)
        except InvalidRequest as error:
            failures.append(error)
    if len(failures) == 1:
        raise failures[0]
    if failures:
        raise InvalidRequest(
            " ".join(f"{error.message}." for error in failures[:10])
            + (f" And {len(failures) - 10} more." if len(failures) > 10 else ""),
            guidance=failures[0].guidance,
            errors=tuple(entry for failure in failures for entry in failure.errors),
        )
    return tasks


def _read_task(
    sub_job: Mapping[str, Any],
    path: str,
    index: int,
    catalog: Catalog,
    engine: str,
    alias: Callable[[str], str | None],
) -> ParsedTask:
    plain = {plain_name(name): value for name, value in sub_job.items()}
    draft = _Draft(path)
    source, sink = read_sides(plain, path, catalog)
    for side in (source, sink):
        for word, place, value in side.words:
            draft.set(word, place, value)
    for name, value in sub_job.items():
        key = plain_name(name)
        if key in PLAIN_WORDS:
            draft.set(PLAIN_WORDS[key], f"{path}.{name}", value)
        elif key not in _STRUCTURE | _IGNORED:
            draft.unknown.append(name)
    _read_params(plain.get("params"), draft, source, sink)
    _read_items(plain.get("settings"), f"{path}.settings", "settings", draft, None)
    _read_limits(plain.get("limits"), draft)
    columns = read_columns(plain, path)
    _check_abilities(draft, sink)
    named = str(plain.get("engine_type") or plain.get("engine") or engine).strip().lower()
    limits = {
        target.removeprefix("limits."): value
        for target, value in draft.values.items()
        if target.startswith("limits.")
    }
    chosen = {k: v for k, v in draft.values.items() if not k.startswith("limits.")}
    return ParsedTask(
        spec=TaskSpec(
            name=_task_name(plain, path, index),
            engine=alias(named) or named,
            source=source.dataset(),
            sink=sink.dataset(),
            columns=columns,
            limits=Limits(**limits),
            **chosen,
        ),
        unknown_keys=tuple(dict.fromkeys([*draft.unknown, *source.unknown, *sink.unknown])),
        engine=named,
        source_connection=source.connection,
        sink_connection=sink.connection,
    )


def _task_name(plain: Mapping[str, Any], path: str, index: int) -> str:
    name = plain.get("sub_job_name")
    field_name = "subJobName" if name is not None else "name"
    name = plain.get("name") if name is None else name
    if name is None or name == "":
        return f"task-{index + 1}"
    if not isinstance(name, str | int) or isinstance(name, bool):
        raise InvalidRequest.field(f"{path}.{field_name}", name, "must be text")
    stripped = str(name).strip()
    if not 1 <= len(stripped) <= 255 or not stripped.isprintable():
        raise InvalidRequest.field(
            f"{path}.{field_name}", name, "must be 1 to 255 printable characters"
        )
    return stripped


def _read_params(params: Any, draft: _Draft, source: Side, sink: Side) -> None:
    path = f"{draft.path}.params"
    if params is None or params == "":
        return
    if not isinstance(params, dict):
        raise InvalidRequest.field(path, params, "must be an object with sources and sinks")
    _read_items(params.get("sources"), f"{path}.sources", "sources", draft, source)
    _read_items(params.get("sinks"), f"{path}.sinks", "sinks", draft, sink)
    draft.unknown += [f"params.{name}" for name in params if name not in ("sources", "sinks")]


def _read_items(items: Any, path: str, area: Area, draft: _Draft, side: Side | None) -> None:
    if items is None or items == "":
        return
    if isinstance(items, dict):  # the readable form of a list of items
        items = [{"key": key, "value": value} for key, value in items.items()]
    if not isinstance(items, list):
        raise InvalidRequest.field(path, items, "must be a list of items")
    for number, item in enumerate(items):
        if not isinstance(item, dict):
            raise InvalidRequest.field(f"{path}[{number}]", item, "must be an object")
        key = next((item[name] for name in ("config_key", "key", "k") if item.get(name)), None)
        value = next((item[name] for name in ("config_value", "value", "v") if name in item), None)
        if not isinstance(key, str):
            raise InvalidRequest.field(
                f"{path}[{number}].config_key", key, "must name what the item sets"
            )
        word = find_word(area, key)
        if word is not None:
            draft.set(word, f"{path}[{key}]", value)
        elif value in (None, "", {}, []):
            continue  # clients send every field of their form: an empty one asks for nothing
        elif side is None or not side.take_option(key, value, f"{path}[{key}]"):
            draft.unknown.append(key)


def _read_limits(limits: Any, draft: _Draft) -> None:
    path = f"{draft.path}.limits"
    if limits is None:
        return
    if not isinstance(limits, dict):
        raise InvalidRequest.field(path, limits, "must be an object")
    for name, value in limits.items():
        word = LIMIT_WORDS.get(plain_name(str(name)))
        if word is None:
            draft.unknown.append(f"limits.{name}")
        else:
            draft.set(word, f"{path}.{name}", value)


def _check_abilities(draft: _Draft, sink: Side) -> None:
    system = sink.system
    mode = draft.values.get("write_mode", WriteMode.APPEND)
    if mode not in system.write_modes:
        raise InvalidRequest.field(
            draft.where_of("write_mode"), mode.value, f"{system.type} cannot be written that way",
            guidance=f"Use one of {', '.join(sorted(system.write_modes))}.",
        )  # fmt: skip
    when = draft.values.get("publish", Publish.TASK)
    if when not in system.publish:
        raise InvalidRequest.field(
            draft.where_of("publish"), when.value, f"{system.type} cannot publish that way",
            guidance=f"Use one of {', '.join(sorted(system.publish))}.",
        )  # fmt: skip
