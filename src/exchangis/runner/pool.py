"""The server's hold on its runners: spawning, talking, killing, and hearing of their ends."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections import deque
from dataclasses import dataclass

from exchangis.domain.errors import RunnerLost

_SECRET_ENVIRONMENT = ("EXCHANGIS_SECRET_KEY", "EXCHANGIS_STORE_URL", "EXCHANGIS_TOKEN")
_ANSWER_SECONDS = 30.0
_LINE_LIMIT = 64 << 20


@dataclass(frozen=True, slots=True)
class Exit:
    """A runner's end: its exit code, negative for the signal that killed it."""

    pid: int
    code: int


class Runner:
    """One runner process: a socket to talk over, and a pipe with its stdout and stderr."""

    def __init__(self, pid: int, channel: socket.socket, output: int) -> None:
        self.pid = pid
        self.channel = channel
        self.output = output
        self._pending = bytearray()
        self._to_send = bytearray()
        self._closed = False
        channel.setblocking(False)
        os.set_blocking(output, False)

    def send(self, line: bytes) -> bool:
        """Queue a line and send what the socket takes; True when all of it is gone."""
        self._to_send += line
        return self.flush()

    def flush(self) -> bool:
        """Send what is left; a runner that is gone takes nothing, its exit tells the rest."""
        try:
            while self._to_send:
                sent = self.channel.send(self._to_send)
                del self._to_send[:sent]
        except BlockingIOError:
            return False
        except (BrokenPipeError, ConnectionResetError):
            self._to_send.clear()
        return True

    def read_lines(self) -> tuple[list[bytes], bool]:
        """Complete lines that have come, and whether more can come."""
        more = True
        while True:
            try:
                data = self.channel.recv(1 << 20)
            except BlockingIOError:
                break
            except ConnectionResetError:
                data = b""
            if not data:
                more = False
                break
            self._pending += data
            if len(self._pending) > _LINE_LIMIT:
                raise RunnerLost("The runner sent a message without end.")
        *lines, rest = bytes(self._pending).split(b"\n")
        self._pending = bytearray(rest)
        return lines, more

    def read_output(self) -> bytes:
        """What the process printed; b"" when nothing is there now."""
        if self._closed:
            return b""
        try:
            return os.read(self.output, 1 << 16)
        except BlockingIOError:
            return b""

    def close(self) -> None:
        """Free the descriptors; idempotent."""
        if not self._closed:
            self._closed = True
            self.channel.close()
            os.close(self.output)


class RunnerPool:
    """Spawns runners through a nursery, which is started again should it die.

    Use from one thread: runners live as long as the nursery, the nursery as long as the pool.
    """

    def __init__(self) -> None:
        self._nursery: subprocess.Popen[bytes] | None = None
        self._socket: socket.socket | None = None
        self._exits: deque[Exit] = deque()
        self._alive: set[int] = set()

    def start(self) -> socket.socket:
        """Start the nursery if none runs; the socket becomes readable when `exits` has news."""
        if self._socket is not None:
            return self._socket
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        environment = {k: v for k, v in os.environ.items() if k not in _SECRET_ENVIRONMENT}
        # Arrow starts a thread for this allocator on import, and the nursery must have but one.
        environment["JE_ARROW_MALLOC_CONF"] = "background_thread:false"
        self._nursery = subprocess.Popen(
            [sys.executable, "-m", "exchangis.runner.nursery", str(theirs.fileno())],
            pass_fds=[theirs.fileno()],
            stdin=subprocess.DEVNULL,
            env=environment,
        )
        theirs.close()
        ours.settimeout(_ANSWER_SECONDS)
        self._socket = ours
        return ours

    def spawn(self) -> Runner:
        """A new runner that waits for its order; RunnerLost when none can be had."""
        nursery = self.start()
        ours, theirs = socket.socketpair()
        output, output_writer = os.pipe()
        try:
            socket.send_fds(nursery, [b"spawn"], [theirs.fileno(), output_writer])
            while True:
                message = nursery.recv(64)
                if not message:
                    raise BrokenPipeError
                if message.startswith(b"spawned "):
                    break
                self._note_exit(message)
        except (OSError, TimeoutError) as error:
            ours.close()
            os.close(output)
            self._lose_nursery()
            raise RunnerLost("The parent of the runners is gone; it is started again.") from error
        finally:
            theirs.close()
            os.close(output_writer)
        pid = int(message.split()[1])
        self._alive.add(pid)
        return Runner(pid, ours, output)

    def kill(self, pid: int) -> None:
        """SIGKILL the runner's whole process group."""
        if self._socket is not None and pid in self._alive:
            try:
                self._socket.send(b"kill %d" % pid)
            except OSError:
                self._lose_nursery()

    def exits(self) -> list[Exit]:
        """Ends of runners that were not told before; call when the socket is readable."""
        if self._socket is not None:
            self._socket.setblocking(False)
            try:
                while True:
                    message = self._socket.recv(64)
                    if not message:
                        self._lose_nursery()
                        break
                    self._note_exit(message)
            except BlockingIOError:
                pass
            except OSError:
                self._lose_nursery()
            finally:
                if self._socket is not None:
                    self._socket.settimeout(_ANSWER_SECONDS)
        told = list(self._exits)
        self._exits.clear()
        return told

    def _note_exit(self, message: bytes) -> None:
        _, pid, code = message.split()
        self._alive.discard(int(pid))
        self._exits.append(Exit(int(pid), int(code)))

    def _lose_nursery(self) -> None:
        """The nursery is gone, and by `PR_SET_PDEATHSIG` so are all of its runners."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None
        if self._nursery is not None:
            self._nursery.kill()
            self._nursery.wait()
            self._nursery = None
        self._exits.extend(Exit(pid, -9) for pid in sorted(self._alive))
        self._alive.clear()

    def close(self) -> None:
        """End every runner and the nursery."""
        self._lose_nursery()
        self._exits.clear()
