"""The datasets of a run: which share of the windows each has in a stage, and how it is read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from gwm.core import ConfigError
from gwm.core.autoencoder import Autoencoder
from gwm.core.sd3_autoencoder import SD3Autoencoder
from gwm.pipelines.feed import Order
from gwm.pipelines.latents import encode_dataset, latent_bytes
from gwm.pipelines.progress import console
from gwm.pipelines.recipe import Recipe, Stage
from gwm.pipelines.sources import ImageShards, LatentShards, Library
from gwm.pipelines.team import Team
from gwm.pipelines.windows import Source
from gwm.shards import ShardError
from gwm.shards.index import Dataset
from gwm.shards.latents.index import FOLDER, LatentSet, is_latents, open_latents
from gwm.shards.latents.read import read_empty_text
from gwm.shards.mixture import Mixture
from gwm.shards.reader import WindowSchedule

MAX_BYTES = 8e9  # of the latents in memory


@dataclass(frozen=True)
class Reading:
    """How a user wants windows to be read."""

    stream: bool = False  # frames of the image shards at every step, whatever else there is
    workers: int = 1  # processes that read ahead what is not in memory; 0: this one reads

    def __post_init__(self) -> None:
        if self.workers < 0:
            raise ConfigError(f"{self.workers} loader processes: give 0 for none, or more")


AS_FOUND = Reading()


def shares(stage: Stage, datasets: Sequence[Dataset]) -> dict[int, float]:
    """The datasets that a stage reads, by number, and their weights.

    A name of `stage.data` means the datasets of that source, or else the folder of that name; several of one name
    share by their frames. Without `stage.data` all take part, by their frames, so that a second of video is drawn as
    often whichever dataset it is in. ConfigError for a name that no dataset has.
    """
    frames = [int(dataset.counts["splits"].get("train", {"frames": 0})["frames"]) for dataset in datasets]
    if stage.data is None:
        return {i: float(n) for i, n in enumerate(frames)}
    found: dict[int, float] = {}
    for name, share in stage.data:
        named = [i for i, dataset in enumerate(datasets) if dataset.source == name]
        named = named or [i for i, dataset in enumerate(datasets) if dataset.path.name == name]
        if not named:
            there = ", ".join(f"{dataset.source} ({dataset.path.name})" for dataset in datasets)
            raise ConfigError(
                f"{stage.name}.data: no dataset {name}; there are {there}. Name its shards with --data, or change the "
                f"shares with --set {stage.name}.data=NAME:SHARE,… (none: all alike)"
            )
        total = sum(frames[i] for i in named)
        for i in named:
            found[i] = found.get(i, 0.0) + share * frames[i] / max(total, 1)
    return dict(sorted(found.items()))


def orders(recipe: Recipe, datasets: Sequence[Dataset], team: Team) -> list[Order]:
    """The windows of every stage that this process reads.

    Raises ShardError where a dataset of a stage has no windows for it or fewer shards than there are processes (in all
    of them alike), ConfigError for shares of datasets that are not there and batches that do not divide.
    """
    found = []
    for index, stage in enumerate(recipe.stages):
        team.part_of(stage.batch, stage.accumulate)
        weights = shares(stage, datasets)
        views, longest, seed = recipe.view_names[: stage.views], max(stage.frames), recipe.seed + index
        schedule: WindowSchedule | Mixture
        if len(weights) == 1:
            (one,) = weights
            schedule = WindowSchedule(datasets[one], "train", seed, team.rank, team.size, longest, views)
        else:
            for i in weights:  # a dataset without training samples has no weight either, which says less
                WindowSchedule(datasets[i], "train", seed, team.rank, team.size, longest, views)
            chosen = [datasets[i] for i in weights]
            schedule = Mixture(chosen, list(weights.values()), "train", seed, team.rank, team.size, longest, views)
        found.append(Order(schedule, tuple(weights), stage, stage.batch // team.size, recipe.seed, index))
    return found


@dataclass(frozen=True)
class Codec:
    """The autoencoder whose latents a run learns."""

    network: Autoencoder | SD3Autoencoder | None  # None: a model without one, which takes any latents
    sha256: str | None  # of its weights


@dataclass(frozen=True)
class Reads:
    """How the windows of every dataset of a run are read."""

    views: tuple[tuple[str, ...], ...]  # of each dataset, as many as its stages need
    latents: Mapping[int, LatentSet]  # of the datasets that are read from latent shards
    stream: bool  # whether the frames of the others are read at every step, not encoded once into memory


def choose_reads(
    recipe: Recipe, datasets: Sequence[Dataset], found: Sequence[Order], codec: Codec, reading: Reading, speak: bool
) -> Reads:
    """Decide where the windows of every dataset come from; with `speak`, a line says what a user may not expect.

    From its latents (`gwm preprocess … --latents`), if they are of this autoencoder, of these images as they are now,
    and at the recipe's size. Otherwise its frames are encoded once and all latents are held in memory; where those of
    all such datasets together would take more than 8 GB, or with `reading.stream`, its frames are read at every step
    and encoded then. The windows are the same either way. ConfigError for a model without text encoder where there are
    no latents with embedded texts.
    """
    most = [max((o.stage.views for o in found if i in o.datasets), default=0) for i in range(len(datasets))]
    views = tuple(recipe.view_names[:n] for n in most)
    latents = {} if reading.stream else _usable_latents(recipe, datasets, views, codec, speak)
    left = [i for i, names in enumerate(views) if names and i not in latents]
    if recipe.model.encoders != "nano":
        if left:
            raise ConfigError(
                f"{datasets[left[0]].path}: a model of --preset {recipe.preset} learns from latents with embedded "
                "texts; make them with gwm preprocess … --latents SD3-MEDIUM'S FOLDER, at "
                f"{recipe.size[0]}x{recipe.size[1]}, and leave out --stream"
            )
        if len({chosen.settings["text_encoders"] for chosen in latents.values()}) > 1:
            raise ConfigError("the texts of these latents are embedded by different encoders; make all by the same")
    needed = sum(latent_bytes(datasets[i], recipe.model.channels, recipe.size, len(views[i])) for i in left)
    stream = reading.stream or needed > MAX_BYTES
    if stream and not reading.stream and speak:
        _say(f"the latents would take {needed / 1e9:.0f} GB of memory: frames are read and encoded at every step")
    return Reads(views, latents, stream)


def open_library(
    recipe: Recipe, datasets: Sequence[Dataset], reads: Reads, codec: Codec, folder: Path, device: torch.device
) -> Library:
    """All that a run reads, as `choose_reads` decided; what is to be held in memory is encoded into `folder`."""
    sources: list[Source] = []
    for i, (dataset, views) in enumerate(zip(datasets, reads.views, strict=True)):
        if i in reads.latents:
            sources.append(LatentShards(reads.latents[i], views))
        elif reads.stream or not views:  # without views no stage reads it
            sources.append(ImageShards(dataset, recipe.size, views))
        else:
            assert isinstance(codec.network, Autoencoder)
            sources.append(encode_dataset(dataset, codec.network, recipe.size, folder, views))
    embedded = recipe.model.encoders != "nano"
    empty = read_empty_text(next(iter(reads.latents.values()))) if embedded else None
    return Library(tuple(datasets), tuple(sources), device, codec.network, empty)


def latents_hash(datasets: Sequence[Dataset]) -> str | None:
    """The autoencoder that the latents of the first dataset with any are of."""
    found = [open_latents(dataset) for dataset in datasets if is_latents(dataset.path / FOLDER)]
    return str(found[0].settings["autoencoder"]) if found else None


def _usable_latents(
    recipe: Recipe, datasets: Sequence[Dataset], views: Sequence[Sequence[str]], codec: Codec, speak: bool
) -> dict[int, LatentSet]:
    """The latents that a run may read, by dataset; a line for each that it may not."""
    usable: dict[int, LatentSet] = {}
    for i, (dataset, names) in enumerate(zip(datasets, views, strict=True)):
        if not names or not is_latents(dataset.path / FOLDER):
            continue
        try:
            latents = open_latents(dataset)
            problem = _misfit(recipe, latents, names, codec)
        except ShardError as error:
            problem = str(error)
        if not problem:
            usable[i] = latents
        if speak:
            _say(f"{dataset.path / FOLDER} not used: {problem}" if problem else f"windows from {dataset.path / FOLDER}")
    return usable


def _misfit(recipe: Recipe, latents: LatentSet, views: Sequence[str], codec: Codec) -> str:
    """Why a run cannot read these latents; "" where it can."""
    settings, size = latents.settings, recipe.size
    if settings["autoencoder"] != codec.sha256:
        return f"they are of another autoencoder ({settings['checkpoint']})"
    if settings["channels"] != recipe.model.channels:
        return f"they have {settings['channels']} channels, this model takes {recipe.model.channels}"
    for view in views:
        if latents.sizes.get(view, size) != size:
            found = "x".join(map(str, latents.sizes[view]))
            return f"their {view} frames are {found}, those of this training {size[0]}x{size[1]}"
    if recipe.model.encoders == "nano":
        return ""
    if latents.empty_text is None:
        return f"their texts are not embedded ({settings['text']})"
    widths = latents.empty_text["tokens"][-1], latents.empty_text["pooled"][-1]
    wanted = recipe.model.text_width, recipe.model.pooled_width
    return "" if widths == wanted else f"their texts are {widths} wide, this model takes {wanted}"


def _say(line: str) -> None:
    console.print(line, markup=False, highlight=False, soft_wrap=True)
