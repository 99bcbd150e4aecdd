"""What the calls answer: the envelope, and `data` of each call, as OpenAPI shows them.

Handlers build plain values and do not go through these models; a test holds answers to them.
"""

from __future__ import annotations

from typing import Any, Generic, TypeVar

from pydantic import BaseModel, ConfigDict, Field

D = TypeVar("D")


class Envelope(BaseModel, Generic[D]):
    """Every answer."""

    method: str = Field(description="The route's template as the interface document prints it.")
    status: int = Field(description="0 is success.")
    message: str
    data: D


class ErrorItem(BaseModel):
    field: str
    value: Any = None
    reason: str


class ErrorData(BaseModel):
    """Machine-readable detail, where there is some."""

    errors: list[ErrorItem] = []
    errorId: str | None = None


class ErrorEnvelope(BaseModel):
    """An error: 1 = the request is wrong or failed, -1 = not logged in, 2 = no permission."""

    method: str
    status: int = Field(description="Not 0.")
    message: str = Field(description="What is wrong, and what to do.")
    data: ErrorData


class Data(BaseModel):
    """Base of the calls' data."""

    model_config = ConfigDict(extra="forbid")


class NoData(Data):
    """Nothing further."""


class IdData(Data):
    id: int


class ExecutedData(Data):
    jobExecutionId: str = Field(description="Opaque; unique for ever.")


class StatusData(Data):
    status: str = Field(description="Inited, Scheduled, Running, WaitForRetry, Cancelled, Failed, "
                        "Partial_Success, Success, Undefined or Timeout.")  # fmt: skip
    progress: float = Field(description="0..1; 1.0 exactly on Success.")
    allTaskStatus: bool | None = Field(
        default=None, description="Field base: whether the job and all its tasks are final."
    )


class AllTaskStatusData(Data):
    allTaskStatus: bool


class TaskItem(Data):
    taskId: int | str
    name: str
    status: str
    createTime: str
    launchTime: str | None
    lastUpdateTime: str
    engineType: str
    linkisJobId: str | None
    linkisJobInfo: str | None
    executeUser: str


class TaskListData(Data):
    tasks: list[TaskItem]


class ProgressTask(Data):
    taskId: int | str
    name: str
    status: str
    progress: float


class ProgressJob(Data):
    status: str
    progress: float
    tasks: dict[str, list[ProgressTask]] = Field(description="Tasks by state.")
    total: int | None = Field(default=None, description="Field base: number of tasks.")


class ProgressData(Data):
    job: ProgressJob


class ResourceUsed(Data):
    cpu: float = Field(description="vcores in use.")
    memory: float = Field(description="GB (field base: MB) in use.")


class Traffic(Data):
    source: str
    sink: str
    flow: float = Field(description="Records/s now; the average once the task is final.")


class Indicator(Data):
    exchangedRecords: int
    errorRecords: int
    ignoredRecords: int


class Metrics(Data):
    resourceUsed: ResourceUsed
    traffic: Traffic
    indicator: Indicator


class MetricsTask(Data):
    taskId: int | str
    name: str
    status: str
    metrics: Metrics | NoData = Field(description="{} before the task runs.")


class MetricsData(Data):
    task: MetricsTask


class LogTexts(Data):
    all: str
    error: str
    warn: str
    info: str


class LogData(Data):
    endLine: int = Field(description="Last line looked at; ask for endLine + 1 next.")
    isEnd: bool = Field(description="No line is left and none can come any more.")
    logs: LogTexts = Field(description="Lines joined by newlines.")


class HistoryItem(Data):
    jobExecutionId: str
    jobId: int | None
    projectId: int | None
    name: str
    engineType: str
    status: str
    progress: float
    flow: float
    executeNode: str
    createUser: str
    executeUser: str
    createTime: str
    launchTime: str | None
    lastUpdateTime: str
    endTime: str | None
    error: str | None


class HistoryData(Data):
    jobList: list[HistoryItem]
    total: int


class JobSummary(Data):
    id: int
    projectId: int | None
    jobName: str
    jobType: str
    engineType: str
    jobDesc: str
    jobLabels: str
    executeUser: str | None
    proxyUser: str | None
    executeNode: str | None
    syncType: str | None
    createUser: str
    createTime: str
    modifyUser: str
    lastUpdateTime: str


class JobDetail(JobSummary):
    jobParams: str | None = Field(description="JSON text; null for none.")
    content: str = Field(description='JSON text {"subJobs": [...]}; "[]" for none.')
    jobContent: str = Field(description="The same as `content`.")


class JobData(Data):
    result: JobDetail


class SavedContentData(JobData):
    problems: list[ErrorItem] = Field(description="What an execution would refuse as it is now.")


class JobListData(Data):
    result: list[JobSummary]
    total: int


class NamesData(Data):
    result: list[str]


class FunctionItem(BaseModel):
    model_config = ConfigDict(extra="allow")
    funcName: str
    paramNames: list[str]


class FunctionsData(Data):
    data: list[FunctionItem]


class DataSourceItem(Data):
    id: int
    name: str
    dataSourceName: str
    dataSourceTypeId: int
    dataSourceType: str
    desc: str
    labels: str
    expire: bool
    versionId: int
    readAble: bool
    writeAble: bool
    authDbs: str | None
    authTbls: str | None
    createSystem: str
    createUser: str
    createTime: str
    modifyUser: str
    modifyTime: str


class DataSourceListData(Data):
    list: list[DataSourceItem]
    total: int


class DataSourceDetail(Data):
    id: int
    dataSourceName: str
    dataSourceTypeId: int
    dataSourceType: str
    dataSourceDesc: str
    label: str
    connectParams: dict[str, Any] = Field(description="Secrets show as ******.")
    versionId: int
    expire: bool
    createSystem: str
    createUser: str
    createTime: str
    modifyUser: str
    modifyTime: str


class DataSourceData(Data):
    info: DataSourceDetail


class DataSourceSavedData(Data):
    id: int
    versionId: int


class DataSourceTypeItem(Data):
    id: int
    name: str
    title: str
    classifier: str
    struct_classifier: str


class DataSourceTypesData(Data):
    list: list[DataSourceTypeItem]


class KeyDefine(Data):
    id: int
    key: str
    name: str
    description: str
    valueType: str
    defaultValue: str | None
    require: bool
    valueRegex: str | None
    refId: int | None
    refValue: str | None
    dataSource: str | None


class KeyDefinesData(Data):
    list: list[KeyDefine]


class VersionItem(Data):
    versionId: int
    datasourceId: int
    createUser: str
    createTime: str
    published: bool
    connectParams: dict[str, Any]


class VersionsData(Data):
    versions: list[VersionItem]


class ConnectData(Data):
    server: str = Field(description="What answered, e.g. MariaDB 10.11.")


class DatabasesData(Data):
    dbs: list[str]


class TablesData(Data):
    tbs: list[str]
