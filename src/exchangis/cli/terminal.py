"""What commands print on: tables, JSON and clean lines, for terminals and for pipes."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import sys
import unicodedata
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from exchangis.domain.loglines import escape_controls

if TYPE_CHECKING:
    from rich.console import Console

# Line ends that only move the cursor.
_MOVES = re.compile(r"[\r\v\f]")
_BREAKS = re.compile(r"\s*[\r\n\v\f\x85\u2028\u2029]+\s*")
_NUMBERS = frozenset({"rows", "rows/s", "dirty", "ignored", "tasks", "seconds", "progress"})


def clean(text: str) -> str:
    """`text` with control characters shown as escapes; tabs and newlines stay.

    Names and messages come from servers, files and databases: none may steer the terminal.
    """
    return _MOVES.sub(lambda found: f"\\x{ord(found.group()):02x}", escape_controls(text))


def one_line(text: str) -> str:
    """`text` cleaned, its line ends turned into spaces."""
    return clean(_BREAKS.sub(" ", text.strip()))


def is_terminal() -> bool:
    """Whether stdout is one."""
    return sys.stdout.isatty()


def console() -> Console:
    """Rich's view of stdout; honours NO_COLOR."""
    from rich.console import Console

    return Console(highlight=False, markup=False, emoji=False)


def say(text: str = "") -> None:
    """One line on stdout, cleaned."""
    print(clean(text), flush=True)


def program_name() -> str:
    """How to call this program again: `exchangis` where the shell finds it, else as it was."""
    called = Path(sys.argv[0])
    if called.name != "exchangis":
        return f"{shlex.quote(sys.executable)} -m exchangis"
    found = shutil.which("exchangis")
    if found is not None and Path(found).resolve() == called.resolve():
        return "exchangis"
    return shlex.quote(sys.argv[0])


def print_json(value: Any, *, indent: int | None = 2) -> None:
    """`value` as JSON on stdout; one line without `indent`."""
    print(json.dumps(value, ensure_ascii=False, indent=indent, default=str), flush=True)


def print_table(headers: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    """A table: drawn on a terminal, aligned columns without ornament elsewhere."""
    texts = [[one_line("" if cell is None else str(cell)) for cell in row] for row in rows]
    right = [header.lower() in _NUMBERS for header in headers]
    if is_terminal():
        _draw(headers, texts, right)
        return
    upper = [header.upper() for header in headers]
    widths = [max(map(_width, column)) for column in zip(upper, *texts, strict=True)]
    for line in [upper, *texts]:
        cells = (
            (" " * (width - _width(cell)) + cell) if to_right
            else (cell + " " * (width - _width(cell)))
            for cell, width, to_right in zip(line, widths, right, strict=True)
        )  # fmt: skip
        print("  ".join(cells).rstrip())
    sys.stdout.flush()


def _width(text: str) -> int:
    """Places that a text takes on a terminal: two for each wide (Chinese, ...) character."""
    return len(text) + sum(unicodedata.east_asian_width(char) in "WF" for char in text)


def _draw(headers: Sequence[str], rows: list[list[str]], right: Sequence[bool]) -> None:
    from rich import box
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.ROUNDED, header_style="bold")
    for header, to_right in zip(headers, right, strict=True):
        table.add_column(header, justify="right" if to_right else "left", overflow="fold")
    for row in rows:
        table.add_row(*(Text(cell, style=state_style(cell)) for cell in row))
    console().print(table)


def state_style(word: str) -> str:
    """The colour of a state's name; nothing for other words."""
    if word == "Success":
        return "green"
    if word in ("Failed", "Timeout", "Undefined"):
        return "red"
    return "yellow" if word in ("Cancelled", "Partial_Success", "WaitForRetry") else ""


def count(number: float | None) -> str:
    """A number as people read it: `1,234,567`; `-` for none."""
    return "-" if number is None else f"{round(number):,}"
