"""Executions on a server: submitting, watching, listing, ending."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from exchangis.cli.client import Client, quoted
from exchangis.cli.local_job import read_content, read_variables
from exchangis.cli.progress import Face, Snapshot, TaskProgress, make_face, print_summary
from exchangis.cli.terminal import count, print_json, print_table, program_name, say
from exchangis.domain.errors import InvalidRequest
from exchangis.domain.states import State

_PACE = 0.3
"""Seconds between two looks at a server."""
_LONGEST_PACE = 2.0


def submit_job(
    client: Client, job: str, *, name: str | None, permit_partial_failures: bool, strict: bool,
    variables: Sequence[str], as_json: bool, quiet: bool,
) -> str:  # fmt: skip
    """Execute the stored job of that id, or the content of that file; the execution's id.

    A file wins over an id of the same name.
    """
    body: dict[str, Any] = {"permitPartialFailures": permit_partial_failures}
    if strict:
        body["strict"] = True
    if variables:
        body["jobParams"] = read_variables(variables)
    if job.isdecimal() and not Path(job).exists():
        data = client.post(f"/job/{job}/execute", body)
    else:
        if job != "-" and not Path(job).exists():
            raise InvalidRequest(f"{job} is neither a file nor the number of a stored job.")
        content = read_content(job)
        body |= {"jobName": name or (Path(job).stem if job != "-" else "stdin")}
        data = client.post("/job/execute", body | {"content": content})
    execution = str(data["jobExecutionId"])
    if quiet:
        print_json({"event": "submitted", "jobExecutionId": execution}, indent=None)
    elif as_json:
        print_json({"jobExecutionId": execution})
    else:
        say(execution)
    return execution


class RemoteJob:
    """An execution as its server tells it, read by the documented calls alone."""

    def __init__(self, client: Client, execution: str) -> None:
        self._client = client
        self.execution = execution
        self._path = f"/job/execution/{quoted(execution)}"
        self._ended: dict[str, TaskProgress] = {}
        """Tasks whose last counters are known: they are not asked for again."""

    def snapshot(self) -> Snapshot:
        """The execution now."""
        job = self._client.get(f"{self._path}/progress")["job"]
        groups = job["tasks"].values()
        shown = [self._task(entry) for group in groups for entry in group]
        shown.sort(key=lambda task: int(task.key))
        return Snapshot(State(job["status"]), float(job["progress"]), tuple(shown))

    def _task(self, entry: dict[str, Any]) -> TaskProgress:
        key = str(entry["taskId"])
        if key in self._ended:
            return self._ended[key]
        state = State(entry["status"])
        indicator: dict[str, Any] = {}
        flow = 0.0
        if state not in (State.INITED, State.SCHEDULED):
            metrics = self._client.post(
                f"/task/execution/{key}/metrics", {"jobExecutionId": self.execution}
            )["task"]["metrics"]
            indicator = metrics.get("indicator", {})
            flow = metrics.get("traffic", {}).get("flow") or 0.0
        task = TaskProgress(
            key, entry["name"], state, float(entry["progress"]),
            indicator.get("exchangedRecords") or 0, indicator.get("errorRecords") or 0,
            indicator.get("ignoredRecords") or 0, float(flow),
        )  # fmt: skip
        if state.is_final:
            self._ended[key] = task
        return task

    def is_over(self, snapshot: Snapshot) -> bool:
        """Whether nothing of it can change any more."""
        return snapshot.state.is_final and all(task.state.is_final for task in snapshot.tasks)

    def problem(self) -> str:
        """Why it ended badly: the last error of its log; empty when there is none."""
        lines = self._client.get(f"{self._path}/log", lastRows=200)["logs"]["error"]
        return str(lines).rstrip().rpartition("\n")[2]


def follow(job: RemoteJob, face: Face) -> Snapshot:
    """Show the execution until all of it is over; the last snapshot."""
    pace = _PACE
    while True:
        began = time.monotonic()
        snapshot = job.snapshot()
        face.show(snapshot)
        if job.is_over(snapshot):
            return snapshot
        # Many tasks make a look expensive: the server shall not live for being watched.
        pace = min(max(_PACE, 3 * (time.monotonic() - began)), _LONGEST_PACE)
        time.sleep(pace)


def watch(client: Client, execution: str, *, as_json: bool) -> int:
    """Show an execution until it is over; the exit code. Ctrl-C leaves it running."""
    job = RemoteJob(client, execution)
    face = make_face(as_json=as_json)
    try:
        last = follow(job, face)
    except KeyboardInterrupt:
        face.close()
        if not as_json:
            say(f"Left to run on: {program_name()} job status {execution}")
        raise
    finally:
        face.close()
    if as_json:
        print_json({"event": "result", "jobExecutionId": execution, **last.as_dict()}, indent=None)
    else:
        print_summary(last)
        if last.state is not State.SUCCESS and (why := job.problem()):
            say(why)
        say(f"{last.state.value}: {execution}")
    return 0 if last.state is State.SUCCESS else 1


def show_status(client: Client, execution: str, *, as_json: bool) -> None:
    """Print state, progress and tasks."""
    snapshot = RemoteJob(client, execution).snapshot()
    if as_json:
        print_json({"jobExecutionId": execution, **snapshot.as_dict()})
        return
    say(f"{execution}: {snapshot.state.value}, {snapshot.fraction:.0%}")
    if snapshot.tasks:
        print_table(
            ("Id", "Task", "State", "Progress", "Rows", "Rows/s", "Dirty", "Ignored"),
            [
                (task.key, task.name, task.state.value, f"{task.fraction:.0%}", count(task.rows),
                 count(task.rate), count(task.errors), count(task.ignored))
                for task in snapshot.tasks
            ],
        )  # fmt: skip


def kill_execution(client: Client, execution: str, *, as_json: bool) -> None:
    """Ask for its end, and say what state it is in."""
    path = f"/job/execution/{quoted(execution)}"
    client.post(f"{path}/kill")
    status = client.get(f"{path}/status")["status"]
    if as_json:
        print_json({"jobExecutionId": execution, "status": status})
    elif State(status).is_final:
        say(f"{execution}: {status}")
    else:
        say(f"{execution}: {status}, to be Cancelled as soon as its work has ended")


def show_list(
    client: Client, *, status: str | None, name: str | None, limit: int, as_json: bool
) -> None:
    """Print the newest executions."""
    if status is not None and status not in set(State):
        raise InvalidRequest.field(
            "--status", status, "no such state", guidance=f"Known are {', '.join(State)}."
        )
    found: list[dict[str, Any]] = []
    while len(found) < limit:
        page = client.get(
            "/job/listJobs", status=status, jobName=name, current=len(found) // 100 + 1, size=100
        )["jobList"]
        found += page
        if len(page) < 100:
            break
    found = found[:limit]
    if as_json:
        print_json(found)
        return
    print_table(
        ("Id", "Job", "State", "Progress", "Created", "User"),
        [
            (job["jobExecutionId"], job.get("name") or job.get("jobName"), job["status"],
             f"{float(job.get('progress') or 0):.0%}", job.get("createTime"),
             job.get("executeUser"))
            for job in found
        ],
    )  # fmt: skip
