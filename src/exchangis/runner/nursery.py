"""The runners' parent: a small process that has all imports done and forks a runner on request.

Starting Python with Arrow, DuckDB and the drivers takes half a second; forking a process that has
them takes a few milliseconds. The parent has one thread and opens nothing, so that forking is
safe. It outlives no server: when the server's socket closes, every runner's process group is
killed and the parent ends; runners die with the parent too (`PR_SET_PDEATHSIG`).

Server to nursery, one message each (SOCK_SEQPACKET):
    b"spawn" with two descriptors: the runner's socket, and where its stdout and stderr go
    b"kill <pid>"
Nursery to server:
    b"spawned <pid>"     in answer to spawn
    b"exited <pid> <status>"   status as of `os.waitstatus_to_exitcode`; the group is gone then
"""

from __future__ import annotations

import ctypes
import gc
import importlib
import os
import random
import select
import signal
import socket
import sys
from contextlib import suppress
from typing import NoReturn

_PR_SET_PDEATHSIG = 1
_PRELOAD = (
    "duckdb",
    "pyarrow.compute",
    "pyarrow.csv",
    "pyarrow.json",
    "pyarrow.parquet",
    "pymysql",
    "psycopg",
    "sqlglot",
    "exchangis.runner.main",
)


def _preload() -> None:
    """Import what runners need. A plugin that cannot be imported fails the tasks that use it."""
    from exchangis.connectors.registry import connector, connector_names
    from exchangis.engine.base import engine_class, engine_names

    for module in _PRELOAD:
        importlib.import_module(module)
    for load, names in ((connector, connector_names()), (engine_class, engine_names())):
        for name in names:
            try:
                load(name)
            except Exception as error:  # noqa: BLE001 - told here, and by each task that meets it
                print(f"exchangis: {name} cannot be loaded: {error}", file=sys.stderr)


def _become_runner(channel: int, output: int, parent: int) -> NoReturn:
    """In the fork: cut all ties but the two descriptors, do the work, leave."""
    status = 70
    try:
        os.setsid()
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:  # it died between fork and prctl
            os._exit(status)
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGCHLD):
            signal.signal(number, signal.SIG_DFL)
        signal.set_wakeup_fd(-1)
        null = os.open(os.devnull, os.O_RDONLY)
        for source, target in ((null, 0), (output, 1), (output, 2)):
            os.dup2(source, target)
        os.dup2(channel, 3)
        os.closerange(4, 256)
        random.seed()
        from exchangis.runner.main import carry_out

        with socket.socket(fileno=3) as server:
            carry_out(server)
        status = 0
    except BaseException:  # noqa: BLE001 - reported through stderr and the exit status
        import traceback

        traceback.print_exc()
    finally:
        with suppress(Exception):
            sys.stdout.flush()
            sys.stderr.flush()
        # Not sys.exit: the parent's exit handlers are not ours to run.
        os._exit(status)


class Nursery:
    """The loop of the parent process."""

    def __init__(self, server: socket.socket) -> None:
        self._server = server
        self._runners: set[int] = set()
        self._signals, self._signal_writer = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        signal.set_wakeup_fd(self._signal_writer, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda _number, _frame: None)
        # Ctrl-C in a terminal reaches the whole group; the server decides what ends when.
        signal.signal(signal.SIGINT, signal.SIG_IGN)

    def run(self) -> None:
        """Serve until the server is gone."""
        try:
            while True:
                ready, _, _ = select.select([self._server.fileno(), self._signals], [], [])
                if self._signals in ready:
                    with suppress(BlockingIOError):
                        os.read(self._signals, 4096)
                    self._reap()
                if self._server.fileno() in ready and not self._serve():
                    return
        except (BrokenPipeError, ConnectionResetError):
            return
        finally:
            for pid in self._runners:
                _kill_group(pid)

    def _serve(self) -> bool:
        message, descriptors, _, _ = socket.recv_fds(self._server, 64, 2)
        if not message:
            return False
        if message == b"spawn":
            self._spawn(*descriptors)
        elif message.startswith(b"kill "):
            pid = int(message.split()[1])
            if pid in self._runners:  # not reaped yet, so the number is still its own
                _kill_group(pid)
        return True

    def _spawn(self, channel: int, output: int) -> None:
        me = os.getpid()
        pid = os.fork()
        if pid == 0:
            _become_runner(channel, output, me)
        os.close(channel)
        os.close(output)
        self._runners.add(pid)
        self._server.send(b"spawned %d" % pid)

    def _reap(self) -> None:
        while self._runners:
            ended = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
            if ended is None:
                return
            # The zombie keeps the group's number from being given to anybody else.
            _kill_group(ended.si_pid)
            _, status = os.waitpid(ended.si_pid, 0)
            self._runners.discard(ended.si_pid)
            code = os.waitstatus_to_exitcode(status)
            self._server.send(b"exited %d %d" % (ended.si_pid, code))


def _kill_group(pid: int) -> None:
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, signal.SIGKILL)
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)  # one that has not reached setsid yet


def main() -> None:
    """`python -m exchangis.runner.nursery <descriptor of the server's socket>`."""
    with socket.socket(fileno=int(sys.argv[1])) as server:
        _preload()
        gc.freeze()  # a collection in a runner need not copy the pages of what all share
        Nursery(server).run()


if __name__ == "__main__":
    main()
