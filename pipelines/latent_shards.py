"""Latent shards beside image shards: every frame through an autoencoder, every text through SD3's text encoders, once.

Training then needs neither of them.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from einops import rearrange
from safetensors import safe_open
from torch import Tensor, nn

from gwm.core import ConfigError, WeightsError
from gwm.core.autoencoder import Autoencoder
from gwm.core.config import AUTOENCODER_FACTOR, SD3_CHANNELS
from gwm.core.sd3_autoencoder import SCALE, SHIFT, SD3Autoencoder
from gwm.pipelines.autoencoder import FORMAT as AUTOENCODER_FORMAT
from gwm.pipelines.checkpoint import FORMAT, checkpoint_path, load_header, load_weights, read_config
from gwm.pipelines.device import choose_device
from gwm.pipelines.latents import weights_hash
from gwm.pipelines.preprocess import remove_leftovers
from gwm.pipelines.progress import Ticker
from gwm.pipelines.sd3_text import SD3TextEncoder
from gwm.pipelines.weights import read_autoencoder
from gwm.shards.files import make_folder
from gwm.shards.index import Dataset, Row, open_dataset
from gwm.shards.latents.index import FOLDER, Embedding, Halves, is_latents, read_latent_index, texts_of
from gwm.shards.latents.write import (
    LatentSample,
    complete_latents,
    latent_jobs,
    read_json_member,
    settle,
    write_empty_text,
    write_latent_shard,
)
from gwm.shards.lock import locked
from gwm.shards.reader import read_window
from gwm.shards.sample import decode_description
from gwm.shards.storage import AnyPath
from gwm.shards.writer import read_record, writing

EMBEDDED = "nano"  # as CHECKPOINT: the one that is installed with gwm
BATCH_PIXELS = 8 * 512 * 288  # of the images that the autoencoder takes at once
DECIDING = ("autoencoder", "text_encoders", "dtype")  # the settings that decide the bytes
NANO_TEXT = "none: nano's text encoder is trained with the model"
KEPT_TEXTS = 64  # the last embeddings that are kept, as neighbouring samples share their texts


@dataclass(frozen=True)
class LatentEncoder:
    """What a checkpoint has for encoding."""

    checkpoint: str  # as the user gave it
    autoencoder: Autoencoder | SD3Autoencoder
    text: SD3TextEncoder | None
    about_text: str  # by what texts are embedded, or why none is

    def settings(self) -> dict[str, Any]:
        """What `dataset.json` says of the encoding.

        Not in the paper: the posterior's mean is stored, as gwm encodes everywhere, and no sample of it is drawn. The
        deviation of nano's posterior is 0.001 of its latents', about float16's rounding where they are largest.
        """
        if isinstance(self.autoencoder, Autoencoder):
            channels = len(self.autoencoder.latent_mean)
            mean, std = self.autoencoder.latent_mean.flatten().tolist(), self.autoencoder.latent_std.flatten().tolist()
        else:
            channels = SD3_CHANNELS
            mean, std = [SHIFT] * channels, [1 / SCALE] * channels
        return {
            "checkpoint": self.checkpoint,
            "autoencoder": weights_hash(self.autoencoder),  # SHA-256
            "text_encoders": None if self.text is None else weights_hash(nn.ModuleList(_networks(self.text))),
            "text": self.about_text,
            "dtype": "float16",
            "latent": "(posterior mean - mean) / std",
            "mean": mean,
            "std": std,
            "channels": channels,
        }

    @torch.inference_mode()
    def encode(self, frames: np.ndarray[Any, np.dtype[np.uint8]]) -> Halves:
        """RGB frames (t h w 3) -> normalised latents (t c h/8 w/8)."""
        images = rearrange(torch.from_numpy(frames), "t h w c -> t c h w")
        images = images.to(next(self.autoencoder.parameters()).device).float() / 127.5 - 1
        return _halves(self.autoencoder.encode(images))

    def embed(self, text: str) -> Embedding:
        """Tokens (s e) and pooled text (p) of one text, so that they do not depend on others beside it."""
        assert self.text is not None
        tokens, pooled = self.text.encode([text])
        return _halves(tokens[0]), _halves(pooled[0])


@dataclass
class LatentReport:
    """What a run did, and what the latents now are."""

    out: str
    text: str  # what of it is embedded
    samples: int = 0
    frames: int = 0  # time steps
    bytes: int = 0  # of the shards
    shards: int = 0
    new_shards: int = 0  # written by this run
    seconds: float = 0.0  # of this run
    images_per_second: float = 0.0  # of this run; 0 where it wrote nothing


def load_encoder(given: str, device: str = "auto") -> LatentEncoder:
    """The encoder of a checkpoint, in fp32.

    `given` is `nano` (the embedded one), a file or run of `gwm train`, `gwm weights import` or `gwm autoencoder`, or
    SD3-medium's folder in diffusers' layout, whose text encoders are read too. Raises WeightsError for anything else.
    """
    place, path = choose_device(device), Path(given)
    autoencoder: Autoencoder | SD3Autoencoder
    text = None
    if given == EMBEDDED:
        autoencoder, about = _of_checkpoint(checkpoint_path(None))
    elif (path / "vae").is_dir():
        autoencoder = SD3Autoencoder()
        load_weights(autoencoder, {k: x.float() for k, x in read_autoencoder(path / "vae").items()}, str(path / "vae"))
        about = f"none: no text_encoder/ in {given}"
        if (path / "text_encoder").is_dir():
            text = SD3TextEncoder(path, place)
            about = "by SD3's text encoders" + ("" if text.t5 is not None else ", without T5")
    elif (file := _trained_autoencoder(path)) is not None:
        header = load_header(file, AUTOENCODER_FORMAT)
        autoencoder, about = Autoencoder(header["channels"], header["width"]), NANO_TEXT
        load_weights(autoencoder, _tensors(file), str(file))
    elif path.is_dir() and not (path / "model.safetensors").is_file():
        raise WeightsError(
            f"{given} holds no checkpoint; give {EMBEDDED}, a .safetensors file of gwm, the folder of a run, or "
            "SD3-medium's folder with vae/ in it"
        )
    else:
        autoencoder, about = _of_checkpoint(checkpoint_path(path))
    return LatentEncoder(given, autoencoder.eval().requires_grad_(False).to(place), text, about)


def write_latents(folder: AnyPath, encoder: LatentEncoder) -> LatentReport:
    """Write the latents of the image dataset in `folder` into `folder`/latents, or finish what was begun there.

    One shard for each image shard; finished ones are kept, those of image shards that changed or are new are written.
    The same command ends in the same bytes, on one device and with one number of threads. Raises ShardError where the
    folder holds latents of another checkpoint, ConfigError for frames that the autoencoder's places do not cover.
    """
    began, out = time.monotonic(), folder / FOLDER
    with locked(folder):
        images = open_dataset(folder)
        _check_sizes(images)
        make_folder(out)
        with writing(out):
            (out / "jobs").mkdir(parents=True, exist_ok=True)
            remove_leftovers(out)
            settings = settle(out, encoder.settings(), DECIDING)
        jobs = latent_jobs(images)
        records = {job.number: record for job in jobs if (record := read_record(out, job))}
        left = [job for job in jobs if job.number not in records]
        rows: dict[str, list[int]] = {}
        for i, name in enumerate(images.table.column("shard").to_pylist()):
            rows.setdefault(name, []).append(i)
        embed = lru_cache(KEPT_TEXTS)(encoder.embed)
        done = sum(shard.samples for shard in (records[n].shard for n in records))
        report = LatentReport(str(out), encoder.about_text, shards=len(jobs), new_shards=len(left))
        encoded = 0
        with Ticker("latents", len(images), done) as ticker:

            def samples(name: str) -> Iterator[LatentSample]:
                nonlocal encoded
                for i in rows.get(name, []):
                    sample = _encode(images, images.row(i), i, encoder, embed)
                    encoded += sum(len(z) for z in sample.latents.values())
                    yield sample
                    ticker.advance(note=f"{encoded} images")

            for job in left:
                name = job.shard(images.source)
                records[job.number] = write_latent_shard(out, images.source, job, samples(name))
        if left or not _is_complete(out, images):
            empty = None if encoder.text is None else write_empty_text(out, embed(""))
            complete_latents(out, images, settings, [records[job.number] for job in jobs], empty)
    report.samples, report.frames = len(images), int(images.counts["frames"])
    report.bytes = sum(record.shard.bytes for record in records.values())
    report.seconds = time.monotonic() - began
    report.images_per_second = encoded / report.seconds
    return report


def _encode(
    images: Dataset, row: Row, number: int, encoder: LatentEncoder, embed: Callable[[str], Embedding]
) -> LatentSample:
    """One sample, a few frames of one view at a time."""
    latents = {}
    for view, (width, height) in zip(row.views, row.sizes, strict=True):
        batch = max(1, BATCH_PIXELS // (width * height))
        parts = [
            encoder.encode(read_window(images, number, at, min(batch, row.frames - at), [view]).frames[:, 0])
            for at in range(0, row.frames, batch)
        ]
        latents[view] = np.concatenate(parts)
    description = read_json_member(images, row)
    texts = () if encoder.text is None else texts_of(decode_description(description))
    embedding = None
    if texts:
        tokens, pooled = zip(*(embed(text) for text in texts), strict=True)
        embedding = (np.stack(tokens), np.stack(pooled))
    return LatentSample(row.key, description, latents, embedding)


def _check_sizes(images: Dataset) -> None:
    for view, size in images.sizes.items():
        if any(length % AUTOENCODER_FACTOR for length in size):
            raise ConfigError(
                f"{view} frames of {images.path} are {size[0]}x{size[1]}, and latents need multiples of "
                f"{AUTOENCODER_FACTOR} in both directions; make the shards anew with such a --size"
            )


def _is_complete(out: AnyPath, images: Dataset) -> bool:
    return is_latents(out) and read_latent_index(out).images == images.index["sha256"]


def _of_checkpoint(file: Path) -> tuple[Autoencoder | SD3Autoencoder, str]:
    """The autoencoder of a world model, and what becomes of texts."""
    config = read_config(load_header(file, FORMAT))
    if config.encoders == "none":
        raise WeightsError(f"{file} holds no autoencoder: import its weights from a folder with vae/ in it")
    nano = config.encoders == "nano"
    autoencoder = Autoencoder(config.channels, config.autoencoder_width) if nano else SD3Autoencoder()
    load_weights(autoencoder, _tensors(file, "autoencoder."), str(file))
    return autoencoder, NANO_TEXT if nano else f"none: {file} holds no text encoders; give SD3-medium's folder for them"


def _trained_autoencoder(path: Path) -> Path | None:
    """The file of `gwm autoencoder` that `path` is or holds, if any."""
    file = path / "autoencoder.safetensors" if path.is_dir() else path
    try:
        load_header(file, AUTOENCODER_FORMAT)
    except WeightsError:
        return None
    return file


def _tensors(file: Path, prefix: str = "") -> dict[str, Tensor]:
    """The tensors below `prefix`, in fp32; what else is in the file, such as a large transformer, is not read."""
    with safe_open(file, framework="pt") as f:
        names = [name for name in f.keys() if name.startswith(prefix)]  # noqa: SIM118  (not a dict)
        return {name.removeprefix(prefix): f.get_tensor(name).float() for name in names}


def _networks(text: SD3TextEncoder) -> list[nn.Module]:
    return [*text.clips, *([] if text.t5 is None else [text.t5])]


def _halves(values: Tensor) -> Halves:
    halves: Halves = values.half().cpu().numpy()
    return halves
