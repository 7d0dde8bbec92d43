"""Scalars and sample videos of a training run for TensorBoard and Weights & Biases, both optional."""

from __future__ import annotations

import io
import secrets
from fractions import Fraction
from pathlib import Path
from typing import Any, Protocol

import av
import numpy as np

from gwm.core import ConfigError
from gwm.pipelines.metrics import TAU_BUCKETS, Metrics
from gwm.shards.files import replacing
from gwm.shards.schema import FRAME_RATE, Images

PROJECT = "gwm"  # of W&B
DITHER = "dither=bayer:bayer_scale=4"  # hides the palette's steps; error diffusion crawls from frame to frame
WANDB_ID = "wandb-id.txt"  # in a run's folder: the W&B run that a resume continues


class Sink(Protocol):
    """One place that shows a run."""

    def log(self, metrics: Metrics) -> None:
        """Show the scalars of a logged step."""

    def video(self, name: str, gif: bytes, size: tuple[int, int], position: int) -> None:
        """Show an animation of `size` (width, height)."""

    def close(self) -> None:
        """Write what is still held back."""


class Board:
    """All the places that show a run; there may be none."""

    def __init__(self, sinks: tuple[Sink, ...]) -> None:
        self.sinks = sinks

    def log(self, metrics: Metrics) -> None:
        """Show the scalars of a logged step."""
        for sink in self.sinks:
            sink.log(metrics)

    def video(self, name: str, frames: Images, position: int) -> None:
        """Show frames (T, h, w, 3) RGB uint8 as a video at 10 Hz that belongs to `position`."""
        if self.sinks:
            gif = encode_gif(frames)
            for sink in self.sinks:
                sink.video(name, gif, (frames.shape[2], frames.shape[1]), position)

    def close(self) -> None:
        """Write what is still held back."""
        for sink in self.sinks:
            sink.close()


def open_boards(folder: Path, tensorboard: bool, wandb: bool, position: int = 0) -> Board:
    """The boards asked for, of the run in `folder`; TensorBoard's files lie in `folder`/tensorboard.

    A run resumed at `position` continues its curves; TensorBoard forgets what was shown after it. ConfigError where a
    package is missing.
    """
    sinks: list[Sink] = []
    if tensorboard:
        sinks.append(TensorBoard(folder / "tensorboard", position))
    if wandb:
        sinks.append(Wandb(folder))
    return Board(tuple(sinks))


def scalars(metrics: Metrics) -> dict[str, float]:
    """What the boards draw of a logged step, by title; what is None is left out."""
    found: dict[str, float | None] = {
        "loss/all": metrics.loss,
        "loss/visible": metrics.loss_visible,
        "loss/hidden": metrics.loss_hidden,
        "training/gradient_norm": metrics.gradient_norm,
        "training/learning_rate": metrics.lr,
        "speed/seconds_per_step": metrics.seconds_per_step,
        "speed/data_wait": metrics.data_wait,
        "speed/tokens_per_second": metrics.tokens_per_second,
        "speed/memory_bytes": metrics.memory_bytes,
    }
    for i, loss in enumerate(metrics.loss_tau):
        found[f"loss_tau/{i / TAU_BUCKETS:.3f}-{(i + 1) / TAU_BUCKETS:.3f}"] = loss
    return {name: value for name, value in found.items() if value is not None}


class TensorBoard:
    """Event files of TensorBoard. A video is an animated GIF among the images."""

    def __init__(self, folder: Path, position: int) -> None:
        try:
            from tensorboard.compat.proto.summary_pb2 import Summary
            from torch.utils.tensorboard import SummaryWriter
        except ImportError as error:
            raise ConfigError("TensorBoard is not installed: pip install 'gwm[tensorboard]'") from error
        self.summary = Summary
        self.writer = SummaryWriter(str(folder), purge_step=position + 1)

    def log(self, metrics: Metrics) -> None:
        """Add scalars at the metrics' position and time."""
        for name, value in scalars(metrics).items():
            self.writer.add_scalar(name, value, metrics.position, walltime=metrics.time)

    def video(self, name: str, gif: bytes, size: tuple[int, int], position: int) -> None:
        """Add an image summary that holds the GIF as it is."""
        image = self.summary.Image(width=size[0], height=size[1], colorspace=3, encoded_image_string=gif)
        summary = self.summary(value=[self.summary.Value(tag=name, image=image)])
        assert self.writer.file_writer is not None, "the board is closed"
        self.writer.file_writer.add_summary(summary, position)
        self.writer.flush()

    def close(self) -> None:
        """Close the event file."""
        self.writer.close()


class Wandb:
    """A run of Weights & Biases, named after the folder; its x axis is the position, so that a resume may go back."""

    def __init__(self, folder: Path) -> None:
        try:
            import wandb
        except ImportError as error:
            raise ConfigError("Weights & Biases is not installed: pip install 'gwm[wandb]'") from error
        file = folder / WANDB_ID
        if not file.is_file():
            with replacing(file) as temporary:
                temporary.write_text(secrets.token_hex(8))
        self.wandb: Any = wandb
        self.run = wandb.init(project=PROJECT, name=folder.name, id=file.read_text(), dir=str(folder), resume="allow")
        self.run.define_metric("position")
        self.run.define_metric("*", step_metric="position")

    def log(self, metrics: Metrics) -> None:
        """Log scalars at the metrics' position."""
        self.run.log({"position": metrics.position, **scalars(metrics)})

    def video(self, name: str, gif: bytes, size: tuple[int, int], position: int) -> None:
        """Log the GIF as it is."""
        self.run.log({"position": position, name: self.wandb.Video(io.BytesIO(gif), format="gif")})

    def close(self) -> None:
        """Send what is left and end the process's run."""
        self.run.finish()


def encode_gif(frames: Images, rate: float = FRAME_RATE) -> bytes:
    """Frames (T, h, w, 3) RGB uint8 as an animated GIF of one palette that repeats for ever. `rate` in frames/s."""
    assert frames.dtype == np.uint8, frames.dtype
    assert frames.ndim == 4 and frames.shape[-1] == 3 and len(frames), frames.shape  # noqa: PT018
    height, width = frames.shape[1:3]
    step = 1 / Fraction(rate).limit_denominator(1001)
    graph = av.filter.Graph()
    source = graph.add_buffer(width=width, height=height, format=av.VideoFormat("rgb24"), time_base=step)
    split, palette, use = graph.add("split"), graph.add("palettegen"), graph.add("paletteuse", DITHER)
    sink = graph.add("buffersink")
    source.link_to(split)
    split.link_to(use, 0, 0)
    split.link_to(palette, 1, 0)
    palette.link_to(use, 0, 1)
    use.link_to(sink)
    graph.configure()
    for i, frame in enumerate(frames):
        picture = av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24")
        picture.pts, picture.time_base = i, step
        source.push(picture)
    source.push(None)

    file = io.BytesIO()
    with av.open(file, "w", format="gif", options={"loop": "0"}) as container:
        stream = container.add_stream("gif", rate=1 / step)
        stream.width, stream.height, stream.pix_fmt = width, height, "pal8"
        for _ in frames:
            dithered = sink.pull()
            assert isinstance(dithered, av.VideoFrame), dithered
            container.mux(stream.encode(dithered))
        container.mux(stream.encode(None))
    return file.getvalue()
