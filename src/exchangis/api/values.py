"""Types of parameters as clients send them."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import Path, Query
from pydantic import AfterValidator, BeforeValidator, Field

from exchangis.domain.content_keys import is_storable

LARGEST = 2**63 - 1


def _blank(value: Any) -> Any:
    """Deployed clients send `lastRows=` for "not given"."""
    return None if isinstance(value, str) and not value.strip() else value


def _stored(value: str | None) -> str | None:
    if value is not None and not is_storable(value):
        raise ValueError("must hold no NUL character and no lone surrogate")
    return value


_Int64 = Annotated[int, Field(ge=-LARGEST - 1, le=LARGEST)]
_Short = Annotated[str, Field(max_length=4096)]
Number = Annotated[_Int64 | None, BeforeValidator(_blank), Query()]
"""A whole number of 64 bits; an empty value means that it is not given."""
Flag = Annotated[bool | None, BeforeValidator(_blank), Query()]
Text = Annotated[_Short | None, AfterValidator(_stored), Query()]
Id = Annotated[int, Path(ge=0, le=LARGEST)]
"""The number of a job, data source or task."""
ExecutionId = Annotated[str, Path()]
"""What cannot be an id is not found, as any other unknown one."""

BodyNumber = Annotated[_Int64 | None, BeforeValidator(_blank)]
BodyText = Annotated[str | None, AfterValidator(_stored)]
Text128 = Annotated[Annotated[str, Field(max_length=128)] | None, AfterValidator(_stored)]
Text255 = Annotated[Annotated[str, Field(max_length=255)] | None, AfterValidator(_stored)]
Text1024 = Annotated[Annotated[str, Field(max_length=1024)] | None, AfterValidator(_stored)]
