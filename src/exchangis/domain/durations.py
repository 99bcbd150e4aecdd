"""Durations as text: one spelling for databases, files and people."""

from __future__ import annotations

from typing import Literal

_NANOS = {"s": 1_000_000_000, "ms": 1_000_000, "us": 1_000, "ns": 1}


def duration_text(count: int, unit: Literal["s", "ms", "us", "ns"]) -> str:
    """`count` units as `[-]HH:MM:SS[.ffffff]`, with as many hours as it takes (MySQL's TIME).

    The fraction is left out when zero, and has nine digits only where six cannot hold it.
    """
    seconds, nanos = divmod(abs(count) * _NANOS[unit], 1_000_000_000)
    minutes, second = divmod(seconds, 60)
    hour, minute = divmod(minutes, 60)
    text = f"{'-' if count < 0 else ''}{hour:02}:{minute:02}:{second:02}"
    if nanos % 1000:
        return f"{text}.{nanos:09}"
    return f"{text}.{nanos // 1000:06}" if nanos else text
