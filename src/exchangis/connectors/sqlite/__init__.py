"""The connector of SQLite files."""

from exchangis.connectors.sqlite.connector import SQLite

__all__ = ["SQLite"]
