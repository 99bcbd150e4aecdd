"""Local paths: where a connector may read and write, decided after every link is resolved.

Both functions return a path that held no symbolic link when it was checked, so the file at its end
can be opened with `O_NOFOLLOW` (notes on attacks: resolve, then compare with the roots).
"""

from __future__ import annotations

from pathlib import Path

from exchangis.domain.errors import InvalidRequest


def _resolved(path: Path, text: str, field: str) -> Path:
    try:
        return path.resolve()
    except (OSError, RuntimeError) as error:  # a loop of links, a name that is too long
        reason = getattr(error, "strerror", None) or str(error)
        raise InvalidRequest.field(field, text, f"cannot be resolved: {reason}") from error


def _checked_text(text: str, field: str) -> str:
    if "\x00" in text:
        raise InvalidRequest.field(field, text, "must not hold a NUL character")
    return text


def _check_roots(path: Path, text: str, roots: tuple[Path, ...], field: str) -> None:
    if roots and not any(path.is_relative_to(root.resolve()) for root in roots):
        raise InvalidRequest.field(
            field,
            text,
            f"{path} is outside of the folders that may be used",
            guidance=f"Use a path below {', '.join(str(root) for root in roots)}.",
        )


def confined_path(text: str, roots: tuple[Path, ...], *, field: str) -> Path:
    """The absolute, link-free form of `text`, which must lie in one of `roots` (empty: anywhere).

    A relative path starts at the process's working directory. The path need not exist; of one that
    does not, the part that exists is resolved. InvalidRequest names `field` and the path.
    """
    if not _checked_text(text, field).strip():
        raise InvalidRequest.field(field, text, "must name a path")
    path = _resolved(Path(text), text, field)
    _check_roots(path, text, roots, field)
    return path


def inside(base: Path, uri: str, roots: tuple[Path, ...], *, field: str = "uri") -> Path:
    """The link-free path of `uri` below `base`; an empty `uri` is `base` itself.

    An absolute `uri`, and one that leaves `base` by `..` or by a link, is refused with
    InvalidRequest naming `field`; so is a `base` outside of `roots` (empty: anywhere).
    """
    if Path(_checked_text(uri, field)).is_absolute():
        raise InvalidRequest.field(field, uri, "must be relative to the data source's path")
    home = _resolved(base, str(base), field)
    _check_roots(home, str(base), roots, field)
    path = _resolved(home / uri, uri, field)
    if not path.is_relative_to(home):
        raise InvalidRequest.field(field, uri, "leaves the data source's path")
    _check_roots(path, uri, roots, field)
    return path
