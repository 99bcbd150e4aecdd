"""What the keys of job contents mean, whatever engine and type they are prefixed with.

A key ends in its meaningful word: `exchangis.job.ds.params.datax.mysql.w.write_type`,
`sqoop.mysql.w.write_type`, `writeType` and `write_type` all say the same. Some words have two
parts (`speed.bytes`). Case and camelCase do not count.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from exchangis.domain.model import Publish, WriteMode

Area = Literal["sources", "sinks", "settings"]

_WRITE_MODES = {
    "append": WriteMode.APPEND,
    "insert": WriteMode.APPEND,
    "overwrite": WriteMode.OVERWRITE,
    "upsert": WriteMode.UPSERT,
    "update": WriteMode.UPSERT,
    "replace": WriteMode.UPSERT,
}
_TRUE = frozenset({"true", "yes", "on", "1"})
_FALSE = frozenset({"false", "no", "off", "0"})
_UNSTORABLE = re.compile("[\\x00\\ud800-\\udfff]")
_HUMP = re.compile(r"(?<=[a-z0-9])(?=[A-Z])")


def whole(value: Any) -> int:
    """A whole number; ValueError says so."""
    if isinstance(value, bool):
        raise ValueError("expected a whole number")
    if isinstance(value, float) and value.is_integer():
        return int(value)
    text = str(value).strip()
    if not re.fullmatch(r"[+-]?[0-9]{1,18}", text):
        raise ValueError("expected a whole number")
    return int(text)


def number(value: Any) -> float:
    """A finite number; ValueError says so."""
    text = str(value).strip().removesuffix("%").strip()
    if isinstance(value, bool) or not re.fullmatch(r"[+-]?[0-9]{1,15}(\.[0-9]{1,15})?", text):
        raise ValueError("expected a number")
    return float(text)


def words(value: Any) -> tuple[str, ...]:
    """Names: a list, or text separated by commas."""
    if isinstance(value, str):
        return tuple(part.strip() for part in value.split(",") if part.strip())
    if isinstance(value, list) and all(isinstance(part, str) and part for part in value):
        return tuple(value)
    raise ValueError("expected names, as a list or separated by commas")


def truth(value: Any) -> bool:
    """true or false, also as text."""
    word = str(value).strip().lower()
    if word not in _TRUE | _FALSE:
        raise ValueError("expected true or false")
    return word in _TRUE


def text(value: Any) -> str:
    """Text; numbers are taken as they are written."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if not isinstance(value, str | int | float):
        raise ValueError("expected text")
    shown = str(value)
    if not is_storable(shown):
        raise ValueError("must hold no NUL character and no lone surrogate")
    return shown


def is_storable(value: str) -> bool:
    """Whether every database takes the text: no NUL characters, no lone surrogates."""
    return not _UNSTORABLE.search(value)


def write_mode(value: Any) -> WriteMode:
    """INSERT and APPEND add rows, UPDATE and REPLACE upsert them, OVERWRITE replaces the table."""
    mode = _WRITE_MODES.get(str(value).strip().lower())
    if mode is None:
        raise ValueError("must be one of APPEND (INSERT), OVERWRITE, UPSERT (UPDATE, REPLACE)")
    return mode


def publish(value: Any) -> Publish:
    """`task` or `split`."""
    try:
        return Publish(str(value).strip().lower())
    except ValueError:
        raise ValueError("must be task (all rows at once) or split (as each is written)") from None


def _limited(
    parse: Callable[[Any], Any], lowest: float, highest: float | None, factor: int = 1
) -> Callable[[Any], Any]:
    def check(value: Any) -> Any:
        parsed = parse(value)
        if parsed < lowest:
            raise ValueError(f"must be at least {lowest:g}; leave it out for no limit")
        if highest is not None and parsed > highest:
            raise ValueError(f"must be at most {highest:g}")
        return parsed * factor

    return check


@dataclass(frozen=True, slots=True)
class Word:
    """What a word sets: a field of the task (`where`) or of its limits (`limits.memory_mb`)."""

    target: str
    parse: Callable[[Any], Any]


_MOST = 10**15  # keeps products inside 64 bits
_SPEED_KB = Word("limits.bytes_per_second", _limited(whole, 1, _MOST // 1024, 1024))
_SPEED_BYTES = Word("limits.bytes_per_second", _limited(whole, 1, _MOST))
_RECORDS = Word("limits.records_per_second", _limited(whole, 1, _MOST))
_PARALLELISM = Word("limits.parallelism", _limited(whole, 1, 64))
_MEMORY = Word("limits.memory_mb", _limited(whole, 64, 2**31))
_ERRORS = Word("limits.error_records", _limited(whole, 0, _MOST))
_PERCENTAGE = Word("limits.error_percentage", _limited(number, 0, 100))
_TIMEOUT = Word("limits.timeout_seconds", _limited(number, 0.001, 10**9))
_ATTEMPTS = Word("limits.max_attempts", _limited(whole, 1, 100))
_BATCH = Word("limits.batch_rows", _limited(whole, 1, 1_000_000))
_MODE = Word("write_mode", write_mode)
_WHERE = Word("where", text)

LIMIT_WORDS: dict[str, Word] = {
    "speed.bytes": _SPEED_KB,
    "speed.records": _RECORDS,
    "max.parallelism": _PARALLELISM,
    "max.memory": _MEMORY,
    "errorlimit.record": _ERRORS,
    "errorlimit.percentage": _PERCENTAGE,
    "parallelism": _PARALLELISM,
    "max_parallelism": _PARALLELISM,
    "memory_mb": _MEMORY,
    "max_memory": _MEMORY,
    "records_per_second": _RECORDS,
    "bytes_per_second": _SPEED_BYTES,
    "error_records": _ERRORS,
    "error_percentage": _PERCENTAGE,
    "timeout": _TIMEOUT,
    "timeout_seconds": _TIMEOUT,
    "max_attempts": _ATTEMPTS,
    "batch_rows": _BATCH,
    "batch_size": _BATCH,
}
SINK_WORDS: dict[str, Word] = {
    "write_type": _MODE,
    "write_mode": _MODE,
    "mode": _MODE,
    "key_columns": Word("key_columns", words),
    "publish": Word("publish", publish),
    "create_table": Word("create_table", truth),
    "batch_size": _BATCH,
    "batch_rows": _BATCH,
}
SOURCE_WORDS: dict[str, Word] = {
    "where_condition": _WHERE,
    "where": _WHERE,
    "batch_size": _BATCH,
    "batch_rows": _BATCH,
}
PLAIN_WORDS: dict[str, Word] = {
    name: word
    for name, word in (SINK_WORDS | SOURCE_WORDS).items()
    if not name.startswith("batch_")
}
"""Words that a sub job itself may carry in the readable form."""
WORDS: dict[Area, dict[str, Word]] = {
    "sources": SOURCE_WORDS,
    "sinks": SINK_WORDS,
    "settings": LIMIT_WORDS | SINK_WORDS | SOURCE_WORDS,
}


def plain_name(name: str) -> str:
    """A name in lower case with underscores: `writeType` becomes `write_type`."""
    return _HUMP.sub("_", name.strip()).lower()


def endings(key: str) -> tuple[str, ...]:
    """The words that a key may end in, the longer first."""
    parts = [plain_name(part) for part in key.split(".")]
    return (".".join(parts[-2:]), parts[-1]) if len(parts) > 1 else (parts[-1],)


def find_word(area: Area, key: str) -> Word | None:
    """What `key` means in that part of a sub job, if anything."""
    known = WORDS[area]
    return next((known[word] for word in endings(key) if word in known), None)
