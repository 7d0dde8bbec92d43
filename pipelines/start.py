"""What a rollout starts from: an image, a video, a shard sample, or the embedded clip."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path

import cv2
import numpy as np

from gwm.core import WeightsError
from gwm.pipelines.recipe import RIG
from gwm.shards import SourceError
from gwm.shards.images import fit, placement
from gwm.shards.index import DATASET_FILE, Dataset, open_dataset
from gwm.shards.latents.write import read_json_member
from gwm.shards.reader import read_window, window_text
from gwm.shards.sample import decode_description
from gwm.shards.schema import FRAME_RATE, Camera, Images, Motion
from gwm.shards.video import probe, read_frames

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp")
EMBEDDED = {1: "start", 3: "start-mview"}  # by views: dataset folders of one world sample
READ = 16  # frames that are read at a time

Truth = Callable[[], Iterator[Images | None]]  # frames (K, H, W, 3) from the first on, None where one is missing


@dataclass(frozen=True)
class Start:
    """The first frames of a rollout and what is known of the rest."""

    name: str
    frames: Images  # (n, K, H, W, 3), the condition frames
    views: tuple[str, ...] = ("front",)  # K names
    truth: Truth | None = None  # where the source goes on after `frames`
    motion: Motion = field(default_factory=Motion)
    cameras: tuple[Camera, ...] = ()
    text: str = ""
    notes: tuple[str, ...] = ()  # what was changed about the source, a line each


def load_start(
    given: Path | None, size: tuple[int, int], condition_frames: int, views: Sequence[str] = RIG[:1],
    key: str | None = None,
) -> Start:  # fmt: skip
    """Read up to `condition_frames` first frames at `size` (width, height).

    Of shards, the `views` where a sample has them all, else as many of its own, or as it has.

    given: an image, a video, or a dataset, of which the sample `key`, else the first for validation, else the first;
    the embedded clip where None. The frames have to follow each other without a gap, so there may be fewer of them.
    Another aspect is cropped. Both are said in `notes`. SourceError or ShardError for what cannot be read.
    """
    if given is None:
        embedded = Path(str(files("gwm.core") / "assets" / EMBEDDED[1 if len(views) == 1 else 3]))
        if not embedded.is_dir():
            raise WeightsError("this installation embeds no start clip; give one with --from")
        return _from_shards(open_dataset(embedded), "embedded clip", size, condition_frames, views, key)
    if not given.exists():
        raise SourceError(f"--from {given}: no such file or folder")
    if (given / DATASET_FILE).is_file():
        return _from_shards(open_dataset(given), str(given), size, condition_frames, views, key)
    if given.is_dir():
        raise SourceError(
            f"--from {given}: a folder, but no dataset ({DATASET_FILE} is missing); give a video or image"
        )
    if key is not None:
        raise SourceError(f"--key {key}: --from {given} is no folder of shards, and has no samples to choose from")
    if given.suffix.lower() in IMAGE_SUFFIXES:
        return _from_image(given, size)
    return _from_video(given, size, condition_frames)


def _from_image(path: Path, size: tuple[int, int]) -> Start:
    image = cv2.imread(str(path), cv2.IMREAD_COLOR_RGB)
    if image is None:
        raise SourceError(f"--from {path}: not a readable image")
    pixels = np.asarray(image, np.uint8)
    notes = _cropped(path.name, (pixels.shape[1], pixels.shape[0]), size)
    return Start(str(path), fit(pixels, size)[None, None], notes=notes)


def _from_video(path: Path, size: tuple[int, int], condition_frames: int) -> Start:
    info = probe(path)
    first: list[Images] = []
    goes_on = False
    for time, image in read_frames(path, size, "crop", losses=[]):
        goes_on = round(time * FRAME_RATE) != len(first) or len(first) == condition_frames
        if goes_on:
            break
        first.append(image)

    def truth() -> Iterator[Images | None]:
        at = 0
        for time, image in read_frames(path, size, "crop", losses=[]):
            tick = round(time * FRAME_RATE)
            yield from [None] * (tick - at)
            yield image[None]
            at = tick + 1

    notes = (
        *_cropped(path.name, (info.width, info.height), size),
        *_fewer(path.name, len(first), condition_frames),
    )
    return Start(str(path), np.stack(first)[:, None], truth=truth if goes_on else None, notes=notes)


def _from_shards(
    dataset: Dataset, name: str, size: tuple[int, int], condition_frames: int, views: Sequence[str], key: str | None
) -> Start:
    row = _row(dataset, name, key)
    entry = dataset.row(row)
    chosen = tuple(views) if set(views) <= set(entry.views) else entry.views[: len(views)]
    n = min(condition_frames, entry.frames)
    window = read_window(dataset, row, 0, n, chosen, size)
    description = decode_description(read_json_member(dataset, entry))

    def truth() -> Iterator[Images | None]:
        for start in range(0, entry.frames, READ):
            yield from read_window(dataset, row, start, min(READ, entry.frames - start), chosen, size).frames

    shapes = dict(zip(entry.views, entry.sizes, strict=True))
    notes = (*_cropped(entry.key, shapes[chosen[0]], size), *_fewer(entry.key, n, condition_frames))
    return Start(
        f"{name}: {entry.key}", window.frames, chosen, truth if entry.frames > n else None, description.motion,
        window.cameras, window_text(description, 0, entry.frames), notes,
    )  # fmt: skip


def _row(dataset: Dataset, name: str, key: str | None) -> int:
    """The sample `key`; the first for validation where none is named, or the first of all."""
    if key is None:
        splits = dataset.table.column("split").to_pylist()
        return splits.index("val") if "val" in splits else 0
    keys = dataset.table.column("key").to_pylist()
    if key not in keys:
        few = ", ".join(keys[:5]) + (f" and {len(keys) - 5} more" if len(keys) > 5 else "")
        raise SourceError(f"--key {key}: {name} has no such sample; it has {few}")
    return int(keys.index(key))


def _cropped(name: str, given: tuple[int, int], size: tuple[int, int]) -> tuple[str, ...]:
    (_, _, width, height), _ = placement(given, size)
    if (width, height) == given:
        return ()
    return (
        f"{name}: {given[0]}x{given[1]} is cropped to {width}x{height}, the aspect of the model's {size[0]}x{size[1]}",
    )


def _fewer(name: str, found: int, wanted: int) -> tuple[str, ...]:
    if found == wanted:
        return ()
    return (
        f"{name} begins with {found} frames without a gap, not {wanted}: the first window has {found} condition frames",
    )
