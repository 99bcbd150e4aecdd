"""Printing a log that a server keeps, from any point to its end, while it grows."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from exchangis.cli.client import Client, quoted
from exchangis.cli.terminal import say

_PAGE = 1000
_PACE = (0.2, 2.0)
"""Shortest and longest pause (seconds) before asking again for a log with nothing new."""


@dataclass(frozen=True, slots=True)
class LogView:
    """Which log, and what of it; `task` None is the job's own."""

    execution: str
    task: int | None = None
    only: str | None = None
    ignore: str | None = None
    tail: int | None = None
    follow: bool = False


def _read(client: Client, view: LogView, **params: Any) -> dict[str, Any]:
    if view.task is None:
        return client.get(f"/job/execution/{quoted(view.execution)}/log", **params)
    return client.get(f"/task/execution/{view.task}/log", jobExecutionId=view.execution, **params)


def print_log(
    client: Client, view: LogView, *, pause: Callable[[float], None] = time.sleep
) -> None:
    """Print the log's lines in order, each once (contract, "Logs": next is `endLine + 1`)."""
    following = 0
    if view.tail is not None:
        # Not `lastRows` for the lines themselves: with it the filters would not count.
        end = _read(client, view, lastRows=1)["endLine"]
        following = max(end + 1 - view.tail, 0)
    wait = _PACE[0]
    while True:
        page = _read(
            client, view, fromLine=following, pageSize=_PAGE,
            onlyKeywords=view.only, ignoreKeywords=view.ignore,
        )  # fmt: skip
        if text := page["logs"]["all"]:
            say(text)
        looked_at = page["endLine"] + 1 - following
        following = page["endLine"] + 1
        if page["isEnd"] or (not view.follow and looked_at < _PAGE):
            return
        if looked_at:
            wait = _PACE[0]
        if looked_at < _PAGE:
            pause(wait)
            wait = min(wait * 1.5, _PACE[1])
