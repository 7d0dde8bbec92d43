"""Files that are complete or absent."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from gwm.shards import ShardError


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Give a temporary path beside `path`; on success sync it and rename it to `path`, on failure remove it."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp{path.suffix}")
    try:
        yield temporary
        with temporary.open("rb") as f:
            os.fsync(f.fileno())
        temporary.replace(path)
    except BaseException:
        with suppress(OSError):  # what went wrong first is what the user should read
            temporary.unlink(missing_ok=True)
        raise


def make_folder(path: Path) -> Path:
    """Create the output folder `path`, or raise ShardError when it cannot be written to."""
    try:
        path.mkdir(parents=True, exist_ok=True)
        probe = path / f".gwm-probe-{os.getpid()}"
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise ShardError(f"cannot write into {path}: {error.strerror}; choose another folder with -o") from error
    return path


def sha256_of(path: Path) -> str:
    """Hexadecimal SHA-256 of a file's bytes."""
    with path.open("rb") as f:
        return hashlib.file_digest(f, "sha256").hexdigest()


def write_json(path: Path, value: object) -> None:
    """Write `value` as indented JSON, complete or not at all."""
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n", encoding="utf-8")
