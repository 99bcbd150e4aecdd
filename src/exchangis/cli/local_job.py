"""Reading a job file: its tasks, with connections taken from the file or from the home's store."""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from pydantic import SecretStr

from exchangis.cli.settings import load_settings
from exchangis.config import Settings
from exchangis.connectors.params import make_connection
from exchangis.connectors.registry import connector
from exchangis.domain.content import ParsedTask
from exchangis.domain.content_sides import StoredSource, System
from exchangis.domain.errors import InvalidRequest, NotFound
from exchangis.domain.masking import Masker, is_secret_name
from exchangis.domain.model import Connection, DataSet, TaskSpec
from exchangis.server_store import open_checked_store
from exchangis.service.catalog import StoreCatalog, system_of
from exchangis.service.planning import plan
from exchangis.store.opening import KEY_FILE, Store

_VARIABLE_NAME = re.compile(r"[A-Za-z_][\w.-]{0,99}")


@dataclass(frozen=True)
class LocalTask:
    """A task and how to reach both of its sides."""

    spec: TaskSpec
    source: Connection
    sink: Connection
    unknown_keys: tuple[str, ...]


@dataclass(frozen=True)
class LocalJob:
    """A job file, read. `mask` knows every secret in it."""

    tasks: tuple[LocalTask, ...]
    settings: Settings
    mask: Masker


class LocalCatalog:
    """What a job file may name: every connector, and the data sources of the home's store.

    The store is opened when a data source is asked for by name or id, and only where a server has
    been before: `run` alone makes none. `close` when done.
    """

    takes_connections = True

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._store: Store | None = None

    def close(self) -> None:
        """Close the store, if it was opened."""
        if self._store is not None:
            self._store.close()

    def _opened(self) -> Store | None:
        if self._store is None and (self._settings.home / KEY_FILE).exists():
            self._store = open_checked_store(self._settings)
        return self._store

    def system(self, type_name: str) -> System:
        """See `content_sides.Catalog`."""
        return system_of(type_name)

    def stored(self, key: int | str) -> StoredSource | None:
        """See `content_sides.Catalog`."""
        store = self._opened()
        return None if store is None else StoreCatalog(store.data_sources).stored(key)

    def connection(self, key: int) -> Connection:
        """How to reach the stored data source of that id."""
        store = self._opened()
        if store is None:
            raise NotFound(f"There is no data source {key}.")
        return store.data_sources.connection(key)


def read_content(path: str) -> Any:
    """The content of a YAML or JSON file, or of standard input for `-`."""
    shown = "standard input" if path == "-" else path
    try:
        if path == "-":
            text = sys.stdin.buffer.read().decode("utf-8-sig")
        else:
            text = Path(path).read_bytes().decode("utf-8-sig")
    except OSError as error:
        raise InvalidRequest(f"{shown}: {error.strerror or error}") from None
    except UnicodeDecodeError:
        raise InvalidRequest(f"{shown}: is no UTF-8 text") from None
    if text.lstrip()[:1] in ("[", "{"):
        try:
            return json.loads(text)
        except (ValueError, RecursionError):
            pass  # YAML's flow style begins alike; its parser has the word, and the better message
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        # Only the problem and its line: the line itself may hold a password.
        mark = getattr(error, "problem_mark", None)
        where = f", line {mark.line + 1}" if mark is not None else ""
        problem = getattr(error, "problem", None) or "cannot be parsed"
        raise InvalidRequest(f"{shown}{where}: is neither JSON nor YAML: {problem}") from None
    except RecursionError:
        raise InvalidRequest(f"{shown}: is nested too deeply") from None


def read_variables(given: Sequence[str]) -> dict[str, str]:
    """`NAME=VALUE` arguments."""
    variables = {}
    for entry in given:
        name, equals, value = entry.partition("=")
        if not equals or not _VARIABLE_NAME.fullmatch(name):
            raise InvalidRequest.field("--var", name, "must read NAME=VALUE")
        variables[name] = value
    return variables


def _environment() -> dict[str, str]:
    """The environment as variables `env.NAME`."""
    return {f"env.{name}": value for name, value in os.environ.items()}


def _secrets_in(content: Any) -> Iterator[str]:
    """Values under names such as `password`, at any depth: masked even if the job is wrong."""
    if isinstance(content, dict):
        for name, value in content.items():
            if isinstance(value, str | int) and is_secret_name(str(name)):
                yield str(value)
            else:
                yield from _secrets_in(value)
    elif isinstance(content, list):
        for value in content:
            yield from _secrets_in(value)


def load_job(path: str, *, home: Path | None, variables: Sequence[str], strict: bool) -> LocalJob:
    """Read and check a job file; every mistake is an InvalidRequest without secrets."""
    settings = load_settings(home)
    content = read_content(path)
    secrets = list(_secrets_in(content))
    try:
        with closing(LocalCatalog(settings)) as catalog:
            parsed = plan(
                content,
                catalog=catalog,
                engine="native",
                aliases=settings.engine_aliases,
                strict=strict,
                variables=_environment() | read_variables(variables),
            )
            tasks = tuple(_local_task(task, index, catalog) for index, task in enumerate(parsed))
    except InvalidRequest as error:
        raise InvalidRequest(
            Masker(secrets)(error.message), guidance=_local_guidance(error.guidance)
        ) from None
    secrets += [
        value.get_secret_value()
        for task in tasks
        for connection in (task.source, task.sink)
        for value in connection.secrets.values()
    ]
    return LocalJob(tasks, settings, Masker(secrets))


def _local_guidance(text: str) -> str:
    """The advice for job files where the one for servers does not fit."""
    if "jobParams" in text:
        return "Give it with --var NAME=VALUE, or name one of the environment: ${env.NAME}."
    if text == "Give the data source's id, or its name.":
        return "Say how to reach it: connection: {...}, or name a data source of the home's store."
    return text


def _local_task(task: ParsedTask, index: int, catalog: LocalCatalog) -> LocalTask:
    path = f"content[{index}]"
    return LocalTask(
        task.spec,
        _connection(task.spec.source, task.source_connection, catalog, f"{path}.source"),
        _connection(task.spec.sink, task.sink_connection, catalog, f"{path}.sink"),
        task.unknown_keys,
    )


def _connection(
    dataset: DataSet, given: Mapping[str, SecretStr] | None, catalog: LocalCatalog, path: str
) -> Connection:
    if dataset.data_source is not None:
        return catalog.connection(dataset.data_source)
    values = {name: value.get_secret_value() for name, value in (given or {}).items()}
    try:
        return make_connection(connector(dataset.type), values)
    except InvalidRequest as error:
        raise InvalidRequest(
            error.message.replace("connectParams", f"{path}.connection"), guidance=error.guidance
        ) from None
