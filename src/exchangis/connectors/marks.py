"""Commit marks: which splits of which task are in a sink already (design, decision 5).

A database sink keeps them in the table `exchangis_commits` beside the target table, written in the
same transaction as the rows. Its columns, in every dialect:

    task_key   text, 64      with split_id the primary key: a split is committed once, whoever tries
    split_id   text, 64      a split's id, or one of the names below
    attempt    integer       the fencing number that committed it
    row_count  bigint
    note       text          the plan's JSON text on the row PLAN
    created_at timestamp
"""

from __future__ import annotations

import hashlib

TABLE = "exchangis_commits"
PLAN = "#plan"
PUBLISHING = "#publishing"
PUBLISHED = "#published"
KEEP_DAYS = 7
"""Marks of tasks older than this are removed by a later task's `prepare`."""


def staging_name(task_key: str) -> str:
    """Name of the task's staging table or folder: the same for all of its attempts."""
    return f"exchangis_stg_{hashlib.sha256(task_key.encode()).hexdigest()[:24]}"
