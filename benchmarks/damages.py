"""Whether the scores put known damages of true video into a sensible order.

    python -m benchmarks.damages [--data SHARDS] [--features lite] [--json OUT]

The true drives are the rendered world's, one scene each; every damaged copy of them is scored against them.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
from rich.console import Console
from rich.table import Table

from benchmarks.rollout import towns
from gwm.core.fidelity import psnr, ssim
from gwm.core.frechet import GaussianStats, frechet_distance
from gwm.core.kernel_distance import kernel_distance
from gwm.pipelines.feature_choice import FeatureChoice, Networks
from gwm.pipelines.figures import names_of
from gwm.pipelines.progress import Ticker
from gwm.shards.files import write_json
from gwm.shards.schema import Images

CLIP = 25  # frames

Damage = Callable[[Images], Images]  # a clip (T, H, W, 3)


def jpeg(clip: Images) -> Images:
    """At quality 75."""
    packed = (cv2.imencode(".jpg", frame, [cv2.IMWRITE_JPEG_QUALITY, 75])[1] for frame in clip)
    return np.stack([np.asarray(cv2.imdecode(data, cv2.IMREAD_COLOR), np.uint8) for data in packed])


def shifted(clip: Images) -> Images:
    """By one pixel to the right; the first column twice."""
    return np.concatenate([clip[:, :, :1], clip[:, :, :-1]], axis=2)


def frozen(clip: Images) -> Images:
    """Its first frame, held."""
    return np.repeat(clip[:1], len(clip), axis=0)


def grey_noise(clip: Images) -> Images:
    """Every pixel a grey of its own."""
    grey = np.random.default_rng(0).integers(0, 256, (*clip.shape[:3], 1), dtype=np.uint8)
    return np.repeat(grey, 3, axis=3)


DAMAGES: dict[str, Damage] = {
    "the truth": lambda clip: clip, "shifted by 1 pixel": shifted, "JPEG 75": jpeg, "first frame frozen": frozen,
    "grey noise": grey_noise,
}  # fmt: skip


def run(clips: Images, networks: Networks) -> dict[str, dict[str, float]]:
    """The scores of every damage of clips (N, T, H, W, 3)."""
    names = names_of(networks.standard)
    real = np.concatenate([networks.frames(clip) for clip in clips]), networks.clips(clips)
    found = {}
    with Ticker("damages", len(DAMAGES)) as ticker:
        for name, damage in DAMAGES.items():
            made = np.stack([damage(clip) for clip in clips])
            frames, videos = np.concatenate([networks.frames(clip) for clip in made]), networks.clips(made)
            pairs = list(zip(clips, made, strict=True))
            found[name] = {
                names["frames"]: frechet_distance(GaussianStats.of(real[0]), GaussianStats.of(frames)),
                names["kernel"]: kernel_distance(real[0], frames)[0],
                names["clips"]: frechet_distance(GaussianStats.of(real[1]), GaussianStats.of(videos)),
                "psnr": float(np.mean([psnr(a, b).mean() for a, b in pairs])),
                "ssim": float(np.mean([ssim(a, b).mean() for a, b in pairs])),
            }
            ticker.advance()
    return found


def main() -> None:
    """Parse, run, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="shards of the rendered world; rendered if absent")
    parser.add_argument("--clips", type=int, default=32)
    parser.add_argument("--features", choices=("lite", "standard"), default="lite")
    parser.add_argument("--store", type=Path, default=Path("data/weights"), help="folder of the standard networks")
    parser.add_argument("--json", type=Path, help="file for the record")
    given = parser.parse_args()
    networks = FeatureChoice(given.store, given.features).load("cpu")
    with towns(given.data, -(-given.clips // 2), 2 * CLIP, (128, 64)) as windows:
        clips = np.concatenate([window.frames[:, 0].reshape(2, CLIP, 64, 128, 3) for window in windows])[: given.clips]
        found = run(clips, networks)
    table = Table("damage", *next(iter(found.values())))
    for name, scores in found.items():
        table.add_row(name, *(f"{value:.4g}" for value in scores.values()))
    Console().print(table)
    print(json.dumps({"clips": len(clips), "features": networks.names.frames, "damages": found}, indent=2))
    if given.json:
        write_json(given.json, {"clips": len(clips), "damages": found})


if __name__ == "__main__":
    main()
