"""How deep JSON goes, found without parsing it: a parser may be brought down by depth alone."""

from __future__ import annotations

import re

MAX_DEPTH = 64
_TOKENS = re.compile(rb'"(?:[^"\\]|\\.)*"?|[\[{]|[\]}]', re.DOTALL)


def is_too_deep(data: bytes, limit: int = MAX_DEPTH) -> bool:
    """Whether brackets outside of strings are nested deeper than `limit`."""
    if data.count(b"[") + data.count(b"{") <= limit:
        return False
    depth = 0
    for match in _TOKENS.finditer(data):
        token = match.group()
        if token in b"[{":
            depth += 1
            if depth > limit:
                return True
        elif token in b"]}":
            depth -= 1
    return False
