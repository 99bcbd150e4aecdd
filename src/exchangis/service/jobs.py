"""Stored jobs: what is checked before they are kept."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Unpack

from exchangis.config import Settings
from exchangis.domain.clock import now_ms
from exchangis.domain.content_sides import Catalog
from exchangis.domain.content_variables import read_variables
from exchangis.domain.errors import FieldError, InvalidRequest
from exchangis.service.planning import AnyVariable, check_engine, check_form, check_name, plan
from exchangis.store.jobs import JobFields, JobRecord
from exchangis.store.opening import Store
from exchangis.store.paging import Page

_SYNC_TYPES = ("", "FULL", "INCREMENTAL")


class JobService:
    """Jobs. A stored content may be a draft: `problems` says what an execution would refuse."""

    def __init__(self, settings: Settings, store: Store, catalog: Catalog) -> None:
        self._settings = settings
        self._jobs = store.jobs
        self._catalog = catalog

    def create(
        self, user: str, *, sub_jobs: Any = None, variables: Any = None, **fields: Unpack[JobFields]
    ) -> JobRecord:
        """Store a new job; `sub_jobs` in any form that contents may have."""
        self._check(fields)
        if sub_jobs is not None:
            fields["content"] = _stored(sub_jobs)
        if variables is not None:
            fields["params"] = _params(variables)
        return self._jobs.create(user=user, now=now_ms(), **fields)

    def get(self, job_id: int) -> JobRecord:
        """The job of that id; NotFound otherwise."""
        return self._jobs.get(job_id)

    def update(
        self,
        job_id: int,
        user: str,
        *,
        sub_jobs: Any = None,
        variables: Any = None,
        **fields: Unpack[JobFields],
    ) -> JobRecord:
        """Change what is given, and nothing else."""
        self._check(fields)
        if sub_jobs is not None:
            fields["content"] = _stored(sub_jobs)
        if variables is not None:
            fields["params"] = _params(variables)
        return self._jobs.update(job_id, user=user, now=now_ms(), **fields)

    def copy(self, job_id: int, user: str, **fields: Unpack[JobFields]) -> JobRecord:
        """A second job with the same content; `fields` differ from the first one's."""
        self._check(fields)
        copied = self._jobs.copy(job_id, name=fields.get("name"), user=user, now=now_ms())
        rest = {name: value for name, value in fields.items() if name != "name"}
        if not rest:
            return copied
        return self._jobs.update(copied.id, user=user, now=now_ms(), **rest)  # type: ignore[arg-type]

    def delete(self, job_id: int) -> None:
        """Remove the job; its executions stay in the history."""
        self._jobs.delete(job_id)

    def query(
        self,
        *,
        project_id: int | None,
        type_name: str | None,
        name: str | None,
        page: int,
        size: int,
    ) -> Page[JobRecord]:
        """Jobs, newest first."""
        return self._jobs.query(
            project_id=project_id, type_name=type_name, name=name, page=page, size=size
        )

    def problems(self, job: JobRecord) -> list[FieldError]:
        """What an execution of the job would refuse, as far as it can be told before."""
        if not check_form(job.content):
            return []
        try:
            plan(
                job.content,
                catalog=self._catalog,
                engine=job.engine,
                aliases=self._settings.engine_aliases,
                strict=False,
                variables=AnyVariable(),
            )
        except InvalidRequest as error:
            return list(error.errors) or [FieldError("content", None, error.message)]
        return []

    def _check(self, fields: Mapping[str, Any]) -> None:
        if "engine" in fields:
            check_engine(fields["engine"], self._settings.engine_aliases)
        if "name" in fields:
            check_name(fields["name"], "jobName")
        if fields.get("type", "OFFLINE") not in ("OFFLINE", "STREAM"):
            raise InvalidRequest.field("jobType", fields["type"], "must be OFFLINE or STREAM")
        if fields.get("sync_type", "") not in _SYNC_TYPES:
            raise InvalidRequest.field(
                "syncType", fields["sync_type"], "must be FULL, INCREMENTAL or empty"
            )


def _stored(content: Any) -> str:
    """The content as one JSON list of sub jobs, whatever form it came in."""
    return json.dumps(check_form(content))


def _params(variables: Any) -> str | None:
    checked = read_variables(variables)
    return json.dumps(checked) if checked else None
