"""The latents of a whole dataset, encoded once: the autoencoder is frozen, so every stage reads them from one file."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from einops import rearrange
from torch import Tensor, nn

from gwm.core.actions import SCALARS
from gwm.core.autoencoder import Autoencoder
from gwm.core.config import AUTOENCODER_FACTOR
from gwm.core.sd3_autoencoder import SD3Autoencoder
from gwm.pipelines.checkpoint import load_tensors, save_tensors
from gwm.pipelines.progress import Ticker, console
from gwm.pipelines.windows import Example
from gwm.shards import ShardError
from gwm.shards.index import Dataset
from gwm.shards.latents.write import read_json_member
from gwm.shards.motion import WAYPOINTS, window_actions
from gwm.shards.reader import MOTION_AHEAD, check_window, read_window, window_text
from gwm.shards.sample import Description, decode_description
from gwm.shards.schema import Actions, Camera, Caption, Floats, Images, Motion

FORMAT = "gwm-latents"
VERSION = 2  # of what such a file holds: captions, so that a window has its own text, and what was damaged


def action_values(actions: Actions) -> Floats:
    """Actions of a window as numbers (waypoints, 7) in the order of `core.actions.SCALARS`, NaN where absent."""
    out = np.full((WAYPOINTS, len(SCALARS)), np.nan)
    kinds = (actions.angle, actions.speed, actions.trajectory, actions.goal, actions.command)
    column = 0
    for value, width in zip(kinds, (1, 1, 2, 2, 1), strict=True):
        if value is not None:
            out[:, column : column + width] = np.reshape(value, (-1, width))
        column += width
    return out


def action_values_of(motion: Motion, cameras: Iterable[Camera]) -> Floats:
    """The same from the motion of a window, and from the front one of its cameras."""
    return action_values(window_actions(motion, next((c for c in cameras if c.view == "front"), None)))


@dataclass(frozen=True)
class LatentDataset:
    """Latents of all frames in memory, one chunk after the other, with what conditions them."""

    latents: Tensor  # (frames k c h w) fp16
    offsets: tuple[int, ...]  # of every chunk's first frame, and the total
    keys: tuple[str, ...]  # of every chunk
    descriptions: tuple[Description, ...]  # motion, cameras at the size of the frames, texts; nothing else
    damaged: Mapping[int, str]  # chunks that could not be read, and why

    def window(self, row: int, start: int, length: int, views: int) -> Example:
        """See `Source`."""
        if row in self.damaged:
            raise ShardError(self.damaged[row])
        said = self.descriptions[row]
        values = self.latents[self.offsets[row] + start :][:length, :views].numpy()
        text = window_text(said, start, start + length)
        actions = action_values_of(said.motion.window(start, MOTION_AHEAD + 1), said.cameras)
        return Example(self.keys[row], start, values, text, actions)

    def batch(self, refs: Sequence[tuple[int, int]], length: int, views: int) -> tuple[Tensor, list[str], Tensor]:
        """Windows at (row, start), the first `views` of them -> latents (b t k c h w), texts, actions (b waypoints 7).

        Numbers are fp32.
        """
        windows = [self.window(row, start, length, views) for row, start in refs]
        z, actions = (torch.from_numpy(np.stack([getattr(x, name) for x in windows])) for name in ("values", "actions"))
        return z.float(), [window.text for window in windows], actions.float()


def weights_hash(module: nn.Module) -> str:
    """SHA-256 over all tensors of a module, by name."""
    digest = hashlib.sha256()
    for name, tensor in sorted(module.state_dict().items()):
        digest.update(name.encode() + tensor.detach().cpu().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def _camera_json(camera: Camera) -> dict[str, object]:
    return {k: v.tolist() if isinstance(v, np.ndarray) else v for k, v in asdict(camera).items()}


def _camera(values: dict[str, object]) -> Camera:
    arrays = {k: np.asarray(values[k], dtype=np.float64) for k in ("intrinsics", "extrinsics")}
    return Camera(**{**values, **arrays})  # type: ignore[arg-type]


MOTION_FIELDS = {"pose": (4, 4), "speed": (), "steering": ()}


def latent_shape(dataset: Dataset, channels: int, size: tuple[int, int], views: int) -> tuple[int, ...]:
    """(frames k c h w) of the latents of all frames at `size` (width, height)."""
    width, height = size
    places = (height // AUTOENCODER_FACTOR, width // AUTOENCODER_FACTOR)
    return (int(dataset.counts["frames"]), views, channels, *places)


def latent_bytes(dataset: Dataset, channels: int, size: tuple[int, int], views: int) -> int:
    """What `encode_dataset` takes on disk and in memory."""
    return 2 * math.prod(latent_shape(dataset, channels, size, views))


def encode_dataset(
    dataset: Dataset, autoencoder: Autoencoder, size: tuple[int, int], folder: Path, views: Sequence[str]
) -> LatentDataset:
    """Encode every frame of `views` at `size` (width, height) into `folder`, or read what an earlier run put there.

    The file is named by a hash of the dataset, the autoencoder, the size and the views, so it is never a stale one.
    A damaged sample is named and left out: its windows are as damaged as it. ShardError for a sample that lacks one of
    the views.
    """
    identity = f"{VERSION}{dataset.index['sha256']}{weights_hash(autoencoder)}{size}{tuple(views)}"
    path = folder / f"latents-{hashlib.sha256(identity.encode()).hexdigest()[:16]}.safetensors"
    if not path.is_file():
        shape = latent_shape(dataset, len(autoencoder.latent_std), size, len(views))
        _encode(dataset, autoencoder, size, views, torch.zeros(shape, dtype=torch.float16), path)
    return _load(path)


@torch.inference_mode()
def encode_frames(autoencoder: Autoencoder | SD3Autoencoder, frames: Images) -> Tensor:
    """RGB frames (t k h w 3) uint8 -> normalised latents (t k c h/8 w/8) fp16, on the autoencoder's device."""
    device = next(autoencoder.parameters()).device
    images = rearrange(torch.from_numpy(frames), "t k h w c -> (t k) c h w").to(device)
    z = autoencoder.encode(images.float() / 127.5 - 1)
    return rearrange(z, "(t k) c h w -> t k c h w", t=len(frames)).half()


def _encode(
    dataset: Dataset, autoencoder: Autoencoder, size: tuple[int, int], views: Sequence[str], latents: Tensor, path: Path
) -> None:
    """Fill `latents` chunk by chunk and write them with motion, cameras and texts."""
    motions: dict[str, list[Tensor]] = {k: [] for k in MOTION_FIELDS}
    cameras: list[list[object]] = []
    texts: list[object] = []
    keys, offsets, damaged = [], [0], {}
    with Ticker("encode frames", len(latents)) as ticker:
        for row in range(len(dataset)):
            entry = dataset.row(row)
            t, _ = check_window(entry, 0, entry.frames, views, 1)
            motion = Motion()
            cameras.append([])
            texts.append(["", []])
            try:
                chunk = read_window(dataset, row, 0, t, views, size)
                texts[-1] = _texts(dataset, row)
                cameras[-1] = [_camera_json(c) for c in chunk.cameras]
                motion = chunk.motion
                latents[offsets[-1] :][:t] = encode_frames(autoencoder, chunk.frames)
            except ShardError as error:
                damaged[row] = str(error)
                said = f"warning: left out a damaged sample: {error}"
                console.print(said, markup=False, highlight=False, soft_wrap=True)
            for name, shape in MOTION_FIELDS.items():
                value = getattr(motion, name)
                motions[name].append(torch.from_numpy(np.full((t, *shape), np.nan) if value is None else value))
            keys.append(entry.key)
            offsets.append(offsets[-1] + t)
            ticker.advance(t)
    merged = {"latents": latents} | {k: torch.cat(v) for k, v in motions.items()}
    header = {"offsets": offsets, "keys": keys, "texts": texts, "cameras": cameras, "damaged": damaged}
    save_tensors(path, merged, {"format": FORMAT, **header})


def _texts(dataset: Dataset, row: int) -> list[object]:
    """The text of a sample and its captions, as JSON."""
    said = decode_description(read_json_member(dataset, dataset.row(row)))
    return [said.text, [asdict(caption) for caption in said.captions]]


def _load(path: Path) -> LatentDataset:
    tensors, header = load_tensors(path, FORMAT)
    offsets, said = header["offsets"], []
    for i, (start, end) in enumerate(pairwise(offsets)):
        parts = {k: tensors[k][start:end].numpy() for k in MOTION_FIELDS}
        motion = Motion(**{k: None if np.isnan(v).all() else v for k, v in parts.items()})
        cameras = tuple(_camera(c) for c in header["cameras"][i])
        text, captions = header["texts"][i]
        captions = tuple(Caption(**caption) for caption in captions)
        said.append(Description("", "", "", (), np.empty(0), motion, cameras, text, captions, "", {}))
    damaged = {int(row): why for row, why in header["damaged"].items()}
    return LatentDataset(tensors["latents"], tuple(offsets), tuple(header["keys"]), tuple(said), damaged)
