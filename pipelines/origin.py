"""What a run starts from beside its data: the weights of another checkpoint, and the autoencoder."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from gwm.core import ConfigError
from gwm.core.autoencoder import Autoencoder
from gwm.core.config import ModelConfig
from gwm.core.fit import misfits
from gwm.core.sd3_autoencoder import SD3Autoencoder
from gwm.core.world_model import WorldModel
from gwm.pipelines.autoencoder import load_autoencoder
from gwm.pipelines.checkpoint import (
    FORMAT,
    Training,
    checkpoint_path,
    load_checkpoint,
    load_header,
    load_tensors,
    load_weights,
    read_config,
    read_training,
)
from gwm.pipelines.datasets import Codec, latents_hash
from gwm.pipelines.latents import weights_hash
from gwm.pipelines.recipe import Recipe, distill, make_recipe, scaled
from gwm.shards.files import sha256_of
from gwm.shards.index import Dataset

BROUGHT = ("temporal", "reconstruction", "action", "view")  # in the names of what a later stage brings
ALIKE = ("heads", "patch", "channels", "position_grid", "position_base", "tau_shift")  # what shapes do not tell


@dataclass(frozen=True)
class Origin:
    """The checkpoint that the first stage's model begins with."""

    name: str
    sha256: str  # of the file
    config: ModelConfig
    weights: dict[str, Tensor]  # by the names of `WorldModel`, fp32
    training: Training


def read_origin(given: Path) -> Origin:
    """A checkpoint of `gwm train` or `gwm weights import`, or the folder of one. Raises WeightsError."""
    path = checkpoint_path(given)
    tensors, header = load_tensors(path, FORMAT)
    weights = {name: tensor.float() for name, tensor in tensors.items()}
    return Origin(str(path), sha256_of(path), read_config(header), weights, read_training(header))


def student_recipe(given: Path, steps: int, steps_scale: float, seed: int) -> Recipe:
    """The recipe that distils a checkpoint, or the folder of one, into a student of so many sampling steps.

    It is the checkpoint's variant and preset, with the model, frames and guidance that the checkpoint has. Only the
    file's header is read. Raises WeightsError; ConfigError for a preset that there is not, and for a student.
    """
    path = checkpoint_path(given)
    header = load_header(path, FORMAT)
    config, training = read_config(header), read_training(header)
    _refuse_student(str(path), training)
    recipe = distill(make_recipe(training.variant, training.preset, 1.0, seed), steps)
    stage = replace(
        recipe.stages[0], frames=(training.frames,), temporal=config.temporal, reconstruction=config.reconstruction,
        actions=config.actions, views=config.views,
    )  # fmt: skip
    recipe = replace(
        recipe, model=config, size=training.size, guidance=training.guidance, stages=(stage,),
        view_names=training.views or recipe.view_names,
    )  # fmt: skip
    return scaled(recipe, steps_scale)


def sized_like(given: Path, recipe: Recipe) -> Recipe:
    """The recipe for a model of the sizes that a checkpoint, or the folder of one, has; its stages stay.

    These are the sizes of network and frames; the views that it has learned keep their places. Only the file's header
    is read. Raises WeightsError; ConfigError for a checkpoint of another preset.
    """
    path = checkpoint_path(given)
    header = load_header(path, FORMAT)
    training = read_training(header)
    if training.preset != recipe.preset:
        raise ConfigError(
            f"--from {path} is a model of --preset {training.preset}, not {recipe.preset}: name that preset"
        )
    views = tuple(dict.fromkeys((*training.views, *recipe.view_names)))
    return replace(recipe, model=read_config(header), size=training.size, view_names=views)


def _refuse_student(name: str, training: Training) -> None:
    if training.is_student:
        raise ConfigError(
            f"--from {name} is a student, of {training.sampling_steps} sampling steps: name the checkpoint "
            "that it was distilled from"
        )


def begin(recipe: Recipe, origin: Origin | None) -> Recipe:
    """The recipe for a run from `origin`: without an autoencoder where that has none.

    What the first stage's model has beyond it starts zero-gated, as at a change of stage; a student has nothing beyond
    its teacher. ConfigError where the weights do not fit the first stage, for a model of SD3's size without any, for a
    student without a teacher, and for anything that begins with a student.
    """
    distils = recipe.stages[0].student_steps is not None
    if origin is None:
        if distils:
            raise ConfigError("a student starts from the model that it learns from: name its checkpoint with --from")
        if recipe.model.encoders == "sd3":
            raise ConfigError(
                f"--preset {recipe.preset} starts from SD3-medium's weights: make a checkpoint of them with "
                "gwm weights import, and name it with --from"
            )
        return recipe
    _refuse_student(origin.name, origin.training)
    own, given = recipe.model, origin.config
    if (own.encoders == "nano") != (given.encoders == "nano"):
        raise ConfigError(f"--from {origin.name} is no model of --preset {recipe.preset}; name one that is")
    recipe = replace(recipe, model=replace(own, encoders=given.encoders))
    problems = [
        f"{name} is {getattr(given, name)}, not {getattr(own, name)}"
        for name in ALIKE
        if getattr(given, name) != getattr(own, name)
    ]
    with torch.device("meta"):
        wanted = WorldModel(recipe.stages[0].model(recipe.model)).state_dict()
    brought = () if distils else BROUGHT
    new = {f"missing {name}" for name in wanted if any(part in name for part in brought)}
    problems += [problem for problem in misfits(origin.weights, wanted) if problem not in new]
    if problems:
        more = f" and {len(problems) - 4} more" if len(problems) > 4 else ""
        raise ConfigError(
            f"--from {origin.name} does not fit stage {recipe.stages[0].name} of this recipe: "
            f"{'; '.join(problems[:4])}{more}. Name a checkpoint of the same preset and of no later stage"
        )
    return recipe


def find_codec(
    recipe: Recipe, given: Path | None, origin: Origin | None, datasets: Sequence[Dataset], device: torch.device
) -> Codec:
    """The autoencoder `given`, the origin's, or the embedded one; without any, that of the first dataset's latents.

    `recipe` is what `begin` gave. ConfigError for an autoencoder given beside an origin, which learned the latents of
    its own.
    """
    config = recipe.model
    if given is not None and (origin is not None or config.encoders != "nano"):
        raise ConfigError(f"--autoencoder {given}: this training has the autoencoder of what it starts from")
    if config.encoders == "none":
        return Codec(None, latents_hash(datasets))
    small = config.encoders == "nano"
    network = Autoencoder(config.channels, config.autoencoder_width) if small else SD3Autoencoder()
    if origin is not None:
        prefix = "autoencoder."
        weights = {k.removeprefix(prefix): x for k, x in origin.weights.items() if k.startswith(prefix)}
        load_weights(network, weights, origin.name)
    elif given is not None:
        assert isinstance(network, Autoencoder)
        load_autoencoder(given, network)
    else:
        embedded = load_checkpoint(None)
        load_weights(network, embedded.model.codec.state_dict(), embedded.name)
    network = network.requires_grad_(False)
    return Codec(network.to(device) if small else network, weights_hash(network))
