"""Commands that tell what is installed and how it is set up, and bring the store up to date."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

database_app = typer.Typer(help="The store's database.", no_args_is_help=True)
config_app = typer.Typer(help="The settings.", no_args_is_help=True)

Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Home = Annotated[
    Path | None, typer.Option("--home", help="Home folder; default: $EXCHANGIS_HOME, ~/.exchangis.")
]


def version(as_json: Json = False) -> None:
    """Print the version."""
    import exchangis

    if as_json:
        from exchangis.cli.terminal import print_json

        print_json({"version": exchangis.__version__})
    else:
        typer.echo(f"exchangis {exchangis.__version__}")


def connectors(as_json: Json = False) -> None:
    """List the kinds of data sources: modes, and the parameters that each takes."""
    from exchangis.cli.terminal import print_json, print_table
    from exchangis.connectors.registry import connector, connector_names

    found = [connector(name) for name in connector_names()]
    if as_json:
        print_json([_connector_dict(one) for one in found])
        return
    print_table(
        ("Name", "Title", "Modes", "Publish", "Connection (* required)", "Options of a data set"),
        [
            (
                one.name,
                one.title,
                ", ".join(sorted(one.capabilities.write_modes)),
                ", ".join(sorted(one.capabilities.publish)),
                ", ".join(f"{param.name}{'*' * param.required}" for param in one.params),
                ", ".join(param.name for param in one.options),
            )
            for one in found
        ],
    )


def _connector_dict(one: Any) -> dict[str, Any]:
    from dataclasses import asdict

    return {
        "name": one.name,
        "title": one.title,
        "dataSourceTypeId": one.type_id,
        "addressing": one.capabilities.addressing,
        "writeModes": sorted(one.capabilities.write_modes),
        "publish": sorted(one.capabilities.publish),
        "params": [asdict(param) for param in one.params],
        "options": [asdict(param) for param in one.options],
    }


def engines(as_json: Json = False) -> None:
    """List the engines that carry out tasks, and the aliases that lead to them."""
    from exchangis.cli.settings import load_settings
    from exchangis.cli.terminal import print_json, print_table
    from exchangis.engine.base import engine_class, engine_names

    aliases = load_settings().engine_aliases
    found = [
        {
            "name": name,
            "title": engine_class(name).title,
            "aliases": sorted(alias for alias, target in aliases.items() if target == name),
        }
        for name in engine_names()
    ]
    if as_json:
        print_json(found)
        return
    print_table(
        ("Name", "Title", "Aliases"),
        [(one["name"], one["title"], ", ".join(one["aliases"])) for one in found],
    )


@database_app.command("upgrade")
def upgrade(home: Home = None) -> None:
    """Create the store, or bring it to what this version needs; servers do so when they start."""
    from exchangis.cli.settings import load_settings
    from exchangis.cli.terminal import say
    from exchangis.server_store import open_checked_store, store_name

    settings = load_settings(home)
    open_checked_store(settings).close()
    say(f"The store is up to date: {store_name(settings)}")


@config_app.command("show")
def show(home: Home = None, as_json: Json = False) -> None:
    """Print every setting, where it comes from and what it means; secrets are masked."""
    from exchangis.cli.settings import described_settings, load_settings
    from exchangis.cli.terminal import print_json, print_table

    rows = described_settings(load_settings(home))
    if as_json:
        print_json({row.name: row.value for row in rows})
        return
    print_table(
        ("Setting", "Value", "From", "Meaning"),
        [(row.name, row.shown, row.origin, row.description) for row in rows],
    )
