"""What mask reconstruction does for nano on the rendered world: the paper's ablations of masks, tokens and ratios.

    python -m benchmarks.ablation --out FOLDER [--steps 400] [--seeds 3] [--scenes 96]

All trainings of a seed begin with the same weights, trained on images and then on video without masks, as the paper's
stages 1a and 1b. They differ in the masks of the last stage alone; its steps, windows and order of data are the same.
Not as in the paper: actions from the second stage on, since nano learns them late or never; windows of 16 frames;
batches of 4. Scored are the averaged weights, on the towns of the validation split: see `ablation_scores`.

The same command continues what was stopped; finished trainings are read back. A rendered world lies in FOLDER/world.
The results so far, ablation.json and ablation.png, are written after each seed.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from statistics import median
from typing import Any

import torch

from benchmarks.ablation_results import summarize, table, write_plot
from benchmarks.ablation_scores import Protocol, Scores, Truth, read_truth, references, score
from gwm.core import ConfigError
from gwm.core.autoencoder import Autoencoder
from gwm.core.seeds import seeded_generator
from gwm.pipelines.autoencoder import load_autoencoder
from gwm.pipelines.checkpoint import load_checkpoint
from gwm.pipelines.draws import draw_random
from gwm.pipelines.features import FrameFeatures
from gwm.pipelines.latents import LatentDataset, encode_dataset
from gwm.pipelines.preprocess import preprocess
from gwm.pipelines.recipe import Recipe, Stage
from gwm.pipelines.recipes import NANO_LONG
from gwm.pipelines.run import Learner, make_learner
from gwm.pipelines.sources import Batch
from gwm.pipelines.state import state_files
from gwm.pipelines.team import Team
from gwm.pipelines.train import learn, train
from gwm.pipelines.watch import Showing
from gwm.shards.files import make_folder, write_json
from gwm.shards.index import open_dataset
from gwm.shards.reader import WindowSchedule
from gwm.shards.sources.world import WorldSource

CPU = torch.device("cpu")
RESULTS = Path(__file__).parent / "results"
BASE = "no masking"
VARIANTS: dict[str, dict[str, Any]] = {  # what is not as in the product's default, by name
    BASE: {"mask_kinds": ()},
    "spatial": {"mask_kinds": ("spatial",)},
    "time, row-wise": {"mask_kinds": ("time",)},
    "time, masked attention": {"mask_kinds": ("time",), "time_attention": "masked"},
    "both, Eq. 3, r = .25": {},
    "token p": {"mask_token": "p"},
    "token f_m(ε)": {"mask_token": "noise"},
    "r = .125": {"mask_ratio": 0.125},
    "r = .5": {"mask_ratio": 0.5},
}
DEFAULT = "both, Eq. 3, r = .25"
# The ablations; a training that belongs to several is made once. A row has 8 tokens: the paper's r = .1 becomes 1/8.
TABLES: dict[str, tuple[str, ...]] = {
    "branches": (BASE, "spatial", "time, row-wise", "time, masked attention", DEFAULT),
    "mask token": ("token p", "token f_m(ε)", DEFAULT),
    "mask ratio": (BASE, "r = .125", DEFAULT, "r = .5"),
}
WORLD_SEED, FRAMES, VAL_EVERY = 5, 220, 6  # 220: the longest rollout, and the motion 2 s ahead of it
TIMED_STEPS, TIMED_ROUNDS = 12, 5


def base_recipe(steps: int) -> Recipe:
    """Two stages that all variants share, and `steps` steps of the one in which they differ."""
    stages = (
        Stage("image", max(1, steps // 2), frames=(1,), batch=64, temporal=False, reconstruction=False),
        Stage("video", 2 * steps, frames=(16,), batch=4, reconstruction=False, actions=True),
        Stage("mask", steps, frames=(16,), batch=4, actions=True, cooldown=0.3),
    )
    return replace(NANO_LONG, stages=stages)


@dataclass(frozen=True)
class Ablation:
    """The trainings in one folder: those of every variant with every seed."""

    folder: Path
    data: Path
    recipe: Recipe  # the last stage is the variants'
    variants: Mapping[str, Mapping[str, Any]]
    seeds: int
    protocol: Protocol
    autoencoder: Path | None = None  # the embedded one

    def recipe_of(self, variant: str, seed: int) -> Recipe:
        """The recipe of one training."""
        return replace(self.recipe, seed=seed, model=replace(self.recipe.model, **self.variants[variant]))

    def run_of(self, variant: str, seed: int) -> Path:
        """The folder of one training."""
        return self.folder / f"{re.sub(r'[^a-z0-9]+', '-', variant.lower()).strip('-')}-{seed}"

    @cached_property
    def latents(self) -> LatentDataset:
        """Of the whole dataset, encoded once."""
        model = self.recipe.model
        encoder = Autoencoder(model.channels, model.autoencoder_width).requires_grad_(False)
        if self.autoencoder is None:
            encoder.load_state_dict(load_checkpoint(None, "cpu").model.codec.state_dict())
        else:
            load_autoencoder(self.autoencoder, encoder)
        views = self.recipe.view_names[:1]
        return encode_dataset(open_dataset(self.data), encoder, self.recipe.size, make_folder(self.folder), views)

    @cached_property
    def truth(self) -> Truth:
        """The validation towns."""
        return read_truth(open_dataset(self.data), self.latents, self.recipe.size, self.protocol)

    def check(self) -> None:
        """ConfigError where the folder holds trainings of other settings; more seeds are none."""
        settings = {"recipe": asdict(self.recipe), "protocol": asdict(self.protocol), "variants": dict(self.variants)}
        file, wanted = make_folder(self.folder) / "settings.json", json.loads(json.dumps(settings))
        if not file.is_file():
            write_json(file, wanted)
        elif json.loads(file.read_text()) != wanted:
            raise ConfigError(f"{self.folder} holds an ablation of other steps or settings; choose another --out")

    def scores_of(self, variant: str, seed: int) -> Scores | None:
        """Of a finished training."""
        return read_json(self.run_of(variant, seed) / "score.json")

    def finish(self, variant: str, seed: int) -> Scores:
        """Train and score one variant, as far as that is not yet done."""
        if (known := self.scores_of(variant, seed)) is not None:
            return known
        run = self.run_of(variant, seed)
        if not state_files(run):
            start = state_files(self.pretrained(seed))[0]
            _link(start, make_folder(run / "states"))
        self._train(run, self.recipe_of(variant, seed))
        scores = score(load_checkpoint(run, "cpu").model, self.truth, self.protocol)
        write_json(run / "score.json", scores)
        shutil.rmtree(run / "states")  # large, and of no more use
        return scores

    def pretrained(self, seed: int) -> Path:
        """The run that all variants of a seed begin with, finished."""
        run, recipe = self.folder / f"pretrained-{seed}", self.recipe
        self._train(run, replace(recipe, seed=seed, stages=recipe.stages[:-1]))
        return run

    def _train(self, run: Path, recipe: Recipe) -> None:
        """Train on the latents that all share; a signal ends the benchmark."""
        _ = self.latents  # now there is a file of them
        for file in self.folder.glob("latents-*.safetensors"):
            _link(file, make_folder(run))
        result = train(self.data, run, recipe, self.autoencoder, "cpu", showing=Showing(preview_every=0))
        if not result.finished:
            raise KeyboardInterrupt


def _link(file: Path, folder: Path) -> None:
    """The same file in another folder, without a copy."""
    if not (folder / file.name).exists():
        os.link(file, folder / file.name)


def step_seconds(ablation: Ablation, steps: int, rounds: int) -> dict[str, list[float]]:
    """Mean seconds of a training step of every variant, in every round; the variants take turns.

    A round is the same `steps` steps of the last stage for all variants and in every round: as in training, a share of
    them is masked, and with both kinds of mask each has its turn.
    """
    learners = {}
    for name in ablation.variants:
        recipe = ablation.recipe_of(name, 0)
        learners[name] = recipe, make_learner(recipe, len(recipe.stages) - 1, CPU, None)
    stage = ablation.recipe.stages[-1]
    refs = WindowSchedule(open_dataset(ablation.data), "train", 0).batch(0, stage.batch, max(stage.frames))
    batch = Batch(*ablation.latents.batch(refs, max(stage.frames), 1), keys=[])

    def seconds(recipe: Recipe, learner: Learner) -> float:
        began = time.perf_counter()
        for i in range(steps):
            drawn = draw_random(recipe, recipe.stages[-1], batch.z_0.shape[1:], seeded_generator(0, i), Team())
            learn(learner, recipe, recipe.stages[-1], batch, drawn, Team())
            learner.optimizer.step()
        return (time.perf_counter() - began) / steps

    times: dict[str, list[float]] = {name: [] for name in learners}
    for i in range(rounds + 1):  # the first does not count
        for name, (recipe, learner) in learners.items():
            taken = seconds(recipe, learner)
            if i:
                times[name].append(taken)
    return times


def read_json(file: Path) -> dict[str, Any] | None:
    """What a finished part of the benchmark left; None where it did not."""
    return dict(json.loads(file.read_text())) if file.is_file() else None


def report(ablation: Ablation, results: Path) -> dict[str, Any]:
    """Write what is finished as ablation.json and ablation.png into `results`, and print the table; the record."""
    scores = {
        name: {seed: found for seed in range(ablation.seeds) if (found := ablation.scores_of(name, seed)) is not None}
        for name in ablation.variants
    }
    times: dict[str, list[float]] = read_json(ablation.folder / "times.json") or {}
    ratios = {name: median(a / b for a, b in zip(values, times[BASE], strict=True)) for name, values in times.items()}
    known = read_json(ablation.folder / "references.json") or {}
    variants = summarize(scores, BASE)
    data = open_dataset(ablation.data)
    record = {
        "recipe": asdict(ablation.recipe), "protocol": asdict(ablation.protocol), "seeds": ablation.seeds,
        "data": {"source": data.source, "settings": dict(data.settings), "counts": dict(data.counts)},
        "features": FrameFeatures.name, "threads": torch.get_num_threads(), "torch": torch.__version__,
        "changes": dict(ablation.variants), "tables": TABLES, "variants": variants, "references": known,
        "seconds_per_step": {name: median(values) for name, values in times.items()},
        f"step_ratio_to_{BASE.replace(' ', '_')}": ratios,
    }  # fmt: skip
    write_json(make_folder(results) / "ablation.json", record)
    write_plot(results / "ablation.png", variants, ratios)
    print(table(variants, TABLES, known, ratios), flush=True)
    return record


def run(ablation: Ablation, results: Path, timed: tuple[int, int] = (TIMED_STEPS, TIMED_ROUNDS)) -> dict[str, Any]:
    """Everything that is not yet done: trainings seed by seed, references, times of a step (steps and rounds)."""
    ablation.check()
    for seed in range(ablation.seeds):
        for name in ablation.variants:
            print(f"seed {seed}, {name}: {json.dumps(ablation.finish(name, seed))}", flush=True)
        report(ablation, results)
    if not (ablation.folder / "references.json").is_file():
        model = load_checkpoint(ablation.run_of(BASE, 0), "cpu").model
        write_json(ablation.folder / "references.json", references(model, ablation.truth, ablation.protocol))
    if not (ablation.folder / "times.json").is_file():
        write_json(ablation.folder / "times.json", step_seconds(ablation, *timed))
    return report(ablation, results)


def main() -> None:
    """Parse, render, run, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder for the world and all trainings")
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder for ablation.json and ablation.png")
    parser.add_argument("--steps", type=int, default=400, help="of the last stage; those before have 2.5 times as many")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--scenes", type=int, default=96, help=f"of the world; every {VAL_EVERY}th is for validation")
    parser.add_argument("--threads", type=int, default=1)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    data, recipe = given.out / "world", base_recipe(given.steps)
    if not (data / "dataset.json").is_file():
        preprocess(WorldSource(given.scenes, WORLD_SEED, FRAMES, recipe.size, VAL_EVERY), data)
    protocol = Protocol(max(recipe.stages[-1].frames))
    run(Ablation(given.out, data, recipe, VARIANTS, given.seeds, protocol), given.results)


if __name__ == "__main__":
    main()
