"""Connector calls on a user's behalf end in time, at a bounded number, and tell no secret."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr

from exchangis.config import Settings
from exchangis.connectors.base import Connector, Context
from exchangis.domain.errors import ConnectionFailed, InvalidRequest, Overloaded, SourceError
from exchangis.domain.model import Connection
from exchangis.service import probing
from exchangis.service.probing import MAX_AT_ONCE, Prober

CONNECTION = Connection(type="SQLITE", secrets={"password": SecretStr("hunter22")})


@pytest.fixture
def prober(tmp_path: Path) -> Prober:
    return Prober(Settings(home=tmp_path, file_roots=(tmp_path,)), time_limit=5)


def test_the_call_gets_a_scratch_folder_and_the_roots(prober: Prober, tmp_path: Path) -> None:
    def work(kind: Connector, connection: Connection, context: Context) -> tuple[str, Path, Any]:
        assert connection.get("password") == "hunter22"
        assert context.workdir.is_dir()
        return kind.name, context.workdir, context.roots

    name, scratch, roots = prober.call(CONNECTION, work)
    assert (name, roots) == ("SQLITE", (tmp_path,))
    assert not scratch.exists()


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (ConnectionFailed("password hunter22 refused", guidance="not hunter22"), ConnectionFailed),
        (SourceError("hunter22?"), ConnectionFailed),
        (InvalidRequest.field("path", "x", "hunter22 is no path"), InvalidRequest),
    ],
)
def test_errors_are_told_without_secrets(
    prober: Prober, error: Exception, kind: type[Exception]
) -> None:
    def work(*_: Any) -> None:
        raise error

    with pytest.raises(kind) as caught:
        prober.call(CONNECTION, work)
    assert "hunter22" not in str(caught.value) and "******" in str(caught.value)


def test_an_error_of_ours_is_not_hidden(prober: Prober) -> None:
    def work(*_: Any) -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        prober.call(CONNECTION, work)


def test_a_data_source_that_does_not_answer_is_given_up_and_counts_as_busy(tmp_path: Path) -> None:
    prober = Prober(Settings(home=tmp_path), time_limit=0.02)
    leave = threading.Event()
    ended = [threading.Event() for _ in range(MAX_AT_ONCE)]

    def blocked(done: threading.Event) -> None:
        leave.wait(30)
        done.set()

    for done in ended:
        with pytest.raises(ConnectionFailed, match="did not answer within"):
            prober.call(CONNECTION, lambda *_, d=done: blocked(d))  # type: ignore[misc]
    with pytest.raises(Overloaded):
        prober.call(CONNECTION, lambda *_: None)
    leave.set()
    assert all(done.wait(10) for done in ended)
    for thread in threading.enumerate():
        if thread.name == "exchangis-probe":
            thread.join(10)
    patient = Prober(Settings(home=tmp_path), time_limit=5)
    patient._free = prober._free
    assert patient.call(CONNECTION, lambda *_: "free again") == "free again"
    assert probing.TIME_LIMIT > 0
