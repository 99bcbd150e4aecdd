"""Secrets at rest: the key, and that nothing of them shows."""

from __future__ import annotations

import contextlib
import stat
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from cryptography.fernet import Fernet

from exchangis.config import Settings
from exchangis.domain.errors import ExchangisError
from exchangis.store.opening import KEY_FILE, open_store
from exchangis.store.secrets import KEY_VARIABLE, SecretBox, SecretKeyError
from tests.services import PASSWORD


def test_key_is_made_at_first_start_for_the_owner_alone(tmp_path: Path) -> None:
    path = tmp_path / "home" / "key"
    text = SecretBox(path).encrypt({"password": PASSWORD})
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert SecretBox(path).decrypt(text) == {"password": PASSWORD}
    assert [file.name for file in path.parent.iterdir()] == ["key"]


def test_servers_that_start_at_once_agree_on_the_key(tmp_path: Path) -> None:
    gate = threading.Barrier(6)

    def start(_: int) -> SecretBox:
        gate.wait(30)
        return SecretBox(tmp_path / "key")

    with ThreadPoolExecutor(6) as pool:
        boxes = list(pool.map(start, range(6)))
    text = boxes[0].encrypt({"a": "b"})
    assert all(box.decrypt(text) == {"a": "b"} for box in boxes)
    assert [file.name for file in tmp_path.glob("key*")] == ["key"]


def test_first_key_encrypts_and_all_decrypt(tmp_path: Path) -> None:
    old, new = Fernet.generate_key().decode(), Fernet.generate_key().decode()
    path = tmp_path / "key"
    path.write_text(old)
    text = SecretBox(path).encrypt({"a": "old"})
    path.write_text(f"{new}\n{old}\n")
    both = SecretBox(path)
    assert both.decrypt(text) == {"a": "old"}
    newer = both.encrypt({"a": "new"})
    path.write_text(new)
    assert SecretBox(path).decrypt(newer) == {"a": "new"}
    with pytest.raises(SecretKeyError, match="cannot be decrypted"):
        SecretBox(path).decrypt(text)


def test_environment_goes_before_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(KEY_VARIABLE, Fernet.generate_key().decode())
    box = SecretBox(tmp_path / "key")
    assert box.decrypt(box.encrypt({"a": "b"})) == {"a": "b"}
    assert not (tmp_path / "key").exists()


@pytest.mark.parametrize("content", [b"", b" \n", b"not a key", b"\xff\xfe", b"x" * 44])
def test_wrong_key_is_a_clear_error_that_does_not_repeat_it(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "key"
    path.write_bytes(content)
    with pytest.raises(ExchangisError) as wrong:
        SecretBox(path)
    assert str(path) in str(wrong.value)
    assert b"not a key" not in str(wrong.value).encode()


def test_box_shows_nothing(tmp_path: Path) -> None:
    box = SecretBox(tmp_path / "key")
    key = (tmp_path / "key").read_text().strip()
    assert key not in f"{box!r} {box} {vars(type(box))}"
    assert not hasattr(box, "__dict__")


def test_no_secret_is_in_any_file_of_the_store(tmp_path: Path) -> None:
    settings = Settings(home=tmp_path / "home")
    with contextlib.closing(open_store(settings)) as store:
        record = store.data_sources.create(
            name="n", type_name="MYSQL", params={"host": "h"}, secrets={"password": PASSWORD},
            user="u", now=1,
        )  # fmt: skip
        store.data_sources.update(record.id, secrets={"password": "other-geheim"}, user="u", now=2)
        assert store.data_sources.connection(record.id).get("password") == "other-geheim"
        _assert_no_secret(settings.home)
    _assert_no_secret(settings.home)


def _assert_no_secret(home: Path) -> None:
    files = [file for file in home.rglob("*") if file.is_file()]
    assert any(file.name == "exchangis.db" for file in files)
    for file in files:
        data = file.read_bytes()
        assert PASSWORD.encode() not in data and b"geheim" not in data, file


def test_store_is_for_its_owner_alone(tmp_path: Path) -> None:
    settings = Settings(home=tmp_path / "deep" / "home")
    with contextlib.closing(open_store(settings)) as store:
        assert store.executions.unfinished_count() == 0
        assert stat.S_IMODE(settings.home.stat().st_mode) == 0o700
        for file in settings.home.iterdir():
            assert stat.S_IMODE(file.stat().st_mode) == 0o600, file


def test_store_opens_again_with_what_it_held(tmp_path: Path) -> None:
    settings = Settings(home=tmp_path / "home")
    with contextlib.closing(open_store(settings)) as store:
        store.jobs.create(name="n", user="u", now=1)
    with contextlib.closing(open_store(settings)) as store:
        assert store.jobs.query().total == 1


def test_lost_key_leaves_a_way_out(tmp_path: Path) -> None:
    settings = Settings(home=tmp_path / "home")
    with contextlib.closing(open_store(settings)) as store:
        record = store.data_sources.create(
            name="n", type_name="MYSQL", params={}, secrets={"password": "old"}, user="u", now=1
        )
    (settings.home / KEY_FILE).write_bytes(Fernet.generate_key())
    with contextlib.closing(open_store(settings)) as store:
        assert store.data_sources.query().items[0].secret_names == ("password",)
        assert store.data_sources.secret_values() == []
        with pytest.raises(SecretKeyError):
            store.data_sources.connection(record.id)
        with pytest.raises(SecretKeyError):
            store.data_sources.update(record.id, secrets={"other": "x"}, user="u", now=2)
        store.data_sources.update(record.id, secrets={"password": "new"}, user="u", now=2)
        assert store.data_sources.connection(record.id).get("password") == "new"


@pytest.mark.parametrize(
    "url", ["oracle://u:geheim@h/d", "sqlite://", "sqlite:///:memory:", "geheim"]
)
def test_wrong_store_url_is_refused_without_its_password(tmp_path: Path, url: str) -> None:
    settings = Settings(home=tmp_path / "home", store_url=url)
    with pytest.raises(ExchangisError, match="store_url") as refused:
        open_store(settings)
    assert "geheim" not in str(refused.value)
