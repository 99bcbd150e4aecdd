"""`<home>/server.json`: how commands find the server that runs on a home."""

from __future__ import annotations

import json
import os
import tempfile
from contextlib import suppress
from pathlib import Path

import psutil

SERVER_FILE = "server.json"


def write_server_file(home: Path, url: str) -> Path:
    """Say where this process listens; replaced as one, readable for its owner alone."""
    with tempfile.NamedTemporaryFile(
        "w", dir=home, prefix=".server-", suffix=".json", delete=False
    ) as file:  # made 0600
        json.dump({"url": url, "pid": os.getpid()}, file)
    return Path(file.name).replace(home / SERVER_FILE)


def remove_server_file(path: Path) -> None:
    """Remove it, unless another server of that home has put its own there."""
    with suppress(FileNotFoundError, ValueError):
        if json.loads(path.read_text()).get("pid") == os.getpid():
            path.unlink()


def running_server(home: Path, *, pid: int | None = None) -> str | None:
    """The URL of the server that runs on that home; None when its file names none that lives.

    With `pid`, only of the server that is that process.
    """
    try:
        told = json.loads((home / SERVER_FILE).read_text())
        found = int(told["pid"])
        current = found == pid if pid is not None else psutil.pid_exists(found)
        return str(told["url"]) if current else None
    except (OSError, ValueError, KeyError, TypeError):
        return None
