"""The connector of DuckDB files."""

from exchangis.connectors.duckdb.connector import DuckDB

__all__ = ["DuckDB"]
