"""Staging of a task's files: parts, commit marks and the fence, all in one hidden folder.

    .exchangis_stg_<task>/
        plan.json      what the first attempt stored: plan, write mode, columns
        fence.json     the newest attempt; an older one may not commit any more
        parts/         part files; one counts only once a mark names it
        marks/         one JSON file per commit: its splits, their rows, the part that holds them

A commit is the atomic appearance of its mark. Raising the fence and committing exclude each other
by a lock on the folder, so what an attempt finds in `prepare` is all that earlier ones committed.
Beside it, `.exchangis/<task>.json` records the publishing of a task, since it must outlive the
staging folder: a task whose outcome was lost after publishing is not written twice.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import hashlib
import json
import os
import re
import shutil
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from exchangis.connectors import marks
from exchangis.domain.errors import SinkError

_EXCHANGE = 2  # RENAME_EXCHANGE of renameat2(2)
_AT_FDCWD = -100
RECORDS = ".exchangis"


@dataclass(frozen=True, slots=True)
class Part:
    """A committed part: its file's name (None when it has no row), and how long its head is.

    `head` counts the bytes before the first row (a CSV header, compressed or not).
    """

    splits: Mapping[str, int]
    file: str | None
    head: int = 0


def natural(text: str) -> tuple[Any, ...]:
    """Sort key that puts `s2` before `s10`."""
    return tuple(
        (0, int(piece)) if piece.isdigit() else (1, piece) for piece in re.split(r"(\d+)", text)
    )


def short_hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def sync(path: Path) -> None:
    """Make a file's content, or a folder's names, survive a power cut."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_json(path: Path, value: Mapping[str, Any]) -> None:
    """Put a small JSON file in place in one step, durably."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.new")
    with temporary.open("w", encoding="utf-8") as out:
        json.dump(value, out)
        out.flush()
        os.fsync(out.fileno())
    temporary.replace(path)
    sync(path.parent)


def read_json(path: Path) -> dict[str, Any] | None:
    """The JSON object in a file, None without the file."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    return dict(found)


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold the lock of a folder among all processes of this machine."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def exchange(one: Path, other: Path) -> bool:
    """Swap two folders in one atomic step; False where the file system cannot do so."""
    call = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    if call is None:
        return False
    paths = (ctypes.c_char_p(os.fsencode(path)) for path in (one, other))
    first, second = paths
    if call(_AT_FDCWD, first, _AT_FDCWD, second, ctypes.c_uint(_EXCHANGE)) == 0:
        return True
    number = ctypes.get_errno()
    if number in {errno.ENOSYS, errno.EINVAL, errno.EOPNOTSUPP}:
        return False
    raise OSError(number, os.strerror(number), str(other))


@dataclass(frozen=True)
class Staging:
    """The staging folder of one task beside its target, as one attempt sees it."""

    target: Path
    task_key: str
    attempt: int
    root: Path = field(init=False)
    record_path: Path = field(init=False)

    def __post_init__(self) -> None:
        name = marks.staging_name(self.task_key)
        parent = self.target.parent
        object.__setattr__(self, "root", parent / f".{name}")
        # One record per target: the same task key never writes two of them, tests may.
        record = f"{name}-{short_hash(self.target.name)}.json"
        object.__setattr__(self, "record_path", parent / RECORDS / record)

    @property
    def parts_folder(self) -> Path:
        return self.root / "parts"

    @property
    def marks_folder(self) -> Path:
        return self.root / "marks"

    def begin(self, plan: Mapping[str, Any]) -> dict[str, Any]:
        """Take over the task: raise the fence, clear what was never committed.

        Gives what the first attempt stored, which is `plan` if this is the first. Parts of
        an earlier attempt whose columns were others do not count.
        """
        for folder in (self.root, self.parts_folder, self.marks_folder):
            folder.mkdir(exist_ok=True)
        self.take_over()
        with locked(self.root):
            self._check_fence()
            stored = read_json(self.root / "plan.json")
            if stored is not None and stored["columns"] != plan["columns"]:
                shutil.rmtree(self.marks_folder)
                self.marks_folder.mkdir()
                stored = None
            if stored is None:
                stored = dict(plan)
                write_json(self.root / "plan.json", stored)
            kept = {part.file for part in self.parts()}
            for path in self.parts_folder.iterdir():
                if path.name not in kept:
                    path.unlink()
        return stored

    def take_over(self) -> None:
        """Raise the fence: from now on no earlier attempt can commit or publish."""
        with locked(self.root):
            self._check_fence()
            write_json(self.root / "fence.json", {"attempt": self.attempt})

    def _check_fence(self) -> None:
        fence = read_json(self.root / "fence.json")
        if fence is not None and fence["attempt"] > self.attempt:
            raise SinkError(
                f"A newer attempt ({fence['attempt']}) has taken this task over from"
                f" attempt {self.attempt}."
            )

    def stored(self) -> dict[str, Any] | None:
        """What `begin` stored, None when there is no staging."""
        return read_json(self.root / "plan.json")

    def commit(self, part: Part) -> None:
        """Let the part's splits count, all of them together; SinkError for an outrun attempt."""
        with locked(self.root):
            self._check_fence()
            first = min(part.splits, key=natural)
            write_json(
                self.marks_folder / f"{short_hash(first)}.json",
                {
                    "splits": dict(part.splits),
                    "file": part.file,
                    "head": part.head,
                    "attempt": self.attempt,
                },
            )

    def parts(self) -> list[Part]:
        """All committed parts, in the order of their splits."""
        found = []
        if self.marks_folder.is_dir():
            for path in self.marks_folder.glob("[!.]*.json"):
                mark = read_json(path)
                if mark is not None:
                    found.append(Part(mark["splits"], mark["file"], mark["head"]))
        return sorted(found, key=lambda part: natural(min(part.splits, key=natural)))

    def done(self) -> dict[str, int]:
        """Rows of every committed split."""
        return {split: rows for part in self.parts() for split, rows in part.splits.items()}

    def check_current(self) -> None:
        """SinkError when a newer attempt has taken over."""
        with locked(self.root):
            self._check_fence()

    def record(self) -> dict[str, Any] | None:
        """What is known of the task's publishing."""
        return read_json(self.record_path)

    def write_record(self, state: str, **facts: Any) -> None:
        """Note `publishing` (before the switch) or `published` (after it), durably."""
        self.record_path.parent.mkdir(exist_ok=True)
        write_json(self.record_path, {"state": state, **facts})

    def remove_record(self) -> None:
        self.record_path.unlink(missing_ok=True)
        with contextlib.suppress(OSError):  # another task's record lies there, or none ever did
            self.record_path.parent.rmdir()

    def remove(self) -> None:
        """Remove the staging folder, if it is there."""
        if self.root.is_dir():
            shutil.rmtree(self.root)

    def forget_old_records(self) -> None:
        """Remove records that no attempt can ask for any more."""
        limit = time.time() - marks.KEEP_DAYS * 86_400
        if self.record_path.parent.is_dir():
            for path in self.record_path.parent.glob("*.json"):
                with contextlib.suppress(FileNotFoundError):
                    if path.stat().st_mtime < limit:
                        path.unlink()
