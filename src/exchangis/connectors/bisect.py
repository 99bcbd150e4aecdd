"""Finding the rows that a sink refuses without slowing down the batches that it takes."""

from __future__ import annotations

from collections.abc import Callable

import pyarrow as pa

from exchangis.connectors.base import Rejected, Written


def write_bisecting(
    batch: pa.RecordBatch,
    attempt: Callable[[pa.RecordBatch], str | None],
) -> Written:
    """Write `batch` through `attempt`, halving what is refused until single rows stand out.

    `attempt` writes all rows of what it is given and returns None, or writes none of them and
    returns why (it rolls back to a savepoint of its own). Errors that are no fault of a row, such
    as a lost connection, it raises. One bad row among n costs about 2 * log2(n) attempts.
    """
    written = 0
    rejected: list[Rejected] = []
    stack = [(0, batch.num_rows)]
    while stack:
        start, length = stack.pop()
        if length == 0:
            continue
        reason = attempt(batch.slice(start, length))
        if reason is None:
            written += length
        elif length == 1:
            rejected.append(Rejected(start, reason))
        else:
            half = length // 2
            stack.append((start + half, length - half))
            stack.append((start, half))
    return Written(written, tuple(rejected))
