"""Identifiers of executions: unique for ever, sortable by time, not guessable."""

from __future__ import annotations

import secrets
import time

_ALPHABET = "0123456789abcdefghjkmnpqrstvwxyz"  # Crockford's base 32: no i, l, o, u


def _base32(value: int, length: int) -> str:
    digits = []
    for _ in range(length):
        value, digit = divmod(value, 32)
        digits.append(_ALPHABET[digit])
    return "".join(reversed(digits))


def new_execution_id() -> str:
    """A fresh `jobExecutionId`: 26 characters, 48 bits of milliseconds and 80 random bits."""
    return _base32(int(time.time() * 1000), 10) + _base32(secrets.randbits(80), 16)
