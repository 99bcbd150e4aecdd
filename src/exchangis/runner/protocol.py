"""What server and runner say to each other: one JSON object a line, over a socket pair.

Server to runner: an `Order` first, then any number of
    {"kind": "stop"}                        end the work: cancel statements, roll back, clean up
    {"kind": "lease", "seconds": 20.0}      the claim holds this long from now on

Runner to server:
    {"kind": "report", ...}                 `Report`: at the start, on news, and as a heartbeat
    {"kind": "outcome", ...}                `Outcome`: the last thing said

The order holds the connections' secrets: the socket is the only place they pass through.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from pydantic import SecretStr

from exchangis.domain.model import Connection, TaskSpec
from exchangis.domain.states import State
from exchangis.engine.base import TaskRequest

BEAT = 1.0
"""Seconds between two reports of a runner that has no news."""


def encode(message: dict[str, Any]) -> bytes:
    """One line."""
    return json.dumps(message, ensure_ascii=False, separators=(",", ":")).encode() + b"\n"


def _connection(data: dict[str, Any]) -> Connection:
    return Connection(
        type=data["type"],
        params=data["params"],
        secrets={name: SecretStr(value) for name, value in data["secrets"].items()},
    )


@dataclass(frozen=True)
class Order:
    """What a runner is to do.

    `run` carries out an attempt; `clean` ends the sessions that a dead attempt left behind and
    removes what it left half-written. `sessions` are those of earlier attempts, as (side, id).
    """

    mode: Literal["run", "clean"]
    request: TaskRequest
    last_attempt: bool
    lease_seconds: float
    sessions: tuple[tuple[str, str], ...] = ()

    def encode(self) -> bytes:
        request = self.request
        return encode(
            {
                "mode": self.mode,
                "task_key": request.task_key,
                "attempt": request.attempt,
                "spec": request.spec.model_dump(mode="json"),
                "source": request.source.reveal(),
                "sink": request.sink.reveal(),
                "workdir": str(request.workdir),
                "dirty_file": str(request.dirty_file),
                "roots": [str(root) for root in request.roots],
                "default_parallelism": request.default_parallelism,
                "unknown_keys": request.unknown_keys,
                "last_attempt": self.last_attempt,
                "lease_seconds": self.lease_seconds,
                "sessions": self.sessions,
            }
        )

    @classmethod
    def decode(cls, line: bytes) -> Order:
        data = json.loads(line)
        request = TaskRequest(
            task_key=data["task_key"],
            attempt=data["attempt"],
            spec=TaskSpec.model_validate(data["spec"]),
            source=_connection(data["source"]),
            sink=_connection(data["sink"]),
            workdir=Path(data["workdir"]),
            dirty_file=Path(data["dirty_file"]),
            roots=tuple(Path(root) for root in data["roots"]),
            default_parallelism=data["default_parallelism"],
            unknown_keys=tuple(data["unknown_keys"]),
        )
        return cls(
            mode=data["mode"],
            request=request,
            last_attempt=data["last_attempt"],
            lease_seconds=data["lease_seconds"],
            sessions=tuple((side, session) for side, session in data["sessions"]),
        )


@dataclass(frozen=True, slots=True)
class Report:
    """News since the last report; empty fields mean no news. `logs` are (ms, level, text).

    `counters` has the fields of `engine.base.Counters`; `flow` is records/s now.
    """

    progress: float | None = None
    planned: int | None = None
    counters: dict[str, int] | None = None
    flow: float = 0.0
    logs: tuple[tuple[int, str, str], ...] = ()
    sessions: tuple[tuple[str, str], ...] = ()
    external: tuple[str, str] | None = None

    def encode(self) -> bytes:
        return encode({"kind": "report", **asdict(self)})

    @classmethod
    def decode(cls, data: dict[str, Any]) -> Report:
        external = data["external"]
        return cls(
            progress=data["progress"],
            planned=data["planned"],
            counters=data["counters"],
            flow=data["flow"],
            logs=tuple((at, level, text) for at, level, text in data["logs"]),
            sessions=tuple((side, session) for side, session in data["sessions"]),
            external=tuple(external) if external else None,
        )


@dataclass(frozen=True, slots=True)
class Outcome:
    """How an attempt ended. `discarded`: its leftovers are removed (or it left none)."""

    state: State
    code: str | None = None
    error: str | None = None
    retryable: bool = False
    discarded: bool = False
    dirty_file: str | None = None
    result: dict[str, Any] = field(default_factory=dict)

    def encode(self) -> bytes:
        return encode({"kind": "outcome", **asdict(self)})

    @classmethod
    def decode(cls, data: dict[str, Any]) -> Outcome:
        values = {name: value for name, value in data.items() if name != "kind"}
        return cls(**{**values, "state": State(data["state"])})
