"""What a task may ask of its connectors, checked before it starts."""

from __future__ import annotations

from exchangis.connectors.base import Connector
from exchangis.connectors.filters import check_filter
from exchangis.connectors.params import check_params
from exchangis.connectors.registry import connector
from exchangis.domain.errors import InvalidRequest
from exchangis.domain.model import DataSet, Publish, TaskSpec, WriteMode
from exchangis.engine.mapping import parse_rules


def check_task(spec: TaskSpec) -> None:
    """InvalidRequest names the field that connectors or engine cannot honour."""
    source = connector_of(spec.source, "source")
    sink = connector_of(spec.sink, "sink")
    _check_dataset(source, spec.source, "source")
    _check_dataset(sink, spec.sink, "sink")
    able = sink.capabilities
    if spec.write_mode not in able.write_modes:
        raise InvalidRequest.field(
            "write_mode",
            spec.write_mode.value,
            f"{sink.title} cannot; it can {', '.join(sorted(able.write_modes))}",
        )
    if spec.publish not in able.publish:
        raise InvalidRequest.field(
            "publish",
            spec.publish.value,
            f"{sink.title} cannot; it can {', '.join(sorted(able.publish))}",
        )
    if spec.publish is Publish.SPLIT and spec.write_mode is WriteMode.OVERWRITE and not able.staged:
        raise InvalidRequest.field(
            "publish",
            spec.publish.value,
            f"{sink.title} has no staging area: an overwrite would show half a table",
            guidance="Use publish: task.",
        )
    if spec.where and not source.capabilities.filters:
        check_filter(spec.where, "duckdb")
    parse_rules(spec)


def connector_of(dataset: DataSet, side: str) -> Connector:
    """The connector of one side; InvalidRequest lists the known types."""
    try:
        return connector(dataset.type)
    except InvalidRequest as error:
        reason = error.errors[0].reason if error.errors else error.message
        raise InvalidRequest.field(f"{side}.type", dataset.type, reason) from error


def _check_dataset(able: Connector, dataset: DataSet, side: str) -> None:
    wanted = able.capabilities.addressing
    if not getattr(dataset, wanted):
        raise InvalidRequest.field(f"{side}.{wanted}", None, f"{able.title} needs it")
    other = "uri" if wanted == "table" else "table"
    if getattr(dataset, other):
        raise InvalidRequest.field(
            f"{side}.{other}", getattr(dataset, other), f"{able.title} takes {wanted} instead"
        )
    if dataset.database and not able.capabilities.databases:
        raise InvalidRequest.field(
            f"{side}.database", dataset.database, f"{able.title} has no databases"
        )
    check_params(able.options, dataset.options, prefix=f"{side}.options")
