"""Settings: from EXCHANGIS_* environment variables and `<home>/exchangis.yaml`; env wins.

Each field's description is its documentation: `exchangis config show` and docs/settings.md print
it, and a test compares.
"""

from __future__ import annotations

import getpass
import os
from functools import cached_property
from pathlib import Path
from zoneinfo import ZoneInfo, available_timezones

from pydantic import Field, SecretStr, field_validator
from pydantic_settings import (
    BaseSettings,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    YamlConfigSettingsSource,
)

from exchangis.domain.retry import RetryPolicy


def default_home() -> Path:
    """`$EXCHANGIS_HOME`, else `~/.exchangis`."""
    return Path(os.environ.get("EXCHANGIS_HOME") or Path.home() / ".exchangis")


def _local_user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container may run under a number without a name
        return f"uid{os.getuid()}"


class Settings(BaseSettings):
    """All settings of a server, in groups; times in seconds unless said otherwise."""

    model_config = SettingsConfigDict(env_prefix="EXCHANGIS_", extra="forbid", frozen=True)

    home: Path = Field(default_factory=default_home, description="Folder of store, keys and runs.")
    host: str = Field("127.0.0.1", description="Address to listen on.")
    port: int = Field(9321, ge=0, le=65535, description="Port to listen on; 0 takes a free one.")
    store_url: SecretStr | None = Field(
        None,
        description="SQLAlchemy URL of the store (sqlite, postgresql, mysql); default: SQLite in "
        "the home.",
    )
    token: SecretStr | None = Field(
        None, description="Bearer token that clients must send; needed to listen beyond loopback."
    )
    allowed_hosts: tuple[str, ...] = Field(
        (), description="Further names that the Host header may have."
    )
    user: str = Field(
        default_factory=_local_user, description="Whom jobs belong to in local single-user mode."
    )
    timezone: str = Field("UTC", description="Zone of the times that the API prints.")

    max_running: int = Field(
        default_factory=lambda: max(4, 2 * (os.cpu_count() or 2)),
        ge=1,
        description="Tasks that one server runs at once.",
    )
    max_running_total: int | None = Field(
        None, ge=1, description="Tasks that run at once, over all servers."
    )
    max_running_per_user: int | None = Field(
        None, ge=1, description="Tasks that one user runs at once, over all servers."
    )
    task_parallelism: int = Field(
        2, ge=1, le=64, description="Lanes of a task that does not say its parallelism."
    )
    task_memory_mb: int | None = Field(
        2048, ge=64, description="Memory limit (MB) of a task that does not say its own."
    )
    task_timeout: float | None = Field(
        None, gt=0, description="Time limit of a task that does not say its own."
    )
    job_timeout: float | None = Field(
        None, gt=0, description="Time limit of an execution that does not say its own."
    )
    retry_attempts: int = Field(3, ge=1, description="Attempts of a task, the first one included.")
    retry_base: float = Field(2.0, gt=0, description="First back-off; it doubles each time.")
    retry_ceiling: float = Field(60.0, gt=0, description="Longest back-off.")
    kill_grace: float = Field(
        1.5, ge=0, description="Time that a runner gets to end its work before it is killed."
    )
    lease: float = Field(30.0, gt=0, description="How long a claim on a task lasts unrenewed.")
    heartbeat: float = Field(10.0, gt=0, description="How often a claim is renewed.")
    poll: float = Field(1.0, gt=0, description="How often a server looks for others' work.")

    log_retention_days: float | None = Field(
        30, gt=0, description="Days that logs and history of finished executions are kept; null: "
        "for ever.",
    )  # fmt: skip
    file_roots: tuple[Path, ...] = Field(
        (), description="Folders that file data sources must lie in; empty: anywhere."
    )
    max_body_mb: int = Field(8, ge=1, description="Largest request body (MB).")
    engine_aliases: dict[str, str] = Field(
        default_factory=lambda: {"sqoop": "native", "datax": "native"},
        description="Engines to use in place of those that jobs name.",
    )

    @field_validator("timezone")
    @classmethod
    def _known_zone(cls, value: str) -> str:
        if value not in available_timezones():
            raise ValueError("is no time zone name; use one such as UTC or Asia/Shanghai")
        return value

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Arguments first, then the environment, then the file in the home folder."""
        given = init_settings().get("home")
        home = Path(given) if given else default_home()
        file = YamlConfigSettingsSource(settings_cls, yaml_file=home / "exchangis.yaml")
        return (init_settings, env_settings, file)

    @cached_property
    def zone(self) -> ZoneInfo:
        return ZoneInfo(self.timezone)

    @property
    def retry(self) -> RetryPolicy:
        return RetryPolicy(self.retry_attempts, self.retry_base, self.retry_ceiling)

    @property
    def effective_store_url(self) -> str:
        if self.store_url is not None:
            return self.store_url.get_secret_value()
        return f"sqlite:///{self.home / 'exchangis.db'}"

    @property
    def runs_folder(self) -> Path:
        """Where attempts have their folders and dirty-record files."""
        return self.home / "runs"
