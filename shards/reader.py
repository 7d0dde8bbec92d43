"""Reading windows of frames from a dataset, and the order in which training and evaluation read them.

Nothing here keeps state or needs torch: a DataLoader worker calls `read_window` with what `WindowSchedule.batch` or
`iterate_windows` gave. Ranks are kept apart by shards; within a rank, batches are dealt to workers by the DataLoader.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from functools import lru_cache
from typing import Protocol

import numpy as np
import numpy.typing as npt

from gwm.shards import ShardError
from gwm.shards.images import decode_jpeg, fit, fit_camera
from gwm.shards.index import Dataset, Row
from gwm.shards.motion import WAYPOINT_SPACING, WAYPOINTS
from gwm.shards.sample import Description, decode_description, frame_name, json_name
from gwm.shards.schema import FRAME_RATE, Camera, Images, Window

MOTION_AHEAD = round(WAYPOINTS * WAYPOINT_SPACING * FRAME_RATE)  # frames of motion past the window's end
_ORDER, _START = 0, 1  # keep the two uses of (seed, rank, ...) apart: SeedSequence takes [a, b, c] for [a, b, c, 0]

Indices = npt.NDArray[np.int64]


def read_window(
    dataset: Dataset,
    row: int,
    start: int,
    length: int,
    views: Sequence[str] | None = None,
    size: tuple[int, int] | None = None,
    stride: int = 1,
) -> Window:
    """`length` frames of sample `row` from `start` on, `stride` apart, decoded; only their bytes are read.

    `views` are those of the sample unless given. With `size` = (width, height) the frames are cropped to its shape,
    centred, and scaled (area averaging where they shrink), and the cameras follow. The motion reaches up to
    MOTION_AHEAD = 20 frames (2 s) past the window, as far as the chunk has them, so that the waypoints up to 2 s after
    the window's first frame are known; it stays at 10 Hz whatever the stride. Raises ShardError for frames or views
    that the sample lacks and damaged bytes.
    """
    entry = dataset.row(row)
    span, views = check_window(entry, start, length, views, stride)
    description, jpegs = _read(dataset, entry, start, span, views)
    size = size or _common_size(entry, views)
    return Window(
        entry.key,
        start,
        _decode(entry, [of_view[::stride] for of_view in jpegs], range(start, start + span, stride), views, size),
        views,
        description.motion.window(start, span + MOTION_AHEAD),
        _cameras(description, views, size),
        window_text(description, start, start + span),
    )


class HasFrames(Protocol):
    """What a row of an index says of its sample."""

    @property
    def key(self) -> str: ...

    @property
    def frames(self) -> int: ...

    @property
    def views(self) -> tuple[str, ...]: ...


def check_window(
    entry: HasFrames, start: int, length: int, views: Sequence[str] | None, stride: int
) -> tuple[int, tuple[str, ...]]:
    """How many frames a window spans, and its views; ShardError where the sample lacks any of them."""
    views = entry.views if views is None else tuple(views)
    assert stride > 0, stride
    span = (length - 1) * stride + 1
    if not 0 <= start < start + span <= entry.frames:
        raise ShardError(
            f"sample {entry.key} has frames 0 to {entry.frames - 1}; {span} frames from {start} are not in it"
        )
    missing = [view for view in views if view not in entry.views]
    if missing or not views:
        raise ShardError(f"sample {entry.key} has the views {', '.join(entry.views)}, not {', '.join(missing)}")
    return span, views


def window_text(description: Description, start: int, end: int) -> str:
    """The caption that most of the frames have, or else the chunk's text."""
    shared = [min(end, caption.end) - max(start, caption.start) for caption in description.captions]
    return description.captions[int(np.argmax(shared))].text if max(shared, default=0) > 0 else description.text


def _common_size(row: Row, views: Sequence[str]) -> tuple[int, int]:
    sizes = {row.sizes[row.views.index(view)] for view in views}
    if len(sizes) > 1:
        listed = ", ".join(f"{width}x{height}" for width, height in sorted(sizes))
        raise ShardError(f"sample {row.key} has views of several sizes ({listed}); choose one with a size")
    return sizes.pop()


def read_chunk(dataset: Dataset, row: int, size: tuple[int, int] | None = None) -> Window:
    """All frames of sample `row`, all views; see `read_window`."""
    return read_window(dataset, row, 0, dataset.row(row).frames, size=size)


def _read(
    dataset: Dataset, row: Row, start: int, length: int, views: Sequence[str]
) -> tuple[Description, list[list[bytes]]]:
    """The description and the JPEGs [view][frame]: one read for each view, as its frames lie side by side."""
    path = dataset.path / row.shard
    jpegs = []
    try:
        with path.open("rb") as f:
            f.seek(row.json_offset)
            text = f.read(row.json_size)
            for view in views:
                first = row.views.index(view) * row.frames + start
                offsets = row.frame_offsets[first : first + length].tolist()
                ends = (row.frame_offsets + row.frame_sizes)[first : first + length].tolist()
                f.seek(offsets[0])
                data = f.read(ends[-1] - offsets[0])
                jpegs.append([data[a - offsets[0] : b - offsets[0]] for a, b in zip(offsets, ends, strict=True)])
    except OSError as error:
        raise ShardError(f"{path} cannot be read: {error.strerror or error}") from error
    try:
        return decode_description(text), jpegs
    except ShardError as error:
        raise _damaged(row, json_name(row.key), error) from error


def _decode(
    row: Row, jpegs: Sequence[Sequence[bytes]], frames: range, views: Sequence[str], size: tuple[int, int]
) -> Images:
    """(T, K, height, width, 3) RGB from the JPEGs [view][frame], which are these frames of the sample."""
    out = np.empty((len(jpegs[0]), len(views), size[1], size[0], 3), np.uint8)
    for k, view in enumerate(views):
        for t, (frame, jpeg) in enumerate(zip(frames, jpegs[k], strict=True)):
            try:
                out[t, k] = fit(decode_jpeg(jpeg), size)
            except ShardError as error:
                raise _damaged(row, frame_name(row.key, view, frame, row.frames), error) from error
    return out


def _damaged(row: Row, member: str, error: ShardError) -> ShardError:
    return ShardError(f"{row.shard}: {member}: {error}; gwm shards verify lists all damage")


def _cameras(description: Description, views: Sequence[str], size: tuple[int, int]) -> tuple[Camera, ...]:
    """The cameras of `views`, in their order, as the frames are after `fit` to `size`."""
    cameras = {camera.view: camera for camera in description.cameras}
    chosen = [cameras[view] for view in views if view in cameras]
    return tuple(camera if (camera.width, camera.height) == size else fit_camera(camera, size) for camera in chosen)


class WindowSchedule:
    """An endless order of training windows that is a pure function of (seed, rank, step).

    Shards are dealt to the ranks, so that no two read the same one, evened out by number of samples. Each epoch of a
    rank is a new permutation of its samples; the start of a window is uniform over the chunk. To resume at step n is
    to ask for step n. Not in the paper: a chunk is drawn as often as any other, whatever its length.
    """

    def __init__(
        self,
        dataset: Dataset,
        split: str,
        seed: int,
        rank: int = 0,
        world_size: int = 1,
        min_length: int = 1,
        views: Sequence[str] = (),
    ) -> None:
        """Of the samples of `split`, those of at least `min_length` frames that have all of `views` take part.

        Raises ShardError if none is left, and if there are fewer shards than ranks.
        """
        assert 0 <= rank < world_size, f"rank {rank} of {world_size}"
        assert min_length > 0, min_length
        rows = _rows(dataset, split, min_length, views)
        shards = np.asarray(dataset.table.column("shard").to_pylist())[rows]
        if len(np.unique(shards)) < world_size:
            raise ShardError(
                f"{dataset.path} has {len(np.unique(shards))} shards with {split} samples for {world_size} processes; "
                "use at most as many processes as shards, or a dataset of more shards"
            )
        self.seed, self.rank = seed, rank
        self.rows: Indices = rows[np.isin(shards, _deal(shards.tolist(), world_size)[rank])]
        self.frames: Indices = dataset.table.column("frames").to_numpy()[self.rows].astype(np.int64)

    def batch(self, step: int, batch_size: int, length: int) -> list[tuple[int, int]]:
        """The (row, start) of the `batch_size` windows of `length` frames of step `step`.

        `batch_size` has to be the same at every step. Chunks shorter than `length` are left out; where `length` varies
        and chunks are short, give the longest as `min_length`, so that an epoch is the same set of chunks at every
        step. Raises ShardError if no chunk of this rank is long enough.
        """
        long_enough = np.flatnonzero(self.frames >= length)
        if length < 1 or len(long_enough) == 0:
            raise ShardError(
                f"no windows of {length} frames: the longest sample of rank {self.rank} has {self.frames.max()}; "
                "use shorter windows, or make longer chunks"
            )
        found = []
        for i in range(batch_size):
            epoch, position = divmod(step * batch_size + i, len(long_enough))
            order = _permutation(self.seed, self.rank, epoch, len(long_enough))
            at = long_enough[order[position]]
            draw = np.random.default_rng([_START, self.seed, self.rank, step, i])
            found.append((int(self.rows[at]), int(draw.integers(self.frames[at] - length + 1))))
        return found


def iterate_windows(
    dataset: Dataset, split: str, length: int, stride: int, views: Sequence[str] = ()
) -> list[tuple[int, int]]:
    """The (row, start) of all windows of `length` frames of `split`, `stride` frames apart within each chunk.

    Of samples that have all of `views`, in the order of the index; a window never crosses chunks, and what is left at a
    chunk's end is dropped. Raises ShardError if no chunk of the split is long enough.
    """
    assert min(length, stride) > 0, (length, stride)
    rows = _rows(dataset, split, length, views)
    frames = dataset.table.column("frames").to_numpy()
    return [(int(row), start) for row in rows for start in range(0, int(frames[row]) - length + 1, stride)]


def _rows(dataset: Dataset, split: str, length: int, views: Sequence[str]) -> Indices:
    """Rows of `split` with at least `length` frames and all of `views`, or ShardError if there is none."""
    chosen = np.asarray(dataset.table.column("split").to_pylist()) == split
    frames = dataset.table.column("frames").to_numpy()
    if not chosen.any():
        raise ShardError(
            f"{dataset.path} has no {split} samples, only {', '.join(dataset.counts['splits'])}; use another dataset"
        )
    if views:
        chosen &= np.array([set(views) <= set(of_row) for of_row in dataset.table.column("views").to_pylist()])
        if not chosen.any():
            raise ShardError(
                f"{dataset.path} has no {split} sample with the views {', '.join(views)}; "
                f"it has {', '.join(dataset.views)}"
            )
    longest = int(frames[chosen].max())
    if longest < length:
        raise ShardError(
            f"{dataset.path} has no {split} sample of {length} frames, the longest has {longest}; "
            "use shorter windows, or make longer chunks"
        )
    return np.flatnonzero(chosen & (frames >= length))


def _deal(shards: Sequence[str], world_size: int) -> list[list[str]]:
    """The shards of each rank: the fullest first, always to the rank with the fewest samples so far."""
    dealt: list[list[str]] = [[] for _ in range(world_size)]
    load = [0] * world_size
    for shard, samples in sorted(Counter(shards).items(), key=lambda item: (-item[1], item[0])):
        rank = load.index(min(load))
        dealt[rank].append(shard)
        load[rank] += samples
    return dealt


@lru_cache(maxsize=4)
def _permutation(seed: int, rank: int, epoch: int, n: int) -> Indices:
    return np.random.default_rng([_ORDER, seed, rank, epoch]).permutation(n)
