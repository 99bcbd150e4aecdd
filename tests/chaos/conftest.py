"""Fixtures of the chaos suites: those of the end-to-end suites."""

from tests.e2e.conftest import system

__all__ = ["system"]
