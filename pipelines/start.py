"""What a rollout starts from: an image, a video, a shard sample, or the embedded clip."""

from __future__ import annotations

from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path

import cv2
import numpy as np

from gwm.core import WeightsError
from gwm.shards import SourceError
from gwm.shards.images import fit
from gwm.shards.index import DATASET_FILE, Dataset, open_dataset
from gwm.shards.reader import read_window
from gwm.shards.schema import FRAME_RATE, Camera, Images, Motion
from gwm.shards.video import read_frames

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp")
EMBEDDED = "start"  # a dataset folder of one world sample


@dataclass(frozen=True)
class Start:
    """The first frames of a rollout and what is known of the rest."""

    name: str
    frames: Images  # (n, K, H, W, 3), the condition frames
    truth: dict[int, Images]  # frame index -> (H, W, 3) of the first view, where the source goes on
    motion: Motion = field(default_factory=Motion)
    cameras: tuple[Camera, ...] = ()
    text: str = ""


def load_start(given: Path | None, size: tuple[int, int], condition_frames: int, wanted: set[int]) -> Start:
    """Read up to `condition_frames` first frames at `size` (width, height), and the true frames at indices `wanted`."""
    if given is None:
        embedded = Path(str(files("gwm.core") / "assets" / EMBEDDED))
        if not embedded.is_dir():
            raise WeightsError("this installation embeds no start clip; give one with --from")
        return _from_shards(open_dataset(embedded), "embedded clip", size, condition_frames, wanted)
    if not given.exists():
        raise SourceError(f"--from {given}: no such file or folder")
    if (given / DATASET_FILE).is_file():
        return _from_shards(open_dataset(given), str(given), size, condition_frames, wanted)
    if given.is_dir():
        raise SourceError(
            f"--from {given}: a folder, but no dataset ({DATASET_FILE} is missing); give a video or image"
        )
    if given.suffix.lower() in IMAGE_SUFFIXES:
        image = cv2.imread(str(given), cv2.IMREAD_COLOR_RGB)
        if image is None:
            raise SourceError(f"--from {given}: not a readable image")
        return Start(str(given), fit(np.asarray(image, np.uint8), size)[None, None], {})
    return _from_video(given, size, condition_frames, wanted)


def _from_video(path: Path, size: tuple[int, int], condition_frames: int, wanted: set[int]) -> Start:
    """The first frames of a video, which must follow each other without a gap."""
    first: list[Images] = []
    truth: dict[int, Images] = {}
    for time, image in read_frames(path, size, "crop", losses=[]):
        tick = round(time * FRAME_RATE)
        if tick == len(first) < condition_frames:
            first.append(image)
        if tick in wanted:
            truth[tick] = image
        if tick >= max(wanted):
            break
    if len(first) < condition_frames:
        raise SourceError(
            f"{path} begins with {len(first)} frames at 10 Hz without a gap, fewer than the {condition_frames} "
            "condition frames"
        )
    return Start(str(path), np.stack(first)[:, None], truth if len(truth) > 1 else {})


def _from_shards(dataset: Dataset, name: str, size: tuple[int, int], condition_frames: int, wanted: set[int]) -> Start:
    """The first validation sample, or the first one where there is none."""
    splits = dataset.table.column("split").to_pylist()
    row = splits.index("val") if "val" in splits else 0
    entry = dataset.row(row)
    if entry.frames < condition_frames:
        raise SourceError(f"{name}: {entry.key} has {entry.frames} frames, fewer than {condition_frames} to start from")
    view = entry.views[:1]
    window = read_window(dataset, row, 0, entry.frames, view, size)
    truth = {i: window.frames[i, 0] for i in wanted if i < entry.frames}
    frames = window.frames[:condition_frames]
    return Start(f"{name}: {entry.key}", frames, truth, window.motion, window.cameras, window.text)
