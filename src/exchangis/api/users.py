"""Who asks: in local single-user mode, the user of the settings."""

from __future__ import annotations

from typing import Annotated

from fastapi import Depends, Request


async def current_user(request: Request) -> str:
    """The name under which changes and executions are kept."""
    user: str = request.app.state.services.settings.user
    return user


User = Annotated[str, Depends(current_user)]
