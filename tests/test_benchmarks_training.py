"""The benchmarks of training: shares of a step, and the ablation, on a tiny model and a tiny world."""

import json
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from conftest import SIZE, tiny_chunk, tiny_recipe
from toy_shards import make_camera, write

from benchmarks import ablation, ablation_scores, training
from benchmarks.ablation import BASE, DEFAULT, TABLES, VARIANTS, Ablation, base_recipe
from benchmarks.ablation_results import spread, summarize
from benchmarks.ablation_scores import Protocol
from gwm.core import ConfigError
from gwm.pipelines.datasets import Reading
from gwm.pipelines.recipe import Stage
from gwm.pipelines.state import newest_state
from gwm.pipelines.train import train

CHOSEN = {name: VARIANTS[name] for name in (BASE, "time, masked attention", DEFAULT)}
PROTOCOL = Protocol(window=6, horizons=(9, 14), span=4, given=2, steps=2, taus=(0.3, 0.8), loss_stride=10)


@pytest.fixture(scope="module")
def towns(tmp_path_factory):
    """Four chunks for training, three for validation, longer than the longest rollout."""
    chunks = [tiny_chunk(i, 36, "train" if i < 4 else "val") for i in range(7)]
    chunks = [replace(chunk, cameras=(make_camera("front", SIZE),)) for chunk in chunks]
    return write(tmp_path_factory.mktemp("towns") / "towns", chunks)


class FewFeatures:
    """Eight numbers of a frame: the product's 1280 take seconds for each distance."""

    def __call__(self, frames):
        return frames.reshape(len(frames), 8, -1).astype(np.float32).mean(axis=2)


@pytest.fixture(scope="module", autouse=True)
def _few_features():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ablation_scores, "FrameFeatures", FewFeatures)
        yield


def small(folder, data, autoencoder, variants=CHOSEN, seeds=1):
    """An ablation of a few steps of the tiny model."""
    stages = (
        Stage("image", 2, (1,), 2, temporal=False, reconstruction=False),
        Stage("video", 2, (6,), 2, reconstruction=False, actions=True),
        Stage("mask", 3, (6,), 2, actions=True),
    )
    recipe = replace(tiny_recipe(), stages=stages, learning_rate=0.01, warmup=1)
    return Ablation(folder, data, recipe, variants, seeds, PROTOCOL, autoencoder)


@pytest.fixture(scope="module")
def finished(towns, autoencoder, tmp_path_factory):
    """An ablation that ran through, with its record."""
    folder = tmp_path_factory.mktemp("ablation")
    found = small(folder / "out", towns, autoencoder)
    return found, ablation.run(found, folder / "results", timed=(2, 2)), folder / "results"


# Shares of a step -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("reading", [Reading(), Reading(stream=True, workers=0)])
def test_the_shares_of_a_step_sum_to_one_and_leave_the_loop_as_it_was(tiny_shards, autoencoder, tmp_path, reading):
    recipe = tiny_recipe()
    recipe = replace(recipe, stages=(replace(recipe.stages[-1], steps=2 * training.BLOCK + 1),))
    before = [getattr(owner, name) for places in training.PARTS.values() for owner, name in places]
    found = training.measure(tiny_shards, tmp_path / "run", recipe, reading, autoencoder)
    assert before == [getattr(owner, name) for places in training.PARTS.values() for owner, name in places]
    shares = found["shares"]
    assert set(shares) == {*training.PARTS, training.OTHER}
    assert sum(shares.values()) == pytest.approx(1)
    assert all(0 < share < 1 for share in shares.values()), shares
    assert found["optimizer_ema_logging"] == pytest.approx(sum(shares[part] for part in training.BOOKKEEPING))
    plain = train(tiny_shards, tmp_path / "plain", recipe, autoencoder, "cpu", reading=reading)
    assert plain.finished
    timed, untimed = (newest_state(tmp_path / name)[0] for name in ("run", "plain"))
    assert all(torch.equal(tensor, untimed[name]) for name, tensor in timed.items())


def test_a_stopwatch_counts_each_second_once():
    """A block is the time from a step's beginning to that of the step ten later; the first block does not count."""
    watch = training.Stopwatch()
    for i in range(3 * training.BLOCK + 1):
        spent = dict.fromkeys(training.PARTS, 0.0) | {"forward": 3.0 * i, "logging": float(i // training.BLOCK)}
        watch.marks.append((5.0 * i, spent))
    first, second = watch.blocks()
    assert first == second
    assert (first["forward"], first["logging"], first["other"]) == pytest.approx((3, 0.1, 1.9))
    assert training.shares([first, second])["shares"]["forward"] == pytest.approx(0.6)


# Ablation -------------------------------------------------------------------------------------------------------------


def test_every_variant_is_one_choice_of_the_mask_and_stands_in_a_table():
    assert set(VARIANTS) == {name for names in TABLES.values() for name in names}
    recipe = base_recipe(100)
    configs = [replace(recipe, model=replace(recipe.model, **changes)).model for changes in VARIANTS.values()]
    assert len(set(configs)) == len(configs) == 9
    assert VARIANTS[DEFAULT] == {}


def test_scores_of_all_variants_and_seeds_are_written_with_their_times(finished):
    _, record, results = finished
    assert json.loads((results / "ablation.json").read_text()) == json.loads(json.dumps(record))
    assert (results / "ablation.png").read_bytes().startswith(b"\x89PNG")
    assert set(record["variants"]) == set(CHOSEN)
    for values in record["variants"].values():
        assert set(values["scores"]) == set(PROTOCOL.metrics)
        assert all(math.isfinite(v["mean"]) and v["mean"] > 0 for v in values["scores"].values())
    ratios = record["step_ratio_to_no_masking"]
    assert set(ratios) == set(CHOSEN)
    assert ratios[BASE] == 1
    coded = record["references"]["the truth through the autoencoder"]
    assert set(coded) == set(PROTOCOL.metrics) - {"loss"}
    losses = [values["scores"]["loss"]["mean"] for values in record["variants"].values()]
    assert len(set(losses)) == len(losses), "the masks changed nothing"


def test_all_variants_of_a_seed_begin_with_the_same_weights(finished):
    found, _, _ = finished
    for name in CHOSEN:
        lines = (found.run_of(name, 0) / "metrics.jsonl").read_text().splitlines()
        assert [json.loads(line)["stage"] for line in lines] == ["mask"], "a stage that is shared was trained again"


def test_what_is_finished_is_read_back_and_what_is_not_comes_out_the_same(finished, towns, autoencoder, monkeypatch):
    found, record, results = finished
    again = small(found.folder, towns, autoencoder)
    score = again.run_of(DEFAULT, 0) / "score.json"
    known = score.read_text()
    score.unlink()
    ablation.run(again, results)
    assert score.read_text() == known
    monkeypatch.setattr(ablation, "train", None)
    monkeypatch.setattr(ablation, "score", None)
    assert ablation.run(small(found.folder, towns, autoencoder), results) == record


def test_a_folder_of_other_settings_is_refused(finished, towns, autoencoder):
    found, _, results = finished
    other = replace(small(found.folder, towns, autoencoder), protocol=replace(PROTOCOL, steps=3))
    with pytest.raises(ConfigError, match="another --out"):
        ablation.run(other, results)


def test_the_truth_has_no_distance_and_each_part_is_judged_alone(finished):
    found, record, _ = finished
    truth = found.truth
    videos = [clip.frames[:, 0] for clip in truth.clips]
    perfect = ablation_scores.compare(truth, videos, PROTOCOL)
    assert all(perfect[f"frechet_{part}"] < 1e-3 for part in PROTOCOL.parts)
    given = [np.concatenate([255 - video[: PROTOCOL.given], video[PROTOCOL.given :]]) for video in videos]
    assert ablation_scores.compare(truth, given, PROTOCOL) == perfect
    late = [np.concatenate([video[:10], 255 - video[10:]]) for video in videos]
    changed = ablation_scores.compare(truth, late, PROTOCOL)
    assert changed["psnr"] == perfect["psnr"]
    assert changed["frechet_window"] == perfect["frechet_window"]
    assert changed["frechet_9"] == perfect["frechet_9"]
    assert changed["frechet_14"] > perfect["frechet_14"] + 1
    assert all(record["references"]["the last given frame held"][m] > 0 for m in ("psnr", "frechet_14"))


def test_differences_are_taken_seed_by_seed():
    scores = {"a": {0: {"x": 1.0}, 1: {"x": 10.0}}, "b": {0: {"x": 2.0}, 1: {"x": 11.0}, 2: {"x": 99.0}}, "c": {}}
    found = summarize(scores, "a")
    assert set(found) == {"a", "b"}
    assert found["b"]["minus a"]["x"] == spread([1.0, 1.0])
    assert found["b"]["minus a"]["x"]["std"] == 0
    assert found["b"]["scores"]["x"]["mean"] == pytest.approx(112 / 3)
    assert spread([3.0])["std"] is None
