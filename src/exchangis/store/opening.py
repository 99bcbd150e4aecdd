"""Opening the store: one place that every command and server starts from."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from exchangis.config import Settings
from exchangis.store.database import Database
from exchangis.store.datasources import DataSources
from exchangis.store.executions import Executions
from exchangis.store.jobs import Jobs
from exchangis.store.secrets import SecretBox
from exchangis.store.servers import Servers
from exchangis.store.upgrade import upgrade

KEY_FILE = "secret.key"


@dataclass(frozen=True, slots=True)
class Store:
    """All of the store; `close` when done."""

    database: Database
    data_sources: DataSources
    jobs: Jobs
    executions: Executions
    servers: Servers

    def close(self) -> None:
        """Close its connections."""
        self.database.close()


def open_store(settings: Settings) -> Store:
    """Make the home folder (mode 0700) and the secret key where missing, upgrade the schema."""
    settings.home.mkdir(mode=0o700, parents=True, exist_ok=True)
    box = SecretBox(settings.home / KEY_FILE)
    database = Database(settings.effective_store_url)
    if database.dialect == "sqlite":  # before SQLite makes it readable to all; never empties it
        Path(str(database.engine.url.database)).touch(mode=0o600, exist_ok=True)
    try:
        upgrade(database)
    except BaseException:
        database.close()
        raise
    return Store(
        database=database,
        data_sources=DataSources(database, box),
        jobs=Jobs(database),
        executions=Executions(database),
        servers=Servers(database),
    )
