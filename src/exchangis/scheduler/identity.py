"""The name of a server, from which another one on the same machine can tell that it is dead."""

from __future__ import annotations

import os
import platform

import psutil

_HOST_LENGTH = 36


def _host() -> str:
    return platform.node()[:_HOST_LENGTH] or "localhost"


def _started_ms(pid: int) -> int | None:
    try:
        return int(psutil.Process(pid).create_time() * 1000)
    except psutil.NoSuchProcess:
        return None


def server_name() -> str:
    """`host/pid/start`: unique among servers, past and present. At most 64 characters."""
    return f"{_host()}/{os.getpid()}/{_started_ms(os.getpid())}"


def is_dead(name: str) -> bool:
    """Whether that server ran on this machine and is gone; False when it cannot be told."""
    host, _, rest = name.partition("/")
    pid, _, started = rest.partition("/")
    if host != _host() or not pid.isdigit():
        return False
    return str(_started_ms(int(pid))) != started
