"""The REST calls that commands make."""

from __future__ import annotations

import ipaddress
import os
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from urllib.parse import quote, urlsplit

import httpx2

from exchangis.cli.settings import load_settings
from exchangis.domain.errors import ExchangisError
from exchangis.server_file import running_server

BASE = "/api/rest_j/v1/exchangis"
DEFAULT_URL = "http://127.0.0.1:9321"
_SECONDS = 30.0


class ServerRefused(ExchangisError):
    """The server refused the call."""

    code = "server_refused"


class NoServer(ExchangisError):
    """No server answers."""

    code = "no_server"


def is_loopback(host: str) -> bool:
    """Whether that host name or address is this machine alone."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


class Client:
    """Calls to one server; use it in a `with` statement.

    An error's message is the server's own. The token goes only to the server that it is for: one
    named with it, or the one that runs on the home whose settings hold it.
    """

    def __init__(self, url: str, token: str | None = None) -> None:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise NoServer(f"{url} is no URL of a server.", guidance=f"E.g. {DEFAULT_URL}.")
        self.url = url.rstrip("/")
        self._client = httpx2.Client(
            base_url=self.url,
            timeout=_SECONDS,
            headers={"Authorization": f"Bearer {token}"} if token else {},
            # A proxy of the environment has no way to this machine's own servers.
            trust_env=not is_loopback(parts.hostname),
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:  # fmt: skip
        self._client.close()

    def get(self, path: str, **params: Any) -> dict[str, Any]:
        """`data` of a GET below the base; parameters that are None are left out."""
        sent = {name: value for name, value in params.items() if value is not None}
        return self._call("GET", path, params=sent)

    def post(self, path: str, body: Any = None) -> dict[str, Any]:
        """`data` of a POST below the base."""
        return self._call("POST", path, json={} if body is None else body)

    def put(self, path: str, body: Any = None) -> dict[str, Any]:
        """`data` of a PUT below the base."""
        return self._call("PUT", path, json={} if body is None else body)

    def _call(self, method: str, path: str, **sent: Any) -> dict[str, Any]:
        try:
            answer = self._client.request(method, BASE + path, **sent)
        except httpx2.TransportError as error:
            raise NoServer(
                f"No server answers at {self.url} ({error or type(error).__name__}).",
                guidance="Start one with `exchangis server`, or name another with --url.",
            ) from None
        try:
            envelope = answer.json()
            status, message = envelope["status"], str(envelope.get("message", ""))
            data = envelope.get("data")
        except (ValueError, KeyError, TypeError, AttributeError):
            raise ServerRefused(
                f"{self.url} answered HTTP {answer.status_code}, which is no Exchangis server's.",
                guidance="Check the URL.",
            ) from None
        if status == -1:
            raise ServerRefused(message, guidance="Give the token with EXCHANGIS_TOKEN.")
        if status != 0 or answer.is_error:
            raise ServerRefused(message or f"HTTP {answer.status_code}")
        return data if isinstance(data, dict) else {}


def connect(url: str | None, token: str | None, home: Path | None) -> Client:
    """A client for the server that the options, the environment or the home name."""
    settings = load_settings(home)
    token = token or os.environ.get("EXCHANGIS_TOKEN")
    if url is None:
        found = running_server(settings.home)
        url = found or DEFAULT_URL
        if found is not None and token is None and settings.token is not None:
            token = settings.token.get_secret_value()
    return Client(url, token)


def quoted(part: str) -> str:
    """A path segment."""
    return quote(part, safe="")
