"""Batches of windows: shares of mixed datasets, strides, views, resuming, and the same whatever the workers."""

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import torch
from toy_shards import make_chunk, toy, write

from gwm.pipelines.loader import Shape, evaluation_batches, training_batches
from gwm.shards import ShardError
from gwm.shards.index import open_dataset
from gwm.shards.mixture import BLOCK, Mixture
from gwm.shards.reader import MOTION_AHEAD, read_chunk, read_window


@pytest.fixture
def datasets(tmp_path):
    return [toy(tmp_path / name, [12] * n) for name, n in (("a", 10), ("b", 4))]


def same(a, b):
    assert torch.equal(a.frames, b.frames)
    assert torch.equal(a.actions.nan_to_num(-1), b.actions.nan_to_num(-1))
    assert (a.texts, a.keys, a.starts) == (b.texts, b.keys, b.starts)


def test_every_block_has_the_shares_and_every_sample_its_turn(datasets):
    mixture = Mixture(datasets, [3, 1], "train", seed=5)
    refs = [ref for step in range(2 * BLOCK // 8) for ref in mixture.batch(step, 8, 5)]
    for block in (refs[:BLOCK], refs[BLOCK:]):
        assert Counter(ref.dataset for ref in block) == {0: 750, 1: 250}
    for i, dataset in enumerate(datasets):
        rows = [ref.row for ref in refs if ref.dataset == i]
        for epoch in range(3):
            assert sorted(rows[epoch * len(dataset) : (epoch + 1) * len(dataset)]) == list(range(len(dataset)))
    assert mixture.batch(77, 8, 5) == refs[77 * 8 : 78 * 8]  # a pure function of the step
    assert Mixture(datasets, [3, 1], "train", seed=6).batch(0, 8, 5) != refs[:8]


def test_ranks_read_different_samples(datasets):
    read = []
    for rank in range(2):
        mixture = Mixture(datasets, [1, 1], "train", 0, rank, 2)
        read.append({(ref.dataset, ref.row) for step in range(100) for ref in mixture.batch(step, 2, 5)})
    assert not read[0] & read[1]
    assert len(read[0] | read[1]) == 14


@pytest.mark.parametrize("weights", [[1], [1, 0], [1, -2], [1, float("nan")]])
def test_weights_that_are_no_shares_are_refused(datasets, weights):
    with pytest.raises(ShardError, match="above 0"):
        Mixture(datasets, weights, "train", 0)


def test_a_small_share_is_not_none(datasets):
    assert Mixture(datasets, [1e9, 1], "train", 0).counts == (999, 1)


def test_training_resumes_and_does_not_depend_on_the_workers(datasets):
    mixture, shape = Mixture(datasets, [1, 1], "train", 3), Shape(4, (16, 8), stride=2)
    whole = list(training_batches(mixture, shape, 3, 0, 6))
    assert whole[0].frames.shape == (3, 4, 1, 8, 16, 3)
    assert whole[0].actions.shape == (3, 4, 7)
    for a, b in zip(training_batches(mixture, shape, 3, 4, 6), whole[4:], strict=True):
        same(a, b)
    for a, b in zip(training_batches(mixture, shape, 3, 0, 6, workers=2), whole, strict=True):
        same(a, b)


def test_evaluation_reads_an_exact_list(datasets):
    batches = list(evaluation_batches(datasets[0], "train", Shape(5), 4, every=5))
    assert [len(batch.keys) for batch in batches] == [4] * 5
    found = [(key, start) for batch in batches for key, start in zip(batch.keys, batch.starts, strict=True)]
    assert found == [(f"chunk-{i:04d}", start) for i in range(10) for start in (0, 5)]


def test_a_stride_leaves_out_frames_but_no_motion(tmp_path):
    dataset = open_dataset(write(tmp_path / "out", [make_chunk(0, 60, ["front", "back"])]))
    whole = read_chunk(dataset, 0)
    window = read_window(dataset, 0, 7, 4, ["back"], stride=5)
    assert np.array_equal(window.frames[:, 0], whole.frames[[7, 12, 17, 22], 1])
    assert np.array_equal(window.motion.speed, whole.motion.speed[7 : 7 + 16 + MOTION_AHEAD])
    read_window(dataset, 0, 57, 2, stride=2)
    with pytest.raises(ShardError, match="5 frames from 57 are not in it"):
        read_window(dataset, 0, 57, 3, stride=2)


def test_only_samples_with_the_views_take_part(tmp_path):
    chunks = [make_chunk(i, 12, ["front", "back"] if i % 3 == 0 else ["front"]) for i in range(9)]
    dataset = open_dataset(write(tmp_path / "out", [replace(c, scene=c.key) for c in chunks], per_shard=3))
    mixture = Mixture([dataset], [1], "train", 0, views=["back", "front"])
    assert {ref.row for step in range(20) for ref in mixture.batch(step, 1, 4)} == {0, 3, 6}
    batches = evaluation_batches(dataset, "train", Shape(12, views=("back",)), 9, 12)
    assert [batch.frames.shape[:3] for batch in batches] == [(3, 12, 1)]
    with pytest.raises(ShardError, match="no train sample with the views side_left; it has front, back"):
        Mixture([dataset], [1], "train", 0, views=["side_left"])
