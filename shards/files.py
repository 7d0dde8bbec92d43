"""Files that are complete or absent, in a folder or in an object store."""

from __future__ import annotations

import hashlib
import json
import os
import re
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TypeVar

from gwm.shards import ShardError
from gwm.shards.storage import AnyPath

P = TypeVar("P", bound=AnyPath)


@contextmanager
def replacing(path: AnyPath) -> Iterator[Path]:
    """Give a temporary path beside `path`; on success sync it and rename it to `path`, on failure remove it.

    For an object store the temporary file is a local one, which is then uploaded: an object is whole or absent.
    """
    if isinstance(path, Path):
        temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp{path.suffix}")
    else:
        handle, name = tempfile.mkstemp(suffix=path.suffix, prefix="gwm-")
        os.close(handle)
        temporary = Path(name)
    try:
        yield temporary
        if isinstance(path, Path):
            with temporary.open("rb") as f:
                os.fsync(f.fileno())
            temporary.replace(path)
        else:
            path.fs.put_file(str(temporary), path.path)
            temporary.unlink()
    except BaseException:
        with suppress(OSError):  # what went wrong first is what the user should read
            temporary.unlink(missing_ok=True)
        raise


def remove_temporaries(folder: AnyPath) -> None:
    """Remove what killed processes left of `replacing` in `folder`, while nobody writes there.

    The safetensors library writes a temporary file of its own beside ours, `.tmp` and six letters.
    """
    for file in folder.iterdir():
        if re.fullmatch(r"\.[\w.-]+\.\d+\.tmp(\.\w+)?|\.tmp\w{6}", file.name):
            file.unlink()


def make_folder(path: P) -> P:
    """Create the output folder `path`, or raise ShardError when it cannot be written to."""
    try:
        path.mkdir(parents=True, exist_ok=True)
        probe = path / f".gwm-probe-{os.getpid()}"
        probe.touch()
        probe.unlink()
    except OSError as error:
        reason = error.strerror or error
        raise ShardError(f"cannot write into {path}: {reason}; choose another folder with -o") from error
    return path


def sha256_of(path: AnyPath) -> str:
    """Hexadecimal SHA-256 of a file's bytes."""
    with path.open("rb") as f:
        return hashlib.file_digest(f, "sha256").hexdigest()  # type: ignore[arg-type]


def write_json(path: AnyPath, value: object) -> None:
    """Write `value` as indented JSON, complete or not at all."""
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n", encoding="utf-8")


@contextmanager
def json_list(path: AnyPath) -> Iterator[Callable[[object], None]]:
    """Give a function that appends a value to a JSON list in the file `path`, one a line; complete or not at all."""
    between = "[\n"

    def append(value: object) -> None:
        nonlocal between
        file.write(between + json.dumps(value))
        between = ",\n"

    with replacing(path) as temporary, temporary.open("w", encoding="utf-8") as file:
        yield append
        file.write("[]\n" if between == "[\n" else "\n]\n")
