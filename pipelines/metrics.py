"""What a training run logs, a line of `metrics.jsonl` for each logged step: writing, reading, cutting for a resume."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, NoReturn

from gwm.core import ConfigError
from gwm.shards.files import replacing

FILE = "metrics.jsonl"  # in a run's folder
TAU_BUCKETS = 8  # equal parts of [0, 1]

Losses = tuple[float | None, ...]  # None where no sample fell


@dataclass(frozen=True)
class Metrics:
    """One logged step. Losses and rates are means over the steps since the line before."""

    stage: str
    step: int  # done in the stage, from 1
    position: int  # done over all stages
    loss: float
    loss_tau: Losses  # mean loss by eighth of τ in [0, 1]
    loss_visible: float | None  # of the tokens that the encoder saw; None without a mask
    loss_hidden: float | None
    loss_frame: Losses  # (T,) by frame; None for condition frames
    gradient_norm: float  # before clipping
    lr: float
    seconds_per_step: float
    data_wait: float  # share of the time spent waiting for data, 0 to 1
    tokens_per_second: float
    memory_bytes: int  # peak
    time: float  # unix, s
    replaced: int = 0  # damaged windows that others stood in for; not written where there was none


def append(path: Path, metrics: Metrics) -> None:
    """Append one line to the file `path`. No value may be infinite or NaN."""
    assert len(metrics.loss_tau) == TAU_BUCKETS, metrics.loss_tau
    values = asdict(metrics)
    if not metrics.replaced:
        del values["replaced"]
    line = json.dumps(values, allow_nan=False)
    with path.open("a", encoding="utf-8") as f:
        f.write(line + "\n")


def read(path: Path) -> list[Metrics]:
    """All lines of the file `path`, oldest first; none where there is no file.

    A last line that a kill cut short is skipped. ConfigError names any other line that is damaged.
    """
    return [metrics for _, metrics in _read(path)]


def truncate(path: Path, position: int) -> None:
    """Drop what a killed run logged after `position`, its last saved state, and a line cut short.

    ConfigError as in `read`.
    """
    if path.is_file():
        kept = [line for line, metrics in _read(path) if metrics.position <= position]
        with replacing(path) as temporary:
            temporary.write_text("".join(line + "\n" for line in kept), encoding="utf-8")


def _read(path: Path) -> Iterator[tuple[str, Metrics]]:
    """Every line with its meaning."""
    if not path.is_file():
        return
    lines = path.read_bytes().split(b"\n")
    cut = lines.pop()  # what follows the last newline: nothing, or a line cut short
    for number, line in enumerate(lines, 1):
        try:
            text = line.decode()
            yield text, _parse(text)
        except ValueError as error:
            raise ConfigError(f"{path}, line {number} is damaged ({error}); delete that line") from error
    try:
        text = cut.decode()
        yield text, _parse(text)  # whole but for its newline
    except ValueError:
        return


def _parse(line: str) -> Metrics:
    """The meaning of a line; ValueError says what is wrong with it."""
    values = json.loads(line, parse_constant=_refuse)
    if not isinstance(values, dict):
        raise ValueError(f"{line[:40]!r} is no JSON object")
    values = {"replaced": 0, **values}
    names = [field.name for field in fields(Metrics)]
    if strange := sorted(values.keys() ^ set(names)):
        raise ValueError(f"missing or unknown: {', '.join(strange)}")
    for name in names:
        if not _fits(name, values[name]):
            raise ValueError(f"{name} is {values[name]!r}")
    fitting: dict[str, Any] = {name: tuple(v) if isinstance(v, list) else v for name, v in values.items()}
    return Metrics(**fitting)


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is no JSON")


def _fits(name: str, value: Any) -> bool:
    """Whether a field may have this value."""
    if name == "stage":
        return isinstance(value, str)
    if name in ("step", "position", "memory_bytes", "replaced"):
        return type(value) is int and value >= 0
    if name in ("loss_tau", "loss_frame"):
        whole = isinstance(value, list) and (name == "loss_frame" or len(value) == TAU_BUCKETS)
        return whole and all(v is None or _is_number(v) for v in value)
    return _is_number(value) or (value is None and name in ("loss_visible", "loss_hidden"))


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
