"""Settings as commands take them: one clear line for whatever is wrong with them."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from exchangis.config import Settings, default_home
from exchangis.domain.errors import InvalidRequest
from exchangis.domain.masking import MASK, Masker, is_secret_name


def load_settings(home: Path | None = None, **given: Any) -> Settings:
    """Settings for that home (default: $EXCHANGIS_HOME, ~/.exchangis); None in `given` is unset."""
    chosen = {name: value for name, value in given.items() if value is not None}
    home = (home or default_home()).absolute()
    file = home / "exchangis.yaml"
    try:
        return Settings(home=home, **chosen)
    except ValidationError as error:
        raise InvalidRequest("; ".join(_reason(dict(one)) for one in error.errors())) from None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f", line {mark.line + 1}" if mark is not None else ""
        raise InvalidRequest(f"{file}{where}: is not valid YAML") from None
    except OSError as error:
        raise InvalidRequest(f"{file}: {error.strerror or error}") from None
    except (TypeError, ValueError):  # a file that holds a text or a list
        raise InvalidRequest(f"{file}: must hold names of settings with their values") from None


def _reason(error: dict[str, Any]) -> str:
    name = ".".join(str(part) for part in error["loc"])
    value = error["input"]
    shown = "" if is_secret_name(name) or name == "store_url" else f" (got {value!r})"
    place = f"EXCHANGIS_{name.upper()}"
    field = place if place in os.environ else name
    if error["type"] == "extra_forbidden":
        known = ", ".join(sorted(Settings.model_fields))
        return f"{field} (exchangis.yaml): no such setting; known are {known}"
    return f"{field}: {error['msg'].removeprefix('Value error, ')}{shown}"


@dataclass(frozen=True, slots=True)
class DescribedSetting:
    """A setting as `config show` prints it. `value` is JSON-ready; a secret one is masked."""

    name: str
    value: Any
    origin: str
    description: str

    @property
    def shown(self) -> str:
        if self.value is None:
            return "-"
        return self.value if isinstance(self.value, str) else json.dumps(self.value)


def described_settings(settings: Settings) -> list[DescribedSetting]:
    """Every setting with where it was set: environment, file or default."""
    values = settings.model_dump(mode="json")
    if settings.store_url is not None:
        # Not all of the URL is secret: which store it is matters to whoever asks.
        values["store_url"] = Masker()(settings.store_url.get_secret_value())
    if settings.token is not None:
        values["token"] = MASK
    return [
        DescribedSetting(name, values[name], _origin(settings, name), field.description or "")
        for name, field in Settings.model_fields.items()
    ]


def _origin(settings: Settings, name: str) -> str:
    if name == "home" and settings.home != default_home().absolute():
        return "argument"
    if f"EXCHANGIS_{name.upper()}" in os.environ:
        return "environment"
    if name == "home":
        return "default"
    if name not in settings.model_fields_set:
        return "default"
    return "exchangis.yaml"
