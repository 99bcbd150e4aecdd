"""`exchangis server`: how it starts, what it says, and that it ends in order."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import threading
from pathlib import Path

import httpx2
import psutil
import pytest

from exchangis.cli.main import main
from exchangis.config import Settings
from exchangis.domain.errors import ExchangisError, InvalidRequest
from exchangis.server import Server
from exchangis.store.opening import open_store
from tests.cli_kit import COMMAND, environment, exchangis, inside
from tests.services import Service
from tests.waiting import wait_until


def start(home: Path, *options: str, env: dict[str, str] | None = None) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [*COMMAND, "server", "--port", "0", "--home", str(home), *options], text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment(env),
        start_new_session=True,
    )  # fmt: skip


def _python_children() -> set[int]:
    """Our runners and their parent are Python; the database servers of other tests are not."""
    found = psutil.Process().children(recursive=True)
    return {child.pid for child in found if "python" in child.name()}


def _descriptors() -> int:
    return sum(1 for _ in Path("/proc/self/fd").iterdir())


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_the_server_says_where_it_is_and_ends_in_order(
    tmp_path: Path, number: signal.Signals
) -> None:
    process = start(tmp_path / "home", "--log-format", "json")
    try:
        assert process.stdout is not None
        first = process.stdout.readline()
        file = tmp_path / "home" / "server.json"
        told = json.loads(file.read_text())
        assert told == {"url": first.split()[-1], "pid": process.pid}
        assert file.stat().st_mode & 0o777 == 0o600
        assert httpx2.get(told["url"] + "/ready", trust_env=False).status_code == 200
        children = psutil.Process(process.pid).children(recursive=True)
        process.send_signal(number)
        assert process.stderr is not None
        out, err = process.stdout.read(), process.stderr.read()
        assert process.wait(30) == 0, err
    finally:
        process.kill()
        process.communicate()
    assert str(tmp_path / "home") in out
    assert "exchangis.db" in out
    assert not file.exists()
    wait_until(lambda: not any(child.is_running() for child in children))
    events = [json.loads(line) for line in err.splitlines()]
    assert {"time", "level", "logger", "message"} == set(events[0])
    assert "listens on" in events[0]["message"]


def test_a_server_in_this_process_leaves_nothing_behind(tmp_path: Path) -> None:
    threads, children = set(threading.enumerate()), _python_children()
    descriptors = []
    for _ in range(3):  # also on a home that has been used
        server = Server(Settings(home=tmp_path / "home", port=0))
        server.start()
        assert httpx2.get(server.url + "/ready", trust_env=False).status_code == 200
        assert (tmp_path / "home" / "server.json").exists()
        server.stop()
        server.stop()
        assert not (tmp_path / "home" / "server.json").exists()
        descriptors.append(_descriptors())
    assert set(threading.enumerate()) <= threads
    assert descriptors[0] == descriptors[1] == descriptors[2]
    assert _python_children() == children


@pytest.mark.parametrize("host", ["0.0.0.0", "::"])
def test_without_a_token_it_does_not_listen_beyond_loopback(tmp_path: Path, host: str) -> None:
    ended = exchangis("server", "--host", host, "--port", 0, "--home", tmp_path / "home")
    assert (ended.code, ended.out) == (1, "")
    assert "EXCHANGIS_TOKEN" in ended.err
    assert not (tmp_path / "home").exists()


def test_with_a_token_it_does_and_the_home_leads_the_client_to_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    home = tmp_path / "home"
    home.mkdir()
    token = "t0ken-that-nobody-guesses"
    (home / "exchangis.yaml").write_text(f"token: {token}\n")
    server = Server(Settings(home=home, host="0.0.0.0", port=0))
    server.start()
    try:
        url = server.url.replace("0.0.0.0", "127.0.0.1")
        assert httpx2.get(f"{url}/api/rest_j/v1/exchangis/job", trust_env=False).status_code == 401
        assert inside(capsys, "job", "list", "--home", home).code == 0
        # To another server it is not sent, unless it is given with it.
        elsewhere = inside(capsys, "job", "list", "--home", home, "--url", url)
        assert elsewhere.code == 1
        assert "EXCHANGIS_TOKEN" in elsewhere.err
        monkeypatch.setenv("EXCHANGIS_TOKEN", token)
        given = inside(capsys, "job", "list", "--url", url)
        assert given.code == 0
        assert token not in given.out + given.err + elsewhere.err
    finally:
        server.stop()


def test_a_port_that_is_taken_is_one_line(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        ended = exchangis("server", "--port", port, "--home", tmp_path / "home")
    assert ended.code == 1
    assert ended.err.count("\n") == 1
    assert f"Cannot listen on 127.0.0.1 port {port}" in ended.err


@pytest.mark.parametrize("command", [("server", "--port", "0"), ("db", "upgrade")])
def test_a_store_that_cannot_be_opened_is_one_line_without_its_password(
    command: tuple[str, ...], postgres: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    secret = "wr0ng-Pa55word"
    monkeypatch.setenv(
        "EXCHANGIS_STORE_URL",
        f"postgresql://{postgres.user}:{secret}@127.0.0.1:{postgres.port}/test",
    )
    ended = exchangis(*command)
    assert (ended.code, ended.out) == (1, "")
    assert ended.err.count("\n") == 1
    assert "cannot be opened" in ended.err
    assert secret not in ended.err


def test_a_start_that_fails_leaves_nothing_behind(tmp_path: Path) -> None:
    threads = set(threading.enumerate())
    (tmp_path / "home").write_text("a file where the home should be")
    with pytest.raises(ExchangisError):
        Server(Settings(home=tmp_path / "home", port=0)).start()
    with pytest.raises(InvalidRequest):
        Server(Settings(home=tmp_path / "other", port=0, host="0.0.0.0")).start()
    assert set(threading.enumerate()) <= threads


def test_the_file_of_a_server_that_has_died_leads_nowhere(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    process = start(tmp_path / "home")
    try:
        assert process.stdout is not None
        url = process.stdout.readline().split()[-1]
        assert inside(capsys, "job", "list", "--home", tmp_path / "home").code == 0
    finally:
        process.kill()
        process.communicate()
    monkeypatch.setattr("exchangis.cli.client.DEFAULT_URL", "http://127.0.0.1:1")
    ended = inside(capsys, "job", "list", "--home", tmp_path / "home")
    assert ended.code == 1
    assert "No server answers at http://127.0.0.1:1" in ended.err
    assert url not in ended.err


def test_db_upgrade_makes_the_store(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    home = tmp_path / "home"
    for _ in range(2):
        assert inside(capsys, "db", "upgrade", "--home", home).code == 0
    store = open_store(Settings(home=home))
    store.close()
    assert home.stat().st_mode & 0o777 == 0o700


def test_a_url_that_is_none_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["job", "list", "--url", "localhost:9321"]) == 1
    assert "is no URL of a server" in capsys.readouterr().err
