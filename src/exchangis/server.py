"""A server process put together: store, services, scheduler and HTTP.

`Server` runs in threads of the process that makes it: the command `exchangis server` waits in
`serve`, tests use `start` and `stop`. While it runs, `<home>/server.json` says where it listens.
"""

from __future__ import annotations

import ipaddress
import logging
import signal
import socket
import threading
from collections.abc import Callable
from contextlib import ExitStack
from types import FrameType

import uvicorn

from exchangis import __version__
from exchangis.api.app import create_app
from exchangis.config import Settings
from exchangis.domain.errors import ExchangisError, InvalidRequest
from exchangis.scheduler.supervisor import Supervisor
from exchangis.server_file import remove_server_file, write_server_file
from exchangis.server_store import open_checked_store, store_name
from exchangis.service.catalog import StoreCatalog
from exchangis.service.services import make_services

_LOG = logging.getLogger("exchangis.server")
_BACKLOG = 512
_HERE = {"0.0.0.0": "127.0.0.1", "::": "::1", "": "127.0.0.1"}
"""Where a server that listens on every address is reached from its own machine."""
_CLOSE_SECONDS = 3
"""How long open requests may take when the server stops."""
_START_SECONDS = 30.0


class CannotStart(ExchangisError):
    """The server cannot start."""

    code = "cannot_start"


def _is_loopback(host: str) -> bool:
    """Whether every address of that name is this machine's own."""
    try:
        found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except OSError:
        return False
    return all(ipaddress.ip_address(entry[4][0]).is_loopback for entry in found)


def check_exposure(settings: Settings) -> None:
    """Refuse to be reachable from other machines by whoever likes to."""
    if settings.token is None and not _is_loopback(settings.host):
        raise InvalidRequest.field(
            "host", settings.host, "is reached from other machines, and no token is set",
            guidance="Set EXCHANGIS_TOKEN (or token in exchangis.yaml) to a long random text, "
            "e.g. of `openssl rand -hex 32`, or listen on 127.0.0.1.",
        )  # fmt: skip


def _listen(settings: Settings) -> socket.socket:
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    try:
        return socket.create_server((settings.host, settings.port), family=family, backlog=_BACKLOG)
    except OSError as error:
        raise CannotStart(
            f"Cannot listen on {settings.host} port {settings.port}: {error.strerror or error}.",
            guidance="Choose another --port (0 takes a free one) or --host.",
        ) from error


class Server:
    """One server. `start` returns when it answers; `stop` when nothing of it is left."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.url = ""
        """Where it listens; known from `start` on."""
        self._closing = ExitStack()
        self._http: uvicorn.Server | None = None
        self._stopping = threading.Event()

    @property
    def store_name(self) -> str:
        """Where the state is kept, without passwords."""
        return store_name(self.settings)

    def start(self) -> None:
        """Open the store, begin to take work, and answer requests.

        CannotStart or InvalidRequest with nothing left behind.
        """
        check_exposure(self.settings)
        with ExitStack() as undo:
            listener = undo.enter_context(_listen(self.settings))
            port = listener.getsockname()[1]
            settings = self.settings.model_copy(update={"port": port})
            store = open_checked_store(settings)
            undo.callback(store.close)
            supervisor = Supervisor(settings, store, StoreCatalog(store.data_sources))
            services = make_services(settings, store, wake=supervisor.wake)
            supervisor.start()
            # What `stop` does, from the last line up: no more answers once the work has ended.
            undo.callback(self._stop_http)
            undo.callback(supervisor.stop)
            self._start_http(create_app(services), listener)
            host = _HERE.get(settings.host, settings.host)
            self.url = f"http://{f'[{host}]' if ':' in host else host}:{port}"
            file = write_server_file(settings.home, self.url)
            undo.callback(remove_server_file, file)
            self._closing = undo.pop_all()
        _LOG.info("Exchangis %s listens on %s", __version__, self.url)

    def _start_http(self, app: object, listener: socket.socket) -> None:
        config = uvicorn.Config(
            app,  # type: ignore[arg-type]
            log_config=None,
            access_log=False,
            lifespan="on",
            timeout_graceful_shutdown=_CLOSE_SECONDS,
            server_header=False,
            proxy_headers=False,
        )
        http = uvicorn.Server(config)
        thread = threading.Thread(
            target=http.run, kwargs={"sockets": [listener]}, name="http", daemon=True
        )
        thread.start()
        self._http, self._http_thread = http, thread
        waited = threading.Event()
        deadline = _START_SECONDS
        while not http.started and thread.is_alive() and deadline > 0:
            waited.wait(0.01)
            deadline -= 0.01
        if not http.started:
            raise CannotStart("The HTTP side did not come up; the log says why.")

    def _stop_http(self) -> None:
        if self._http is not None:
            self._http.should_exit = True
            self._http_thread.join()
            self._http = None

    def stop(self) -> None:
        """End the runners, give their tasks back, answer what was asked, close; idempotent."""
        self._closing.close()

    def serve(self, announce: Callable[[], None]) -> None:
        """Run until SIGTERM or SIGINT, then stop; `announce` is called when it answers.

        A second signal ends the process at once.
        """
        before = {one: signal.getsignal(one) for one in (signal.SIGINT, signal.SIGTERM)}
        for one in before:
            signal.signal(one, self._heed)
        try:
            self.start()
            try:
                announce()
                self._stopping.wait()
                _LOG.info("Exchangis stops")
            finally:
                self.stop()
        finally:
            for one, handler in before.items():
                signal.signal(one, handler)

    def _heed(self, _number: int, _frame: FrameType | None) -> None:
        self._stopping.set()
        for one in (signal.SIGINT, signal.SIGTERM):
            signal.signal(one, signal.SIG_DFL)
