"""World models on disk: one safetensors file with the weights, and the configuration in its header."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from importlib.resources import files
from pathlib import Path
from typing import Any

import torch
from crc32c import crc32c
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from gwm import __version__
from gwm.core import ConfigError, WeightsError
from gwm.core.config import ModelConfig
from gwm.core.fit import misfits
from gwm.core.world_model import WorldModel
from gwm.pipelines.device import choose_device
from gwm.shards.files import replacing

FORMAT = "gwm-world-model"
EMBEDDED = ("nano-long", "nano-student", "nano-mview")  # names of what is installed with gwm
STUDENT = "student"  # name of the stage that distils


@dataclass(frozen=True)
class Training:
    """What a checkpoint was trained on and for; rollout and score read their defaults from it."""

    size: tuple[int, int]  # (width, height) of a frame, pixels
    frames: int  # T of the window
    variant: str = "long"
    preset: str = "nano"
    seed: int = 0
    guidance: float = 4.0  # the scale that rollouts use unless told otherwise; the paper's
    stages: dict[str, int] = field(default_factory=dict)  # stage -> steps done
    data: tuple[str, ...] = ()  # the datasets: source, name and hash of the index
    sampling_steps: int = 30  # of the solver, that rollouts use unless told otherwise; the paper's
    views: tuple[str, ...] = ()  # K names in the order of training; (): the first of nuScenes' rig

    @property
    def is_student(self) -> bool:
        """Whether it was distilled, so that its predictions are of its own few steps alone."""
        return STUDENT in self.stages


@dataclass(frozen=True)
class Checkpoint:
    """A world model and its record."""

    model: WorldModel
    training: Training
    name: str  # where it came from


def save_tensors(path: Path, tensors: dict[str, Tensor], header: dict[str, Any]) -> None:
    """Write a safetensors file with a JSON header; complete or absent. WeightsError where it cannot be written."""
    held = {k: t.detach().cpu().contiguous() for k, t in tensors.items()}
    text = json.dumps({"version": __version__, **header})
    metadata = {"format": "pt", "gwm": text, "crc32c": f"{_checksum(held, text):08x}"}
    try:
        with replacing(path) as temporary:
            save_file(held, temporary, metadata)
            temporary.chmod(0o644)  # safetensors makes it private
    except (OSError, SafetensorError) as error:
        raise WeightsError(f"cannot write {path}: {error}") from error


def load_tensors(path: Path, expect: str) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read a file of `save_tensors`; WeightsError if it is missing, damaged or not of format `expect`."""
    with _opened(path, expect) as (f, header):
        tensors = {k: f.get_tensor(k) for k in f.keys()}  # noqa: SIM118  (not a dict)
        found = f"{_checksum(tensors, f.metadata()['gwm']):08x}"
        if f.metadata().get("crc32c", found) != found:  # files of older versions have none
            raise WeightsError(f"{path} is damaged: its bytes are not those that were written")
        return tensors, header


def _checksum(tensors: dict[str, Tensor], header: str) -> int:
    """CRC-32C of a header and of the names, types, shapes and values of tensors on the CPU."""
    total: int = crc32c(header.encode())
    for name, tensor in sorted(tensors.items()):
        total = crc32c(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode(), total)
        total = crc32c(tensor.flatten().view(torch.uint8).numpy().data, total)
    return total


def load_header(path: Path, expect: str) -> dict[str, Any]:
    """The header of such a file, without its tensors."""
    with _opened(path, expect) as (_, header):
        return header


@contextmanager
def _opened(path: Path, expect: str) -> Iterator[tuple[Any, dict[str, Any]]]:
    if not path.is_file():
        raise WeightsError(f"no checkpoint at {path}; give a .safetensors file of gwm or the folder of a run")
    try:
        with safe_open(path, framework="pt") as f:
            header = json.loads((f.metadata() or {}).get("gwm", "{}"))
            if header.get("format") != expect:
                found = header.get("format", "a foreign safetensors file")
                raise WeightsError(f"{path} is no {expect} file but {found!r}")
            yield f, header
    except (OSError, SafetensorError, ValueError) as error:
        raise WeightsError(f"{path} is not a readable safetensors file ({error})") from error


def load_weights(module: torch.nn.Module, tensors: dict[str, Tensor], source: str) -> None:
    """Place every tensor strictly; WeightsError names all that are missing, surplus or of another shape."""
    if problems := misfits(tensors, module.state_dict()):
        raise WeightsError(f"{source} does not fit the configuration: " + "; ".join(problems))
    module.load_state_dict(tensors)


def save_checkpoint(
    path: Path, config: ModelConfig, weights: dict[str, Tensor], training: Training, dtype: torch.dtype | None = None
) -> None:
    """Write the weights of a `WorldModel(config)`, in their own dtypes or all in `dtype`."""
    header = {"format": FORMAT, "model": asdict(config), "training": asdict(training)}
    save_tensors(path, {k: t.to(dtype or t.dtype) for k, t in weights.items()}, header)


def checkpoint_path(given: Path | None) -> Path:
    """The file meant by `--checkpoint`: a file, a run's folder, or an embedded one by name, nano-long if None."""
    if given is None:
        given = Path(EMBEDDED[0])
    if str(given) in EMBEDDED and not given.exists():
        embedded = Path(str(files("gwm.core") / "assets" / f"{given}.safetensors"))
        if not embedded.is_file():
            raise WeightsError(f"this installation embeds no {given}; name a checkpoint")
        return embedded
    return given / "model.safetensors" if given.is_dir() else given


def read_training(header: dict[str, Any]) -> Training:
    """The `Training` record of a checkpoint's header."""
    try:
        values = dict(header["training"])
        lists = {name: tuple(value) for name, value in values.items() if isinstance(value, list)}
        return Training(**values | lists)
    except (KeyError, TypeError) as error:
        raise WeightsError(f"the checkpoint's training record is damaged: {error}") from error


def read_config(header: dict[str, Any]) -> ModelConfig:
    """The model configuration of a checkpoint's header."""
    try:
        return ModelConfig.from_dict(header["model"])
    except (KeyError, TypeError, ConfigError) as error:
        raise WeightsError(f"the checkpoint's model configuration is damaged or unknown: {error}") from error


def checkpoint_name(given: Path | None) -> str:
    """How results name the checkpoint."""
    if given is None:
        return "embedded nano"
    return f"embedded {given}" if str(given) in EMBEDDED and not given.exists() else str(checkpoint_path(given))


def load_checkpoint(given: Path | None = None, device: str = "cpu") -> Checkpoint:
    """Load the world model at `given` (see `checkpoint_path`) in fp32 and evaluation mode."""
    path = checkpoint_path(given)
    tensors, header = load_tensors(path, FORMAT)
    model = WorldModel(read_config(header))
    load_weights(model, {k: t.float() for k, t in tensors.items()}, str(path))
    model = model.eval().requires_grad_(False).to(choose_device(device))
    return Checkpoint(model, read_training(header), checkpoint_name(given))
