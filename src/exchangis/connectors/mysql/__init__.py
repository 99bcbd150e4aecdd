"""The connector of MySQL and MariaDB."""

from exchangis.connectors.mysql.connector import MySQL

__all__ = ["MySQL"]
