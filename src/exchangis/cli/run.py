"""`exchangis run`: a job file carried out in this process, with no server."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def run(
    job: Annotated[
        str, typer.Argument(help="Job content in YAML or JSON; - reads standard input.")
    ],
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show plan, columns and types; write nothing.")
    ] = False,
    parallel: Annotated[
        int, typer.Option("--parallel", "-p", min=1, max=64, help="Tasks that run at once.")
    ] = 1,
    variables: Annotated[
        list[str] | None,
        typer.Option(
            "--var",
            metavar="NAME=VALUE",
            help="Fill ${NAME} in the job; may be repeated. ${env.NAME} is the environment's: "
            "use that for passwords, since arguments show in the process list.",
        ),
    ] = None,
    permit_partial_failures: Annotated[
        bool,
        typer.Option("--permit-partial-failures", help="Go on when a task fails."),
    ] = False,
    strict: Annotated[
        bool, typer.Option("--strict", help="Refuse keys in the job that mean nothing.")
    ] = False,
    dirty_folder: Annotated[
        Path | None,
        typer.Option(
            "--dirty-folder",
            help="Where refused rows go, a JSON Lines file per task; default: below the home.",
        ),
    ] = None,
    home: Annotated[
        Path | None,
        typer.Option("--home", help="Home folder, for settings and stored data sources."),
    ] = None,
    verbose: Annotated[
        bool, typer.Option("--verbose", "-v", help="Show every line of the tasks' logs.")
    ] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print progress and result as JSON lines.")
    ] = False,
) -> None:
    """Carry out a job file here, without a server.

    A source or sink says how to reach it by `connection: {...}`, or names a data source of the
    home's store. Ends with 0 only if every task succeeded. Ctrl-C cancels and cleans up.
    """
    from exchangis.cli.local import dry_run_job, run_job
    from exchangis.cli.local_job import load_job

    loaded = load_job(job, home=home, variables=variables or [], strict=strict)
    if dry_run:
        code = dry_run_job(loaded, as_json=as_json)
    else:
        code = run_job(
            loaded,
            parallel=parallel,
            permit_partial_failures=permit_partial_failures,
            dirty_folder=dirty_folder,
            verbose=verbose,
            as_json=as_json,
        )
    raise typer.Exit(code)
