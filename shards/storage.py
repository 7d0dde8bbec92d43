"""Where data lie: a folder, or a URL of any file system that fsspec knows (s3://, gs://, memory://)."""

from __future__ import annotations

from pathlib import Path, PurePosixPath
from typing import TypeAlias

from upath import UPath

from gwm.shards import SourceError

AnyPath: TypeAlias = Path | UPath


def as_path(text: str | AnyPath) -> AnyPath:
    """The path that a user typed. Raises SourceError for a URL of an unknown file system."""
    if "://" not in str(text):
        return Path(str(text))
    try:
        path = UPath(str(text))
        _ = path.fs
    except (ValueError, ImportError) as error:
        raise SourceError(f"cannot open {text}: {error}") from error
    return path


def is_local(path: AnyPath) -> bool:
    """Whether `path` is a file or folder of this machine."""
    return isinstance(path, Path)


def find(folder: AnyPath, pattern: str) -> list[AnyPath]:
    """The files below `folder` that match, links that lead nowhere among them, sorted by their whole path."""
    found: list[AnyPath] = list(folder.rglob(pattern))
    return sorted((path for path in found if path.is_file() or path.is_symlink()), key=str)


def stamp(path: AnyPath) -> str:
    """A file's size in bytes, as `Item.stamp`; "" where there is none to be read."""
    try:
        return str(path.stat().st_size)
    except OSError:
        return ""


def relative(path: AnyPath, folder: AnyPath) -> PurePosixPath:
    """`path` as seen from `folder`, which it lies in."""
    inner, outer = (p.as_posix() if isinstance(p, Path) else p.path for p in (path, folder))
    return PurePosixPath(inner).relative_to(PurePosixPath(outer))
