"""Real MariaDB and PostgreSQL servers for the tests: own data folders, free loopback ports.

Each is started once per test session on first use and stopped at its end. Where a server is not
installed the tests that need it are reported as not run; with CI=true that is a failure.
"""

from __future__ import annotations

import contextlib
import os
import pwd
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg

PASSWORD = "s3cr3t-Pa55 w0rd'\"\\%@:/"
"""Used for every service: hostile to quoting, and greppable in whatever we leave behind."""


class ServiceMissing(Exception):
    """A server program that the tests need is not installed; run `make services`."""


@dataclass(frozen=True)
class Service:
    """Where a server listens and who may log in."""

    kind: str
    host: str
    port: int
    user: str
    password: str
    database: str
    pid: int

    @property
    def params(self) -> dict[str, object]:
        """`connectParams` for a data source on this server."""
        return {
            "host": self.host,
            "port": self.port,
            "username": self.user,
            "password": self.password,
            "database": self.database,
        }


def free_port() -> int:
    """A loopback port that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _program(name: str, *folders: str) -> str:
    candidates = [shutil.which(name), *(str(Path(folder) / name) for folder in folders)]
    found = next((c for c in candidates if c and Path(c).exists()), None)
    if found is None:
        raise ServiceMissing(f"{name} is not installed; run `make services`")
    return found


def _service_user(name: str) -> str | None:
    """The account to run a server as: it refuses root, and needs no other when we are not root."""
    if os.geteuid() != 0:
        return None
    try:
        return pwd.getpwnam(name).pw_name
    except KeyError:
        raise ServiceMissing(f"there is no user {name}; run `make services`") from None


def _owned_folder(user: str | None, prefix: str) -> Path:
    folder = Path(tempfile.mkdtemp(prefix=prefix, dir="/tmp"))
    folder.chmod(0o755)
    if user:
        shutil.chown(folder, user, user)
    return folder


def _wait_until_open(port: int, server: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + 60
    while True:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
            return
        if server.poll() is not None or time.monotonic() > deadline:
            raise RuntimeError(f"server did not start:\n{log.read_text()[-3000:]}")
        time.sleep(0.05)  # the condition is the open port; this only paces the question


@contextlib.contextmanager
def _running(
    command: list[str], user: str | None, folder: Path, port: int
) -> Iterator[subprocess.Popen[bytes]]:
    log = folder / "server.log"
    with log.open("wb") as output:
        server = subprocess.Popen(
            command, stdout=output, stderr=output, user=user, group=user, cwd=folder,
            start_new_session=True,
        )  # fmt: skip
    try:
        _wait_until_open(port, server, log)
        yield server
    finally:
        server.terminate()
        try:
            server.wait(20)
        except subprocess.TimeoutExpired:
            server.kill()
            server.wait()
        shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def mariadb(*extra: str, port: int | None = None) -> Iterator[Service]:
    """A MariaDB server with a database `test` and an all-powerful user `exchangis`."""
    install = _program("mariadb-install-db")
    daemon = _program("mariadbd", "/usr/sbin")
    user = _service_user("mysql")
    folder = _owned_folder(user, "exchangis-mariadb-")
    data = folder / "data"
    subprocess.run(
        [install, "--no-defaults", f"--datadir={data}", "--auth-root-authentication-method=normal",
         "--skip-test-db"],
        check=True, capture_output=True, user=user, group=user, cwd=folder,
    )  # fmt: skip
    literal = PASSWORD.replace("\\", "\\\\").replace("'", "\\'")
    start = folder / "start.sql"
    start.write_text(
        "CREATE DATABASE IF NOT EXISTS test CHARACTER SET utf8mb4;\n"
        f"CREATE USER IF NOT EXISTS 'exchangis'@'%' IDENTIFIED BY '{literal}';\n"
        "GRANT ALL ON *.* TO 'exchangis'@'%' WITH GRANT OPTION;\n"
    )
    port = port or free_port()
    command = [
        daemon, "--no-defaults", f"--datadir={data}", f"--port={port}", "--bind-address=127.0.0.1",
        f"--socket={folder}/mariadb.sock", f"--pid-file={folder}/mariadb.pid",
        f"--init-file={start}",
        "--skip-name-resolve", "--character-set-server=utf8mb4", "--innodb-buffer-pool-size=256M",
        "--innodb-flush-log-at-trx-commit=2", "--max-allowed-packet=64M", *extra,
    ]  # fmt: skip
    with _running(command, user, folder, port) as server:
        yield Service("MYSQL", "127.0.0.1", port, "exchangis", PASSWORD, "test", server.pid)


def _connected(**arguments: Any) -> psycopg.Connection[Any]:
    """PostgreSQL opens its port a moment before it lets anybody in."""
    deadline = time.monotonic() + 60
    while True:
        try:
            return psycopg.connect(**arguments)
        except psycopg.OperationalError as error:
            if "starting up" not in str(error) or time.monotonic() > deadline:
                raise
        time.sleep(0.05)  # the condition is the connection; this only paces the question


@contextlib.contextmanager
def postgres(*extra: str, port: int | None = None) -> Iterator[Service]:
    """A PostgreSQL server with a database `test` owned by the superuser `exchangis`."""
    folders = [str(p) for p in sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)]
    initdb = _program("initdb", *folders)
    daemon = _program("postgres", *folders)
    user = _service_user("postgres")
    folder = _owned_folder(user, "exchangis-postgres-")
    data = folder / "data"
    secret = folder / "password"
    secret.write_text(PASSWORD)
    if user:
        shutil.chown(secret, user, user)
    subprocess.run(
        [initdb, "-D", str(data), "-U", "exchangis", "--auth=scram-sha-256", f"--pwfile={secret}",
         "-E", "UTF8", "--no-locale", "--no-sync"],
        check=True, capture_output=True, user=user, group=user, cwd=folder,
    )  # fmt: skip
    secret.unlink()
    port = port or free_port()
    command = [
        daemon, "-D", str(data), "-p", str(port), "-c", "listen_addresses=127.0.0.1",
        "-c", f"unix_socket_directories={folder}", "-c", "fsync=off",
        "-c", "max_connections=200", *extra,
    ]  # fmt: skip
    with _running(command, user, folder, port) as server:
        with _connected(
            host="127.0.0.1", port=port, user="exchangis", password=PASSWORD, dbname="postgres",
            autocommit=True,
        ) as connection:  # fmt: skip
            if not connection.execute("SELECT 1 FROM pg_database WHERE datname='test'").fetchone():
                connection.execute("CREATE DATABASE test")
        yield Service("POSTGRESQL", "127.0.0.1", port, "exchangis", PASSWORD, "test", server.pid)
