"""Opening the store for a process that a person started: what is wrong comes as one line."""

from __future__ import annotations

from sqlalchemy.engine import make_url
from sqlalchemy.exc import SQLAlchemyError

from exchangis.config import Settings
from exchangis.domain.errors import ExchangisError
from exchangis.store.opening import Store, open_store


class StoreUnusable(ExchangisError):
    """The store cannot be opened."""

    code = "store_unusable"


def open_checked_store(settings: Settings) -> Store:
    """The store, opened and upgraded; what is wrong with it comes as one line."""
    try:
        return open_store(settings)
    except SQLAlchemyError as error:
        reason = getattr(error, "orig", None) or type(error).__name__
        raise StoreUnusable(
            f"The store {store_name(settings)} cannot be opened: {reason}",
            guidance="Check store_url (`exchangis config show`) and the database.",
        ) from error
    except OSError as error:
        raise StoreUnusable(f"{error.filename or settings.home}: {error.strerror}") from error


def store_name(settings: Settings) -> str:
    """The store's URL without its password; for SQLite the file."""
    url = make_url(settings.effective_store_url)
    if url.get_backend_name() == "sqlite" and url.database:
        return url.database
    return url.render_as_string(hide_password=True)
