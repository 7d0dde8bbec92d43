"""Results as `gwm eval` writes them, with invented figures and real videos."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from gwm.pipelines.protocols import LONG_HORIZON, Protocol
from gwm.pipelines.report_result import LITE, STANDARD
from gwm.pipelines.video_out import write_video
from gwm.shards.schema import Images

INCEPTION = {
    "standard": True, "frames": "inception-2015-12-05-pool3-2048/torch-fidelity", "frames_sha256": "67" * 32,
    "clips": "i3d-kinetics400-logits-400/tats/squash", "clips_sha256": "55" * 32,
}  # fmt: skip
OWN = {
    "standard": False, "frames": "efficientnet-lite0-imagenet-1280", "frames_sha256": "e0" * 32,
    "clips": "transnetv2-sddcnn3-256", "clips_sha256": "7a" * 32,
}  # fmt: skip
EXAMPLES = [
    {"kind": kind, "key": f"drive-{kind}-{i}@0", "psnr": 20.5 + i + 3 * (kind == "best"), "video": video}
    for kind in ("best", "worst")
    for i in (1, 2)
    for video in (f"examples/{kind}-{i}.mp4",)
]


def drive(seed: int, frames: int = 15) -> list[Images]:
    """Frames (128, 128, 3): a picture that moves, above the same with noise."""
    rng = np.random.default_rng(seed)
    ramp = np.linspace(0, 200, 128)[None, :, None] + rng.uniform(0, 55, 3)
    real = [np.roll(np.repeat(ramp, 64, axis=0), 4 * t, axis=1) for t in range(frames)]
    noisy = [np.clip(frame + rng.normal(0, 12, frame.shape), 0, 255) for frame in real]
    return [np.concatenate(pair).astype(np.uint8) for pair in zip(real, noisy, strict=True)]


def figures(protocol: Protocol, standard: bool, seed: int = 0) -> list[dict[str, Any]]:
    """Values that no two cells share, a hundred times as large where not standard; LPIPS is not measured."""
    rng = np.random.default_rng(seed)
    rows = []
    for i, horizon in enumerate(protocol.horizons):
        row: dict[str, Any] = {"horizon_s": horizon, "n_frames": 7500 + i, "n_clips": 300 + i}
        for measure in STANDARD if standard else LITE:
            row[measure.key] = float(rng.uniform(10, 90) * (1 + 0.4 * i) * (1 if standard else 100))
            if measure.error:
                row[measure.error] = float(rng.uniform(0.5, 2))
        rows.append(row | {"lpips": None})
    return rows


def result(protocol: Protocol = LONG_HORIZON, standard: bool = True, seed: int = 0, **changes: Any) -> dict[str, Any]:
    """What a result.json says of a whole evaluation."""
    rules = {name: value for name, value in vars(protocol).items() if name not in ("command", "listed", "per_scene")}
    return {
        "format": "gwm-evaluation", "version": 1, "finished": True, "protocol": rules, "zero_shot": False,
        "partial": False, "limit": None,
        "checkpoint": {
            "name": f"model {seed}", "sha256": f"{seed:064x}", "training_data": ["world sha256:ab"],
            "variant": "long", "preset": "nano",
        },
        "data": {
            "path": "shards/val", "source": protocol.dataset, "index_sha256": "1d" * 32, "clip_list_sha256": "c1" * 32,
            "clips": protocol.clips,
        },
        "sampling": {
            "steps": 30, "guidance": 2.0, "solver": "euler", "guidance_range": [0.0, 1.0], "seed": seed,
        },
        "features": INCEPTION if standard else OWN, "size": [128, 64], "figures": figures(protocol, standard, seed),
        "examples": [], "missing": [], "warnings": [], "versions": {"gwm": "0.1.0", "torch": "2.13.0"}, "device": "cpu",
        "seconds": 12.34,
    } | changes  # fmt: skip


def write(folder: Path, values: dict[str, Any], videos: bool = True) -> Path:
    """Write result.json and, if wanted, its examples' videos."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "result.json").write_text(json.dumps(values), encoding="utf-8")
    for i, example in enumerate(values["examples"] if videos else ()):
        file = folder / example["video"]
        file.parent.mkdir(exist_ok=True)
        write_video(file, drive(i))
    return folder
