"""Whether a content can be carried out, found before it is accepted for execution."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from exchangis.connectors.params import check_params
from exchangis.connectors.registry import connector
from exchangis.domain.content import ParsedTask, load_sub_jobs, parse_content
from exchangis.domain.content_keys import plain_name
from exchangis.domain.content_sides import Catalog
from exchangis.domain.errors import FieldError, InvalidRequest
from exchangis.engine.base import engine_class, engine_names


class AnyVariable(Mapping[str, str]):
    """Stands for variables that are known only when the job runs: each is `1`."""

    def __getitem__(self, name: str) -> str:
        return "1"

    def __contains__(self, name: object) -> bool:
        return True

    def __iter__(self) -> Iterator[str]:
        return iter(())

    def __len__(self) -> int:
        return 0


def known_engines(aliases: Mapping[str, str]) -> list[str]:
    """Engines that jobs may name, in upper case, the default one first."""
    names = {name.upper() for name in (*engine_names(), *aliases)}
    return sorted(names, key=lambda name: (name != "NATIVE", name))


def check_engine(name: str, aliases: Mapping[str, str], *, field: str = "engineType") -> None:
    """Refuse an engine that there is not."""
    known = known_engines(aliases)
    if name.strip().upper() not in known:
        raise InvalidRequest.field(
            field, name, "no such engine", guidance=f"Known are {', '.join(known)}."
        )


def check_name(name: str, field: str) -> None:
    """Refuse a name that lists, logs and terminals could not show as it is."""
    if not name.strip() or not name.isprintable() or len(name) > 255:
        raise InvalidRequest.field(field, name, "must be 1 to 255 printable characters")


def plan(
    content: Any,
    *,
    catalog: Catalog,
    engine: str,
    aliases: Mapping[str, str],
    strict: bool,
    variables: Mapping[str, str],
) -> list[ParsedTask]:
    """The tasks of a content, each one accepted by its connectors and its engine."""
    tasks = parse_content(
        content, catalog=catalog, engine=engine, aliases=aliases, strict=strict,
        variables=variables,
    )  # fmt: skip
    for index, task in enumerate(tasks):
        path = f"content[{index}]"
        check_engine(task.engine, aliases, field=f"{path}.engineType")
        for side, data in (("source", task.spec.source), ("sink", task.spec.sink)):
            check_params(
                connector(data.type).options, data.options, prefix=f"{path}.{side}.options"
            )
        try:
            engine_class(task.spec.engine)().check(task.spec)
        except InvalidRequest as error:
            named = bool(error.errors) and error.message.startswith(error.errors[0].field)
            raise InvalidRequest(
                f"{path}.{error.message}" if named else f"{path}: {error.message}",
                guidance=error.guidance,
                errors=tuple(
                    FieldError(f"{path}.{e.field}", e.value, e.reason) for e in error.errors
                ),
            ) from error
    return tasks


def check_form(content: Any) -> list[dict[str, Any]]:
    """The sub jobs of a content that is to be stored.

    A draft may name what is not there yet; what must not be stored is a password.
    """
    sub_jobs = load_sub_jobs(content)
    for index, sub_job in enumerate(sub_jobs):
        plain = {plain_name(str(name)): value for name, value in sub_job.items()}
        for holder in (plain, plain.get("data_sources"), plain.get("data_source_ids")):
            if not isinstance(holder, dict):
                continue
            for side in ("source", "sink"):
                given = holder.get(side)
                if isinstance(given, dict) and any(
                    plain_name(str(name)) == "connection" for name in given
                ):
                    raise InvalidRequest.field(
                        f"content[{index}].{side}.connection", None,
                        "connections are not taken in a job's content",
                        guidance="Create a data source and give its id.",
                    )  # fmt: skip
    return sub_jobs
