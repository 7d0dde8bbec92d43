"""What scoring costs beside pytorch-fid and torchmetrics: features a second, a distance, memory of the statistics.

    python -m benchmarks.scoring [--torchvision FOLDER] [--rounds 5] [--json OUT]

Needs the extra `oracles` and pytorch-fid. All in one run on one thread, rounds interleaved; times are of the processor,
not of the clock, and medians. Inception has random weights. pytorch-fid's own network needs a torchvision, which may
lie in a folder of its own (`pip install --no-deps --target FOLDER torchvision`); without one the peer is torchmetrics
with this project's network as it was written, norms not folded.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
import tracemalloc
import types
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import median
from unittest.mock import patch

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from threadpoolctl import threadpool_limits
from torch import Tensor, nn

from gwm.core.frechet import Floats, GaussianStats, frechet_distance
from gwm.core.inception import Inception
from gwm.pipelines import network_files
from gwm.pipelines.network_files import digests
from gwm.pipelines.standard_features import RESIZES, InceptionFeatures, InceptionResize
from gwm.shards.files import write_json
from gwm.shards.schema import Images

FRAMES = 8
HEIGHT, WIDTH = 576, 1024
DIMENSIONS = (400, 2048)  # of FVD and FID
COUNTS = (2_000, 20_000)  # features; the first is below 2048
BLOCK = 1000  # features fed at once


@dataclass(frozen=True)
class Row:
    """One measurement: ours, and the fastest (or smallest) of the others."""

    what: str
    unit: str
    ours: float
    others: dict[str, float]
    share: float  # ours over the best of the others, in time or memory: below 1 is better


def processor_times(works: dict[str, Callable[[], object]], rounds: int) -> dict[str, float]:
    """Median seconds of processor time of each, in every round all of them, after one that does not count."""
    seconds: dict[str, list[float]] = {name: [] for name in works}
    for _ in range(rounds + 1):
        for name, work in works.items():
            began = time.process_time()
            work()
            seconds[name].append(time.process_time() - began)
    return {name: median(values[1:]) for name, values in seconds.items()}


def pytorch_fid_distance() -> Callable[..., float]:
    """pytorch-fid's function, which needs nothing of the torchvision that its module imports: stubs suffice."""
    stub, blocks = types.ModuleType("torchvision"), types.ModuleType("torchvision.models.inception")
    stub.models, stub.transforms = (types.ModuleType(f"torchvision.{name}") for name in ("models", "transforms"))
    blocks.InceptionA = blocks.InceptionC = blocks.InceptionE = nn.Module
    stub.models.inception = blocks
    stubs = {module.__name__: module for module in (stub, stub.models, stub.transforms, blocks)}
    kept = {
        name: sys.modules.pop(name) for name in list(sys.modules) if name.startswith(("torchvision", "pytorch_fid"))
    }
    sys.modules |= stubs
    from pytorch_fid.fid_score import calculate_frechet_distance

    for name in [name for name in sys.modules if name.startswith(("torchvision", "pytorch_fid"))]:
        del sys.modules[name]
    sys.modules |= kept
    return calculate_frechet_distance


def random_inception() -> Inception:
    """Weights that keep a signal's size."""
    torch.manual_seed(0)
    network = Inception().eval().requires_grad_(False)
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight)
    return network


def their_features(network: Inception, frames: Images, folder: Path | None) -> tuple[str, Callable[[], Floats]]:
    """The peer's way from frames to features, and its name."""
    if folder is None:
        from torchmetrics.image.fid import FrechetInceptionDistance

        class Plain(nn.Module):
            num_features = 2048

            def forward(self, x: Tensor) -> Tensor:
                return network(RESIZES["torch-fidelity"](x))

        metric = FrechetInceptionDistance(Plain())
        x = torch.from_numpy(frames).permute(0, 3, 1, 2)

        def update() -> Floats:
            with torch.inference_mode():
                metric.update(x, real=True)
            return metric.real_features_sum.numpy()

        return "torchmetrics", update
    sys.path.insert(0, str(folder))
    from pytorch_fid import inception

    with patch.object(inception, "load_state_dict_from_url", lambda *_, **__: network.state_dict()):
        theirs = inception.InceptionV3([3]).eval()

    def run() -> Floats:
        x = torch.stack([torch.from_numpy(frame).permute(2, 0, 1) for frame in frames]) / 255
        with torch.inference_mode():
            return theirs(x)[0].squeeze(3).squeeze(2).numpy()

    return "pytorch-fid", run


def features_row(folder: Path | None, rounds: int) -> Row:
    """Frames of 1024x576 to features, shrinking included, in the peer's way of it."""
    network = random_inception()
    frames = np.random.default_rng(0).integers(0, 256, (FRAMES, HEIGHT, WIDTH, 3), dtype=np.uint8)
    peer, theirs = their_features(network, frames, folder)
    resize: InceptionResize = "pytorch-fid" if folder else "torch-fidelity"
    with tempfile.TemporaryDirectory() as store:
        path = Path(store) / network_files.INCEPTION.file
        torch.save(network.state_dict(), path)
        known = replace(network_files.INCEPTION, sha256=digests(path).sha256)
        with patch.object(network_files, "INCEPTION", known):
            ours = InceptionFeatures(Path(store), resize)
            if folder:
                difference = np.abs(ours(frames) - theirs()).max() / theirs().max()
                assert difference < 1e-4, f"the features differ from pytorch-fid's by {difference}"
            seconds = processor_times({"ours": lambda: ours(frames), peer: theirs}, rounds)
    rates = {name: FRAMES / value for name, value in seconds.items()}
    return Row(f"features ({resize})", "1/s", rates["ours"], {peer: rates[peer]}, seconds["ours"] / seconds[peer])


def random_features(n: int, d: int, seed: int) -> Iterator[Floats]:
    """Blocks (BLOCK, d) of features whose spectrum falls as that of a network's, in float32."""
    rng = np.random.default_rng(seed)
    mix = np.random.default_rng(d).normal(size=(d, d)) * np.arange(1, d + 1) ** -0.75
    for _ in range(n // BLOCK):
        yield (rng.normal(size=(BLOCK, d)) @ mix + 0.1 * seed).astype(np.float32)


def statistics(n: int, d: int, seed: int = 0) -> GaussianStats:
    """Ours, in one pass."""
    stats = GaussianStats.empty(d)
    for block in random_features(n, d, seed):
        stats = stats.update(block)
    return stats


def distance_row(n: int, d: int, rounds: int) -> Row:
    """From statistics of n features to the distance."""
    from torchmetrics.image.fid import _compute_fid

    their_distance = pytorch_fid_distance()
    a, b = statistics(n, d), statistics(n, d, 1)
    arrays = [a.mean, a.covariance, b.mean, b.covariance]
    tensors = [torch.from_numpy(x) for x in arrays]
    works: dict[str, Callable[[], object]] = {
        "ours": lambda: frechet_distance(a, b),
        "torchmetrics": lambda: _compute_fid(*tensors),
        "pytorch-fid": lambda: their_distance(*arrays),
    }
    values = {name: float(work()) for name, work in works.items()}  # type: ignore[arg-type]
    worst = max(abs(value / values["ours"] - 1) for value in values.values())
    assert worst < 1e-4, f"distances differ: {values}"
    seconds = processor_times(works, rounds)
    ours = seconds.pop("ours")
    return Row(f"distance, d {d}, N {n:,}", "s", ours, seconds, ours / min(seconds.values()))


def memory_row(n: int, d: int) -> Row:
    """Most memory held at once for the statistics of n features: ours, and where all are kept, as in pytorch-fid."""

    def kept() -> None:
        features = np.empty((n, d))
        for i, block in enumerate(random_features(n, d, 0)):
            features[i * BLOCK : (i + 1) * BLOCK] = block
        features.mean(0), np.cov(features, rowvar=False)

    peaks = []
    for work in (lambda: statistics(n, d), kept):
        tracemalloc.start()
        work()
        peaks.append(tracemalloc.get_traced_memory()[1] / 2**20)
        tracemalloc.stop()
    return Row(f"memory, d {d}, N {n:,}", "MiB", peaks[0], {"pytorch-fid": peaks[1]}, peaks[0] / peaks[1])


def measure(folder: Path | None, rounds: int) -> list[Row]:
    """All of it, about seven minutes of processor time with 3 rounds."""
    torch.set_num_threads(1)
    with threadpool_limits(1):
        rows = [features_row(folder, rounds)]
        rows += [distance_row(n, d, rounds) for d in DIMENSIONS for n in COUNTS]
        return rows + [memory_row(n, DIMENSIONS[-1]) for n in COUNTS]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--torchvision", type=Path, help="a folder with a torchvision in it")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    rows = measure(arguments.torchvision, arguments.rounds)
    table = Table("", "unit", "ours", "others", "ours / best")
    for row in rows:
        others = ", ".join(f"{name} {value:.3g}" for name, value in row.others.items())
        table.add_row(row.what, row.unit, f"{row.ours:.3g}", others, f"{row.share:.2f}")
    Console().print(table)
    if arguments.json:
        write_json(arguments.json, [asdict(row) for row in rows])


if __name__ == "__main__":
    main()
