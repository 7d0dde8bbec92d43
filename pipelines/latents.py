"""The latents of a whole dataset, encoded once: the autoencoder is frozen, so every stage reads them from one file."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from einops import rearrange
from torch import Tensor, nn

from gwm.core import ConfigError
from gwm.core.actions import SCALARS
from gwm.core.autoencoder import Autoencoder
from gwm.core.config import AUTOENCODER_FACTOR
from gwm.pipelines.checkpoint import load_tensors, save_tensors
from gwm.pipelines.progress import Ticker
from gwm.shards.index import Dataset
from gwm.shards.motion import WAYPOINTS, window_actions
from gwm.shards.reader import MOTION_AHEAD, read_window
from gwm.shards.schema import Actions, Camera, Floats, Motion

FORMAT = "gwm-latents"
MAX_BYTES = 8e9  # of one file, all of it in memory


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


@dataclass(frozen=True)
class LatentDataset:
    """Latents of all frames, one chunk after the other, with what conditions them."""

    latents: Tensor  # (frames k c h w) fp16
    offsets: tuple[int, ...]  # of every chunk's first frame, and the total
    motions: tuple[Motion, ...]  # of every chunk
    cameras: tuple[tuple[Camera, ...], ...]
    texts: tuple[str, ...]

    def batch(
        self, refs: Sequence[tuple[int, int]], length: int, views: int | None = None
    ) -> tuple[Tensor, list[str], Tensor]:
        """Windows at (row, start), the first `views` of them -> latents (b t k c h w), texts, actions (b waypoints 7).

        Numbers are fp32.
        """
        z = torch.stack([self.latents[self.offsets[row] + start :][:length, :views] for row, start in refs])
        actions = np.stack([self._actions(row, start) for row, start in refs])
        return z.float(), [self.texts[row] for row, _ in refs], torch.from_numpy(actions).float()

    def _actions(self, row: int, start: int) -> Floats:
        camera = next((c for c in self.cameras[row] if c.view == "front"), None)
        return action_values(window_actions(self.motions[row].window(start, MOTION_AHEAD + 1), camera))


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


def encode_dataset(
    dataset: Dataset, autoencoder: Autoencoder, size: tuple[int, int], folder: Path, views: Sequence[str]
) -> LatentDataset:
    """Encode every frame of `views` at `size` (width, height) into `folder`, or read what an earlier run put there.

    The file is named by a hash of the dataset, the autoencoder, the size and the views, so it is never a stale one.
    ConfigError where it would not fit into memory, ShardError for a sample that lacks one of the views.
    """
    identity = f"{dataset.index['sha256']}{weights_hash(autoencoder)}{size}{tuple(views)}"
    path = folder / f"latents-{hashlib.sha256(identity.encode()).hexdigest()[:16]}.safetensors"
    if not path.is_file():
        places = (size[1] // AUTOENCODER_FACTOR, size[0] // AUTOENCODER_FACTOR)
        shape = (int(dataset.counts["frames"]), len(views), len(autoencoder.latent_std), *places)
        needed = 2 * math.prod(shape)
        if needed > MAX_BYTES:
            raise ConfigError(
                f"the latents of {dataset.path} would take {needed / 1e9:.0f} GB of memory, the limit is "
                f"{MAX_BYTES / 1e9:.0f} GB; train on fewer samples"
            )
        _encode(dataset, autoencoder, size, views, torch.empty(shape, dtype=torch.float16), path)
    return _load(path)


@torch.inference_mode()
def _encode(
    dataset: Dataset, autoencoder: Autoencoder, size: tuple[int, int], views: Sequence[str], latents: Tensor, path: Path
) -> None:
    """Fill `latents` chunk by chunk and write them with motion, cameras and text."""
    device = autoencoder.latent_std.device
    motions: dict[str, list[Tensor]] = {k: [] for k in MOTION_FIELDS}
    texts, cameras, offsets = [], [], [0]
    with Ticker("encode frames", len(latents)) as ticker:
        for row in range(len(dataset)):
            chunk = read_window(dataset, row, 0, dataset.row(row).frames, views, size)
            t = len(chunk.frames)
            images = rearrange(torch.from_numpy(chunk.frames), "t k h w c -> (t k) c h w").to(device)
            z = autoencoder.encode(images.float() / 127.5 - 1)
            latents[offsets[-1] :][:t] = rearrange(z, "(t k) c h w -> t k c h w", t=t)
            for name, shape in MOTION_FIELDS.items():
                value = getattr(chunk.motion, name)
                motions[name].append(torch.from_numpy(np.full((t, *shape), np.nan) if value is None else value))
            texts.append(chunk.text)
            cameras.append([_camera_json(c) for c in chunk.cameras])
            offsets.append(offsets[-1] + t)
            ticker.advance(t)
    merged = {"latents": latents} | {k: torch.cat(v) for k, v in motions.items()}
    save_tensors(path, merged, {"format": FORMAT, "offsets": offsets, "texts": texts, "cameras": cameras})


def _load(path: Path) -> LatentDataset:
    tensors, header = load_tensors(path, FORMAT)
    offsets = header["offsets"]
    motions = []
    for start, end in pairwise(offsets):
        parts = {k: tensors[k][start:end].numpy() for k in MOTION_FIELDS}
        motions.append(Motion(**{k: None if np.isnan(v).all() else v for k, v in parts.items()}))
    cameras = tuple(tuple(_camera(c) for c in chunk) for chunk in header["cameras"])
    return LatentDataset(tensors["latents"], tuple(offsets), tuple(motions), cameras, tuple(header["texts"]))
