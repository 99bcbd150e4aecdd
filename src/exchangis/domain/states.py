"""States of jobs and tasks, the moves between them, and how tasks decide their job.

Names and finality are the contract's ("States"): from `Cancelled` on all are final.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum


class State(StrEnum):
    """State of a job execution or of a task; tasks never take `Partial_Success`."""

    INITED = "Inited"
    SCHEDULED = "Scheduled"
    RUNNING = "Running"
    WAIT_FOR_RETRY = "WaitForRetry"
    CANCELLED = "Cancelled"
    FAILED = "Failed"
    PARTIAL_SUCCESS = "Partial_Success"
    SUCCESS = "Success"
    UNDEFINED = "Undefined"
    TIMEOUT = "Timeout"

    @property
    def is_final(self) -> bool:
        return self in FINAL


FINAL = frozenset(
    {
        State.CANCELLED,
        State.FAILED,
        State.PARTIAL_SUCCESS,
        State.SUCCESS,
        State.UNDEFINED,
        State.TIMEOUT,
    }
)
UNFINISHED = frozenset(State) - FINAL
TASK_STATES = tuple(state for state in State if state is not State.PARTIAL_SUCCESS)

_ENDS = FINAL - {State.PARTIAL_SUCCESS}

TASK_MOVES: dict[State, frozenset[State]] = {
    # A takeover may find a claimed or running task whose runner is gone: it goes to WaitForRetry.
    State.INITED: frozenset({State.SCHEDULED}) | _ENDS,
    State.SCHEDULED: frozenset({State.RUNNING, State.WAIT_FOR_RETRY}) | _ENDS,
    State.RUNNING: frozenset({State.WAIT_FOR_RETRY}) | _ENDS,
    State.WAIT_FOR_RETRY: frozenset({State.SCHEDULED}) | _ENDS,
}
JOB_MOVES: dict[State, frozenset[State]] = {
    State.INITED: frozenset({State.SCHEDULED}) | FINAL,
    State.SCHEDULED: frozenset({State.RUNNING, State.WAIT_FOR_RETRY}) | FINAL,
    State.RUNNING: frozenset({State.WAIT_FOR_RETRY}) | FINAL,
    State.WAIT_FOR_RETRY: frozenset({State.RUNNING}) | FINAL,
}


def task_sources_of(target: State) -> tuple[State, ...]:
    """The states a task may leave for `target`; what the store puts into its WHERE clause."""
    return tuple(state for state, targets in TASK_MOVES.items() if target in targets)


def job_sources_of(target: State) -> tuple[State, ...]:
    """The states a job may leave for `target`."""
    return tuple(state for state, targets in JOB_MOVES.items() if target in targets)


# Which unhappy end names a job whose tasks ended in several ways: the one that needs a human most.
_WORST_FIRST = (State.UNDEFINED, State.FAILED, State.TIMEOUT, State.CANCELLED)


def decide_job(
    tasks: Mapping[State, int], *, permit_partial_failures: bool, killed: bool
) -> State | None:
    """The final state that a job's tasks decide, or None while it is open (contract, "States").

    `tasks` counts the job's tasks by state. An operator's kill is `Cancelled` in either case, said
    when the work has ended. Without `permit_partial_failures` one unhappy task decides at once;
    with it the job waits for all of its tasks.
    """
    present = {state for state, count in tasks.items() if count}
    open_states = present - FINAL
    if killed:
        return None if open_states else State.CANCELLED
    unhappy = present & (FINAL - {State.SUCCESS})
    worst = next((state for state in _WORST_FIRST if state in unhappy), None)
    if worst is not None and not permit_partial_failures:
        return worst
    if open_states:
        return None
    if worst is None:
        return State.SUCCESS
    return State.PARTIAL_SUCCESS if State.SUCCESS in present else worst


def open_job_state(tasks: Mapping[State, int], current: State) -> State:
    """The unfinished state a job shows: `WaitForRetry` only while nothing else is under way."""
    present = {state for state, count in tasks.items() if count}
    if State.RUNNING in present:
        return State.RUNNING
    if current in (State.INITED, State.SCHEDULED):
        return current
    queued = present & {State.INITED, State.SCHEDULED}
    if State.WAIT_FOR_RETRY in present and not queued:
        return State.WAIT_FOR_RETRY
    return State.RUNNING
