"""Line numbers as the field base's clients count them: from 1 (contract, "Logs").

`fromLine` 0 and 1 both mean the first line; the next request asks for `endLine + 1`; an `endLine`
of 0 means "nothing yet". So a field number is a line's own number plus one.
"""

from __future__ import annotations

from dataclasses import replace

from exchangis.domain.errors import InvalidRequest
from exchangis.logs.reader import LogPage, LogQuery


def to_core(query: LogQuery) -> LogQuery:
    """The query with `from_line` counted from 0; InvalidRequest when it is negative."""
    if query.from_line < 0:
        raise InvalidRequest.field("fromLine", query.from_line, "must not be negative")
    return replace(query, from_line=max(query.from_line - 1, 0))


def from_core(page: LogPage) -> LogPage:
    """The page with `end_line` counted from 1."""
    return replace(page, end_line=page.end_line + 1)
