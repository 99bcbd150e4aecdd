"""The command `exchangis`: its sub commands, and how every one of them ends.

The modules named here only declare; what does the work is imported inside the commands, so that
`exchangis version` and tab completion answer at once.

Exit codes: 0 done, 1 it failed (one line on stderr says why), 2 wrong usage, 130 interrupted.
"""

from __future__ import annotations

import io
import os
import sys
import traceback
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

import typer

from exchangis.cli import info, jobs, run, serve
from exchangis.domain.errors import ExchangisError
from exchangis.domain.masking import Masker

app = typer.Typer(
    name="exchangis",
    help="Move data between databases and files, as jobs of tasks.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


@dataclass
class _Choices:
    """What the options before the command say."""

    debug: bool = False


@app.callback()
def _options(
    context: typer.Context,
    debug: Annotated[
        bool, typer.Option("--debug", help="Show where an error comes from, as a traceback.")
    ] = False,
) -> None:
    choices = context.ensure_object(_Choices)
    choices.debug = debug


app.command("server")(serve.server)
app.command("demo")(serve.demo)
app.command("run")(run.run)
app.add_typer(jobs.app, name="job")
app.add_typer(info.database_app, name="db")
app.add_typer(info.config_app, name="config")
app.command("connectors")(info.connectors)
app.command("engines")(info.engines)
app.command("version")(info.version)


def _complain(text: str) -> None:
    """One line on stderr, with nothing secret and nothing that moves the cursor."""
    from exchangis.cli.terminal import one_line

    print(f"exchangis: {one_line(Masker()(text))}", file=sys.stderr)


def _wrong_usage(error: typer.TyperException) -> None:
    context: typer.Context | None = getattr(error, "ctx", None)
    path = context.command_path if context is not None else "exchangis"
    message = error.format_message().rstrip(".")
    _complain(f"{message}. See `{path} --help`.")


def _run(arguments: Sequence[str] | None, choices: _Choices) -> int:
    command = typer.main.get_command(app)
    try:
        ended = command.main(
            args=None if arguments is None else list(arguments),
            prog_name="exchangis",
            standalone_mode=False,
            obj=choices,
        )
    except typer.TyperException as error:
        if error.format_message():  # else no command was given, and the help has been shown
            _wrong_usage(error)
        return error.exit_code
    except typer.Abort:
        return 130
    except ExchangisError as error:
        if choices.debug:
            traceback.print_exc()
        _complain(str(error))
        return 1
    return ended if isinstance(ended, int) else 0


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    if isinstance(sys.stdout, io.TextIOWrapper) and sys.stdout.errors == "strict":
        # A terminal of another encoding shows escapes where it lacks a character.
        sys.stdout.reconfigure(errors="backslashreplace")
    choices = _Choices()
    try:
        code = _run(arguments, choices)
        sys.stdout.flush()
    except BrokenPipeError:
        # Whoever read our output (`| head`) has gone: say nothing more, also not at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except Exception as error:  # noqa: BLE001 - the boundary: a bug of ours, told in one line
        if choices.debug:
            traceback.print_exc()
        _complain(
            f"Unexpected {type(error).__name__}: {error} "
            "(this is a bug; `exchangis --debug ...` shows where)"
        )
        return 1
    return code
