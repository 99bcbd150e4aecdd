"""The documentation says what the program does.

What can be read off the program is generated: blocks between `<!-- generated: NAME -->` and
`<!-- end -->`, and docs/openapi.json. `python -m tests.unit.test_docs` writes them anew.
"""

from __future__ import annotations

import json
import os
import re
import tempfile
import tomllib
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import typer
import yaml

from exchangis.api.app import create_app
from exchangis.api.base import BASES
from exchangis.cli.local_job import LocalCatalog
from exchangis.cli.main import app as command_line
from exchangis.config import Settings
from exchangis.connectors.base import Param
from exchangis.connectors.registry import connector, connector_names
from exchangis.domain.content_sides import StoredSource
from exchangis.engine.functions import functions
from exchangis.engine.validators import validators
from exchangis.service.planning import plan
from exchangis.service.services import make_services
from exchangis.store.opening import open_store

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
OPENAPI = DOCS / "openapi.json"
_BLOCK = re.compile(r"(<!-- generated: (?P<name>[\w -]+) -->\n).*?(<!-- end -->)", re.DOTALL)
_COMPUTED = {
    "home": "`$EXCHANGIS_HOME`, else `~/.exchangis`",
    "user": "who starts the process",
    "max_running": "twice the CPU cores, at least 4",
}
"""Defaults that are not the same everywhere."""


def pages() -> list[Path]:
    return [ROOT / "README.md", ROOT / "CHANGELOG.md", *sorted(DOCS.rglob("*.md"))]


# --- what is generated --------------------------------------------------------------------------


def _cell(text: object) -> str:
    return str(text).replace("|", "\\|").replace("\n", " ")


def _table(head: tuple[str, ...], rows: list[tuple[object, ...]]) -> str:
    lines = [head, ("---",) * len(head), *rows]
    return "\n".join("| " + " | ".join(_cell(cell) for cell in line) + " |" for line in lines)


def _code(value: object) -> str:
    if value is None or value == ():
        return "—"
    text = json.dumps(value) if isinstance(value, bool | dict) else str(value)
    fence = "``" if "`" in text else "`"
    return f"{fence}{text}{fence}" if text else "(empty)"


def settings_table() -> str:
    rows: list[tuple[object, ...]] = []
    for name, field in Settings.model_fields.items():
        default = _COMPUTED.get(name) or _code(field.get_default(call_default_factory=True))
        rows.append((f"`{name}`", f"`EXCHANGIS_{name.upper()}`", default, field.description or ""))
    return _table(("Setting", "Environment", "Default", "Meaning"), rows)


def commands(command: Any, path: str = "exchangis") -> Iterator[tuple[str, Any]]:
    yield path, command
    for name, child in getattr(command, "commands", {}).items():
        yield from commands(child, f"{path} {name}")


def _option_row(param: Any) -> tuple[object, ...]:
    if param.param_type_name == "argument":
        shown = f"`{param.metavar or param.name.upper()}`"
    else:
        shown = ", ".join(f"`{name}`" for name in sorted(param.opts, key=len, reverse=True))
    default = None if getattr(param, "is_flag", False) else param.default
    default = getattr(default, "value", default)
    environment = getattr(param, "envvar", None)
    told = (param.help or "") + (f" Environment: `{environment}`." if environment else "")
    needed = "required" if param.required else _code(default)
    return shown, "—" if param.name == "help" else needed, told


def cli_reference() -> str:
    parts = []
    for path, command in commands(typer.main.get_command(command_line)):
        rows = [_option_row(param) for param in command.params if param.name != "help"]
        parts.append(f"## `{path}`\n\n{(command.help or '').strip()}\n")
        if getattr(command, "commands", None):
            names = ", ".join(f"`{name}`" for name in command.commands)
            parts.append(f"Commands: {names}.\n")
        if rows:
            parts.append(_table(("Argument or option", "Default", "Meaning"), rows) + "\n")
    return "\n".join(parts).rstrip()


def _kind(param: Param) -> str:
    if param.kind == "choice":
        return " / ".join(f"`{choice}`" for choice in param.choices)
    if param.minimum is not None or param.maximum is not None:
        return f"{param.kind}, {param.minimum} to {param.maximum}"
    return param.kind + (", secret" if param.secret else "")


def _param_rows(params: tuple[Param, ...]) -> list[tuple[object, ...]]:
    return [
        (f"`{one.name}`", _kind(one), "required" if one.required else _code(one.default),
         one.description)
        for one in params
    ]  # fmt: skip


def connector_block(name: str) -> str:
    one = connector(name)
    able = one.capabilities
    modes = ", ".join(f"`{mode}`" for mode in sorted(able.write_modes))
    publish = ", ".join(f"`{way}`" for way in sorted(able.publish, reverse=True))
    lanes = "one at a time" if able.max_writers == 1 else "several"
    where = "in the system itself" if able.filters else "here, after reading"
    head = ("Name", "Values", "Default", "Meaning")
    return (
        f"- type `{one.name}`, `dataSourceTypeId` {one.type_id}; a data set is named by "
        f"`{able.addressing}`\n"
        f"- write modes: {modes}; publish: {publish}\n"
        f"- lanes that write: {lanes}; `where` is evaluated {where}\n\n"
        f"Connection parameters:\n\n{_table(head, _param_rows(one.params))}\n\n"
        f"Options of a data set:\n\n{_table(head, _param_rows(one.options))}"
    )


def transformers_table() -> str:
    rows: list[tuple[object, ...]] = []
    for one in functions():
        params = ", ".join(
            param["name"] + (f" ({' '.join(param['choices'])})" if param["choices"] else "")
            for param in one["params"]
        )
        rows.append((f"`{one['funcName']}`", params or "—", one["description"]))
    return _table(("Name", "Parameters", "What it gives"), rows)


def validators_table() -> str:
    rows: list[tuple[object, ...]] = [
        (f"`{one['name']}`", one["description"]) for one in validators()
    ]
    return _table(("Condition", "Meaning"), rows)


GENERATED: dict[str, Callable[[], str]] = {
    "settings": settings_table,
    "commands": cli_reference,
    "transformers": transformers_table,
    "validators": validators_table,
    **{f"connector {name}": lambda name=name: connector_block(name) for name in connector_names()},  # type: ignore[misc]
}


def regenerated(text: str) -> str:
    """The page with its generated blocks as they have to be."""
    return _BLOCK.sub(lambda match: f"{match[1]}{GENERATED[match['name']]()}\n{match[3]}", text)


def openapi_text() -> str:
    """The OpenAPI document of a server with default settings, as docs/openapi.json holds it."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("EXCHANGIS_")}
    with (
        tempfile.TemporaryDirectory() as home,
        mock.patch.dict(os.environ, kept, clear=True),
    ):
        settings = Settings(home=Path(home))
        with closing(open_store(settings)) as store:
            document = create_app(make_services(settings, store)).openapi()
    return json.dumps(document, indent=1, ensure_ascii=False) + "\n"


# --- what is tested -----------------------------------------------------------------------------


@pytest.mark.parametrize("page", pages(), ids=lambda page: page.name)
def test_generated_blocks_are_what_the_program_says(page: Path) -> None:
    text = page.read_text("utf-8")
    assert text == regenerated(text), "run `python -m tests.unit.test_docs`"


@pytest.mark.parametrize("name", GENERATED)
def test_everything_that_is_generated_is_on_one_page(name: str) -> None:
    marker = f"<!-- generated: {name} -->"
    assert sum(page.read_text("utf-8").count(marker) for page in pages()) == 1


@pytest.mark.parametrize("name", Settings.model_fields)
def test_every_setting_is_described(name: str) -> None:
    text = (DOCS / "settings.md").read_text("utf-8")
    assert f"| `{name}` | `EXCHANGIS_{name.upper()}` |" in text
    assert Settings.model_fields[name].description
    assert _cell(Settings.model_fields[name].description) in text


def test_every_command_is_described() -> None:
    text = (DOCS / "cli.md").read_text("utf-8")
    for path, command in commands(typer.main.get_command(command_line)):
        assert f"## `{path}`\n" in text
        for param in command.params:
            if param.param_type_name == "option" and param.name != "help":
                assert all(f"`{name}`" in text for name in param.opts)


def test_every_call_is_listed() -> None:
    text = (DOCS / "api.md").read_text("utf-8")
    documented = BASES[0].prefix
    for path, verbs in json.loads(OPENAPI.read_text("utf-8"))["paths"].items():
        if path.startswith(documented + "/"):
            for verb in verbs:
                assert f"`{verb.upper()} {path.removeprefix(documented)}`" in text


def test_openapi_document_is_that_of_the_app() -> None:
    assert OPENAPI.read_text("utf-8") == openapi_text(), "run `python -m tests.unit.test_docs`"


def _anchors(page: Path) -> set[str]:
    heads = re.findall(r"^#+ (.*)$", page.read_text("utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", head.lower()).replace(" ", "-") for head in heads}


@pytest.mark.parametrize("page", pages(), ids=lambda page: page.name)
def test_relative_links_lead_somewhere(page: Path) -> None:
    text = re.sub(r"```.*?```|`[^`\n]*`", "", page.read_text("utf-8"), flags=re.DOTALL)
    for target in re.findall(r"\]\(([^)\s]+)\)|(?:src|href)=\"([^\"]+)\"", text):
        link = "".join(target)
        if re.match(r"[a-z]+:", link):
            continue
        file, _, anchor = link.partition("#")
        found = (page.parent / file).resolve() if file else page
        assert found.exists(), f"{page.name}: {link}"
        assert not anchor or anchor in _anchors(found), f"{page.name}: {link}"


def _fenced(page: Path, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", page.read_text("utf-8"), re.M | re.S)


class _Documented(LocalCatalog):
    """Knows the data sources that the examples name."""

    def stored(self, key: int | str) -> StoredSource | None:
        kind = {1: "MYSQL", 2: "POSTGRESQL", 3: "CSV"}.get(int(key))
        return None if kind is None else StoredSource(int(key), kind.lower(), kind)


@pytest.mark.parametrize("page", [ROOT / "README.md", DOCS / "jobs.md"], ids=lambda page: page.name)
def test_examples_of_jobs_can_be_carried_out(page: Path, tmp_path: Path) -> None:
    lists = [text for text in _fenced(page, "json") if text.startswith("[")]
    examples = _fenced(page, "yaml") + lists
    assert examples
    for example in examples:
        tasks = plan(
            yaml.safe_load(example), catalog=_Documented(Settings(home=tmp_path)), engine="native",
            aliases={}, strict=True, variables={},
        )  # fmt: skip
        assert tasks


@pytest.mark.parametrize("page", pages(), ids=lambda page: page.name)
def test_examples_in_json_are_json(page: Path) -> None:
    for example in _fenced(page, "json"):
        json.loads(example)


def test_examples_in_python_compile() -> None:
    for page in pages():
        for example in _fenced(page, "python"):
            compile(example, page.name, "exec")


def test_changelog_tells_of_this_version() -> None:
    version = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]["version"]
    assert re.search(rf"^## \[{re.escape(version)}\]", (ROOT / "CHANGELOG.md").read_text(), re.M)


if __name__ == "__main__":
    for written in pages():
        written.write_text(regenerated(written.read_text("utf-8")), "utf-8")
    OPENAPI.write_text(openapi_text(), "utf-8")
