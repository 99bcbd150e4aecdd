"""Encryption of data source secrets at rest (design, decision 11)."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
from collections.abc import Mapping
from pathlib import Path

from cryptography.fernet import Fernet, InvalidToken, MultiFernet

from exchangis.domain.errors import ExchangisError

KEY_VARIABLE = "EXCHANGIS_SECRET_KEY"


class SecretKeyError(ExchangisError):
    """The key that protects stored secrets is missing or wrong."""

    code = "secret_key"


class SecretBox:
    """Encrypts and decrypts with the keys of `EXCHANGIS_SECRET_KEY`, else of the key file.

    Either holds Fernet keys, separated by commas or white space: the first one encrypts, all of
    them decrypt, so a new key is put in front. The file is made with a fresh key, mode 0600, when
    there is none; servers that start at once agree on one key.
    """

    __slots__ = ("_box", "_where")

    def __init__(self, key_file: Path) -> None:
        given = os.environ.get(KEY_VARIABLE, "").strip()
        self._where = KEY_VARIABLE if given else str(key_file)
        keys = (given or _read_or_make(key_file)).replace(",", " ").split()
        if not keys:
            raise SecretKeyError(f"{self._where} holds no key.", guidance=_GUIDANCE)
        try:
            self._box = MultiFernet([Fernet(key) for key in keys])
        except ValueError:
            raise SecretKeyError(
                f"{self._where} holds something that is no Fernet key.", guidance=_GUIDANCE
            ) from None

    def __repr__(self) -> str:
        return "SecretBox(******)"

    def encrypt(self, values: Mapping[str, str]) -> str:
        """A text for the store."""
        return self._box.encrypt(json.dumps(dict(values)).encode()).decode("ascii")

    def decrypt(self, text: str) -> dict[str, str]:
        """What was encrypted; SecretKeyError when none of the keys fits."""
        try:
            data = json.loads(self._box.decrypt(text.encode()))
        except InvalidToken:
            raise SecretKeyError(
                f"Stored secrets cannot be decrypted with the key in {self._where}.",
                guidance="Add the key that they were stored with behind the present one, "
                "or enter the secrets again.",
            ) from None
        return {str(name): str(value) for name, value in data.items()}


_GUIDANCE = (
    "Put one Fernet key per line there (`python -c 'from cryptography.fernet import Fernet; "
    "print(Fernet.generate_key().decode())'` makes one)."
)


def _read_or_make(path: Path) -> str:
    try:
        return path.read_text("utf-8")
    except FileNotFoundError:
        _make(path)
        return path.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise SecretKeyError(f"The key file {path} cannot be read: {error}.") from error


def _make(path: Path) -> None:
    """A key file that is whole the moment it is there: of several makers, the first one wins."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    draft = path.with_name(f"{path.name}.{secrets.token_hex(8)}")
    handle = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(Fernet.generate_key() + b"\n")
            file.flush()
            os.fsync(file.fileno())
        with contextlib.suppress(FileExistsError):  # another server was first: its key is the one
            path.hardlink_to(draft)
    finally:
        draft.unlink()
