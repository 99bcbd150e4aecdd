"""Times: kept as whole milliseconds since the epoch, shown in the server's zone."""

from __future__ import annotations

import time
from datetime import datetime
from zoneinfo import ZoneInfo


def now_ms() -> int:
    """Milliseconds since the epoch."""
    return time.time_ns() // 1_000_000


def format_ms(value: int | None, zone: ZoneInfo) -> str | None:
    """`yyyy-MM-dd HH:mm:ss` in `zone` (contract, "Envelope"); None stays None."""
    if value is None:
        return None
    return datetime.fromtimestamp(value / 1000, zone).strftime("%Y-%m-%d %H:%M:%S")
