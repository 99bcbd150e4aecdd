"""Logs: calls 6 and 7 (contract, "Logs"), on both bases, also while they grow."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from exchangis.domain.clock import now_ms
from exchangis.domain.loglines import LogLevel, LogLine
from exchangis.domain.states import State
from exchangis.store import log_lines
from exchangis.store.queue import Claim
from exchangis.store.report_rows import Report
from tests.contract.conftest import DOCUMENTED, Api, Stage

LEVELS: list[LogLevel] = ["INFO", "WARN", "ERROR", "INFO", "DEBUG"]


def write(stage: Stage, claim: Claim, lines: list[LogLine]) -> None:
    report = Report(claim.task_id, claim.attempt, claim.execution_id, lines=tuple(lines))
    assert not stage.queue.record([report], now=now_ms())


def running_task(api: Api, stage: Stage) -> Claim:
    answer = api.post("/job/execute", {"content": stage.content(1)})
    execution = answer["data"]["jobExecutionId"]
    stage.generate(execution)
    return stage.run(execution)[0]


def path_of(claim: Claim, **query: Any) -> str:
    extra = "".join(f"&{name}={value}" for name, value in query.items())
    return f"/task/execution/{claim.task_id}/log?jobExecutionId={claim.execution_id}{extra}"


@pytest.fixture
def task(api: Api, stage: Stage) -> Claim:
    """A running task whose log has ten lines, of all levels."""
    claim = running_task(api, stage)
    write(stage, claim, [LogLine(LEVELS[n % 5], f"[main] line {n} of 表") for n in range(10)])
    return claim


def test_a_page_is_as_printed(api: Api, task: Claim) -> None:
    answer = api.get(path_of(task))
    assert answer["method"] == f"{DOCUMENTED}/job/execution/{{taskId}}/log"
    data = answer["data"]
    assert list(data) == ["endLine", "isEnd", "logs"]
    assert list(data["logs"]) == ["all", "error", "warn", "info"]
    assert data["endLine"] == (10 if api.base.is_field else 9)
    assert data["isEnd"] is False
    lines = data["logs"]["all"].split("\n")
    assert lines == [f"[main] line {n} of 表" for n in range(10)]
    assert data["logs"]["error"].split("\n") == [lines[2], lines[7]]
    assert data["logs"]["warn"].split("\n") == [lines[1], lines[6]]
    assert data["logs"]["info"].split("\n") == [lines[n] for n in (0, 3, 5, 8)]


def test_the_job_log_tells_the_story(api: Api, execution: str) -> None:
    answer = api.get(f"/job/execution/{execution}/log")
    assert answer["method"] == f"{DOCUMENTED}/job/execution/{{jobExecutionId}}/log"
    assert execution in answer["data"]["logs"]["info"]


def test_an_empty_log_says_that_nothing_was_looked_at(api: Api, stage: Stage) -> None:
    claim = running_task(api, stage)
    empty = {"all": "", "error": "", "warn": "", "info": ""}
    first = 0 if api.base.is_field else -1
    assert api.data(path_of(claim)) == {"endLine": first, "isEnd": False, "logs": empty}
    assert api.data(path_of(claim, fromLine=500))["endLine"] == 499


def test_first_lines_of_both_bases_are_the_same(api: Api, task: Claim) -> None:
    texts = {
        n: api.data(path_of(task, fromLine=n, pageSize=1))["logs"]["all"].split(" of")[0]
        for n in (0, 1, 2)
    }
    ones = ["line 0", "line 0", "line 1"] if api.base.is_field else ["line 0", "line 1", "line 2"]
    assert list(texts.values()) == [f"[main] {one}" for one in ones]


def test_page_size_counts_lines_looked_at(api: Api, task: Claim) -> None:
    data = api.data(path_of(task, pageSize=5, onlyKeywords="line 4,line 9"))
    assert data["logs"]["all"] == "[main] line 4 of 表"
    assert data["endLine"] == (5 if api.base.is_field else 4)


def test_keywords_are_plain_substrings(api: Api, task: Claim) -> None:
    def kept(**query: str) -> list[int]:
        text = api.data(path_of(task, **query))["logs"]["all"]
        return [int(line.split()[2]) for line in text.split("\n") if line]

    assert kept(ignoreKeywords="[main],[SpringContextShutdownHook]") == []
    assert kept(onlyKeywords="line 1,line 3") == [1, 3]
    assert kept(onlyKeywords="line", ignoreKeywords="line 1,line 2") == [0, 3, 4, 5, 6, 7, 8, 9]
    assert kept(onlyKeywords="LINE") == []
    assert kept(onlyKeywords="表") == list(range(10))
    assert kept(onlyKeywords="", ignoreKeywords=",, ,") == list(range(10))
    assert kept(onlyKeywords=".*") == []


def test_brackets_may_come_unescaped(api: Api, task: Claim) -> None:
    query = "&ignoreKeywords=[line 3],[x]&onlyKeywords=&lastRows=&labels=&_=0.1"
    url = f"{api.base.prefix}{path_of(task)}{query}".replace(" ", "%20")
    # Straight to the socket: a client library would escape them.
    import http.client

    connection = http.client.HTTPConnection(api.client.base_url.netloc.decode())
    connection.request("GET", url)
    response = connection.getresponse()
    assert response.status == 200, response.read()
    connection.close()


def test_last_rows_make_everything_else_void(api: Api, task: Claim) -> None:
    data = api.data(path_of(task, lastRows=3, fromLine=-4, pageSize=0, onlyKeywords="nothing"))
    assert [line.split()[2] for line in data["logs"]["all"].split("\n")] == ["7", "8", "9"]
    assert len(api.data(path_of(task, lastRows=9999))["logs"]["all"].split("\n")) == 10
    assert len(api.data(path_of(task, lastRows=0))["logs"]["all"].split("\n")) == 10


def test_tail_gives_the_newest_lines_in_file_order(api: Api, task: Claim) -> None:
    data = api.data(path_of(task, enableTail="true", fromLine=1, pageSize=4))
    assert [line.split()[2] for line in data["logs"]["all"].split("\n")] == ["6", "7", "8", "9"]


@pytest.mark.parametrize(
    ("query", "field"),
    [
        ("pageSize=0", "pageSize"),
        ("pageSize=-1", "pageSize"),
        ("pageSize=10001", "pageSize"),
        ("pageSize=ten", "pageSize"),
        ("pageSize=1.5", "pageSize"),
        ("pageSize=99999999999999999999", "pageSize"),
        ("fromLine=-1", "fromLine"),
        ("fromLine=x", "fromLine"),
        ("fromLine=9223372036854775808", "fromLine"),
        ("lastRows=-1", "lastRows"),
        ("onlyKeywords=%00", "onlyKeywords"),
    ],
)
def test_wrong_numbers_are_refused_by_name(
    api: Api, task: Claim, execution: str, query: str, field: str
) -> None:
    for path in (f"/job/execution/{execution}/log?{query}", f"{path_of(task)}&{query}"):
        answer = api.get(path, expect=400)
        assert answer["data"]["errors"][0]["field"] == field


def test_a_far_line_is_no_error(api: Api, task: Claim) -> None:
    assert api.data(path_of(task, fromLine=2**62))["logs"]["all"] == ""
    assert len(api.data(path_of(task, pageSize=10000))["logs"]["all"].split("\n")) == 10


def test_a_task_log_needs_the_tasks_own_execution(api: Api, task: Claim, execution: str) -> None:
    api.get(f"/task/execution/{task.task_id}/log?jobExecutionId={execution}", expect=404)
    for query in ("", "?jobExecutionId=", "?jobExecutionId=%20"):
        answer = api.get(f"/task/execution/{task.task_id}/log{query}", expect=400)
        assert answer["data"]["errors"][0]["field"] == "jobExecutionId"


@settings(
    max_examples=25,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.differing_executors],
)
@given(
    appends=st.lists(st.integers(0, 700), max_size=6),
    sizes=st.lists(st.integers(1, 900), min_size=1, max_size=4),
)
def test_reading_on_gives_every_line_once_while_the_log_grows(
    api: Api, stage: Stage, appends: list[int], sizes: list[int]
) -> None:
    claim = running_task(api, stage)
    total, read, next_line, turn = 0, [], 0, 0
    pending = list(appends)
    ended = False
    while not ended:
        if pending:
            count = pending.pop(0)
            lines = [LogLine("INFO", f"n {total + n}") for n in range(count)]
            write(stage, claim, lines)
            total += count
        elif claim.execution_id in stage.claims:
            stage.finish(claim, State.SUCCESS)
            del stage.claims[claim.execution_id]
        query = {"fromLine": next_line, "pageSize": sizes[turn % len(sizes)]}
        data = api.data(path_of(claim, **query))
        turn += 1
        read += [line for line in data["logs"]["all"].split("\n") if line]
        # As deployed clients do: an endLine of 0 means "nothing yet".
        end = data["endLine"]
        next_line = (end + 1 if end else 0) if api.base.is_field else end + 1
        ended = data["isEnd"]
        assert not ended or claim.execution_id not in stage.claims
    assert read == [f"n {n}" for n in range(total)]


def test_a_long_log_is_paged_from_its_middle(api: Api, stage: Stage) -> None:
    claim = running_task(api, stage)
    database = stage.services.store.database
    name = log_lines.task_stream(claim.task_id)
    for start in range(0, 20_000, 4000):
        lines = [LogLine("INFO", f"n {n}") for n in range(start, start + 4000)]
        database.transact(lambda c, x=lines: log_lines.append(c, name, x))
    data = api.data(path_of(claim, fromLine=15_001, pageSize=10_000))
    first = 15_000 if api.base.is_field else 15_001
    lines_read = data["logs"]["all"].split("\n")
    assert (lines_read[0], lines_read[-1]) == (f"n {first}", "n 19999")
