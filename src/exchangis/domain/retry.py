"""When a failed attempt is tried again."""

from __future__ import annotations

import random
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """Exponential back-off with jitter: min(base * 2 ** (attempt - 1), ceiling) * U(1 - jitter, 1).

    `attempts` counts the first try too: 1 means no retry. Seconds throughout.
    """

    attempts: int = 3
    base: float = 2.0
    ceiling: float = 60.0
    jitter: float = 0.2

    def delay_after(self, attempt: int, *, retryable: bool) -> float | None:
        """Seconds to wait after attempt number `attempt` (from 1) failed, or None to give up."""
        if not retryable or attempt >= self.attempts:
            return None
        delay = min(self.base * 2.0 ** (attempt - 1), self.ceiling)
        return float(delay * random.uniform(1 - self.jitter, 1))
