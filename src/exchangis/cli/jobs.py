"""`exchangis job ...`: submit, follow and end executions on a server."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(help="Submit, follow and end executions on a server.", no_args_is_help=True)

Url = Annotated[
    str | None,
    typer.Option(
        "--url",
        envvar="EXCHANGIS_URL",
        help="The server; default: the one that runs on the home, else http://127.0.0.1:9321.",
    ),
]
Token = Annotated[
    str | None,
    typer.Option(
        "--token",
        envvar="EXCHANGIS_TOKEN",
        show_envvar=True,
        help="Bearer token; better given in the environment, arguments show in process lists.",
    ),
]
Home = Annotated[
    Path | None, typer.Option("--home", help="Home folder in which to look for a server.")
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Execution = Annotated[str, typer.Argument(metavar="ID", help="jobExecutionId of the execution.")]


@app.command("submit")
def submit(
    job: Annotated[
        str,
        typer.Argument(help="Id of a stored job, or a file with a job content; - reads stdin."),
    ],
    wait: Annotated[
        bool, typer.Option("--wait", "-w", help="Show progress until it ends; exit code tells.")
    ] = False,
    permit_partial_failures: Annotated[
        bool, typer.Option("--permit-partial-failures", help="Go on when a task fails.")
    ] = False,
    strict: Annotated[
        bool, typer.Option("--strict", help="Refuse keys in the job that mean nothing.")
    ] = False,
    variables: Annotated[
        list[str] | None,
        typer.Option("--var", metavar="NAME=VALUE", help="Fill ${NAME}; may be repeated."),
    ] = None,
    name: Annotated[
        str | None, typer.Option("--name", help="Name in the history, for a file's content.")
    ] = None,
    url: Url = None,
    token: Token = None,
    home: Home = None,
    as_json: Json = False,
) -> None:
    """Execute a stored job, or a content from a file; prints the execution's id."""
    from exchangis.cli.client import connect
    from exchangis.cli.remote import submit_job, watch

    with connect(url, token, home) as client:
        execution = submit_job(
            client, job, name=name, permit_partial_failures=permit_partial_failures,
            strict=strict, variables=variables or [], as_json=as_json, quiet=wait and as_json,
        )  # fmt: skip
        if wait:
            raise typer.Exit(watch(client, execution, as_json=as_json))


@app.command("status")
def status(
    execution: Execution, url: Url = None, token: Token = None, home: Home = None,
    as_json: Json = False,
) -> None:  # fmt: skip
    """State, progress and tasks of an execution."""
    from exchangis.cli.client import connect
    from exchangis.cli.remote import show_status

    with connect(url, token, home) as client:
        show_status(client, execution, as_json=as_json)


@app.command("logs")
def logs(
    execution: Execution,
    follow: Annotated[
        bool, typer.Option("--follow", "-f", help="Go on until the log has ended.")
    ] = False,
    task: Annotated[
        int | None, typer.Option("--task", help="Log of that task, by its id, not of the job.")
    ] = None,
    only: Annotated[
        str | None, typer.Option("--only", help="Only lines with one of these words, by comma.")
    ] = None,
    ignore: Annotated[
        str | None, typer.Option("--ignore", help="No lines with one of these words, by comma.")
    ] = None,
    tail: Annotated[
        int | None,
        typer.Option("--tail", "-n", min=0, help="Start this many lines before the end."),
    ] = None,
    url: Url = None,
    token: Token = None,
    home: Home = None,
) -> None:
    """Print the log of an execution or of one of its tasks."""
    from exchangis.cli.client import connect
    from exchangis.cli.logs import LogView, print_log

    view = LogView(execution, task, only, ignore, tail, follow)
    with connect(url, token, home) as client:
        print_log(client, view)


@app.command("kill")
def kill(
    execution: Execution, url: Url = None, token: Token = None, home: Home = None,
    as_json: Json = False,
) -> None:  # fmt: skip
    """End an execution, wherever it runs."""
    from exchangis.cli.client import connect
    from exchangis.cli.remote import kill_execution

    with connect(url, token, home) as client:
        kill_execution(client, execution, as_json=as_json)


@app.command("list")
def list_executions(
    status: Annotated[
        str | None, typer.Option("--status", help="Only those in this state, e.g. Failed.")
    ] = None,
    name: Annotated[
        str | None, typer.Option("--name", help="Only those whose job's name holds this.")
    ] = None,
    limit: Annotated[
        int, typer.Option("--limit", "-n", min=1, max=1000, help="At most this many.")
    ] = 20,
    url: Url = None,
    token: Token = None,
    home: Home = None,
    as_json: Json = False,
) -> None:
    """Executions, newest first."""
    from exchangis.cli.client import connect
    from exchangis.cli.remote import show_list

    with connect(url, token, home) as client:
        show_list(client, status=status, name=name, limit=limit, as_json=as_json)
