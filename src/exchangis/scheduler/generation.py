"""Making the tasks of a submitted execution from its content."""

from __future__ import annotations

from exchangis.config import Settings
from exchangis.domain.content import parse_content
from exchangis.domain.content_sides import Catalog
from exchangis.domain.content_variables import read_variables
from exchangis.store.queue import Generation, NewTask


def generate(work: Generation, settings: Settings, catalog: Catalog) -> list[NewTask]:
    """One task per sub job, in order; InvalidRequest when the content no longer holds.

    It was checked when it was submitted; a data source may have gone since.
    """
    parsed = parse_content(
        work.content,
        catalog=catalog,
        engine=work.engine,
        aliases=settings.engine_aliases,
        strict=work.strict,
        variables=read_variables(work.params),
    )
    tasks = []
    for task in parsed:
        limits = task.spec.limits
        timeout = limits.timeout_seconds or settings.task_timeout
        tasks.append(
            NewTask(
                name=task.spec.name,
                engine=task.engine,
                source_type=task.spec.source.type,
                sink_type=task.spec.sink.type,
                spec=task.spec.model_dump_json(),
                unknown_keys=task.unknown_keys,
                max_attempts=limits.max_attempts or settings.retry_attempts,
                timeout_ms=None if timeout is None else int(timeout * 1000),
            )
        )
    return tasks
