"""Where files may be read and written: links and dots lead nowhere else."""

from __future__ import annotations

from pathlib import Path

import pytest

from exchangis.connectors.local import confined_path, inside
from exchangis.domain.errors import InvalidRequest


@pytest.fixture
def root(tmp_path: Path) -> Path:
    folder = tmp_path / "root"
    folder.mkdir()
    return folder


def test_without_roots_any_path_is_taken(tmp_path: Path) -> None:
    assert confined_path(str(tmp_path / "x"), (), field="path") == (tmp_path / "x").resolve()


def test_relative_path_starts_at_the_working_directory(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(root)
    assert confined_path("a/b.db", (root,), field="path") == root.resolve() / "a" / "b.db"


def test_path_in_any_of_the_roots_is_taken(root: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    assert confined_path(str(other / "x"), (root, other), field="path") == other.resolve() / "x"


def test_folder_with_the_roots_name_as_its_beginning_is_outside(root: Path) -> None:
    with pytest.raises(InvalidRequest, match="outside"):
        confined_path(f"{root}-twin/x", (root,), field="path")


@pytest.mark.parametrize("text", ["../x", "a/../../x", "/etc/passwd", "..", "./.././x"])
def test_path_that_leaves_the_roots_is_refused_by_name(
    root: Path, text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(root)
    with pytest.raises(InvalidRequest, match=r"path: .*outside") as caught:
        confined_path(text, (root,), field="path")
    assert caught.value.errors[0].value == text


@pytest.mark.parametrize("text", ["", "  ", "a\x00b"])
def test_empty_and_nul_paths_are_refused(root: Path, text: str) -> None:
    with pytest.raises(InvalidRequest):
        confined_path(text, (root,), field="path")


def test_link_that_leads_out_is_refused(root: Path, tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("x")
    (root / "link").symlink_to(tmp_path / "secret")
    (root / "folder").symlink_to(tmp_path)
    for text in ("link", "folder/secret", "folder/new"):
        with pytest.raises(InvalidRequest):
            confined_path(str(root / text), (root,), field="path")
        with pytest.raises(InvalidRequest):
            inside(root, text, (root,))


def test_link_that_stays_in_is_followed(root: Path) -> None:
    (root / "data").mkdir()
    (root / "link").symlink_to("data")
    assert inside(root, "link/x", (root,)) == root.resolve() / "data" / "x"


def test_root_that_is_itself_a_link_counts_as_its_target(root: Path, tmp_path: Path) -> None:
    alias = tmp_path / "alias"
    alias.symlink_to(root)
    assert confined_path(str(root / "x"), (alias,), field="path") == root.resolve() / "x"


def test_loop_of_links_is_refused(root: Path) -> None:
    (root / "a").symlink_to("b")
    (root / "b").symlink_to("a")
    with pytest.raises(InvalidRequest):
        inside(root, "a/../../x", (root,))


def test_uri_must_be_relative_and_stay_below_its_base(root: Path, tmp_path: Path) -> None:
    base = root / "base"
    base.mkdir()
    assert inside(base, "x/../y.csv", (root,)) == base.resolve() / "y.csv"
    assert inside(base, "", (root,)) == base.resolve()
    for uri in ("../y.csv", "x/../../y", str(base / "y.csv"), "/y", "a\x00"):
        with pytest.raises(InvalidRequest, match="uri"):
            inside(base, uri, (root,))
    with pytest.raises(InvalidRequest):
        inside(tmp_path, "root/base/y.csv", (root,))
