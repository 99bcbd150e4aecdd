"""What a runner's process tree uses of the machine (contract, call 5: `resourceUsed`)."""

from __future__ import annotations

import sys
import time

import psutil


def _own_memory(process: psutil.Process) -> int:
    """Resident bytes that are not pages of files: what the runner adds to its parent's.

    Libraries and the parent's modules are mapped once for all runners of a server.
    """
    memory = process.memory_info()
    return memory.rss - memory.shared if sys.platform == "linux" else memory.rss


class Meter:
    """CPU and memory of one process and its descendants, measured when asked."""

    def __init__(self, pid: int) -> None:
        self._pid = pid
        self._cpu: dict[int, float] = {}
        self._at = time.monotonic()
        self.peak_memory = 0

    def read(self) -> tuple[float, int]:
        """(vcores in use since the last reading, bytes in use now); zeros once it has ended."""
        now = time.monotonic()
        passed = max(now - self._at, 0.001)
        memory = 0
        used: dict[int, float] = {}
        try:
            root = psutil.Process(self._pid)
            family = [root, *root.children(recursive=True)]
        except psutil.NoSuchProcess:
            return 0.0, 0
        for process in family:
            try:
                with process.oneshot():
                    times = process.cpu_times()
                    memory += _own_memory(process)
            except psutil.NoSuchProcess:
                continue
            used[process.pid] = times.user + times.system
        spent = sum(seconds - self._cpu.get(pid, 0.0) for pid, seconds in used.items())
        self._cpu, self._at = used, now
        self.peak_memory = max(self.peak_memory, memory)
        return round(max(spent, 0.0) / passed, 2), memory
