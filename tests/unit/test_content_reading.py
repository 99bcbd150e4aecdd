"""Job contents in every form that the contract names are read into the same tasks."""

from __future__ import annotations

import json
from typing import Any

import pytest

from exchangis.domain.content import ParsedTask, parse_content
from exchangis.domain.errors import InvalidRequest
from exchangis.domain.model import ColumnMapping, FunctionCall, Publish, WriteMode
from tests.unit.content_fakes import CATALOG, Catalog

DOCUMENTED: dict[str, Any] = {
    "subJobName": "psn",
    "dataSources": {"source_id": "HIVE.22.test.psn", "sink_id": "MYSQL.29.test.t_psn"},
    "params": {
        "sources": [
            {
                "config_key": "exchangis.job.ds.params.datax.hive.r.partition",
                "config_name": "分区信息",
                "config_value": "ds=1",
                "sort": 2,
            }
        ],
        "sinks": [
            {
                "config_key": "exchangis.job.ds.params.datax.mysql.w.write_type",
                "config_name": "写入方式",
                "config_value": "INSERT",
                "sort": 1,
            },
            {
                "config_key": "exchangis.job.ds.params.datax.mysql.w.batch_size",
                "config_name": "批量大小",
                "config_value": "1000",
                "sort": 2,
            },
        ],
    },
    "transforms": {
        "type": "MAPPING",
        "mapping": [
            {
                "source_field_name": "id",
                "source_field_type": "INT",
                "sink_field_name": "pk",
                "sink_field_type": "INT",
                "source_field_index": 0,
                "sink_field_index": 0,
                "validator": ["> 1"],
                "transformer": {"name": "ex_pad", "params": ["r", "3", "0"]},
            }
        ],
    },
    "settings": [
        {"config_key": "exchangis.datax.setting.speed.bytes", "config_value": "102400"},
        {"config_key": "exchangis.datax.setting.speed.records", "config_value": "5000"},
        {"config_key": "exchangis.datax.setting.max.parallelism", "config_value": "4"},
        {"config_key": "exchangis.datax.setting.max.memory", "config_value": "1024"},
        {"config_key": "exchangis.datax.setting.errorlimit.record", "config_value": "0"},
        {"config_key": "exchangis.datax.setting.errorlimit.percentage", "config_value": "1.5"},
    ],
}
SOURCE = {"type": "SQLITE", "id": 8, "db": "main", "table": "orders"}
SINK = {"type": "MYSQL", "id": 29, "db": "shop", "table": "orders"}


def read(content: Any, **options: Any) -> list[ParsedTask]:
    return parse_content(content, catalog=CATALOG, **options)


def one(**fields: Any) -> ParsedTask:
    (task,) = read([{"subJobName": "t", "source": SOURCE, "sink": SINK, **fields}])
    return task


def refused(content: Any, **options: Any) -> InvalidRequest:
    with pytest.raises(InvalidRequest) as caught:
        read(content, **options)
    return caught.value


def test_the_contracts_example_is_read() -> None:
    (task,) = read([DOCUMENTED], engine="DATAX", aliases={"datax": "native"})
    spec = task.spec
    assert (spec.name, spec.engine, task.engine) == ("psn", "native", "datax")
    assert (spec.source.type, spec.source.data_source) == ("HIVE", 22)
    assert (spec.source.database, spec.source.table) == ("test", "psn")
    assert spec.source.options == {"partition": "ds=1"}
    assert (spec.sink.type, spec.sink.data_source, spec.sink.table) == ("MYSQL", 29, "t_psn")
    assert spec.columns == (
        ColumnMapping(
            source="id",
            sink="pk",
            validators=("> 1",),
            transformers=(FunctionCall(name="ex_pad", params=("r", "3", "0")),),
        ),
    )
    assert spec.write_mode is WriteMode.APPEND
    limits = spec.limits
    assert limits.bytes_per_second == 102400 * 1024
    assert (limits.records_per_second, limits.parallelism, limits.memory_mb) == (5000, 4, 1024)
    assert (limits.error_records, limits.error_percentage, limits.batch_rows) == (0, 1.5, 1000)
    assert task.unknown_keys == ()


@pytest.mark.parametrize(
    "wrap",
    [
        lambda sub: [sub],
        lambda sub: {"subJobs": [sub]},
        lambda sub: json.dumps([sub]),
        lambda sub: json.dumps({"subJobs": [sub]}),
        lambda sub: {"tasks": [sub]},
        lambda sub: {"jobs": [sub]},
        lambda sub: sub,
        lambda sub: {"subJobs": json.dumps([sub])},
    ],
)
def test_every_outer_form_says_the_same(wrap: Any) -> None:
    assert read(wrap(DOCUMENTED)) == read([DOCUMENTED])


@pytest.mark.parametrize(
    "sides",
    [
        {"source": SOURCE, "sink": SINK},
        {"dataSources": {"source": SOURCE, "sink": SINK}},
        {"dataSourceIds": {"source": SOURCE | {"id": "8", "ds": "local"}, "sink": SINK}},
        {"dataSources": {"source_id": "SQLITE.8.main.orders", "sink_id": "MYSQL.29.shop.orders"}},
        {"source": "SQLITE.8.main.orders", "sink": "MYSQL.29.shop.orders"},
        {"source": {"name": "local", "db": "main", "table": "orders"}, "sink": SINK},
        {
            "source": SOURCE | {"name": "local", "creator": "hadoop", "uri": ""},
            "sink": SINK | {"database": "shop"},
        },
    ],
)
def test_every_form_of_the_sides_says_the_same(sides: dict[str, Any]) -> None:
    (task,) = read([{"subJobName": "t", **sides}])
    assert task == one()


def test_a_tables_dots_belong_to_the_table() -> None:
    (task,) = read([{"source": "MYSQL.29.shop.a.b.c", "sink": "CSV.7.out/a.b.csv"}])
    assert (task.spec.source.database, task.spec.source.table) == ("shop", "a.b.c")
    assert (task.spec.sink.uri, task.spec.sink.table) == ("out/a.b.csv", None)


@pytest.mark.parametrize(
    ("value", "mode"),
    [("INSERT", "append"), ("append", "append"), ("Update", "upsert"), ("REPLACE", "upsert"),
     ("upsert", "upsert"), ("OVERWRITE", "overwrite")],
)  # fmt: skip
@pytest.mark.parametrize(
    "key", ["write_type", "writeType", "x.sqoop.mysql.w.write_type", "writeMode", "mode"]
)
def test_write_types_of_all_engines_are_understood(key: str, value: str, mode: str) -> None:
    task = one(params={"sinks": [{"k": key, "n": "mode", "v": value}]})
    assert task.spec.write_mode == mode


def test_the_readable_form_says_all_that_a_task_may() -> None:
    (task,) = read(
        {
            "name": "orders",
            "source": SOURCE | {"where": "id > 1"},
            "sink": SINK | {"mode": "upsert"},
            "columns": [
                "id",
                {"name": "customer"},
                {
                    "from": "price",
                    "to": "cost",
                    "validators": ["> 0", "not like", "9%"],
                    "transformers": ["trim", {"ex_pad": ["r", 3, 0]}],
                },
            ],
            "key_columns": "id, customer",
            "publish": "split",
            "create_table": False,
            "limits": {"timeout": 1.5, "max_attempts": 2, "bytes_per_second": 10, "memory_mb": 64},
        }
    )
    spec = task.spec
    assert spec.where == "id > 1"
    assert (spec.write_mode, spec.publish) == (WriteMode.UPSERT, Publish.SPLIT)
    assert (spec.key_columns, spec.create_table) == (("id", "customer"), False)
    assert [(c.source, c.sink) for c in spec.columns] == [
        ("id", "id"), ("name", "customer"), ("price", "cost")
    ]  # fmt: skip
    assert spec.columns[2].validators == ("> 0", "not like 9%")
    assert spec.columns[2].transformers[1] == FunctionCall(name="ex_pad", params=("r", "3", "0"))
    assert (spec.limits.timeout_seconds, spec.limits.bytes_per_second) == (1.5, 10)
    assert task.unknown_keys == ()


def test_keys_that_no_engine_knows_are_named_and_refused_when_strict() -> None:
    content = [
        {
            "source": SOURCE | {"colour": "red"},
            "sink": SINK,
            "params": {
                "sources": [{"config_key": "datax.hive.r.trans_proto", "config_value": "x"}]
            },
            "settings": [
                {"config_key": "a.b.magic", "config_value": "1"},
                {"config_key": "a.b.empty", "config_value": ""},
            ],
            "wher": "id > 1",
            "limits": {"speeed": 1},
        }
    ]
    (task,) = read(content)
    assert set(task.unknown_keys) == {
        "source.colour", "datax.hive.r.trans_proto", "a.b.magic", "wher", "limits.speeed"
    }  # fmt: skip
    assert "wher" in refused(content, strict=True).message


@pytest.mark.parametrize(
    ("change", "field", "part"),
    [
        ({"source": None}, "content[0].source", "is missing"),
        ({"source": {"type": "X", "id": 1}}, "content[0].source.type", "no such data source type"),
        ({"source": SOURCE | {"id": 99}}, "content[0].source.id", "no such data source"),
        ({"source": SOURCE | {"id": "x"}}, "content[0].source.id", "number"),
        ({"source": SOURCE | {"id": 10**30}}, "content[0].source.id", "number"),
        ({"source": SOURCE | {"type": "MYSQL"}}, "content[0].source.type", "is of type SQLITE"),
        ({"source": "MYSQL.10.a.b"}, "content[0].source.id", "expired"),
        ({"source": "MYSQL.29"}, "content[0].source", "TYPE.id.database.table"),
        ({"source": 7}, "content[0].source", "must be an object"),
        ({"sink": SINK | {"table": ""}}, "content[0].sink.table", "is missing"),
        ({"sink": SINK | {"table": ["a"]}}, "content[0].sink.table", "must be text"),
        ({"sink": SINK | {"table": "a\x00b"}}, "content[0].sink.table", "NUL"),
        ({"sink": SINK | {"table": "\ud800"}}, "content[0].sink.table", "surrogate"),
        ({"sink": SINK | {"uri": "x"}}, "content[0].sink.uri", "leave uri out"),
        ({"sink": {"type": "CSV", "id": 7}}, "content[0].sink.uri", "is missing"),
        ({"sink": {"type": "PLAIN", "id": 9, "db": "d", "table": "t"}}, "content[0].sink.db",
         "no databases"),
        ({"sink": {"type": "CSV", "id": 7, "uri": "a"}, "mode": "upsert"}, "content[0].mode",
         "cannot be written that way"),
        ({"sink": {"type": "CSV", "id": 7, "uri": "a"}, "publish": "split"}, "content[0].publish",
         "cannot publish that way"),
        ({"mode": "sometimes"}, "content[0].mode", "must be one of"),
        ({"limits": {"parallelism": 0}}, "content[0].limits.parallelism", "at least 1"),
        ({"limits": {"parallelism": "many"}}, "content[0].limits.parallelism", "whole number"),
        ({"limits": []}, "content[0].limits", "must be an object"),
        ({"settings": [{"k": "speed.bytes", "v": "-1"}]}, "content[0].settings[speed.bytes]",
         "at least 1"),
        ({"settings": [{"v": "1"}]}, "content[0].settings[0].config_key", "must name"),
        ({"settings": "x"}, "content[0].settings", "must be a list"),
        ({"params": [1]}, "content[0].params", "must be an object"),
        ({"transforms": {"type": "PROCESSOR", "code_id": 1}}, "content[0].transforms.type",
         "only MAPPING"),
        ({"transforms": {"mapping": [{"sink_field_name": "a"}]}},
         "content[0].transforms.mapping[0].source_field_name", "column's name"),
        ({"columns": ["a", {"b": "a"}]}, "content[0].columns[1]", "filled twice"),
        ({"columns": ["a"], "transforms": {"mapping": [
            {"source_field_name": "a", "sink_field_name": "a"}]}},
         "content[0].columns", "keep one"),
        ({"columns": [{"from": "a", "too": "b"}]}, "content[0].columns[0].too", "unknown"),
        ({"columns": [{"from": "a", "validators": [">"]}]}, "content[0].columns[0].validators",
         "needs a value"),
        ({"where": "a", "params": {"sources": [{"k": "where_condition", "v": "b"}]}},
         "content[0].params.sources[where_condition]", "contradicts content[0].where"),
        ({"subJobName": "a\nb"}, "content[0].subJobName", "printable"),
        ({"where": "day = ${day}"}, "content[0].where", "no such variable"),
        ({"source": SOURCE | {"connection": {"password": "hunter22"}}},
         "content[0].source.connection", "not taken"),
    ],
)  # fmt: skip
def test_mistakes_are_refused_with_their_place(
    change: dict[str, Any], field: str, part: str
) -> None:
    error = refused([{"subJobName": "t", "source": SOURCE, "sink": SINK} | change])
    assert [(e.field, part in e.reason) for e in error.errors] == [(field, True)]
    assert field in error.message
    assert "hunter22" not in str(error)


@pytest.mark.parametrize(
    ("content", "part"),
    [
        (None, "holds no sub job"),
        ("", "holds no sub job"),
        ([], "holds no sub job"),
        ({}, "holds no sub job"),
        ({"subJobs": None}, "holds no sub job"),
        ("{", "not valid JSON"),
        (7, "must be a list"),
        ([7], "content[0]: must be an object"),
        ("[" * 100_000, "nested deeper"),
        ('{"a":' * 100_000, "nested deeper"),
    ],
)
def test_what_is_no_content_is_refused(content: Any, part: str) -> None:
    assert part in refused(content).message


def test_mistakes_of_all_sub_jobs_are_told_together() -> None:
    bad = {"source": SOURCE, "sink": SINK, "mode": "x"}
    error = refused([{**bad, "name": "a"}, {**bad, "name": "b", "mode": "y"}])
    assert [e.field for e in error.errors] == ["content[0].mode", "content[1].mode"]


def test_two_sub_jobs_of_one_name_are_refused() -> None:
    sub = {"subJobName": "t", "source": SOURCE, "sink": SINK}
    assert "content[1].subJobName" in refused([sub, sub]).message


def test_variables_are_filled_in_everywhere() -> None:
    content = [
        {"source": SOURCE | {"table": "orders_${day}"}, "sink": SINK, "where": "d = ${ day }"}
    ]
    (task,) = read(content, variables={"day": "20260103"})
    assert task.spec.source.table == "orders_20260103"
    assert task.spec.where == "d = 20260103"


def test_a_connection_in_the_content_is_for_runs_without_a_server() -> None:
    source = {"type": "SQLITE", "table": "t", "connection": {"path": "a.db", "port": 1}}
    sink = {"type": "MYSQL", "table": "t", "connection": {"password": "hunter22"}}
    (task,) = parse_content(
        {"source": source, "sink": sink}, catalog=Catalog(takes_connections=True)
    )
    assert task.source_connection is not None
    assert task.source_connection["path"].get_secret_value() == "a.db"
    assert "hunter22" not in repr(task)
