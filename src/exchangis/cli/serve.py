"""`exchangis server` and `exchangis demo`."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer


class LogLevelName(StrEnum):
    """Levels of the server's own log."""

    DEBUG = "debug"
    INFO = "info"
    WARNING = "warning"
    ERROR = "error"


class LogFormat(StrEnum):
    """Forms of the server's own log."""

    TEXT = "text"
    JSON = "json"


def server(
    host: Annotated[
        str | None,
        typer.Option("--host", help="Address to listen on; beyond loopback a token is needed."),
    ] = None,
    port: Annotated[
        int | None,
        typer.Option("--port", min=0, max=65535, help="Port to listen on (9321); 0: a free one."),
    ] = None,
    home: Annotated[
        Path | None,
        typer.Option("--home", help="Folder of store, keys and runs ($EXCHANGIS_HOME)."),
    ] = None,
    log_level: Annotated[
        LogLevelName, typer.Option("--log-level", help="Least level of the server's own log.")
    ] = LogLevelName.INFO,
    log_format: Annotated[
        LogFormat, typer.Option("--log-format", help="Form of the server's own log, on stderr.")
    ] = LogFormat.TEXT,
) -> None:
    """Start a server: REST API, scheduler and runners in one; Ctrl-C or SIGTERM ends it."""
    from exchangis.cli.settings import load_settings
    from exchangis.cli.terminal import say
    from exchangis.server import Server
    from exchangis.server_log import set_up_logging

    settings = load_settings(home, host=host, port=port)
    set_up_logging(log_level.value, as_json=log_format is LogFormat.JSON, settings=settings)
    running = Server(settings)

    def announce() -> None:
        say(f"Exchangis listens on {running.url}")
        if settings.host not in running.url:
            say(f"  and on every other address of this machine ({settings.host})")
        say(f"  home   {settings.home}")
        say(f"  store  {running.store_name}")

    running.serve(announce)


def demo(
    rows: Annotated[
        int, typer.Option("--rows", min=300, help="Rows of sample data, over all tasks.")
    ] = 1_000_000,
    home: Annotated[
        Path | None,
        typer.Option("--home", help="Home to use and keep; default: a temporary one."),
    ] = None,
    keep: Annotated[
        bool, typer.Option("--keep", help="Keep the temporary home, with data and store.")
    ] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print progress and result as JSON lines.")
    ] = False,
) -> None:
    """Show it all: a server, sample data, a job through the REST API, the proof that it is right.

    SQLite to Parquet, CSV with a few bad rows to DuckDB, DuckDB to SQLite. Exit code tells success.
    """
    from exchangis.cli.demo import run_demo

    raise typer.Exit(run_demo(rows=rows, home=home, keep=keep, as_json=as_json))
