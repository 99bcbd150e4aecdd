"""Log lines as they are stored: one level each, no control characters, secrets masked."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Literal
from zoneinfo import ZoneInfo

LogLevel = Literal["DEBUG", "INFO", "WARN", "ERROR"]
MAX_LINE = 16_384
"""Characters of one stored line; what is longer is cut and says so."""

_BREAKS = re.compile(r"\r\n|[\n\r\v\f\x1c\x1d\x1e\x85\u2028\u2029]")
# C0 and C1 controls but for tab, the marks that reorder text on a terminal or page, and lone
# surrogates, which no database takes.
_CONTROLS = re.compile(
    r"[\x00-\x08\x0e-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff]"
)


@dataclass(frozen=True, slots=True)
class LogLine:
    """One stored line; a continuation line has the level of the line that it follows."""

    level: LogLevel
    text: str


def _escape(match: re.Match[str]) -> str:
    code = ord(match.group())
    return f"\\x{code:02x}" if code < 256 else f"\\u{code:04x}"


def escape_controls(text: str) -> str:
    """`text` with nothing left that steers or confuses a terminal; tabs and line ends stay."""
    return _CONTROLS.sub(_escape, text)


def make_lines(
    level: LogLevel,
    text: str,
    *,
    at_ms: int,
    zone: ZoneInfo,
    mask: Callable[[str], str],
) -> list[LogLine]:
    """Stored lines for one message: `yyyy-MM-dd HH:mm:ss.SSS LEVEL text`, then continuations.

    The whole message is masked before it is cut into lines, so that no secret hides in a break.
    """
    when = datetime.fromtimestamp(at_ms / 1000, zone)
    head = f"{when:%Y-%m-%d %H:%M:%S}.{at_ms % 1000:03d} {level:<5} "
    lines = []
    for number, part in enumerate(_BREAKS.split(mask(text).rstrip("\r\n"))):
        clean = escape_controls(part)
        if len(clean) > MAX_LINE:
            clean = f"{clean[:MAX_LINE]}... (cut, {len(clean)} characters)"
        lines.append(LogLine(level, head + clean if number == 0 else f"    {clean}"))
    return lines
