"""A rollout's memory: what it is, in rollout.json, and the latents of its finished windows until it has ended."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from crc32c import crc32c
from torch import Tensor

from gwm.core import ConfigError, WeightsError
from gwm.core.world_model import WorldModel
from gwm.pipelines.checkpoint import load_tensors, save_tensors
from gwm.pipelines.differences import differences
from gwm.pipelines.progress import console
from gwm.pipelines.video_out import refusal
from gwm.shards import ShardError
from gwm.shards.files import make_folder, remove_temporaries, write_json
from gwm.shards.lock import locked

RECORD_FILE = "rollout.json"
STATE = "unfinished"  # the folder of the windows
FORMAT = "gwm-rollout-window"
CONTENT = {"checkpoint": "weights_crc32c", "start": "start_crc32c"}  # what is named, and what it holds
PROGRESS = ("finished", "frames", "seconds_per_frame", "files")  # of a record; all else says which rollout it is


class Windows:
    """The latents of the windows that are drawn, one file each, so that a rollout may go on after them."""

    def __init__(self, folder: Path, device: torch.device) -> None:
        self.folder, self.device = folder, device
        self.read = 0  # how many an iteration has given

    def __iter__(self) -> Iterator[Tensor]:
        """Latents (t k c h w) of one window after the other; a damaged one and those after it are drawn again."""
        while (path := self._path(self.read)).exists():
            try:
                latents = load_tensors(path, FORMAT)[0]["latents"]
            except (WeightsError, KeyError) as error:
                console.print(f"drawing on from window {self.read}: {error}", markup=False, highlight=False)
                return
            self.read += 1
            yield latents.to(self.device)

    def save(self, number: int, latents: Tensor) -> None:
        """Keep window `number`. WeightsError where it cannot be written."""
        try:
            save_tensors(self._path(number), {"latents": latents}, {"format": FORMAT})
        except WeightsError as error:
            raise WeightsError(f"{error}; free some space, and the same command goes on") from error

    def _path(self, number: int) -> Path:
        return self.folder / f"window-{number:05d}.safetensors"


@contextmanager
def unfinished(folder: Path, device: torch.device) -> Iterator[Windows]:
    """The windows in `folder`, which nobody else writes into meanwhile. ShardError where another rollout does."""
    state = make_folder(folder / STATE)
    with locked(state, "lock"):
        for place in (folder, state):
            remove_temporaries(place)
        yield Windows(state, device)


def forget(folder: Path) -> None:
    """Remove the windows of a rollout that has ended."""
    shutil.rmtree(folder / STATE, ignore_errors=True)


def read_record(folder: Path) -> dict[str, Any] | None:
    """What rollout.json in `folder` says; None where there is none. ShardError where it cannot be read."""
    file = folder / RECORD_FILE
    try:
        return dict(json.loads(file.read_text(encoding="utf-8"))) if file.exists() else None
    except (OSError, ValueError, TypeError) as error:
        raise ShardError(f"{file} cannot be read ({error}); remove it or choose another folder with -o") from error


def write_record(folder: Path, record: Mapping[str, Any]) -> None:
    """Write rollout.json. ShardError where it cannot be written."""
    try:
        write_json(folder / RECORD_FILE, record)
    except OSError as error:
        raise refusal(folder / RECORD_FILE, error) from error


def check_same(folder: Path, old: Mapping[str, Any], new: Mapping[str, Any]) -> None:
    """ConfigError where `folder` holds the record `old` of another rollout than `new`, with what differs."""
    there, here = ({k: v for k, v in record.items() if k not in PROGRESS} for record in (old, new))
    for name, content in CONTENT.items():
        if there.get(content) == here.get(content):  # the same under another name
            there[name] = here.get(name)
    changed = differences(there, here)
    if changed:
        raise ConfigError(f"{folder} holds another rollout: {changed}; choose another folder with -o")


def checksum(model: WorldModel) -> str:
    """CRC-32C of all weights of a model, hexadecimal: tells one checkpoint from another."""
    total: int = 0
    for name, tensor in sorted(model.state_dict().items()):
        total = crc32c(name.encode(), total)
        total = crc32c(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data, total)
    return f"{total:08x}"
