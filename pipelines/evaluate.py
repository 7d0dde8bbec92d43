"""Evaluation under a published protocol: generate clip after clip, keep their features, score them all at the end.

Every clip is a file of its own until all are together, so that a killed run loses the clips at work alone, and any
number of processes may share them; the result does not depend on who did which.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from gwm.core import ConfigError
from gwm.core.config import ModelConfig
from gwm.core.sampler import Sampling
from gwm.pipelines.checkpoint import FORMAT as CHECKPOINT_FORMAT
from gwm.pipelines.checkpoint import Training, checkpoint_name, checkpoint_path, load_header, read_config, read_training
from gwm.pipelines.device import choose_device
from gwm.pipelines.eval_clip import Plan, do_clip, draw, origin_of, read_truth, tools_of, write_both
from gwm.pipelines.eval_record import begin, losses, packages, write_result
from gwm.pipelines.feature_choice import FeatureChoice
from gwm.pipelines.feature_file import Scored, read_features, write_features
from gwm.pipelines.figures import compute_figures
from gwm.pipelines.inverse_dynamics import describe_inverse_dynamics
from gwm.pipelines.progress import Ticker, console
from gwm.pipelines.protocols import Clip, Protocol, choose_protocol, clip_list_sha256, list_clips, spread_evenly
from gwm.pipelines.recipe import RIG
from gwm.pipelines.rollout import RolloutSettings
from gwm.pipelines.team import Team, join_team
from gwm.pipelines.workers import Workers, in_this_process, one_thread
from gwm.shards import ShardError
from gwm.shards.files import make_folder, remove_temporaries, sha256_of
from gwm.shards.index import Dataset, open_dataset
from gwm.shards.lock import locked

FEATURES_FILE = "features.parquet"
EXAMPLES = 3  # best clips, and worst ones, that are shown
PATIENCE = timedelta(days=2)  # that processes wait for the slowest one


@dataclass(frozen=True)
class Wanted:
    """What a user asks of an evaluation."""

    dataset: str  # nuscenes, opendv or waymo
    data: Path
    features: FeatureChoice
    sampling: Sampling
    checkpoint: Path | None = None
    protocol: str | None = None
    zero_shot: bool = False
    limit: int | None = None
    actions: bool | None = None  # None: as the protocol says
    seed: int = 0
    keep_videos: bool = False
    allow_missing: bool = False
    inverse_dynamics: Path | None = None  # a file or run of gwm inverse-dynamics


def evaluate(wanted: Wanted, out: Path, device: str = "auto", workers: Workers | None = None) -> dict[str, Any] | None:
    """Generate, score, and write result.json and features.parquet into `out`; returns the result.

    `workers` do the clips, this process unless given; under `torchrun` the processes share them, and all but the first
    get None. The same call goes on where it was stopped, and returns the record of a finished evaluation. ConfigError,
    ShardError or WeightsError for what cannot be; KeyboardInterrupt leaves the finished clips.
    """
    with join_team(choose_device(device), patience=PATIENCE) as team:
        plan, clips, record = prepare(wanted, out, team.device)
        if not team.leads:
            (finished,) = team.any(False)
            if not finished:
                _share(plan, clips, team)
                team.wait()
            return None
        with locked(make_folder(out), "lock"), one_thread_on_cpu(team.device):
            old = begin(out, record)
            if old is None:
                _tidy(plan)
            team.any(old is not None)  # the others wait until the folder is known to be this evaluation's, and tidy
            if old is not None:
                console.print(f"{out} holds this evaluation already", markup=False, highlight=False)
                return old
            return _lead(plan, clips, record, team, workers or in_this_process, wanted.allow_missing)


def prepare(wanted: Wanted, out: Path, device: torch.device) -> tuple[Plan, list[Clip], dict[str, Any]]:
    """The plan, its clips, and what the result says of them. Raises whatever speaks against it."""
    header = load_header(checkpoint_path(wanted.checkpoint), CHECKPOINT_FORMAT)
    name = checkpoint_name(wanted.checkpoint)
    config, training = read_config(header), read_training(header)
    protocol = choose_protocol(wanted.dataset, wanted.protocol, config.views)
    check_model(protocol, config, training, name, wanted.zero_shot or protocol.zero_shot)
    if wanted.actions and not config.actions:
        raise ConfigError(f"--actions: {name} has not learned any action (stage 2 does); leave it out")
    sampling = wanted.sampling
    settings = RolloutSettings(
        protocol.frames, sampling.steps, sampling.guidance, protocol.condition_frames, wanted.seed, sampling.solver,
        sampling.guidance_range, sampling.guidance_every,
    )  # fmt: skip
    settings.check(training.frames)
    dataset = open_dataset(wanted.data)
    every = list_clips(protocol, dataset)
    if len(every) < 2:
        raise ConfigError(
            f"{wanted.data} gives {len(every)} clip of protocol {protocol.name}, at least 2 are needed for a score: "
            "add scenes of its split"
        )
    if wanted.limit is None:
        clips, warnings = every, _short(protocol, len(every))
    elif wanted.limit < 2:
        raise ConfigError(f"--limit {wanted.limit}: at least 2 clips are needed for a score")
    else:
        clips, warnings = [every[i] for i in spread_evenly(len(every), wanted.limit)], []
    actions = config.actions and (protocol.actions if wanted.actions is None else wanted.actions)
    plan = Plan(
        wanted.checkpoint, wanted.data, protocol, actions, settings, wanted.features.settled(), str(device), out,
        wanted.keep_videos, wanted.inverse_dynamics,
    )  # fmt: skip
    return plan, clips, _record(wanted, plan, clips, training, dataset, warnings)


def _record(
    wanted: Wanted, plan: Plan, clips: list[Clip], training: Training, dataset: Dataset, warnings: list[str]
) -> dict[str, Any]:
    """What is known of a result before there is one."""
    protocol = plan.protocol
    reader = None if wanted.inverse_dynamics is None else describe_inverse_dynamics(wanted.inverse_dynamics)
    if reader is not None:
        warnings = warnings + _strange(reader["training"]["data"], dataset.source)
    return {
        "protocol": asdict(protocol),
        "zero_shot": wanted.zero_shot or protocol.zero_shot,
        "partial": len(clips) < protocol.clips,
        "limit": wanted.limit,
        "actions": plan.actions,
        "checkpoint": {
            "name": checkpoint_name(wanted.checkpoint), "sha256": sha256_of(checkpoint_path(wanted.checkpoint)),
            "variant": training.variant, "preset": training.preset, "training_data": list(training.data),
        },
        "data": {
            "path": str(wanted.data), "source": dataset.source, "index_sha256": dataset.index["sha256"],
            "clip_list_sha256": clip_list_sha256(protocol, clips), "clips": len(clips),
        },
        "sampling": {**asdict(wanted.sampling), "seed": wanted.seed},
        "features": asdict(plan.features.load(plan.device).names),
        "inverse_dynamics": reader,
        "size": list(training.size),
        "keep_videos": wanted.keep_videos,
        "warnings": warnings,
    }  # fmt: skip


def check_model(protocol: Protocol, config: ModelConfig, training: Training, name: str, zero_shot: bool) -> None:
    """ConfigError where a model cannot be scored by a protocol, or has seen what it should not."""
    if protocol.views > config.views:
        raise ConfigError(
            f"protocol {protocol.name} has {protocol.views} views, {name} has learned {config.views}; give a "
            "checkpoint of --variant mview, or another --protocol"
        )
    shown = RIG[: protocol.views]
    if training.views and training.views[: protocol.views] != shown:
        raise ConfigError(
            f"protocol {protocol.name} shows {', '.join(shown)}, {name} has learned {', '.join(training.views)}, in "
            "this order; train one with the default view_names"
        )
    seen = [line for line in training.data if line.partition(" ")[0] == protocol.dataset]
    if zero_shot and seen:
        why = f"protocol {protocol.name} is" if protocol.zero_shot else "--zero-shot is"
        raise ConfigError(
            f"{why} for models that have not seen {protocol.dataset}, and {name} was trained on it ({seen[0]})"
        )


def _short(protocol: Protocol, found: int) -> list[str]:
    few = f"the dataset has {found} of the protocol's {protocol.clips} clips: no published figure compares"
    return [few] if found < protocol.clips else []


def _strange(trained_on: Sequence[str], source: str) -> list[str]:
    seen = sorted({line.partition(" ")[0] for line in trained_on})
    if source in seen:
        return []
    return [
        f"the inverse-dynamics network has seen {', '.join(seen)}, not {source}: its metres are those of other "
        "cameras; the figures of real frames show how far it errs"
    ]


@contextmanager
def one_thread_on_cpu(device: torch.device) -> Iterator[None]:
    """With several threads the last digits of a CPU's results depend on their number."""
    before = torch.get_num_threads()
    if device.type == "cpu":
        one_thread()
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _tidy(plan: Plan) -> None:
    """Remove what a killed run left half done, while nobody else writes; what was missing is tried again."""
    make_folder(plan.out / "clips")
    for folder in (plan.out, *(plan.out / name for name in ("clips", "videos", "examples"))):
        if folder.exists():
            remove_temporaries(folder)
    for file in (plan.out / "clips").glob("*.json"):
        file.unlink()


def _share(plan: Plan, clips: Sequence[Clip], team: Team) -> None:
    """What a process of a team does: its clips, if they are not there yet."""
    with one_thread_on_cpu(team.device):
        for clip in clips[team.rank :: team.size]:
            if not plan.part(clip).exists():
                do_clip(plan, clip)


def _lead(
    plan: Plan, clips: Sequence[Clip], record: dict[str, Any], team: Team, workers: Workers, allow_missing: bool
) -> dict[str, Any]:
    """Have the clips done, then score them."""
    began = time.monotonic()
    ours = clips[team.rank :: team.size]
    left = [clip for clip in ours if not plan.part(clip).exists()]
    try:
        with Ticker(f"{plan.protocol.name} clips", len(ours), len(ours) - len(left)) as ticker:
            for _ in workers(partial(do_clip, plan), left):
                ticker.advance()
    except KeyboardInterrupt:
        console.print(f"stopped; the same command with -o {plan.out} goes on", markup=False, highlight=False)
        raise
    team.wait()
    missing = losses(plan, clips)
    if missing and not allow_missing:
        named = "; ".join(f"{loss['key']}: {loss['cause']}" for loss in missing[:3])
        more = f" and {len(missing) - 3} more" if len(missing) > 3 else ""
        raise ShardError(
            f"{len(missing)} of {len(clips)} clips cannot be read ({named}{more}); mend the shards (gwm shards verify "
            "names all damage), or score without them with --allow-missing"
        )
    whole = [clip for clip in clips if plan.part(clip).exists()]
    names = tools_of(plan).networks
    features = plan.out / FEATURES_FILE
    psnrs: dict[int, list[float]] = {}
    write_features(features, origin_of(plan, names), _parts(plan, whole, psnrs))
    figures = compute_figures(features)
    result = {
        **record,
        "partial": len(whole) < plan.protocol.clips,
        "figures": list(figures.rows),
        "examples": _examples(plan, whole, {number: float(np.mean(values)) for number, values in psnrs.items()}),
        "missing": missing,
        "warnings": [*record["warnings"], *figures.warnings],
        "versions": packages(),
        "device": str(team.device),
        "seconds": round(time.monotonic() - began, 1),
    }
    result = write_result(plan.out, result)
    shutil.rmtree(plan.out / "clips")
    return result


def _parts(plan: Plan, clips: Sequence[Clip], psnrs: dict[int, list[float]]) -> Iterator[Scored]:
    """The rows of all clips in order; the PSNR of each clip's predicted frames goes to `psnrs`."""
    for clip in clips:
        try:
            for row in read_features(plan.part(clip)):
                psnrs.setdefault(row.number, []).extend(row.psnr.tolist())
                yield row
        except ConfigError as error:
            plan.part(clip).unlink()
            raise ShardError(
                f"{error.args[0].partition(';')[0]}, and removed; the same command makes it again"
            ) from error


def _examples(plan: Plan, clips: Sequence[Clip], psnrs: dict[int, float]) -> list[dict[str, Any]]:
    """The clips that come closest to the truth, and farthest from it, as videos beside the result."""
    ranked = sorted(clips, key=lambda clip: -psnrs[clip.number])
    n = min(EXAMPLES, len(ranked) // 2)
    chosen = [("best", i, clip) for i, clip in enumerate(ranked[:n], 1)]
    chosen += [("worst", i, clip) for i, clip in enumerate(ranked[: -n - 1 : -1], 1)]
    shown = []
    tools = tools_of(plan)
    for kind, i, clip in chosen:
        truth = read_truth(tools, plan, clip)
        name = f"examples/{kind}-{i}.mp4"
        write_both(plan.out / name, truth.frames, draw(tools, plan, clip, truth), plan.views)
        shown.append({"kind": kind, "key": clip.key, "psnr": psnrs[clip.number], "video": name})
    return shown
