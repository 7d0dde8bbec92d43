"""The whole chain in minutes: world -> shards -> autoencoder -> model -> rollout -> scores, in one folder."""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass
from pathlib import Path

from gwm.pipelines.autoencoder import train_autoencoder
from gwm.pipelines.checkpoint import load_checkpoint
from gwm.pipelines.feature_choice import FeatureChoice
from gwm.pipelines.preprocess import preprocess
from gwm.pipelines.progress import console
from gwm.pipelines.recipe import make_recipe
from gwm.pipelines.rollout import RolloutSettings, rollout
from gwm.pipelines.score import score, write_result
from gwm.pipelines.train import train
from gwm.pipelines.workers import default_workers, in_processes
from gwm.shards import ShardError
from gwm.shards.files import make_folder, replacing, write_json
from gwm.shards.sources.world import WorldSource
from gwm.shards.verify import verify

SCENES, SCENE_FRAMES = 20, 200  # 400 s of driving; the longest clip a rollout is compared with is one scene
AUTOENCODER_STEPS = 250
STEPS_SCALE = 0.02  # of the nano recipe
ROLLOUT_FRAMES = 200
EMBEDDED = Path("nano-student")  # as good as nano-long in 30 steps, `python -m benchmarks.sampling`
OWN_FRAMES, OWN_STEPS = 47, 8  # of the rollout by the model that was just trained: two windows
UNSEEN = 5_000_000  # added to the seed: towns that the embedded model was not trained on
SIZE = (128, 64)  # pixels, of nano


@dataclass(frozen=True)
class DemoResult:
    """What the demo did and measured."""

    folder: str
    frames: int
    autoencoder_psnr: float  # dB on frames it was not trained on
    training_steps: int
    rollout_frames: int
    frame_frechet: float
    video_frechet: float
    frame_features: str
    video_features: str
    seconds: dict[str, float]  # of every step


def run_demo(out: Path, seed: int = 0, device: str = "auto") -> DemoResult:
    """Run every step of the product on a small rendered world into the folder `out`.

    A run that was stopped continues with the same command and folder.
    """
    folder = make_folder(out)
    seconds: dict[str, float] = {}
    began = time.monotonic()

    def done(step: str) -> None:
        nonlocal began
        seconds[step] = time.monotonic() - began
        began = time.monotonic()

    console.rule("1/5  a little world, rendered and written as shards")
    shards = folder / "shards"
    if not (shards / "dataset.json").is_file():
        source = WorldSource(SCENES, UNSEEN + seed, SCENE_FRAMES, SIZE)
        preprocess(source, shards, workers=in_processes(default_workers()))
    checked = verify(shards)
    if checked.problems:
        raise ShardError(f"{shards} is damaged ({checked.problems[0]}); delete {folder} and run the demo again")
    done("render")
    console.rule("2/5  the autoencoder")
    encoder = train_autoencoder(shards, folder / "autoencoder", AUTOENCODER_STEPS, SIZE, seed, device)
    done("autoencoder")
    console.rule("3/5  the world model, stages 1a, 1b, 1c and 2")
    recipe = make_recipe("long", "nano", STEPS_SCALE, seed)
    training = train(shards, folder / "model", recipe, folder / "autoencoder", device)
    if not training.finished:
        raise KeyboardInterrupt
    done("training")
    console.rule("4/5  rollouts: of the embedded model, and of this one")
    embedded, own = load_checkpoint(EMBEDDED, device), load_checkpoint(folder / "model", device)
    settings = RolloutSettings(ROLLOUT_FRAMES, embedded.training.sampling_steps, embedded.training.guidance, seed=seed)
    generated = rollout(embedded, folder, settings, shards)
    rollout(own, folder / "own", RolloutSettings(OWN_FRAMES, OWN_STEPS, own.training.guidance, seed=seed), shards)
    done("rollouts")
    console.rule("5/5  scores")
    scores = score(shards, folder / "rollout.mp4", FeatureChoice(kind="lite"), device=device)
    write_result(folder / "scores.json", scores)
    done("scores")
    result = DemoResult(
        str(folder), checked.frames, encoder.psnr, training.steps, generated.frames, scores.scores["frame_frechet"],
        scores.scores["video_frechet"], scores.features.frames, scores.features.clips, seconds,
    )  # fmt: skip
    with replacing(folder / "summary.txt") as temporary:
        temporary.write_text(summary(result))
    write_json(folder / "demo.json", asdict(result))
    return result


def summary(result: DemoResult) -> str:
    """What happened, in plain words."""
    predicted = result.rollout_frames - 3
    minutes = sum(result.seconds.values()) / 60
    return f"""\
gwm demo: the whole chain on a small rendered world, in {minutes:.1f} minutes.

{result.frames} frames of driving were rendered, written as WebDataset shards and checked byte by byte.
A small autoencoder learned to compress them: PSNR {result.autoencoder_psnr:.1f} dB on frames that it had not seen.
A nano world model went through the paper's stages in {result.training_steps} steps: images, video, masks, actions.
The embedded one has seen 270 times as many windows: own/contact.png shows what this one predicts, little more
than bright above and dark below.

The embedded student (four steps a window) then predicted the other {predicted} frames of rollout.mp4 from 3 frames of a
town that it was not trained on and the driver's actions, 22 at a time, each window continuing the last. In contact.png
the upper row is the real drive, the lower one the prediction: about half a second resembles it, then it is a street of
its own, with lanes, houses and trees to the end. `gwm rollout --actions turn-left` steers it.

Scores against the rendered world. Lower is better, 0 is equal. They are no FID or FVD: see the features' names.
  frames {result.frame_frechet:.4g}  ({result.frame_features})
  clips  {result.video_frechet:.4g}  ({result.video_features})
"""
