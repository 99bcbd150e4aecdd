"""The sink that all file formats share: parts are staged, then published in one step.

| target | append                                        | overwrite                              |
| ------ | --------------------------------------------- | -------------------------------------- |
| file   | old and new content in one file, replaced     | the new file replaces the old one;     |
|        | in one step; all or nothing                   | all or nothing                         |
| folder | parts move in one by one, each of them whole; | the new folder is exchanged with the   |
|        | a crash in between is completed or undone     | old one; all or nothing                |
| none   | the file or folder appears in one step        | the same                               |

Each is resumable by split. Where the file system cannot exchange two folders (renameat2 on Linux
can), the old folder is moved away first, and for a moment there is none.
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa

from exchangis.connectors.base import (
    Column,
    Context,
    Resume,
    Sink,
    Split,
    TableSchema,
    Writer,
    WriteRequest,
    Written,
)
from exchangis.connectors.bisect import write_bisecting
from exchangis.connectors.files.datasets import checked_uri, has_suffix, hidden, sink_failed
from exchangis.connectors.files.format import FileFormat, PartFile
from exchangis.connectors.files.publish import Publication
from exchangis.connectors.files.staging import Part, Staging, short_hash, sync
from exchangis.connectors.local import inside
from exchangis.domain.errors import InvalidRequest, SinkError, TaskCancelled
from exchangis.domain.model import DataSet, WriteMode


class FileSink(Sink):
    """Writes one file, or a folder of files, of some format."""

    def __init__(self, base: Path, dataset: DataSet, context: Context, form: FileFormat) -> None:
        uri = checked_uri(dataset)
        if any(mark in uri for mark in "*?["):
            raise InvalidRequest.field("uri", uri, "a pattern names no file to write to")
        self._base = base
        self._name = uri
        self._context = context
        self._form = form
        self._target = inside(base, uri, context.roots)
        if any(hidden(part) for part in self._target.relative_to(base).parts):
            raise InvalidRequest.field("uri", uri, "names with a leading '.' or '_' hold no data")
        if self._target == base:
            raise InvalidRequest.field("uri", uri, "must name a file or folder below the path")
        self._folder = uri.endswith("/") or self._target.is_dir()
        if not self._folder and not has_suffix(uri, form.suffixes):
            raise InvalidRequest.field(
                "uri",
                uri,
                f"a file's name ends in {', '.join(form.suffixes)}",
                guidance="End it with / to write a folder of files.",
            )
        if self._folder and self._target.is_file():
            raise InvalidRequest.field("uri", uri, "is a file, not a folder")
        self._staging = Staging(self._target, context.task_key, context.attempt)
        self._cancelled = threading.Event()
        self._schema: pa.Schema | None = None

    def _existing(self) -> pa.Schema | None:
        files = self._files()
        return self._form.existing(files[0], self._name) if files else None

    def _files(self) -> list[Path]:
        """Files that the target holds now."""
        if not self._folder:
            return [self._target] if self._target.is_file() else []
        if not self._target.is_dir():
            return []
        return sorted(
            path
            for path in self._target.iterdir()
            if not hidden(path.name) and has_suffix(path.name, self._form.suffixes)
        )

    def schema(self) -> TableSchema | None:
        """Columns of the existing data; None also for text formats, whose columns have no types.

        `prepare` matches the columns by name there too.
        """
        with self._errors():
            found = self._existing()
        if found is None or any(pa.types.is_null(kind) for kind in found.types):
            return None
        return table_schema(found)

    def proposed(self, wanted: TableSchema) -> TableSchema:
        return self._form.fitting(wanted)

    @contextlib.contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            sink_failed(error, self._name)

    def prepare(self, request: WriteRequest, plan: str) -> Resume:
        if request.mode is WriteMode.UPSERT:
            raise InvalidRequest.field(
                "writeMode", str(request.mode), "files can be appended to or overwritten only"
            )
        with self._errors():
            self._make_parent()
            self._staging.forget_old_records()
            record = self._staging.record()
            if record is not None and record["state"] == "published":
                self._staging.remove()
                return Resume(record["plan"], record["done"], published=True)
            self._schema = self._columns(request)
            if record is not None:
                return self._finish_publishing(self._schema)
            stored = self._staging.begin(
                {
                    "plan": plan,
                    "mode": str(request.mode),
                    "folder": self._folder,
                    "columns": [[f.name, str(f.type)] for f in self._schema],
                }
            )
            return Resume(stored["plan"], self._staging.done())

    def _finish_publishing(self, schema: pa.Schema) -> Resume:
        """Complete what an attempt was publishing, with all of its splits, when it ended."""
        stored = self._staging.stored()
        if stored is None:
            raise SinkError(
                f"{self._name}: this task was publishing when its staging folder was removed.",
                guidance=f"See what the data holds, then remove {self._staging.record_path}.",
            )
        self._staging.take_over()
        done = self._staging.done()
        self._publication(WriteMode(stored["mode"])).publish(stored["plan"], schema)
        return Resume(stored["plan"], done, published=True)

    def _make_parent(self) -> None:
        if not self._base.is_dir():
            raise SinkError(f"{self._base} is not a folder.", guidance="Create it first.")
        self._target.parent.mkdir(parents=True, exist_ok=True)

    def _columns(self, request: WriteRequest) -> pa.Schema:
        """The columns that parts are written with."""
        given = self._form.fitting(request.schema).arrow
        files = self._files()
        if not files and not request.create and not self._target.exists():
            raise SinkError(f"{self._name} does not exist and may not be created.")
        if request.mode is WriteMode.OVERWRITE:
            if self._folder:
                self._refuse_strangers()
            return given
        found = self._form.existing(files[0], self._name) if files else None
        if found is None:
            return given
        unknown = [name for name in given.names if name not in found.names]
        if unknown:
            raise SinkError(
                f"{self._name} has no column {', '.join(unknown)}; it has {', '.join(found.names)}."
            )
        return pa.schema(
            [
                given.field(f.name)
                if pa.types.is_null(f.type) and f.name in given.names
                else pa.field(f.name, f.type)
                for f in found
            ]
        )

    def _refuse_strangers(self) -> None:
        """An overwritten folder is replaced whole: nothing but data of this format may be in it."""
        if not self._target.is_dir():
            return
        data = set(self._files())
        strangers = [
            path.name
            for path in self._target.iterdir()
            if path not in data and not (hidden(path.name) and path.is_file())
        ]
        if strangers:
            raise SinkError(
                f"{self._name} holds what is no data of this format: {', '.join(strangers[:5])}.",
                guidance="Overwriting would remove it: move it away, or name another folder.",
            )

    def open_writer(self) -> FileWriter:
        if self._schema is None:
            raise SinkError("The sink has not been prepared.")
        return FileWriter(
            self._form,
            self._staging,
            self._schema,
            label=self._name,
            file=f"part{self._form.part_suffix()}" if self._folder else self._target.name,
            cancelled=self._cancelled,
        )

    def publish(self) -> None:
        with self._errors():
            stored = self._staging.stored()
            record = self._staging.record()
            if record is not None and record["state"] == "published":
                self._staging.remove()
                return
            if stored is None or self._schema is None:
                raise SinkError("The sink has not been prepared.")
            self._staging.check_current()
            self._publication(WriteMode(stored["mode"])).publish(stored["plan"], self._schema)

    def _publication(self, mode: WriteMode) -> Publication:
        return Publication(
            target=self._target,
            folder=self._folder,
            mode=mode,
            staging=self._staging,
            form=self._form,
            cancelled=self._cancelled,
            before_overwrite=self._refuse_strangers,
        )

    def discard(self) -> None:
        with self._errors():
            stored = self._staging.stored()
            if stored is not None:
                self._publication(WriteMode(stored["mode"])).undo()
            self._staging.remove()

    def cancel(self) -> None:
        self._cancelled.set()

    def close(self) -> None:
        """Nothing stays open between calls."""


class FileWriter(Writer):
    """One lane: rows go to a part of its own, which its commit lets count.

    `label` names the target in messages; the name `file` tells the compression.
    """

    def __init__(
        self,
        form: FileFormat,
        staging: Staging,
        schema: pa.Schema,
        *,
        label: str,
        file: str,
        cancelled: threading.Event,
    ) -> None:
        self._form = form
        self._staging = staging
        self._schema = schema
        self._label = label
        self._file = file
        self._cancelled = cancelled
        self._part: PartFile | None = None
        self._path: Path | None = None
        self._splits: dict[str, int] = {}

    @contextlib.contextmanager
    def _errors(self) -> Iterator[None]:
        if self._cancelled.is_set():
            raise TaskCancelled()
        try:
            yield
        except OSError as error:
            sink_failed(error, self._label)

    def write(self, batch: pa.RecordBatch) -> Written:
        with self._errors():
            if batch.num_rows == 0:
                return Written(0)
            if self._part is None:
                unique = short_hash(os.urandom(16).hex())
                self._path = self._staging.parts_folder / f"{unique}-{self._staging.attempt}"
                self._part = self._form.open_part(self._path, self._schema, self._file)
            return write_bisecting(batch, self._attempt)

    def _attempt(self, batch: pa.RecordBatch) -> str | None:
        assert self._part is not None
        try:
            fitted = fitted_to(batch, self._schema)
        except pa.ArrowInvalid as error:
            return str(error)
        except pa.ArrowNotImplementedError as error:
            raise SinkError(f"{self._label}: its columns have other types: {error}") from error
        return self._part.write(fitted)

    def mark(self, split: Split, rows: int) -> None:
        self._splits[split.id] = rows

    def commit(self) -> None:
        if not self._splits:
            return
        with self._errors():
            file, head = None, 0
            if self._part is not None and self._path is not None:
                self._part.close()
                file, head = self._path.name, self._part.head
                sync(self._path)
                sync(self._path.parent)
            part = Part(dict(self._splits), file, head)
            # From here on the mark may name the part, so that no rollback may remove it any more.
            self._part = self._path = None
            self._splits.clear()
            self._staging.commit(part)

    def rollback(self) -> None:
        self._splits.clear()
        part, path = self._part, self._path
        self._part = self._path = None
        if part is not None:
            with contextlib.suppress(OSError):  # a full disk, say: the part is thrown away anyhow
                part.close()
        if path is not None:
            path.unlink(missing_ok=True)

    def close(self) -> None:
        self.rollback()


def fitted_to(batch: pa.RecordBatch, schema: pa.Schema) -> pa.RecordBatch:
    """The batch with the schema's columns: by name, nulls for absent ones, safely cast."""
    if batch.schema.equals(schema):
        return batch
    columns = []
    for field in schema:
        index = batch.schema.get_field_index(field.name)
        if index < 0:
            columns.append(pa.nulls(batch.num_rows, field.type))
        else:
            column = batch.column(index)
            columns.append(column if column.type == field.type else column.cast(field.type))
    return pa.RecordBatch.from_arrays(columns, schema=schema)


def table_schema(schema: pa.Schema, rows: int | None = None) -> TableSchema:
    """An Arrow schema as the connectors' own."""
    return TableSchema(
        tuple(Column(f.name, f.type, str(f.type), f.nullable) for f in schema), rows=rows
    )
