"""Train nano's autoencoder on the frames of a shard folder."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from einops import rearrange
from torch import Tensor

from gwm.core import ConfigError
from gwm.core.autoencoder import Autoencoder, autoencoder_loss
from gwm.core.config import AUTOENCODER_FACTOR, ModelConfig, preset
from gwm.core.ema import ema_decay, start_ema, update_ema
from gwm.core.seeds import seeded_generator
from gwm.pipelines.checkpoint import FORMAT as CHECKPOINT
from gwm.pipelines.checkpoint import (
    checkpoint_path,
    load_checkpoint,
    load_header,
    load_tensors,
    load_weights,
    read_config,
    read_training,
    save_checkpoint,
    save_tensors,
)
from gwm.pipelines.device import choose_device
from gwm.pipelines.differences import differences
from gwm.pipelines.progress import Ticker
from gwm.pipelines.state import newest_state, restore_state, save_state, trainable
from gwm.shards.files import make_folder, sha256_of, write_json
from gwm.shards.index import Dataset, open_dataset
from gwm.shards.reader import WindowSchedule, read_window
from gwm.shards.schema import Images

FORMAT = "gwm-autoencoder"
LEARNING_RATE, WARMUP, COOLDOWN, EMA = 2e-3, 100, 0.4, 0.995
DECODER_RATE = 4e-4  # the learning rate of a decoder that is trained already
BATCH = 16  # images a step, unless told otherwise
CACHE_BYTES = 4e9  # of decoded frames, so that each is read once
SAVE_INTERVAL = 120.0  # s
VALIDATION_IMAGES = 128


@dataclass(frozen=True)
class AutoencoderResult:
    """What training reached."""

    steps: int
    psnr: float  # dB
    psnr_on: str  # "val" frames, or "train" frames where the data have no others
    path: str


class _Frames:
    """The frames of a dataset at `size` (width, height), kept in memory once they are read, as many as fit."""

    def __init__(self, dataset: Dataset, size: tuple[int, int], device: torch.device) -> None:
        self._dataset, self._size, self._device = dataset, size, device
        self._kept: dict[tuple[int, int], Images] = {}
        self._most = int(CACHE_BYTES / (3 * size[0] * size[1]))

    def images(self, refs: Sequence[tuple[int, int]]) -> Tensor:
        """Single frames at (row, start) -> (i 3 h w) in [-1, 1]."""
        frames = torch.from_numpy(np.stack([self._frame(ref) for ref in refs])).to(self._device)
        return rearrange(frames, "i h w c -> i c h w").float() / 127.5 - 1

    def _frame(self, ref: tuple[int, int]) -> Images:
        """(h w 3)."""
        if ref in self._kept:
            return self._kept[ref]
        row, start = ref
        frame: Images = read_window(self._dataset, row, start, 1, size=self._size).frames[0, 0]
        if len(self._kept) < self._most:
            self._kept[ref] = frame
        return frame


def psnr(a: Tensor, b: Tensor) -> float:
    """Mean over images of the peak signal-to-noise ratio in dB; images (i 3 h w) in [-1, 1]."""
    error = (a - b.clamp(-1, 1)).square().mean(dim=(1, 2, 3)).clamp(min=1e-10)
    return float((10 * torch.log10(4 / error)).mean())


def _spread(dataset: Dataset, split: str, count: int) -> list[tuple[int, int]]:
    """Up to `count` frames spread evenly over a split, or over all samples where the split is empty."""
    splits, lengths = dataset.table.column("split").to_pylist(), dataset.table.column("frames").to_pylist()
    rows = [i for i, name in enumerate(splits) if name == split] or list(range(len(dataset)))
    frames = [(row, start) for row in rows for start in range(lengths[row])]
    picks = np.linspace(0, len(frames) - 1, min(count, len(frames))).astype(int)
    return [frames[i] for i in picks]


@torch.inference_mode()
def _set_statistics(model: Autoencoder, images: Tensor) -> None:
    """Set the latent statistics from those of images (i 3 h w)."""
    latents = model.posterior(images)[0]
    model.latent_mean.copy_(latents.mean(dim=(0, 2, 3))[:, None, None])
    model.latent_std.copy_(latents.std(dim=(0, 2, 3)).clamp(min=1e-3)[:, None, None])


def _begin(config: ModelConfig, decoder_of: Path | None, device: torch.device) -> Autoencoder:
    """A new autoencoder, or that of a checkpoint with its encoder frozen."""
    if decoder_of is None:
        return Autoencoder(config.channels, config.autoencoder_width).to(device)
    model = load_checkpoint(decoder_of).model.codec
    assert isinstance(model, Autoencoder)
    model.decoder.requires_grad_(True)
    return model.to(device)


def _with_decoder(decoder_of: Path, decoder: Autoencoder, out: Path) -> None:
    """Write the checkpoint `decoder_of` to `out` with another decoder."""
    tensors, header = load_tensors(checkpoint_path(decoder_of), CHECKPOINT)
    new = {f"autoencoder.{name}": x for name, x in decoder.state_dict().items() if name.startswith("decoder.")}
    save_checkpoint(out, read_config(header), tensors | new, read_training(header), torch.float16)


def train_autoencoder(
    data: Path, out: Path, steps: int, size: tuple[int, int], seed: int = 0, device: str = "auto", batch: int = BATCH,
    decoder_of: Path | None = None,
) -> AutoencoderResult:  # fmt: skip
    """Train the nano autoencoder for `steps` steps of `batch` images into `out`/autoencoder.safetensors (EMA weights).

    decoder_of: a checkpoint whose decoder alone is trained further, its latents stay; written with it as
    `out`/model.safetensors. The same command again continues where the last saved state stands, on a CPU bit for bit.
    """
    if steps < 1:
        raise ConfigError(f"--steps {steps} must be at least 1")
    if batch < 1:
        raise ConfigError(f"--batch {batch} must be at least 1")
    if size[0] % AUTOENCODER_FACTOR or size[1] % AUTOENCODER_FACTOR:
        raise ConfigError(f"--size {size[0]}x{size[1]} must be multiples of {AUTOENCODER_FACTOR}")
    dataset, place = open_dataset(data), choose_device(device)
    config = preset("nano") if decoder_of is None else read_config(load_header(checkpoint_path(decoder_of), CHECKPOINT))
    if config.encoders != "nano":
        raise ConfigError(f"--decoder-of {decoder_of}: it holds no small autoencoder; name a nano or small checkpoint")
    run, frames = make_folder(out), _Frames(dataset, size, place)
    settings = {"steps": steps, "batch": batch, "size": list(size), "seed": seed, "data": dataset.index["sha256"]}
    if decoder_of is not None:
        settings["decoder_of"] = sha256_of(checkpoint_path(decoder_of))
    torch.manual_seed(seed)
    model = _begin(config, decoder_of, place)
    _learn(model, frames, WindowSchedule(dataset, "train", seed), run, settings)
    if decoder_of is None:
        _set_statistics(model, frames.images(_spread(dataset, "train", 256)))
    else:
        _with_decoder(decoder_of, model, run / "model.safetensors")
    result = _measured(model, dataset, frames, steps, run / "autoencoder.safetensors")
    header = {"format": FORMAT, "channels": config.channels, "width": config.autoencoder_width}
    save_tensors(Path(result.path), model.state_dict(), {**header, "psnr": result.psnr, **settings})
    write_json(run / "autoencoder.json", asdict(result))
    return result


def _learn(model: Autoencoder, frames: _Frames, schedule: WindowSchedule, run: Path, settings: dict[str, Any]) -> None:
    """Train what is trainable of `model`, from the last state in `run` on; it ends with the averaged weights."""
    steps, batch, (width, height), seed = (settings[name] for name in ("steps", "batch", "size", "seed"))
    parameters, rate = trainable(model), DECODER_RATE if "decoder_of" in settings else LEARNING_RATE
    place = next(model.parameters()).device
    optimizer = torch.optim.AdamW(parameters.values(), lr=rate, betas=(0.9, 0.99), weight_decay=1e-4, fused=True)
    ema, start = start_ema(parameters), 0
    if (state := newest_state(run)) is not None:
        tensors, header = state
        if changed := differences(header["settings"], settings):
            raise ConfigError(f"{run} holds a run with other settings: {changed}; choose another -o")
        restore_state(tensors, model, optimizer, ema, str(run))
        start = header["position"]
    saved = time.monotonic()
    with Ticker("autoencoder", steps, start) as ticker:
        for step in range(start, steps):
            left = (steps - step) / max(1, COOLDOWN * steps)
            for group in optimizer.param_groups:
                group["lr"] = rate * min(1.0, (step + 1) / WARMUP, left)
            images = frames.images(schedule.batch(step, batch, 1))
            shape = len(images), len(model.latent_mean), height // AUTOENCODER_FACTOR, width // AUTOENCODER_FACTOR
            eps = torch.randn(shape, generator=seeded_generator(seed, 0, step)).to(place)

            # one training step
            loss = autoencoder_loss(images, *model(images, eps))
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            if not math.isfinite(float(torch.nn.utils.clip_grad_norm_(parameters.values(), 1.0))):
                raise ConfigError(f"step {step}: loss {loss.item()} or its gradient is not finite; not applied")
            optimizer.step()
            update_ema(ema, parameters, ema_decay(step, EMA))

            ticker.advance(note=f"loss {loss.item():.4f}" if step % 20 == 0 else None)
            if time.monotonic() - saved > SAVE_INTERVAL or step + 1 == steps:
                save_state(run, step + 1, model, optimizer, ema, settings=settings)
                saved = time.monotonic()
    model.load_state_dict(ema, strict=False)


@torch.inference_mode()
def _measured(model: Autoencoder, dataset: Dataset, frames: _Frames, steps: int, path: Path) -> AutoencoderResult:
    """What `steps` steps reached on validation frames; `path` is where the autoencoder goes."""
    measured_on = "val" if "val" in dataset.table.column("split").to_pylist() else "train"
    images = frames.images(_spread(dataset, "val", VALIDATION_IMAGES))
    return AutoencoderResult(steps, psnr(images, model.decode(model.encode(images))), measured_on, str(path))


def load_autoencoder(given: Path, into: Autoencoder) -> None:
    """Load the autoencoder of a file or of a run's folder into a model."""
    path = given / "autoencoder.safetensors" if given.is_dir() else given
    load_weights(into, load_tensors(path, FORMAT)[0], str(path))
