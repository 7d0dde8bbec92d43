"""Where training reads from: the same windows from images, latents and memory, mixtures, damage, and another start."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import TINY, tiny_chunk, tiny_recipe
from toy_shards import flip, write
from toy_sources import autoencoder_file, captioned, dataset, equal, small_autoencoder, state_of, with_latents

from gwm.core import ConfigError
from gwm.core.autoencoder import Autoencoder
from gwm.pipelines import metrics
from gwm.pipelines.checkpoint import load_checkpoint
from gwm.pipelines.datasets import Codec, Reading, choose_reads, open_library, orders, shares
from gwm.pipelines.feed import feeding
from gwm.pipelines.latents import weights_hash
from gwm.pipelines.recipe import Stage
from gwm.pipelines.runs import summarize_run
from gwm.pipelines.sources import ImageShards, LatentShards
from gwm.pipelines.team import Team
from gwm.pipelines.train import train
from gwm.shards import ShardError
from gwm.shards.index import open_dataset

CPU = torch.device("cpu")
HERE, STREAM = Reading(workers=0), Reading(stream=True, workers=0)


@pytest.fixture(scope="module")
def network() -> Autoencoder:
    return small_autoencoder()


@pytest.fixture(scope="module")
def codec(network) -> Codec:
    return Codec(network, weights_hash(network))


@pytest.fixture(scope="module")
def file(tmp_path_factory) -> Path:
    return autoencoder_file(tmp_path_factory.mktemp("autoencoder"))


@pytest.fixture
def data(tmp_path) -> Path:
    return dataset(tmp_path / "data")


def library_of(paths, codec, folder, reading=STREAM, recipe=None, team=None):
    """The library of some datasets, and the orders of its stages."""
    recipe, team = recipe or tiny_recipe(8), team or Team()
    datasets = [open_dataset(path) for path in paths]
    found = orders(recipe, datasets, team)
    folder.mkdir(exist_ok=True)
    reads = choose_reads(recipe, datasets, found, codec, reading, speak=True)
    return open_library(recipe, datasets, reads, codec, folder, CPU), found


def read(library, order, first=0, workers=0, last=8):
    """The batches of a stage's steps."""
    with feeding(order, library, first, workers) as feed:
        return [library.batch(feed.read(step)) for step in range(first, last)]


def same(a, b) -> None:
    assert len(a) == len(b) > 0
    for x, y in zip(a, b, strict=True):
        assert torch.equal(x.z_0, y.z_0)
        assert torch.equal(x.actions.nan_to_num(-1), y.actions.nan_to_num(-1))
        assert (x.texts, x.keys) == (y.texts, y.keys)


def test_the_same_windows_come_from_memory_images_and_latents(data, codec, network, tmp_path):
    """Latents, actions, the text of the window and not of the chunk, and the order; of each window length."""
    held, found = library_of([data], codec, tmp_path / "memory", Reading())
    streamed, _ = library_of([data], codec, tmp_path / "streamed")
    assert isinstance(streamed.sources[0], ImageShards)
    assert not list((tmp_path / "streamed").iterdir())
    with_latents(data, network)
    stored, _ = library_of([data], codec, tmp_path / "stored", Reading())
    assert isinstance(stored.sources[0], LatentShards)
    for order in found:
        whole = read(held, order)
        same(whole, read(streamed, order))
        same(whole, read(stored, order))
    texts = {text for batch in whole for text in batch.texts}
    assert texts == {"day road", "a bend", "a straight road"}
    lengths = {batch.z_0.shape[1] for batch in read(held, found[1])}
    assert lengths == {4, 6}


def test_workers_and_resuming_change_nothing(data, codec, tmp_path):
    streamed, found = library_of([data, dataset(tmp_path / "b", 10)], codec, tmp_path / "run")
    whole = read(streamed, found[1])
    same(whole[5:], read(streamed, found[1], first=5))
    with feeding(found[1], streamed, 0, workers=2) as feed:
        ahead = [streamed.batch(feed.read(0))]
        for worker in multiprocessing.active_children():
            assert worker.pid is not None
            for number in (signal.SIGINT, signal.SIGTERM):  # as a terminal or a cluster sends to all
                os.kill(worker.pid, number)
        ahead += [streamed.batch(feed.read(step)) for step in range(1, 8)]
    same(whole, ahead)


def test_the_windows_of_a_step_are_drawn_once(data, codec, tmp_path, monkeypatch):
    """Once for each of its windows, a batch of 768 took seconds."""
    library, found = library_of([data], codec, tmp_path / "run", HERE)
    drawn = []
    refs = type(found[0]).refs
    monkeypatch.setattr(type(found[0]), "refs", lambda self, step, *rest: drawn.append(step) or refs(self, step, *rest))
    assert len(read(library, found[0], last=3)[0].keys) > 1
    assert drawn == [0, 1, 2, 3]  # the last ahead


def test_memory_latents_and_images_mix_and_only_memory_is_read_here(data, codec, network, tmp_path, monkeypatch):
    """Each of three datasets read in its own way, by a worker as far as it is not in memory."""
    paths = [data, with_latents(dataset(tmp_path / "b", 10), network), dataset(tmp_path / "c", 20)]
    held, found = library_of(paths, codec, tmp_path / "run", Reading())
    streamed, _ = library_of(paths, codec, tmp_path / "run")
    sources = (held.sources[0], held.sources[1], streamed.sources[2])
    assert len({type(source) for source in sources}) == 3
    mixed = replace(held, sources=sources)
    whole = read(streamed, found[2])
    same(whole, read(mixed, found[2]))
    same(whole, read(mixed, found[2], workers=1))
    decades = {key[5:7] for batch in whole for key in batch.keys}
    assert decades == {"00", "01", "02"}


@pytest.mark.parametrize("reading", [Reading(workers=0), STREAM])
def test_training_ends_in_the_same_bytes_and_resumes(data, file, network, tmp_path, reading):
    """The way of reading may even change on the way."""
    train(data, tmp_path / "whole", tiny_recipe(2), file, "cpu")
    if not reading.stream:
        with_latents(data, network)
    for last in (3, 8):
        train(data, tmp_path / "other", tiny_recipe(2), file, "cpu", last, reading=reading)
    assert equal(state_of(tmp_path / "whole"), state_of(tmp_path / "other"))
    assert list((tmp_path / "whole").glob("latents-*"))
    assert not list((tmp_path / "other").glob("latents-*"))


@pytest.mark.parametrize("what", ["autoencoder", "size", "state"])
def test_latents_that_do_not_fit_are_left_with_one_line(data, codec, network, file, tmp_path, capsys, what):
    torch.manual_seed(2)
    other = Autoencoder(TINY.channels, TINY.autoencoder_width)
    with_latents(data, other if what == "autoencoder" else network)
    if what == "state":
        write(data, [captioned(i) for i in range(4)], per_shard=2)
    recipe = replace(tiny_recipe(), size=(64, 64)) if what == "size" else tiny_recipe()
    capsys.readouterr()
    library, _ = library_of([data], codec, tmp_path / "run", Reading(), recipe)
    assert not isinstance(library.sources[0], LatentShards)
    (line,) = [line for line in capsys.readouterr().err.splitlines() if "latents not used" in line]
    words = {"autoencoder": "of another autoencoder (a checkpoint)", "size": "64x32, those of this training 64x64"}
    assert words.get(what, "another state") in line


def test_what_does_not_fit_in_memory_is_streamed(data, codec, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("gwm.pipelines.datasets.MAX_BYTES", 1000.0)
    library, _ = library_of([data], codec, tmp_path / "run", Reading())
    assert isinstance(library.sources[0], ImageShards)
    assert "frames are read and encoded at every step" in capsys.readouterr().err


# Several datasets ----------------------------------------------------------------------------------------------------


def sourced(stages, data) -> tuple[Stage, ...]:
    return tuple(replace(stage, data=data) for stage in stages)


def test_shares_are_by_source_or_folder_or_frames(tmp_path):
    paths = [dataset(tmp_path / name, source=source) for name, source in (("a", "nuscenes"), ("b", "opendv"))]
    paths.append(write(tmp_path / "c", [tiny_chunk(i, 60) for i in range(4)]))
    datasets = [open_dataset(path) for path in paths]
    stage = tiny_recipe().stages[3]
    assert shares(stage, datasets) == {0: 120.0, 1: 120.0, 2: 240.0}
    assert shares(replace(stage, data=(("opendv", 0.25), ("c", 0.75))), datasets) == {1: 0.25, 2: 0.75}
    both = [*datasets, replace(datasets[2], source="opendv")]
    found = shares(replace(stage, data=(("nuscenes", 0.4), ("opendv", 0.6))), both)
    assert found == pytest.approx({0: 0.4, 1: 0.2, 3: 0.4})
    with pytest.raises(ConfigError, match=r"2.data: no dataset waymo; there are nuscenes \(a\), opendv \(b\), toy \(c"):
        shares(replace(stage, data=(("waymo", 1.0),)), datasets)


def test_the_papers_stages_read_their_datasets(tmp_path, file):
    """Pretraining on OpenDV alone, then half and half, then six cameras, here two, of nuScenes alone."""
    nuscenes, opendv = tmp_path / "n", dataset(tmp_path / "o", 10, "opendv")
    chunks = [
        replace(c, frames={"front": c.frames["front"], "back": c.frames["front"]}) for c in map(captioned, (0, 1))
    ]
    fields = json.loads((write(nuscenes, chunks, per_shard=1) / "dataset.json").read_text())
    (nuscenes / "dataset.json").write_text(json.dumps({**fields, "source": "nuscenes"}))
    plain, half = tiny_recipe(2), (("nuscenes", 0.5), ("opendv", 0.5))
    first, last = sourced(plain.stages[:3], (("opendv", 1.0),)), sourced(plain.stages[3:], half)
    third = Stage("3", 2, (4,), 2, actions=True, views=2, data=(("nuscenes", 1.0),))
    recipe = replace(plain, variant="mview", stages=(*first, *last, third), view_names=("front", "back"))
    result = train([nuscenes, opendv], tmp_path / "run", recipe, file, "cpu")
    assert result.finished
    found = orders(recipe, [open_dataset(nuscenes), open_dataset(opendv)], Team())
    drawn = [Counter(ref.dataset for step in range(500) for ref in order.refs(step, 4)) for order in found]
    assert drawn == [{1: 1000}, {1: 1000}, {1: 1000}, {0: 500, 1: 500}, {0: 1000}]
    written = load_checkpoint(tmp_path / "run").training.data
    assert [text.split(" sha256:")[0] for text in written] == ["nuscenes n", "opendv o"]
    record = json.loads((tmp_path / "run" / "recipe.json").read_text())
    hashes = [open_dataset(path).index["sha256"] for path in (nuscenes, opendv)]
    assert record["data"] == hashes
    assert [text.split("sha256:")[1] for text in written] == hashes
    with pytest.raises(ConfigError, match=r"other settings: data \("):
        train([opendv, nuscenes], tmp_path / "run", recipe, file, "cpu")


def test_ranks_read_other_shards_and_one_without_any_is_refused_in_all(tmp_path, codec):
    paths = [dataset(tmp_path / name, 10 * i, per_shard=1) for i, name in enumerate("ab")]
    read_by = []
    for rank in range(2):
        _, found = library_of(paths, codec, tmp_path / f"{rank}", STREAM, team=Team(rank, 2))
        order = found[1]
        assert order.windows == 1
        read_by.append({(ref.dataset, ref.row) for step in range(200) for ref in order.refs(step, 4)})
    assert not read_by[0] & read_by[1]
    assert len(read_by[0] | read_by[1]) == 9  # the fifth of `a` is for validation
    few = dataset(tmp_path / "few", per_shard=5)
    for rank in range(2):
        with pytest.raises(ShardError, match=r"few has 1 shards with train samples for 2 processes"):
            library_of([paths[0], few], codec, tmp_path / "x", STREAM, team=Team(rank, 2))


# Damage --------------------------------------------------------------------------------------------------------------


def damage(path: Path, row: int) -> str:
    """Spoil all frames of a sample; its key."""
    index = open_dataset(path)
    entry = index.row(row)
    for offset in entry.frame_offsets:
        flip(path / entry.shard, int(offset))
    return entry.key


def damage_latents(path: Path, row: int) -> str:
    """Spoil the JSON of a sample's latents."""
    from gwm.shards.latents.index import open_latents

    latents = open_latents(open_dataset(path))
    entry = latents.row(row)
    flip(latents.path / entry.shard, entry.member(f"{entry.key}.json").offset)
    return entry.key


@pytest.mark.parametrize("way", ["memory", "images", "latents"])
def test_a_damaged_sample_is_replaced_counted_and_named_once(data, file, network, tmp_path, capsys, way):
    if way == "latents":
        with_latents(data, network)
    key = damage_latents(data, 1) if way == "latents" else damage(data, 1)
    capsys.readouterr()
    result = train(data, tmp_path / "run", tiny_recipe(6), file, "cpu", reading=Reading(way == "images", 0))
    assert result.finished
    assert result.replaced > 0
    (said,) = [line for line in capsys.readouterr().err.splitlines() if "other windows stand in" in line]
    assert f"toy-000000.tar: {key}" in said
    assert sum(line.replaced for line in metrics.read(tmp_path / "run" / metrics.FILE)) == result.replaced
    summary = summarize_run(tmp_path / "run")
    assert sum(stage.replaced for stage in summary.stages.values()) == result.replaced


def test_what_stands_in_is_the_same_each_time_and_the_rest_is_left_alone(data, codec, tmp_path):
    library, found = library_of([data], codec, tmp_path / "run")
    whole = read(library, found[3])
    key = damage(data, 1)
    again, _ = library_of([data], codec, tmp_path / "run")
    first, second, ahead = read(again, found[3]), read(again, found[3], first=3), read(again, found[3], workers=1)
    same(first[3:], second)
    same(first, ahead)
    replaced = 0
    for good, mended in zip(whole, first, strict=True):
        for i, name in enumerate(good.keys):
            if name.startswith(key):
                replaced += 1
                assert not mended.keys[i].startswith(key)
            else:
                assert mended.keys[i] == name
                assert torch.equal(mended.z_0[i], good.z_0[i])
    assert replaced > 0


def test_nothing_but_damage_is_one_error(data, file, tmp_path):
    for row in range(5):
        damage(data, row)
    with pytest.raises(ShardError, match=r"^8 windows could not be read, one after the other; the last: toy-0"):
        train(data, tmp_path / "run", tiny_recipe(), file, "cpu", reading=Reading(True, 1))  # a worker finds out


def test_latents_that_are_no_numbers_are_damage(data, codec, network, tmp_path):
    from gwm.shards.latents.index import latent_name, open_latents

    with_latents(data, network)
    latents = open_latents(open_dataset(data))
    entry = latents.row(0)
    member = entry.member(latent_name(entry.key, "front"))
    with (latents.path / entry.shard).open("r+b") as f:
        f.seek(member.offset + member.size - 2)
        f.write(np.array([np.nan], "<f2").tobytes())
    library, _ = library_of([data], codec, tmp_path / "run", Reading())
    library.sources[0].window(0, 0, 29, 1)
    with pytest.raises(ShardError, match=r"latents/toy-000000.tar: tiny-000: values that are no numbers"):
        library.sources[0].window(0, 1, 29, 1)
