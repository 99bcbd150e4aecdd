"""Exchangis: data exchange between databases and files.

`exchange(source, sink)` moves one table from Python; `exchangis server` is the service. Importing
the package loads neither: both come on first use.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from exchangis.library import ExchangeResult, Progress, exchange

    __version__: str

__all__ = ["ExchangeResult", "Progress", "__version__", "exchange"]


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import version

        return version("exchangis")
    if name in __all__:
        from exchangis import library

        return getattr(library, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
