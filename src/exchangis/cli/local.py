"""Carrying out a job in this process: tasks in threads, cancelled by Ctrl-C, shown by a face."""

from __future__ import annotations

import shutil
import signal
import tempfile
import threading
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

from exchangis.cli.local_job import LocalJob
from exchangis.cli.local_task import TaskRun
from exchangis.cli.progress import Face, Snapshot, make_face, print_summary
from exchangis.cli.terminal import count, print_json, print_table, say
from exchangis.connectors.base import Level
from exchangis.domain.ids import new_execution_id
from exchangis.domain.states import State, decide_job
from exchangis.engine.base import Explanation, TaskRequest, engine_class

_PACE = 0.1
"""Seconds between two looks at the tasks."""
INTERRUPTED = 130


class _Lines:
    """Log lines on their way from the tasks' threads to the one that prints."""

    def __init__(self, job: LocalJob, *, verbose: bool) -> None:
        self._mask = job.mask
        self._verbose = verbose
        self._lock = threading.Lock()
        self._waiting: list[tuple[Level, str]] = []

    def add(self, level: Level, text: str) -> None:
        if self._verbose or level in ("WARN", "ERROR"):
            with self._lock:
                self._waiting.append((level, self._mask(text)))

    def print_to(self, face: Face) -> None:
        with self._lock:
            waiting, self._waiting = self._waiting, []
        for level, text in waiting:
            face.tell(level, text)


class _Interrupt:
    """The first SIGINT or SIGTERM asks for the end; the next one ends the process at once."""

    def __init__(self) -> None:
        self.asked = threading.Event()
        self.signal = 0

    def _heed(self, number: int, _frame: FrameType | None) -> None:
        self.signal = number
        self.asked.set()
        for one in (signal.SIGINT, signal.SIGTERM):
            signal.signal(one, signal.SIG_DFL)

    @contextmanager
    def listening(self) -> Iterator[None]:
        before = {one: signal.signal(one, self._heed) for one in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for one, handler in before.items():
                signal.signal(one, handler)


def _snapshot(runs: list[TaskRun], *, permit: bool, interrupted: bool) -> Snapshot:
    tasks = tuple(run.snapshot() for run in runs)
    states = Counter(task.state for task in tasks)
    # A job is over when all of its tasks are, also where one failure has decided it before.
    over = all(state.is_final for state in states)
    decided = decide_job(states, permit_partial_failures=permit, killed=interrupted)
    state = decided if over and decided is not None else State.RUNNING
    fraction = 1.0 if state is State.SUCCESS else sum(t.fraction for t in tasks) / len(tasks)
    return Snapshot(state, fraction, tasks)


def run_job(
    job: LocalJob, *, parallel: int, permit_partial_failures: bool, dirty_folder: Path | None,
    verbose: bool, as_json: bool,
) -> int:  # fmt: skip
    """Carry the job out and show it; the exit code (0: every task succeeded)."""
    run_id = f"local-{new_execution_id()}"
    dirty = dirty_folder or job.settings.home / "dirty" / run_id
    workdir = Path(tempfile.mkdtemp(prefix="exchangis-run-"))
    lines = _Lines(job, verbose=verbose)
    runs = [
        TaskRun(number, task, job.settings, run_id=run_id, workdir=workdir, dirty_folder=dirty,
                tell=lines.add)
        for number, task in enumerate(job.tasks, 1)
    ]  # fmt: skip
    face = make_face(as_json=as_json)
    interrupt = _Interrupt()
    try:
        with interrupt.listening():
            last = _watch(runs, parallel, permit_partial_failures, face, lines, interrupt)
    finally:
        face.close()
        shutil.rmtree(workdir, ignore_errors=True)
    if as_json:
        print_json({"event": "result", **_result(job, runs, last)}, indent=None)
    else:
        _print_end(runs, last)
    if interrupt.asked.is_set():
        return 128 + interrupt.signal
    return 0 if last.state is State.SUCCESS else 1


def _watch(
    runs: list[TaskRun], parallel: int, permit: bool, face: Face, lines: _Lines,
    interrupt: _Interrupt,
) -> Snapshot:  # fmt: skip
    """Run the tasks to their ends, showing them meanwhile; the last snapshot."""

    def carry_out(run: TaskRun) -> bool:
        """Whether the job may go on; if not, no other task begins or goes on."""
        run.run()
        good = permit or run.state is State.SUCCESS
        if not good:
            for other in runs:
                other.cancel()
        return good

    stopped = False
    with ThreadPoolExecutor(parallel, thread_name_prefix="task") as pool:
        pending = {pool.submit(carry_out, run) for run in runs}
        try:
            while pending:
                done, pending = wait(pending, _PACE)
                go_on = [future.result() for future in done]
                if not stopped and pending and not all(go_on):
                    stopped = True
                    face.tell(
                        "WARN",
                        "A task failed, so the others are stopped "
                        "(--permit-partial-failures lets them go on).",
                    )
                if not stopped and interrupt.asked.is_set():
                    stopped = True
                    face.tell("WARN", "Interrupted: cancelling; once more ends it at once.")
                    for run in runs:
                        run.cancel()
                lines.print_to(face)
                if pending:
                    face.show(_snapshot(runs, permit=permit, interrupted=interrupt.asked.is_set()))
        except BaseException:
            for run in runs:
                run.cancel()
            raise
    last = _snapshot(runs, permit=permit, interrupted=interrupt.asked.is_set())
    face.show(last)
    lines.print_to(face)
    return last


def _result(job: LocalJob, runs: list[TaskRun], last: Snapshot) -> dict[str, object]:
    shown = last.as_dict()
    shown["tasks"] = [
        task.as_dict()
        | {"seconds": round(run.seconds, 3), "code": run.code or None,
           "message": job.mask(run.message) or None,
           "dirtyFile": str(run.dirty_file) if run.dirty_file.exists() else None}
        for run, task in zip(runs, last.tasks, strict=True)
    ]  # fmt: skip
    return shown


def _print_end(runs: list[TaskRun], last: Snapshot) -> None:
    print_summary(last)
    for run in runs:
        if run.dirty_file.exists():
            say(f"Refused rows of {run.task.spec.name}: {run.dirty_file}")
    done = sum(task.state is State.SUCCESS for task in last.tasks)
    rows = sum(task.rows for task in last.tasks if task.state is State.SUCCESS)
    say(f"{last.state.value}: {done} of {len(runs)} tasks succeeded, {count(rows)} rows.")


# --- dry run --------------------------------------------------------------------------------


def dry_run_job(job: LocalJob, *, as_json: bool) -> int:
    """Show what the tasks would do; InvalidRequest or TaskError when one could not be done."""
    workdir = Path(tempfile.mkdtemp(prefix="exchangis-run-"))
    lines = _Lines(job, verbose=False)
    shown: list[dict[str, object]] = []
    try:
        for number, task in enumerate(job.tasks, 1):
            folder = workdir / str(number)
            folder.mkdir()
            events = TaskRun(
                number, task, job.settings, run_id="dry-run", workdir=workdir,
                dirty_folder=folder, tell=lines.add,
            )  # fmt: skip
            engine = engine_class(task.spec.engine)()
            engine.check(task.spec)
            request = TaskRequest(
                task_key=f"dry-run/{number}", attempt=1, spec=task.spec, source=task.source,
                sink=task.sink, workdir=folder, dirty_file=folder / "dirty.jsonl",
                roots=job.settings.file_roots,
                default_parallelism=job.settings.task_parallelism,
            )  # fmt: skip
            plan = engine.explain(request, events)
            if as_json:
                shown.append(_plan_dict(request, plan, task.unknown_keys))
            else:
                _print_plan(request, plan, task.unknown_keys)
    finally:
        shutil.rmtree(workdir, ignore_errors=True)
    if as_json:
        print_json({"tasks": shown})
    return 0


def _plan_dict(
    request: TaskRequest, plan: Explanation, unknown: tuple[str, ...]
) -> dict[str, object]:
    spec = request.spec
    return {
        "name": spec.name,
        "engine": spec.engine,
        "source": spec.source.label,
        "sink": spec.sink.label,
        "mode": spec.write_mode.value,
        "rows": plan.rows,
        "createsTable": plan.creates_table,
        "splits": list(plan.splits),
        "columns": [
            {"source": c.source, "sourceType": c.source_type, "sink": c.sink,
             "sinkType": c.sink_type, "note": c.note}
            for c in plan.columns
        ],
        "notes": list(plan.notes),
        "unknownKeys": list(unknown),
    }  # fmt: skip


def _print_plan(request: TaskRequest, plan: Explanation, unknown: tuple[str, ...]) -> None:
    spec = request.spec
    say(f"Task {spec.name} ({spec.engine}, {spec.write_mode.value})")
    say(f"  from  {spec.source.label}" + (f" where {spec.where}" if spec.where else ""))
    say(f"  to    {spec.sink.label}" + (" (to be created)" if plan.creates_table else ""))
    say(f"  rows  {'unknown' if plan.rows is None else f'about {count(plan.rows)}'}")
    splits = [*plan.splits[:10], *(["..."] if plan.splits[10:] else [])]
    say(f"  {len(plan.splits)} split(s): {', '.join(splits)}")
    print_table(
        ("Source", "Type", "Sink", "Sink type", "Note"),
        [(c.source, c.source_type, c.sink, c.sink_type, c.note) for c in plan.columns],
    )
    for note in plan.notes:
        say(f"  note: {note}")
    if unknown:
        say(f"  keys that mean nothing: {', '.join(unknown)}")
    say()
