"""What `GET /job/{id}` gives back reads as what was saved, whatever form that had."""

from __future__ import annotations

import json
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from exchangis.domain.content import parse_content
from exchangis.domain.content_ui import to_ui_text
from exchangis.domain.errors import InvalidRequest
from tests.unit.content_fakes import CATALOG
from tests.unit.test_content_reading import DOCUMENTED, SINK, SOURCE

_names = st.text(st.characters(codec="utf-8", exclude_categories=["C", "Z"]), min_size=1,
                 max_size=12).filter(lambda text: "${" not in text)  # fmt: skip
_tables = st.one_of(
    st.builds(lambda db, t: {"type": "MYSQL", "id": 29, "db": db, "table": t}, _names, _names),
    st.builds(
        lambda db, t: {"type": "SQLITE", "name": "local", "db": db, "table": t}, _names, _names
    ),
    st.builds(lambda t: f"MYSQL.29.shop.{t}", _names),
)
_files = st.one_of(
    st.builds(lambda u: {"type": "CSV", "id": "7", "uri": u, "delimiter": ";"}, _names),
    st.builds(lambda u: {"type": "CSV", "id": 7, "uri": u, "options": {"header": "no"}}, _names),
    st.builds(lambda u: f"CSV.7.{u}", _names.filter(lambda u: not u.startswith("."))),
)
_calls = st.one_of(
    st.just("trim"), st.builds(lambda n: {"name": "ex_pad", "params": ["r", n, "0"]}, st.integers())
)
_column = st.one_of(
    _names,
    st.builds(
        lambda a, v, t: {"from": a, "validators": v, "transformers": t},
        _names,
        st.lists(st.sampled_from(["> 1", "like a%", "is not null"]), max_size=2),
        st.lists(_calls, max_size=2),
    ),
)


def _sink_name(column: Any) -> str:
    return column if isinstance(column, str) else column["from"]


_items = st.lists(
    st.sampled_from(
        [
            {"config_key": "exchangis.datax.setting.max.parallelism", "config_value": "4"},
            {"k": "a.speed.records", "v": 10, "n": "limit", "sort": 3},
            {"key": "x.errorlimit.record", "value": "5", "name": "errors"},
            {"config_key": "nobody.knows", "config_value": "1"},
            {"config_key": "speed.bytes", "config_value": None},
        ]
    ),
    max_size=4,
    unique_by=str,
)
_sub_job = st.fixed_dictionaries(
    {"source": st.one_of(_tables, _files), "sink": st.one_of(_tables, _files)},
    optional={
        "columns": st.lists(_column, max_size=4, unique_by=_sink_name),
        "where": _names,
        "mode": st.sampled_from(["append", "OVERWRITE"]),
        "key_columns": st.lists(_names.filter(lambda n: "," not in n), min_size=1, max_size=3),
        "create_table": st.booleans(),
        "settings": _items,
        "limits": st.fixed_dictionaries(
            {}, optional={"timeout": st.integers(1, 99), "max_attempts": st.integers(1, 9)}
        ),
        "params": st.fixed_dictionaries(
            {}, optional={"sinks": st.just([{"k": "a.w.batch_size", "v": "10"}])}
        ),
        "engine": st.sampled_from(["native", "DATAX"]),
    },
)


@settings(max_examples=150)
@given(st.lists(_sub_job, min_size=1, max_size=3))
def test_the_loaded_form_reads_as_the_saved_one(sub_jobs: list[dict[str, Any]]) -> None:
    named = [{**sub_job, "name": f"t{n}"} for n, sub_job in enumerate(sub_jobs)]
    saved = parse_content(named, catalog=CATALOG)
    loaded = to_ui_text(json.dumps(named), CATALOG)
    again = parse_content(loaded, catalog=CATALOG)
    assert [task.spec for task in again] == [task.spec for task in saved]
    assert to_ui_text(loaded, CATALOG) == loaded


def test_deployed_clients_find_what_they_read() -> None:
    loaded = json.loads(to_ui_text([DOCUMENTED], CATALOG))
    (sub_job,) = loaded["subJobs"]
    source = sub_job["dataSourceIds"]["source"]
    assert source == {
        "type": "HIVE", "id": 22, "db": "test", "table": "psn", "uri": "", "ds": "warehouse",
        "name": "warehouse", "creator": "",
    }  # fmt: skip
    assert sub_job["subJobName"] == "psn"
    assert sub_job["transforms"]["mapping"] == DOCUMENTED["transforms"]["mapping"]
    for item in (*sub_job["params"]["sources"], *sub_job["params"]["sinks"], *sub_job["settings"]):
        assert item["key"].split(".")
        assert item["field"] and item["label"] and item["type"] == "INPUT"
        assert isinstance(item["values"], list)
    assert sub_job["params"]["sinks"][0]["value"] == "INSERT"
    assert sub_job["params"]["sinks"][0]["label"] == "写入方式"


def test_arrays_that_clients_need_are_there_even_if_empty() -> None:
    (sub_job,) = json.loads(to_ui_text([{"source": SOURCE, "sink": SINK}], CATALOG))["subJobs"]
    assert sub_job["params"] == {"sources": [], "sinks": []}
    assert sub_job["settings"] == []
    assert sub_job["transforms"] == {
        "type": "MAPPING", "mapping": [], "addEnable": True, "transformEnable": True,
    }  # fmt: skip


def test_a_content_whose_data_source_is_gone_is_still_shown() -> None:
    content = [{"source": "GONE.404.a.b", "sink": {"type": "MYSQL", "id": 405, "table": "t"}}]
    (sub_job,) = json.loads(to_ui_text(content, CATALOG))["subJobs"]
    assert sub_job["dataSourceIds"]["source"]["type"] == "GONE"
    assert sub_job["dataSourceIds"]["sink"]["id"] == 405


def test_no_content_is_an_empty_list() -> None:
    assert to_ui_text(None, CATALOG) == to_ui_text("[]", CATALOG) == "[]"


_WORDS = ["subJobName", "name", "dataSources", "dataSourceIds", "source", "sink", "source_id",
          "sink_id", "type", "id", "db", "table", "uri", "options", "params", "sources", "sinks",
          "config_key", "config_value", "k", "v", "transforms", "mapping", "validator",
          "transformer", "settings", "columns", "from", "to", "limits", "where", "mode",
          "key_columns", "engine", "MYSQL", "CSV", "MAPPING", "speed.bytes", "delimiter",
          "SQLITE.8.main.a", "CSV.7.a", "native"]  # fmt: skip
_scalars = st.one_of(
    st.none(), st.booleans(), st.integers(), st.sampled_from([29, 7, 8, 2**70]),
    st.floats(allow_nan=False), st.text(max_size=5), st.sampled_from(_WORDS),
)  # fmt: skip
_anything = st.recursive(
    _scalars,
    lambda inner: st.one_of(
        st.lists(inner, max_size=3), st.dictionaries(st.sampled_from(_WORDS), inner, max_size=5)
    ),
    max_leaves=25,
)


@settings(max_examples=300, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(st.dictionaries(st.sampled_from(_WORDS), _anything, max_size=8), max_size=3))
def test_whatever_was_saved_can_be_shown_and_is_read_or_refused(saved: list[Any]) -> None:
    loaded = to_ui_text(json.dumps(saved), CATALOG)
    assert isinstance(json.loads(loaded), dict if saved else list)
    try:
        tasks = parse_content(saved, catalog=CATALOG)
    except InvalidRequest as error:
        assert error.message
    else:
        assert [t.spec for t in parse_content(loaded, catalog=CATALOG)] == [t.spec for t in tasks]
