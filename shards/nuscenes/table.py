"""One table of nuScenes, a JSON list in a file, read row by row; and the checks of what stands in a row."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import PurePosixPath
from typing import Any, TypeVar

import ijson
import numpy as np

from gwm.shards import SourceError
from gwm.shards.schema import Floats
from gwm.shards.storage import AnyPath

T = TypeVar("T")

WHAT_TO_DO = (
    "put nuScenes there as downloaded and unpacked (v1.0-trainval/*.json, samples/, sweeps/, and can_bus/ where you "
    "have it), or make a stand-in: gwm world OUT --as nuscenes --scenes 2"
)


def read_list(path: AnyPath, make: Callable[[Any], T]) -> Iterator[T]:
    """Each row of the JSON list in `path`, through `make`, one in memory at a time.

    Raises SourceError for a file that is missing, damaged or no list, and for a row that `make` does not take.
    """
    number = 0
    try:
        with path.open("rb") as stream:
            if not stream.read(64).lstrip().startswith(b"["):
                raise SourceError(f"{path} is no JSON list; download it again")
            stream.seek(0)
            for row in ijson.items(stream, "item", use_float=True):
                number += 1
                yield make(row)
    except FileNotFoundError as error:
        raise SourceError(f"{path} does not exist; {WHAT_TO_DO}") from error
    except OSError as error:
        raise SourceError(f"{path} cannot be read: {error.strerror or error}") from error
    except (ijson.JSONError, UnicodeDecodeError) as error:
        raise SourceError(f"{path} is damaged after row {number}; download it again ({_line(error)})") from error
    except (KeyError, TypeError, ValueError, AttributeError, IndexError, OverflowError) as error:
        raise SourceError(f"{path}: row {number} is not understood: {type(error).__name__}: {error}") from error


def text(row: Any, field: str) -> str:
    """A field that is a string. Raises TypeError for another."""
    value = row[field]
    if not isinstance(value, str):
        raise TypeError(f"{field} is {value!r}, not a string")
    return value


def token(row: Any, field: str = "token") -> bytes:
    """A field that names a row of a table. Raises ValueError for an empty one."""
    value = text(row, field).encode("ascii")
    if not value or b"\0" in value:
        raise ValueError(f"{field} is {value!r}, not a token")
    return value


def whole(row: Any, field: str) -> int:
    """A field that is a whole number of at most 63 bits. Raises TypeError for another."""
    value = row[field]
    if type(value) is not int or not 0 <= value < 1 << 63:
        raise TypeError(f"{field} is {value!r}, not a whole number")
    return value


def numbers(row: Any, field: str, *shape: int) -> Floats:
    """A field that is a list of finite numbers of this shape. Raises ValueError for another."""
    values = np.array(row[field], np.float64)
    if values.shape != shape or not np.isfinite(values).all():
        raise ValueError(f"{field} is not {'x'.join(map(str, shape))} finite numbers")
    return values


def rotation(row: Any, field: str = "rotation") -> Floats:
    """A field that is a quaternion w, x, y, z, made a unit one. Raises ValueError for another."""
    values = numbers(row, field, 4)
    length = float(np.linalg.norm(values))
    if not 0.9 < length < 1.1:
        raise ValueError(f"{field} is a quaternion of length {length:g}, not 1")
    unit: Floats = values / length
    return unit


def inner_file(row: Any, field: str = "filename") -> bytes:
    """A field that names a file inside the dataset's folder. Raises ValueError for one that leads out of it."""
    value = text(row, field)
    path = PurePosixPath(value)
    if not value or path.is_absolute() or ".." in path.parts or set(value) & set("\\:\0"):
        raise ValueError(f"{field} is {value!r}, which is no file inside the dataset's folder")
    return value.encode()


def _line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0]
