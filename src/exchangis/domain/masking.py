"""Keeping secrets out of whatever is stored or shown (contract, "Logs": masked before storing)."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from typing import Any
from urllib.parse import quote, quote_plus

MASK = "******"
_NAMES = (
    r"(?:pass(?:word|wd|phrase)?|pwd|secret|token"
    r"|api[_-]?key|access[_-]?key|private[_-]?key|credential)"
)
_SECRET_NAME = re.compile(_NAMES, re.IGNORECASE)
# Each pattern begins with fixed letters and has bounded repeats: hostile text of any length costs
# time in proportion to its length.
_ASSIGNMENT = re.compile(
    rf"""(?P<name>{_NAMES}[\w.-]{{0,64}}["']?\s{{0,8}}[=:]\s{{0,8}})(?P<value>"[^"]*"|'[^']*'|[^\s,;&}})\]]+)""",
    re.IGNORECASE,
)
_URL_PASSWORD = re.compile(r"(?P<head>://[^\s:/@]{0,256}:)(?P<value>[^\s@/]{1,1024})(?=@)")
_BEARER = re.compile(r"(?P<head>\bBearer\s{1,8})\S+", re.IGNORECASE)


def is_secret_name(name: str) -> bool:
    """Whether a parameter of this name holds a secret."""
    return _SECRET_NAME.search(name) is not None


def _forms(secret: str) -> Iterator[str]:
    """How a secret may be written: as it is, in a URL, a Python, JSON or SQL string."""
    yield secret
    yield from (quote(secret, safe=""), quote_plus(secret), quote(secret))
    yield from (
        repr(secret)[1:-1],
        json.dumps(secret)[1:-1],
        json.dumps(secret, ensure_ascii=False)[1:-1],
    )
    yield from (secret.replace("'", "''"), secret.replace("\\", "\\\\").replace("'", "\\'"))


class Masker:
    """Replaces known secret values, and whatever looks like one, by `******`.

    Values shorter than three characters are left to the patterns: masking each "a" helps nobody.
    """

    def __init__(self, secrets: Iterable[str] = ()) -> None:
        forms = {form for secret in secrets if len(secret) >= 3 for form in _forms(secret)}
        ordered = sorted(forms, key=len, reverse=True)
        self._known = re.compile("|".join(map(re.escape, ordered))) if ordered else None

    def __call__(self, text: str) -> str:
        if self._known is not None:
            text = self._known.sub(MASK, text)
        text = _URL_PASSWORD.sub(rf"\g<head>{MASK}", text)
        text = _BEARER.sub(rf"\g<head>{MASK}", text)
        return _ASSIGNMENT.sub(rf"\g<name>{MASK}", text)


def mask_mapping(values: dict[str, Any]) -> dict[str, Any]:
    """The same mapping with the values of secret names masked, at any depth."""
    return {
        name: MASK
        if value and is_secret_name(name)
        else mask_mapping(value)
        if isinstance(value, dict)
        else value
        for name, value in values.items()
    }
