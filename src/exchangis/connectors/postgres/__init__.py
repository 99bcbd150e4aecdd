"""The connector of PostgreSQL."""

from exchangis.connectors.postgres.connector import PostgreSQL

__all__ = ["PostgreSQL"]
