"""The demo's server: the real command, in a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from exchangis.domain.errors import ExchangisError
from exchangis.server_file import running_server

_START_SECONDS = 30.0
_STOP_SECONDS = 15.0


class DemoServerFailed(ExchangisError):
    """The demo's server did not start."""

    code = "demo_server_failed"


@contextmanager
def demo_server(home: Path) -> Iterator[str]:
    """`exchangis server` on that home and a free port, until the block ends; its URL.

    It writes its log to `<home>/server.log`. Settings of the environment are kept from it, above
    all a store elsewhere: the demo works on its own home alone.
    """
    environment = {
        name: value for name, value in os.environ.items() if not name.startswith("EXCHANGIS_")
    }
    home.mkdir(mode=0o700, parents=True, exist_ok=True)
    log = home / "server.log"
    with log.open("ab") as output:
        # A session of its own: Ctrl-C is for us, who then end the server in order.
        process = subprocess.Popen(
            [sys.executable, "-m", "exchangis", "server", "--port", "0", "--home", str(home)],
            stdin=subprocess.DEVNULL, stdout=output, stderr=output, env=environment,
            start_new_session=True,
        )  # fmt: skip
    try:
        yield _wait_for_url(process, home, log)
    finally:
        process.terminate()
        try:
            process.wait(_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _wait_for_url(process: subprocess.Popen[bytes], home: Path, log: Path) -> str:
    deadline = time.monotonic() + _START_SECONDS
    while time.monotonic() < deadline:
        url = running_server(home, pid=process.pid)
        if url is not None:
            return url
        if process.poll() is not None:
            break
        time.sleep(0.02)  # paces the question; the condition is the server's own file
    lines = log.read_text(errors="replace").strip().splitlines()
    raise DemoServerFailed(
        f"The server did not start: {lines[-1] if lines else 'it said nothing'}",
        guidance=f"Its log is {log}.",
    )
