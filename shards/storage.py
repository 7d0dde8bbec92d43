"""Where data lie: a folder, or a URL of any file system that fsspec knows (s3://, gs://, memory://)."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Iterator
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
    """The files below `folder` whose last parts match `pattern`, sorted by their whole path.

    Links are followed, also those to folders, each folder once; links that lead nowhere are found too.
    """
    if isinstance(folder, Path):
        matching = (path for path in _below(folder) if path.match(pattern))
        found: list[AnyPath] = [path for path in matching if path.is_file() or not path.exists()]
    else:
        found = [path for path in folder.rglob(pattern) if path.is_file()]
    return sorted(found, key=str)


def _below(top: Path) -> Iterator[Path]:
    """All that lies below a folder: what is there itself before what links lead to, so that a link renames nothing."""
    left, seen = [top], set[str]()
    while left:
        for here, folders, files in os.walk(left.pop(0)):
            real = os.path.realpath(here)
            if real in seen:
                folders.clear()
                continue
            seen.add(real)
            left += [Path(here, name) for name in sorted(folders) if os.path.islink(os.path.join(here, name))]
            yield from (Path(here, name) for name in files)


def stamp(path: AnyPath) -> str:
    """A file's size in bytes, as `Item.stamp`; "" where there is none to be read."""
    try:
        return str(path.stat().st_size)
    except OSError:
        return ""


def state(paths: Iterable[AnyPath]) -> str:
    """Changes with every change of these files that their file systems notice: size, time, one that comes or goes."""
    digest = hashlib.sha256()
    for path in paths:
        try:
            seen = path.stat()
            # A repair by cp -p or rsync -a leaves a file's own time as it was.
            known = f"{seen.st_size}-{seen.st_ctime_ns if isinstance(path, Path) else seen.st_mtime}"
        except OSError:
            known = "none"
        digest.update(f"{known}\n".encode())
    return digest.hexdigest()[:16]


def relative(path: AnyPath, folder: AnyPath) -> PurePosixPath:
    """`path` as seen from `folder`, which it lies in."""
    inner, outer = (p.as_posix() if isinstance(p, Path) else p.path for p in (path, folder))
    return PurePosixPath(inner).relative_to(PurePosixPath(outer))
