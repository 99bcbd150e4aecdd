"""What runners' process trees use of the machine (contract, call 5: `resourceUsed`)."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

import psutil

_PRECISE_EACH_TURN = 24


@dataclass(slots=True)
class _Tree:
    """One runner: CPU seconds of its processes at the last look, and its last exact memory."""

    cpu: dict[int, float] = field(default_factory=dict)
    at: float = field(default_factory=time.monotonic)
    exact: int = 0
    rough: int = 0
    """Resident bytes that belong to no file, when `exact` was taken."""


class Meter:
    """Measures all runners of a server in one look at the process table.

    Memory is the proportional share (PSS): runners are forks of one parent, so what they share
    counts once. It costs about a millisecond a process; with many runners each is measured exactly
    every few turns, and in between by how its resident memory has changed.
    """

    def __init__(self) -> None:
        self._trees: dict[int, _Tree] = {}
        self._turn = 0

    def read(self, pids: Sequence[int]) -> dict[int, tuple[float, int]]:
        """For each live runner (vcores in use since the last look, bytes in use now)."""
        self._turn += 1
        self._trees = {pid: self._trees.get(pid) or _Tree() for pid in pids}
        rounds = max(-(-len(pids) // _PRECISE_EACH_TURN), 1)
        families = _families(set(pids))
        return {
            pid: self._read(self._trees[pid], family, exactly=(self._turn + n) % rounds == 0)
            for n, (pid, family) in enumerate(families.items())
        }

    def _read(
        self, tree: _Tree, family: list[psutil.Process], *, exactly: bool
    ) -> tuple[float, int]:
        now = time.monotonic()
        used: dict[int, float] = {}
        rough = 0
        for process in family:
            try:
                with process.oneshot():
                    times = process.cpu_times()
                    memory = process.memory_info()
            except psutil.NoSuchProcess:
                continue
            used[process.pid] = times.user + times.system
            rough += memory.rss - memory.shared if sys.platform == "linux" else memory.rss
        spent = sum(seconds - tree.cpu.get(pid, 0.0) for pid, seconds in used.items())
        cpu = round(max(spent, 0.0) / max(now - tree.at, 0.001), 2)
        tree.cpu, tree.at = used, now
        if exactly or not tree.exact:
            tree.exact, tree.rough = _exact(family), rough
        return cpu, max(tree.exact + rough - tree.rough, 0)


def _exact(family: list[psutil.Process]) -> int:
    total = 0
    for process in family:
        try:
            memory = process.memory_full_info()
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            continue
        total += getattr(memory, "pss", memory.uss)
    return total


def _families(roots: set[int]) -> dict[int, list[psutil.Process]]:
    """Each root that is alive, with its descendants."""
    parents: dict[int, int] = {}
    processes: dict[int, psutil.Process] = {}
    for process in psutil.process_iter():
        try:
            parents[process.pid] = process.ppid()
        except psutil.NoSuchProcess:
            continue
        processes[process.pid] = process
    found: dict[int, list[psutil.Process]] = {pid: [] for pid in roots if pid in processes}
    for pid, process in processes.items():
        root: int | None = pid
        while root is not None and root not in roots:
            root = parents.get(root)
        if root is not None and root in found:
            found[root].append(process)
    return found
