"""Waiting for a condition with a limit, in place of sleeping."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


def wait_until(condition: Callable[[], T], *, within: float = 15.0, what: str = "") -> T:
    """The first truthy answer of `condition`; AssertionError when none comes in `within` s."""
    deadline = time.monotonic() + within
    while True:
        answer = condition()
        if answer:
            return answer
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {within:g} s: {what or condition!r}")
        time.sleep(0.01)  # paces the question; the condition decides
