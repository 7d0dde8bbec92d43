"""What an evaluation leaves: the plan that it goes on by, and result.json with all that made its figures."""

from __future__ import annotations

import json
import platform
from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gwm import __version__
from gwm.core import ConfigError
from gwm.pipelines.differences import differences
from gwm.shards.files import write_json

if TYPE_CHECKING:  # the report reads results without what makes them
    from gwm.pipelines.eval_clip import Plan
    from gwm.pipelines.protocols import Clip

RESULT_FILE, PLAN_FILE = "result.json", "plan.json"
FORMAT, VERSION = "gwm-evaluation", 1
PACKAGES = ("torch", "numpy", "diffusers", "opencv-python-headless", "simplejpeg", "pillow")


def begin(out: Path, record: Mapping[str, Any]) -> dict[str, Any] | None:
    """Keep the plan of an evaluation in `out`; returns the result where it is finished already.

    ConfigError where `out` holds another one.
    """
    file = out / PLAN_FILE
    wanted = json.loads(json.dumps({**record, "gwm": __version__}))
    if not file.exists():
        write_json(file, wanted)
    try:
        old = dict(json.loads(file.read_text()))
    except (OSError, ValueError, TypeError) as error:
        raise ConfigError(f"{file} is damaged ({error}); choose another folder with -o") from error
    changed = differences(old, wanted)
    if changed:
        raise ConfigError(f"{out} holds another evaluation: {changed}; choose another folder with -o")
    return read_result(out / RESULT_FILE) if (out / RESULT_FILE).exists() else None


def write_result(out: Path, result: Mapping[str, Any]) -> dict[str, Any]:
    """Write result.json, complete or not at all; returns what is in it."""
    whole = dict(json.loads(json.dumps({"format": FORMAT, "version": VERSION, "finished": True, **result})))
    write_json(out / RESULT_FILE, whole)
    return whole


def read_result(file: Path) -> dict[str, Any]:
    """The content of a result.json. ConfigError where it is none."""
    try:
        result = dict(json.loads(file.read_text()))
    except (OSError, ValueError, TypeError) as error:
        raise ConfigError(f"{file} cannot be read ({error}); run the evaluation again into another folder") from error
    if result.get("format") != FORMAT or result.get("version") != VERSION:
        raise ConfigError(f"{file} is no result of this gwm's evaluations; give the folder of `gwm eval`")
    return result


def losses(plan: Plan, clips: Sequence[Clip]) -> list[dict[str, str]]:
    """Key and cause of the clips that could not be read, in order."""
    return [dict(json.loads(plan.loss(clip).read_text())) for clip in clips if plan.loss(clip).exists()]


def packages() -> dict[str, str]:
    """Versions of what decides the digits."""
    found = {"gwm": __version__, "python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:  # opencv has several names
            continue
    return found
