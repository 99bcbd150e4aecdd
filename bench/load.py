"""A small HTTP load generator: kept-alive connections that ask one after another.

Runs in a process of its own (`python -m bench.load`), since it shares the machine with what it
measures: it parses no more of an answer than its length and status line.
"""

from __future__ import annotations

import asyncio
import json
import random
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from urllib.parse import urlsplit


@dataclass(frozen=True, slots=True)
class Figures:
    """Calls per second, and latencies in milliseconds."""

    calls: int
    per_second: float
    p50: float
    p99: float
    worst: float
    failed: int


async def _ask(host: str, port: int, paths: Sequence[str], until: float, took: list[float]) -> int:
    reader, writer = await asyncio.open_connection(host, port)
    failed = 0
    try:
        while (began := time.perf_counter()) < until:
            path = random.choice(paths)
            writer.write(f"GET {path} HTTP/1.1\r\nHost: {host}:{port}\r\n\r\n".encode())
            head = await reader.readuntil(b"\r\n\r\n")
            lower = head.lower()
            start = lower.index(b"content-length:") + 15
            length = int(lower[start : lower.index(b"\r\n", start)])
            await reader.readexactly(length)
            took.append(time.perf_counter() - began)
            failed += not head.startswith(b"HTTP/1.1 200")
    finally:
        writer.close()
    return failed


async def measure(url: str, paths: Sequence[str], *, clients: int, seconds: float) -> Figures:
    """Ask for `paths` at random from `clients` connections for `seconds`."""
    where = urlsplit(url)
    assert where.hostname and where.port
    took: list[float] = []
    began = time.perf_counter()
    failed = await asyncio.gather(
        *(_ask(where.hostname, where.port, paths, began + seconds, took) for _ in range(clients))
    )
    passed = time.perf_counter() - began
    took.sort()
    at = [took[min(int(len(took) * share), len(took) - 1)] * 1000 for share in (0.5, 0.99, 1.0)]
    return Figures(len(took), len(took) / passed, at[0], at[1], at[2], sum(failed))


def main() -> None:
    """Reads {"url", "paths", "clients", "seconds"} from standard input, prints the figures."""
    order = json.load(sys.stdin)
    found = asyncio.run(
        measure(order["url"], order["paths"], clients=order["clients"], seconds=order["seconds"])
    )
    print(json.dumps({name: getattr(found, name) for name in Figures.__slots__}))


if __name__ == "__main__":
    main()
