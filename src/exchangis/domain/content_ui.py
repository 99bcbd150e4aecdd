"""Contents as `GET /job/{id}` gives them back: the form that deployed web clients fill in from.

The form that clients save and the form that they load differ (`dataSources` and `config_*` items
there, `dataSourceIds` and UI items here). Reading the loaded form gives the same tasks as reading
the saved one: a test holds that down.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from exchangis.domain.content import load_sub_jobs
from exchangis.domain.content_columns import read_columns
from exchangis.domain.content_keys import SINK_WORDS, SOURCE_WORDS, plain_name
from exchangis.domain.content_sides import Catalog, RememberingCatalog, SideName, StoredSource
from exchangis.domain.errors import InvalidRequest
from exchangis.domain.model import ColumnMapping

_SIDE_FIELDS = frozenset({"type", "id", "name", "creator", "db", "database", "table", "uri", "ds",
                          "data_source_type", "data_source", "options"})  # fmt: skip
_TAKEN = frozenset({"sub_job_name", "name", "data_sources", "data_source_ids", "source", "sink",
                    "params", "transforms", "settings", "columns", "limits",
                    *SINK_WORDS, *SOURCE_WORDS})  # fmt: skip


def to_ui_text(content: Any, catalog: Catalog) -> str:
    """JSON text `{"subJobs": [...]}` of a stored content, or `[]` when there is none."""
    sub_jobs = load_sub_jobs(content)
    if not sub_jobs:
        return "[]"
    catalog = RememberingCatalog(catalog)
    shown = [_sub_job(sub_job, index, catalog) for index, sub_job in enumerate(sub_jobs)]
    return json.dumps({"subJobs": shown}, ensure_ascii=False)


def _sub_job(sub_job: Mapping[str, Any], index: int, catalog: Catalog) -> dict[str, Any]:
    plain = {plain_name(name): value for name, value in sub_job.items()}
    source, source_options = _side(plain, "source", catalog)
    sink, sink_options = _side(plain, "sink", catalog)
    params = plain.get("params")
    params = params if isinstance(params, dict) else {}
    sources = _items(params.get("sources")) + _items(source_options)
    sinks = _items(params.get("sinks")) + _items(sink_options)
    sources += _items({k: plain[k] for k in SOURCE_WORDS if k in plain and k not in SINK_WORDS})
    sinks += _items({k: plain[k] for k in SINK_WORDS if k in plain and not k.startswith("batch")})
    name = plain.get("sub_job_name")
    name = plain.get("name") if name is None else name
    return {name: value for name, value in sub_job.items() if plain_name(name) not in _TAKEN} | {
        "subJobName": f"task-{index + 1}" if name in (None, "") else name,
        "dataSourceIds": {"source": source, "sink": sink},
        "params": {"sources": sources, "sinks": sinks},
        "transforms": _transforms(plain),
        "settings": _items(plain.get("settings")) + _items(plain.get("limits")),
    }


def _side(
    plain: Mapping[str, Any], side: SideName, catalog: Catalog
) -> tuple[dict[str, Any], dict[str, Any]]:
    given = [
        holder.get(name)
        for holder in (plain, plain.get("data_sources"), plain.get("data_source_ids"))
        if isinstance(holder, dict)
        for name in (side, f"{side}_id")
    ]
    value = next((one for one in given if isinstance(one, dict) and one), None)
    if value is None:
        value = _parts(next((one for one in given if isinstance(one, str) and one), ""), catalog)
    fields = {plain_name(str(name)): part for name, part in value.items()}
    name = fields.get("name") or fields.get("data_source") or fields.get("ds") or ""
    stored = _stored(fields.get("id"), name, catalog)
    shown = {
        "type": fields.get("type") or fields.get("data_source_type") or (stored and stored.type),
        "id": stored.id if stored else fields.get("id"),
        "db": fields.get("db") or fields.get("database") or "",
        "table": fields.get("table") or "",
        "uri": fields.get("uri") or "",
        "ds": stored.name if stored else name,
        "name": stored.name if stored else name,
        "creator": fields.get("creator") or "",
    }
    options = fields.get("options")
    inline = {
        name: part for name, part in value.items() if plain_name(str(name)) not in _SIDE_FIELDS
    }
    return shown, (options if isinstance(options, dict) else {}) | inline


def _stored(identity: Any, name: Any, catalog: Catalog) -> StoredSource | None:
    """The data source meant, if there is one; a draft may hold anything there."""
    if isinstance(identity, str) and re.fullmatch("[0-9]{1,18}", identity):
        identity = int(identity)
    key = name if identity in (None, "") else identity
    if isinstance(key, int) and not isinstance(key, bool):
        return catalog.stored(key)
    return catalog.stored(key) if isinstance(key, str) and key == name and key else None


def _parts(text: str, catalog: Catalog) -> dict[str, Any]:
    kind, _, rest = text.partition(".")
    number, _, where = rest.partition(".")
    try:
        by_uri = bool(kind) and catalog.system(kind).addressing == "uri"
    except InvalidRequest:  # a type that is gone: its content is still shown
        by_uri = False
    if by_uri:
        return {"type": kind, "id": number, "uri": where.removeprefix(".")}
    database, _, table = where.partition(".")
    return {"type": kind, "id": number, "db": database, "table": table}


def _items(items: Any) -> list[dict[str, Any]]:
    """UI items (`key, field, label, type, value, ...`) of stored items or of names and values."""
    if isinstance(items, dict):
        items = [{"key": name, "value": value} for name, value in items.items()]
    if not isinstance(items, list):
        return []
    shown: list[dict[str, Any]] = []
    for position, item in enumerate(items):
        if not isinstance(item, dict):
            continue
        key = next((item[name] for name in ("config_key", "key", "k") if item.get(name)), "")
        label = next((item[n] for n in ("config_name", "label", "name", "n") if item.get(n)), key)
        value = next((item[n] for n in ("config_value", "value", "v") if n in item), None)
        if isinstance(value, list):
            value = ",".join(str(part) for part in value)
        sort = item.get("sort")
        shown.append(
            {
                "key": key,
                "field": key,
                "label": label,
                "type": "INPUT",
                "values": [],
                "value": value,
                "defaultValue": "",
                "required": False,
                "unit": "",
                "description": "",
                "sort": position + 1 if sort is None else sort,
            }
        )
    return shown


def _transforms(plain: Mapping[str, Any]) -> dict[str, Any]:
    base = {"type": "MAPPING", "mapping": [], "addEnable": True, "transformEnable": True}
    given = plain.get("transforms")
    if isinstance(given, dict) and given:
        return base | given
    if plain.get("columns"):
        try:
            columns = read_columns({"columns": plain["columns"]}, "content")
        except InvalidRequest:  # a draft: what cannot be read can't be shown as a mapping
            columns = ()
        base["mapping"] = [_mapping(column, index) for index, column in enumerate(columns)]
    return base


def _mapping(column: ColumnMapping, index: int) -> dict[str, Any]:
    entry: dict[str, Any] = {
        "source_field_name": column.source,
        "source_field_type": "",
        "source_field_index": index,
        "source_field_editable": True,
        "sink_field_name": column.sink,
        "sink_field_type": "",
        "sink_field_index": index,
        "sink_field_editable": True,
        "deleteEnable": True,
    }
    if column.validators:
        entry["validator"] = list(column.validators)
    calls = [{"name": call.name, "params": list(call.params)} for call in column.transformers]
    if calls:
        entry["transformer"] = calls[0] if len(calls) == 1 else calls
    return entry
