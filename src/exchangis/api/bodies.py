"""Request bodies. Every one may carry `labels`, which deployed clients send and nobody reads;
fields that a call does not know are refused by name (contract, "The calls").
"""

from __future__ import annotations

from typing import Annotated, Any, ClassVar

from pydantic import BaseModel, ConfigDict, Field, StrictBool, model_validator

from exchangis.api.values import BodyNumber, BodyText, Text128, Text255, Text1024

Content = list[dict[str, Any]] | dict[str, Any] | str | None
Variables = dict[str, Any] | str | None


class Body(BaseModel):
    """What all bodies share."""

    model_config = ConfigDict(extra="forbid")
    read_only: ClassVar[frozenset[str]] = frozenset()
    """Fields of the answer that a client may send back with a change; they change nothing."""

    labels: Any = Field(
        default=None, description="Ignored: deployed clients send it with every write."
    )

    @model_validator(mode="before")
    @classmethod
    def _drop_read_only(cls, value: Any) -> Any:
        if isinstance(value, dict) and cls.read_only:
            return {name: part for name, part in value.items() if name not in cls.read_only}
        return value


class ExecuteBody(Body):
    """How to execute a stored job."""

    permitPartialFailures: StrictBool | None = Field(
        default=None,
        description="Let the other tasks run on when one fails; the job then ends as "
        "Partial_Success. Default: false.",
    )
    strict: StrictBool | None = Field(
        default=None, description="Refuse a content with keys that no engine knows. Default: false."
    )
    timeout: Annotated[float, Field(gt=0, le=10**9)] | None = Field(
        default=None, description="Time limit of the execution in seconds."
    )
    jobParams: Variables = Field(
        default=None,
        description="Variables, as an object or its JSON text; they win over the job's own.",
    )


class ExecuteContentBody(ExecuteBody):
    """A content to execute without a stored job."""

    jobName: Text255 = Field(default=None, description="Name of the execution. Default: adhoc.")
    content: Content = Field(
        default=None, description="Sub jobs: a list, {subJobs: [...]}, or JSON text."
    )
    jobContent: Content = Field(
        default=None, description="The same as `content`, for newer clients."
    )
    engineType: BodyText = Field(default=None, description="Engine of sub jobs that name none.")
    executeUser: Text128 = Field(default=None, description="On whose behalf; also `proxyUser`.")
    proxyUser: Text128 = None
    projectId: BodyNumber = None
    executeNode: Text255 = None


class MetricsBody(Body):
    """Which execution the task belongs to."""

    jobExecutionId: Annotated[str, Field(min_length=1, max_length=4096)] = Field(
        description="The execution of the task in the path."
    )


class LabelsBody(Body):
    """Nothing but `labels`."""


class JobBody(Body):
    """A job: what is not given stays as it is, or takes its default."""

    read_only: ClassVar[frozenset[str]] = frozenset(
        {"id", "createUser", "createTime", "modifyUser", "lastUpdateTime", "source"}
    )

    jobName: Text255 = Field(default=None, description="1 to 255 printable characters.")
    jobType: BodyText = Field(default=None, description="OFFLINE (default) or STREAM.")
    engineType: BodyText = Field(
        default=None, description="See `GET /job/engineType`. Default: NATIVE."
    )
    jobDesc: BodyText = None
    jobLabels: Text1024 = Field(default=None, description="Labels separated by commas.")
    projectId: BodyNumber = None
    executeUser: Text128 = Field(default=None, description="On whose behalf; also `proxyUser`.")
    proxyUser: Text128 = None
    executeNode: Text255 = None
    syncType: BodyText = Field(default=None, description="FULL, INCREMENTAL or empty.")
    jobParams: Variables = Field(
        default=None, description="Variables: an object, or its JSON text."
    )
    content: Content = Field(
        default=None, description="Sub jobs: a list, {subJobs: [...]}, or JSON text."
    )
    jobContent: Content = Field(
        default=None, description="The same as `content`, for newer clients."
    )


class JobContentBody(Body):
    """A job's content."""

    content: Content = Field(
        default=None, description="Sub jobs: a list, {subJobs: [...]}, or JSON text."
    )
    jobContent: Content = Field(
        default=None, description="The same as `content`, for newer clients."
    )
    projectId: BodyNumber = None


class JobConfigBody(Body):
    """How a job is executed."""

    executeNode: Text255 = None
    executeUser: Text128 = None
    proxyUser: Text128 = None
    syncType: BodyText = Field(default=None, description="FULL, INCREMENTAL or empty.")
    jobParams: Variables = Field(
        default=None, description="Variables: an object, or its JSON text."
    )
    projectId: BodyNumber = None


class JobCopyBody(Body):
    """What the copy differs in."""

    jobName: Text255 = Field(default=None, description="Default: the job's name and `_copy`.")
    jobLabels: Text1024 = None
    jobDesc: BodyText = None
    projectId: BodyNumber = None


class DataSourceBody(Body):
    """A data source."""

    read_only: ClassVar[frozenset[str]] = frozenset(
        {"id", "versionId", "expire", "createUser", "createTime", "modifyUser", "modifyTime",
         "publishedVersionId", "createIdentify", "comment"}
    )  # fmt: skip

    dataSourceName: Text255 = None
    dataSourceTypeId: int | str | None = Field(
        default=None, description="Number of the type, see `GET /datasources/type`."
    )
    dataSourceType: BodyText = Field(
        default=None, description="Name of the type instead, e.g. MYSQL."
    )
    createSystem: BodyText = Field(
        default=None, description="Name of the type, as deployed clients say."
    )
    dataSourceDesc: BodyText = None
    label: Text255 = None
    connectParams: dict[str, Any] | None = Field(
        default=None,
        description="What the type declares, see `GET /datasources/types/{id}/keydefines`.",
    )


class DataSourceQueryBody(Body):
    """Which data sources."""

    page: BodyNumber = Field(default=None, description="From 1.")
    pageSize: BodyNumber = Field(default=None, description="1 to 1000. Default: 10.")
    typeId: int | str | None = Field(default=None, description="Number (or name) of a type.")
    name: BodyText = Field(default=None, description="Part of the name.")
    projectId: BodyNumber = None
