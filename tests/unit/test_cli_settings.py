"""`config show` tells all but secrets; wrong settings are one clear line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from exchangis.cli.main import main
from exchangis.config import Settings

SECRET = "hunter2-and-more"


def show(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    assert main(["config", "show", *arguments]) == 0
    return capsys.readouterr().out


def test_every_setting_is_shown_with_its_meaning(capsys: pytest.CaptureFixture[str]) -> None:
    shown = show(capsys)
    for name, field in Settings.model_fields.items():
        assert name in shown
        assert field.description
        assert field.description in shown


def test_secrets_are_masked_wherever_they_come_from(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("EXCHANGIS_STORE_URL", f"postgresql://ann:{SECRET}@db.example/store")
    (tmp_path / "exchangis.yaml").write_text(f"token: {SECRET}\nmax_running: 7\n")
    for arguments in ([], ["--json"]):
        shown = show(capsys, "--home", str(tmp_path), *arguments)
        assert SECRET not in shown
        assert "postgresql://ann:******@db.example/store" in shown
    values = json.loads(show(capsys, "--home", str(tmp_path), "--json"))
    assert values["token"] == "******"
    assert values["max_running"] == 7


def test_the_origin_of_each_setting_is_told(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("EXCHANGIS_PORT", "1234")
    (tmp_path / "exchangis.yaml").write_text("max_running: 7\n")
    lines = {line.split()[0]: line.split() for line in show(
        capsys, "--home", str(tmp_path)).splitlines()}  # fmt: skip
    assert lines["port"][1:3] == ["1234", "environment"]
    assert lines["max_running"][1:3] == ["7", "exchangis.yaml"]
    assert lines["host"][1:3] == ["127.0.0.1", "default"]
    assert lines["home"][2] == "argument"


@pytest.mark.parametrize(
    ("file", "told"),
    [
        ("port: many", "port"),
        ("timezone: Atlantis", "timezone"),
        (f"token: [{SECRET}]", "token"),
        (f"tokens: {SECRET}", "tokens"),
        (f"a: [\ntoken: {SECRET}", "exchangis.yaml"),
        ("max_running: 0", "max_running"),
        ("just text", "exchangis.yaml"),
    ],
)
def test_a_wrong_file_is_one_line_without_secrets(
    file: str, told: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    (tmp_path / "exchangis.yaml").write_text(file)
    assert main(["config", "show", "--home", str(tmp_path)]) == 1
    output = capsys.readouterr()
    assert output.err.count("\n") == 1
    assert told in output.err
    assert "Unexpected" not in output.err
    assert SECRET not in output.err


def test_a_wrong_environment_variable_is_named(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EXCHANGIS_PORT", "many")
    assert main(["config", "show"]) == 1
    assert "EXCHANGIS_PORT" in capsys.readouterr().err
