"""Publishing staged parts: every step can be interrupted, and is completed or undone after it.

The record (see `staging`) is `publishing` from before the first visible change on, with what
tells whether the change has happened:

    file              the merged file is no longer in the staging, since it became the target
    folder, new       the target is the folder with the recorded inode number (an overwrite, or an
                      append where there was no folder)
    folder, append    parts no longer in the staging are in the target, under names of this task
"""

from __future__ import annotations

import contextlib
import os
import shutil
import stat
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from exchangis.connectors.files.format import FileFormat, Stored
from exchangis.connectors.files.staging import Staging, exchange, locked, short_hash, sync
from exchangis.domain.model import WriteMode


def _identity(path: Path) -> list[int] | None:
    """What tells a file from another one, or from itself after a change; None without a file."""
    try:
        facts = path.stat()
    except FileNotFoundError:
        return None
    return [facts.st_dev, facts.st_ino, facts.st_size, facts.st_mtime_ns]


@dataclass(frozen=True)
class Publication:
    """The way from committed parts to the target."""

    target: Path
    folder: bool
    mode: WriteMode
    staging: Staging
    form: FileFormat
    cancelled: threading.Event
    before_overwrite: Callable[[], None]

    @property
    def _merged(self) -> Path:
        return self.staging.root / f"merged{''.join(self.target.suffixes)}"

    @property
    def _new(self) -> Path:
        return self.staging.root / "new"

    def publish(self, plan: str, schema: pa.Schema) -> None:
        """Show the committed rows; may be called again after a crash at any point."""
        outcome = {"plan": plan, "done": self.staging.done()}
        with locked(self.target.parent):
            if not self.folder:
                self._publish_file(schema)
            elif self.mode is WriteMode.OVERWRITE or not self.target.exists():
                self._put_new_folder(schema)
            else:
                self._add_to_folder(schema)
            sync(self.target.parent)
            self.staging.write_record("published", **outcome)
        self.staging.remove()

    def _publishing(self) -> dict[str, Any] | None:
        record = self.staging.record()
        return record if record is not None and record["state"] == "publishing" else None

    # One file

    def _publish_file(self, schema: pa.Schema) -> None:
        record = self._publishing()
        if record is not None and not self._merged.exists():
            return
        before = _identity(self.target)
        if record is None or record["before"] != before:
            if not self._build_merged(schema):
                return
            self.staging.write_record("publishing", before=before)
        self._merged.replace(self.target)

    def _build_merged(self, schema: pa.Schema) -> bool:
        """Make the file that becomes the target; False when the target is right as it is."""
        self._merged.unlink(missing_ok=True)
        existing = self.target if self.target.is_file() else None
        parts = [
            Stored(self.staging.parts_folder / part.file, part.head)
            for part in self.staging.parts()
            if part.file
        ]
        kept = existing if self.mode is WriteMode.APPEND else None
        if kept is not None and not parts:
            return False
        if kept is None and len(parts) == 1:
            _link(parts[0].path, self._merged)
        elif kept is None and not parts:
            self.form.open_part(self._merged, schema, self.target.name).close()
        else:
            self.form.merge(kept, parts, self._merged, schema, self.cancelled)
        if existing is not None:
            self._merged.chmod(stat.S_IMODE(existing.stat().st_mode))
        sync(self._merged)
        return True

    # A folder

    def _final_name(self, number: int) -> str:
        """The same for all attempts, as the parts are fixed once publishing has begun."""
        return f"part-{short_hash(self.staging.task_key)}-{number:05}{self.form.part_suffix()}"

    def _add_to_folder(self, schema: pa.Schema) -> None:
        record = self._publishing()
        if record is not None and self._is_folder(record.get("inode")):
            return
        self.staging.write_record("publishing")
        self._fill_folder(self.target, schema)

    def _fill_folder(self, folder: Path, schema: pa.Schema) -> None:
        """Move the parts into `folder`; an empty one gets a file that tells the columns."""
        folder.mkdir(exist_ok=True)
        files = [part.file for part in self.staging.parts() if part.file]
        for number, file in enumerate(files):
            name = self._final_name(number)
            for path in (self.staging.parts_folder / file, self._new / name):
                if path.exists():
                    path.replace(folder / name)
        if not files and not any(folder.iterdir()):
            empty = self.staging.parts_folder / "empty"
            self.form.open_part(empty, schema, self._final_name(0)).close()
            sync(empty)
            empty.replace(folder / self._final_name(0))
        sync(folder)

    def _put_new_folder(self, schema: pa.Schema) -> None:
        record = self._publishing()
        if record is not None and self._is_folder(record.get("inode")):
            return
        self.before_overwrite()
        self._fill_folder(self._new, schema)
        facts = self._new.stat()
        if self.target.exists():
            self._new.chmod(stat.S_IMODE(self.target.stat().st_mode))
        self.staging.write_record("publishing", inode=[facts.st_dev, facts.st_ino])
        if not self.target.exists():
            self._new.rename(self.target)
        elif not exchange(self._new, self.target):
            old = self.staging.root / "old"
            if old.exists():
                shutil.rmtree(old)
            self.target.rename(old)
            self._new.rename(self.target)

    def _is_folder(self, inode: list[int] | None) -> bool:
        """Whether the target is the folder that was recorded."""
        found = _identity(self.target)
        return found is not None and found[:2] == inode

    # Undoing

    def undo(self) -> None:
        """Take back a publishing that was begun and not finished; what is published stays."""
        with locked(self.target.parent):
            record = self._publishing()
            if record is None:
                return
            if not self.folder:
                shown = not self._merged.exists()
            elif "inode" in record:
                shown = self._is_folder(record["inode"])
                self._bring_back_old()
            else:
                shown = False
                count = sum(1 for part in self.staging.parts() if part.file)
                for number in range(max(1, count)):
                    (self.target / self._final_name(number)).unlink(missing_ok=True)
                with contextlib.suppress(OSError):  # it held files before, and holds them now
                    self.target.rmdir()
            if shown:
                self.staging.write_record("published", plan="", done=self.staging.done())
            else:
                self.staging.remove_record()

    def _bring_back_old(self) -> None:
        old = self.staging.root / "old"
        if old.exists() and not self.target.exists():
            old.rename(self.target)


def _link(part: Path, merged: Path) -> None:
    """Give the part a second name, so that nothing is lost if we end before it is published."""
    try:
        os.link(part, merged)
    except OSError:  # a file system without hard links
        shutil.copyfile(part, merged)
