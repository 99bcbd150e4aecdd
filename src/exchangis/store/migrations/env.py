"""Runs migrations on the connection that `exchangis.store.upgrade` hands over."""

from __future__ import annotations

from alembic import context

from exchangis.store.schema import metadata

# The caller holds the lock and ends the transaction.
context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=metadata,
    compare_type=True,
)
context.run_migrations()
