"""Alembic's environment: how the store's schema came about, step by step."""
