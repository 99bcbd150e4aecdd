"""Local files as data sets: finding them, listing them, and handing on batches of bounded size.

Everything that touches the file system goes through the few functions here and in `bytes`,
so that another file system can take their place.
"""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import pyarrow as pa

from exchangis.connectors.base import Context, Param
from exchangis.connectors.files.arrow import Codec
from exchangis.connectors.local import confined_path, inside
from exchangis.domain.errors import ConnectionFailed, InvalidRequest, SinkError, SourceError
from exchangis.domain.model import Connection, DataSet

PATH = Param(
    "path",
    "Folder that the data sets lie in; absolute, or relative to the server's working directory.",
    required=True,
)
COMPRESSIONS: dict[str, Codec] = {".gz": "gzip", ".zst": "zstd", ".bz2": "bz2"}
_GLOB = re.compile(r"[*?\[]")


@dataclass(frozen=True, slots=True)
class DataFile:
    """A file to read: its resolved path, its name below the base, and what it was like."""

    path: Path
    name: str
    size: int
    mtime_ns: int

    def unchanged(self, size: int, mtime_ns: int) -> bool:
        return (self.size, self.mtime_ns) == (size, mtime_ns)


def base_folder(connection: Connection, context: Context) -> Path:
    """The folder of the connection's `path`, confined to the context's roots."""
    return confined_path(str(connection.get("path", "")), context.roots, field="connectParams.path")


def checked_uri(dataset: DataSet) -> str:
    """The data set's `uri`; InvalidRequest when it is absent or climbs with `..`."""
    uri = (dataset.uri or "").strip()
    if not uri.strip("/."):
        raise InvalidRequest.field("uri", dataset.uri, "must name a file or folder")
    if ".." in uri.split("/"):
        raise InvalidRequest.field("uri", uri, "must not climb out of a folder with '..'")
    return uri


def compression_of(name: str) -> Codec | None:
    """The codec that a file's name tells of: `orders.csv.gz` is `gzip`; None for a plain file."""
    return COMPRESSIONS.get(Path(name).suffix.lower())


def has_suffix(name: str, suffixes: Sequence[str]) -> bool:
    """Whether `name` ends in one of the format's suffixes, a compression's suffix left aside."""
    path = Path(name)
    bare = path.stem if path.suffix.lower() in COMPRESSIONS else path.name
    return Path(bare).suffix.lower() in suffixes


def hidden(name: str) -> bool:
    """Names that are no data: staging and marks (`.`), and markers such as `_SUCCESS` (`_`)."""
    return name.startswith((".", "_"))


def data_files(
    base: Path, dataset: DataSet, context: Context, suffixes: Sequence[str]
) -> list[DataFile]:
    """The files that a source reads, sorted by name; SourceError when there is none.

    A `uri` is a file, a folder, or a pattern (`orders/*.csv`). Of a folder the visible files with
    the format's suffixes count; what else lies there is told in the log, never passed over
    silently. A sub-folder is refused, since leaving its rows out would look like success.
    """
    uri = checked_uri(dataset)
    try:
        if _GLOB.search(uri):
            paths = _matches(base, uri, context)
        else:
            path = inside(base, uri, context.roots)
            if not path.exists():
                raise SourceError(f"{uri} does not exist in {base}.")
            paths = _folder_files(path, uri, context, suffixes) if path.is_dir() else [path]
        return [_described(base, path, context) for path in paths]
    except OSError as error:
        source_failed(error, uri)


def _described(base: Path, path: Path, context: Context) -> DataFile:
    name = path.relative_to(base).as_posix()
    resolved = inside(base, name, context.roots)
    facts = resolved.stat()
    if not resolved.is_file():
        raise SourceError(f"{name} is neither a file nor a folder.")
    return DataFile(resolved, name, facts.st_size, facts.st_mtime_ns)


def _matches(base: Path, uri: str, context: Context) -> list[Path]:
    inside(base, uri.split("*", 1)[0].split("?", 1)[0].split("[", 1)[0], context.roots)
    found = sorted(
        path
        for path in base.glob(uri)
        if not any(hidden(part) for part in path.relative_to(base).parts) and not path.is_dir()
    )
    if not found:
        raise SourceError(f"No file matches {uri} in {base}.")
    return found


def _folder_files(folder: Path, uri: str, context: Context, suffixes: Sequence[str]) -> list[Path]:
    visible = sorted(path for path in folder.iterdir() if not hidden(path.name))
    nested = [path.name for path in visible if path.is_dir()]
    if nested:
        raise SourceError(
            f"{uri} holds folders ({_few(nested)}), which are not read.",
            guidance=f"Name the files by a pattern such as {uri.rstrip('/')}/*/*{suffixes[0]}.",
        )
    chosen = [path for path in visible if has_suffix(path.name, suffixes)]
    others = [path.name for path in visible if path not in chosen]
    if not chosen:
        raise SourceError(
            f"{uri} holds no file that ends in {', '.join(suffixes)}"
            + (f"; it holds {_few(others)}." if others else ".")
        )
    if others:
        context.log("WARN", f"{uri}: not read, as their names end otherwise: {_few(others)}")
    return chosen


def _few(names: Sequence[str]) -> str:
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")


def tested(connection: Connection, context: Context, suffixes: Sequence[str]) -> str:
    """What a connection test answers for a folder; ConnectionFailed when it cannot be read."""
    base = base_folder(connection, context)
    try:
        if not base.is_dir():
            found = "is not a folder" if base.exists() else "does not exist"
            raise ConnectionFailed(f"{base} {found}.", retryable=False)
        count = len(listed(base, suffixes))
    except OSError as error:
        raise ConnectionFailed(f"{base}: {_reason(error)}", retryable=False) from error
    access = "readable and writable" if os.access(base, os.W_OK | os.X_OK) else "readable only"
    return f"folder {base}, {access}, {count} data set{'' if count == 1 else 's'}"


def listed(base: Path, suffixes: Sequence[str]) -> list[str]:
    """Files of the format in `base`, and folders (with a final `/`) that hold some; sorted."""
    found = []
    for path in base.iterdir():
        if hidden(path.name):
            continue
        if path.is_dir() and not path.is_symlink() and os.access(path, os.R_OK | os.X_OK):
            if any(has_suffix(child.name, suffixes) for child in path.iterdir()):
                found.append(f"{path.name}/")
        elif path.is_file() and has_suffix(path.name, suffixes):
            found.append(path.name)
    return sorted(found)


def bounded(batch: pa.RecordBatch, rows: int, size: int) -> Iterator[pa.RecordBatch]:
    """Slices of `batch` with at most `rows` rows and about `size` bytes (a row is never cut)."""
    count = batch.num_rows
    if count == 0:
        return
    by_size = max(1, count * size // max(1, batch.nbytes))
    step = min(rows, by_size)
    for start in range(0, count, step):
        piece = batch.slice(start, min(step, count - start))
        if piece.num_rows > 1 and piece.nbytes > 2 * size:
            half = piece.num_rows // 2
            yield from bounded(piece.slice(0, half), rows, size)
            yield from bounded(piece.slice(half), rows, size)
        else:
            yield piece


def _reason(error: OSError) -> str:
    return os.strerror(error.errno) if error.errno else str(error)


def source_failed(error: OSError, name: str) -> NoReturn:
    """Turn a file system's refusal into a SourceError that names the file."""
    raise SourceError(
        f"{name}: {_reason(error)}", retryable=error.errno in {errno.EIO, errno.ESTALE}
    ) from error


def sink_failed(error: OSError, name: str) -> NoReturn:
    """Turn a file system's refusal (full, read-only, no permission) into a SinkError."""
    guidance = ""
    if error.errno in {errno.ENOSPC, errno.EDQUOT}:
        guidance = "Free some space there, then run the task again: finished splits are kept."
    raise SinkError(
        f"{name}: {_reason(error)}",
        guidance=guidance,
        retryable=error.errno in {errno.EIO, errno.ESTALE},
    ) from error


def find_planned(files: Sequence[DataFile], data: Any) -> DataFile:
    """The file of a split, unchanged since the split was planned; SourceError otherwise."""
    for file in files:
        if file.name == data["file"]:
            if not file.unchanged(int(data["size"]), int(data["mtime_ns"])):
                break
            return file
    raise SourceError(
        f"{data['file']} changed after the task had planned its splits.",
        guidance="Run the task again once nothing writes to the file any more.",
    )


def planned(file: DataFile, **more: Any) -> dict[str, Any]:
    """A split's JSON-ready description of its file."""
    return {"file": file.name, "size": file.size, "mtime_ns": file.mtime_ns, **more}
