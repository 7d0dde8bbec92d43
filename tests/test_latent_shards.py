"""Latent shards: what they hold, how they resume and grow, and that every byte is checked."""

from __future__ import annotations

import io
import json
import os
import shutil
import tarfile
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import TINY
from toy_shards import flip, make_chunk, same_motion, write
from typer.testing import CliRunner

from gwm.cli.main import app
from gwm.core import ConfigError, WeightsError
from gwm.core.autoencoder import Autoencoder
from gwm.pipelines.checkpoint import Training, load_checkpoint, save_checkpoint, save_tensors
from gwm.pipelines.latent_shards import LatentEncoder, load_encoder, write_latents
from gwm.pipelines.latents import weights_hash
from gwm.shards import ShardError
from gwm.shards.images import encode_jpeg
from gwm.shards.index import open_dataset
from gwm.shards.latents.index import open_latents
from gwm.shards.latents.read import read_empty_text, read_latents
from gwm.shards.reader import read_chunk, read_window
from gwm.shards.schema import Caption
from gwm.shards.storage import as_path
from gwm.shards.tar import OpenShard
from gwm.shards.verify import info, verify

HALF = 2**-11  # float16's rounding, relative


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A file as `gwm autoencoder` writes it."""
    path = tmp_path_factory.mktemp("trained") / "autoencoder.safetensors"
    torch.manual_seed(1)
    model = Autoencoder(TINY.channels, TINY.autoencoder_width)
    model.latent_mean += torch.randn(TINY.channels, 1, 1)
    model.latent_std *= 1.7
    save_tensors(path, model.state_dict(), {"format": "gwm-autoencoder", "channels": 4, "width": 16})
    return path


@pytest.fixture(scope="module")
def encoder(trained):
    return load_encoder(str(trained), "cpu")


class Words:
    """Stands for SD3's text encoders: what it gives says which text it was given."""

    t5 = torch.nn.Linear(1, 1)
    clips = (torch.nn.Linear(1, 1), torch.nn.Linear(1, 1))
    asked: tuple[str, ...] = ()

    def encode(self, texts):
        self.asked += tuple(texts)
        return torch.stack([self.mark(t) * torch.ones(3, 5) for t in texts]), torch.stack(
            [self.mark(t) * torch.ones(2) for t in texts]
        )

    @staticmethod
    def mark(text):
        return torch.tensor(float(len(text)))


@dataclass(frozen=True)
class Thumbnails(LatentEncoder):
    """Needs no torch, so that a forked child may use it."""

    def encode(self, frames):
        return frames[:, ::8, ::8].transpose(0, 3, 1, 2).astype(np.float16)

    def settings(self):
        return {**super().settings(), "channels": 3}


@pytest.fixture
def thumbnails(encoder):
    return Thumbnails("thumbnails", encoder.autoencoder, None, "none: a test")


def six(out, views=("front",)):
    """Six short samples in shards of two."""
    return write(out, [make_chunk(i, 4 + i % 3, views) for i in range(6)], per_shard=2)


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


def written(folder):
    return {path.name: path.stat().st_mtime_ns for path in folder.glob("toy-*.tar")}


@pytest.mark.parametrize("views", [("front",), ("front", "back")])
def test_latents_are_those_of_the_decoded_images(tmp_path, encoder, monkeypatch, views):
    monkeypatch.setattr("gwm.pipelines.latent_shards.BATCH_PIXELS", 3 * 32 * 16)  # so that a chunk takes two batches
    images = open_dataset(six(tmp_path / "out", views))
    report = write_latents(images.path, encoder)
    latents = open_latents(images)
    assert (report.samples, report.frames, report.shards) == (6, 30, 3)
    for row in range(6):
        whole, chunk = read_latents(latents, row, 0, images.row(row).frames), read_chunk(images, row)
        assert (whole.key, tuple(whole.latents)) == (chunk.key, chunk.views)
        assert set(chunk.views) == set(views)
        for k, view in enumerate(chunk.views):
            frames = torch.from_numpy(chunk.frames[:, k]).permute(0, 3, 1, 2).float() / 127.5 - 1
            expected = encoder.autoencoder.encode(frames).numpy()
            assert whole.latents[view].shape == (images.row(row).frames, 4, 2, 4)
            assert np.allclose(whole.latents[view], expected, rtol=HALF, atol=1e-5)
            assert not np.allclose(whole.latents[view][0], expected[1], rtol=0.01)  # another frame is another latent


def test_a_window_is_that_of_the_images(tmp_path, encoder):
    images = open_dataset(write(tmp_path / "out", [make_chunk(i, 30, ("front", "back")) for i in range(2)]))
    write_latents(images.path, encoder)
    latents = open_latents(images)
    whole = read_latents(latents, 1, 0, 30)
    cuts = ((0, 1, 1, None), (3, 8, 2, ("back",)), (29, 1, 1, None), (5, 4, 3, ("front",)))
    for start, length, stride, views in cuts:
        window = read_latents(latents, 1, start, length, views, stride)
        seen = read_window(images, 1, start, length, views, stride=stride)
        assert (window.key, window.start, window.text) == (seen.key, start, seen.text)
        assert tuple(window.latents) == seen.views
        assert same_motion(window.motion, seen.motion)
        assert [camera.view for camera in window.cameras] == list(seen.views)
        for view in seen.views:
            assert np.array_equal(window.latents[view], whole.latents[view][start:][: length * stride : stride])
        assert window.embedding is None
    torch.from_numpy(window.latents["front"]).add_(1)  # its own memory
    with pytest.raises(ShardError, match="frames 0 to 29"):
        read_latents(latents, 1, 28, 3)
    with pytest.raises(ShardError, match=r"not front_left"):
        read_latents(latents, 1, 0, 3, ["front_left"])
    with pytest.raises(ShardError, match="no text embeddings: none: "):
        read_empty_text(latents)


def test_keys_order_and_json_are_those_of_the_images_and_plain_numpy_reads_them(tmp_path, encoder):
    out = six(tmp_path / "out", ("front", "back"))
    write_latents(out, encoder)
    for shard in sorted(path.name for path in out.glob("*.tar")):
        with tarfile.open(out / shard) as images, tarfile.open(out / "latents" / shard) as latents:
            names = latents.getnames()
            keys = list(dict.fromkeys(name.partition(".")[0] for name in names))
            assert keys == list(dict.fromkeys(name.partition(".")[0] for name in images.getnames()))
            parts = ("back.latents.npy", "front.latents.npy", "json")
            assert names == [f"{key}.{part}" for key in keys for part in parts]
            for key in keys:
                said = latents.extractfile(f"{key}.json").read()
                assert said == images.extractfile(f"{key}.json").read()
                z = np.load(io.BytesIO(latents.extractfile(f"{key}.back.latents.npy").read()))
                assert (z.dtype, z.shape) == (np.float16, (len(json.loads(said)["timestamps"]), 4, 2, 4))


def test_every_text_is_embedded_once_and_the_window_has_its_own(tmp_path, encoder):
    said = (Caption(0, 6, "a"), Caption(6, 12, "a longer one"), Caption(8, 9, "a"))
    chunks = [replace(make_chunk(0), captions=said), replace(make_chunk(1), text=""), make_chunk(2)]
    images = open_dataset(write(tmp_path / "out", chunks))
    words = Words()
    write_latents(images.path, replace(encoder, text=words, about_text="by words"))
    assert sorted(words.asked) == ["", "Straße, night", "a", "a longer one"]
    latents = open_latents(images)
    assert [latents.row(i).texts for i in range(3)] == [3, 0, 1]
    for row, start, text in ((0, 0, "a"), (0, 7, "a longer one"), (1, 0, ""), (2, 0, "Straße, night")):
        window = read_latents(latents, row, start, 4)
        tokens, pooled = window.embedding
        assert window.text == text
        assert tokens.dtype == pooled.dtype == np.float16
        assert (tokens.shape, pooled.shape) == ((3, 5), (2,))
        assert (tokens == len(text)).all()
        assert (pooled == len(text)).all()
    assert (read_empty_text(latents)[0] == 0).all()
    assert verify(latents.path).ok
    assert info(latents.path)["texts"] == 4
    flip(latents.path / "empty_text.npz", 200)
    assert verify(latents.path).problems == ["empty_text.npz: SHA-256 differs from dataset.json"]


def killed(out, encoder, moment):
    """A run in a child that dies before its write or rename number `moment`; whether it did."""
    child = os.fork()
    if child == 0:
        left = moment

        def dying(original):
            def call(*args):
                nonlocal left
                left -= 1
                return os._exit(1) if left < 0 else original(*args)

            return call

        OpenShard._write, Path.replace = dying(OpenShard._write), dying(Path.replace)
        try:
            write_latents(out, encoder)
        except BaseException:
            os._exit(2)
        os._exit(0)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert status in (0, 1)
    return status == 1


def test_killed_at_any_moment_the_same_command_ends_in_the_same_bytes(tmp_path, thumbnails):
    """What is in memory is lost, what has its name is whole; and the run that goes on is killed half-way as well."""
    out = write(tmp_path / "out", [make_chunk(i, 4) for i in range(3)], per_shard=1)
    write_latents(out, thumbnails)
    whole = contents(out / "latents")
    moment, shards = 0, []
    while True:
        shutil.rmtree(out / "latents")
        if not killed(out, thumbnails, moment):
            break
        shards.append(len(list((out / "latents").glob("toy-*.tar"))))
        kept = written(out / "latents")
        killed(out, thumbnails, moment // 2)
        write_latents(out, thumbnails)
        assert contents(out / "latents") == whole
        assert not [path for path in out.rglob("*") if ".tmp." in path.name]
        after = written(out / "latents")
        assert [after[name] for name in sorted(kept)[:-1]] == [kept[name] for name in sorted(kept)[:-1]]
        moment += 1
    assert moment > 20
    assert set(shards) == {0, 1, 2, 3}


def test_a_second_run_writes_nothing_and_new_or_changed_image_shards_are_encoded(tmp_path, encoder):
    chunks = [make_chunk(i, 5) for i in range(6)]
    out = write(tmp_path / "out", chunks[:4], per_shard=2)
    assert write_latents(out, encoder).new_shards == 2
    before, times = contents(out / "latents"), written(out / "latents")
    assert write_latents(out, encoder).new_shards == 0
    assert (contents(out / "latents"), written(out / "latents")) == (before, times)
    write(out, chunks, per_shard=2)
    with pytest.raises(ShardError, match=r"another state of .*--latents again"):
        open_latents(open_dataset(out))
    assert "another state" in verify(out / "latents").problems[0]
    assert info(out / "latents")["up_to_date"] is False
    report = write_latents(out, encoder)
    assert (report.new_shards, report.shards, report.samples) == (1, 3, 6)
    assert {name: time for name, time in written(out / "latents").items() if name in times} == times
    write(out, [*chunks[:2], make_chunk(99, 5), *chunks[3:]], per_shard=2)
    assert write_latents(out, encoder).new_shards == 1
    assert len(open_latents(open_dataset(out))) == 6
    assert verify(out / "latents").ok
    fresh = write(tmp_path / "fresh", [*chunks[:2], make_chunk(99, 5), *chunks[3:]], per_shard=2)
    write_latents(fresh, encoder)
    assert contents(fresh / "latents") == contents(out / "latents")


def test_another_checkpoint_is_refused_and_the_same_from_elsewhere_is_not(tmp_path, encoder):
    out = six(tmp_path / "out")
    write_latents(out, encoder)
    before = contents(out / "latents")
    torch.manual_seed(2)
    other = replace(encoder, checkpoint="other", autoencoder=Autoencoder(4, 16))
    with pytest.raises(ShardError, match=r"another checkpoint \(.*autoencoder.safetensors; autoencoder .*delete"):
        write_latents(out, other)
    with pytest.raises(ShardError, match=r"text_encoders None, not"):
        write_latents(out, replace(encoder, text=Words()))
    write_latents(out, replace(encoder, checkpoint="moved"))
    assert contents(out / "latents") == before
    (out / "latents" / "jobs" / "plan.json").write_text("[")
    with pytest.raises(ShardError, match=r"plan.json cannot be read .*delete"):
        write_latents(out, encoder)


def test_what_is_encoded_by_which_checkpoint(tmp_path, trained, encoder, tiny_model):
    assert encoder.settings()["mean"] == pytest.approx(encoder.autoencoder.latent_mean.flatten().tolist())
    assert load_encoder(str(trained.parent), "cpu").settings()["autoencoder"] == weights_hash(encoder.autoencoder)
    embedded = load_checkpoint(None).model.codec
    assert load_encoder("nano", "cpu").settings()["autoencoder"] == weights_hash(embedded)
    run = tmp_path / "run"
    run.mkdir()
    save_checkpoint(run / "model.safetensors", TINY, tiny_model.state_dict(), Training((64, 32), 4))
    for given in (run, run / "model.safetensors"):
        assert weights_hash(load_encoder(str(given), "cpu").autoencoder) == weights_hash(tiny_model.codec)
    without = {k: x for k, x in tiny_model.state_dict().items() if k.startswith("dit.")}
    save_checkpoint(tmp_path / "bare.safetensors", replace(TINY, encoders="none"), without, Training((64, 32), 4))
    for given, problem in (
        (tmp_path / "bare.safetensors", "holds no autoencoder"),
        (tmp_path / "nowhere", "no checkpoint at"),
        (tmp_path, "holds no checkpoint; give nano"),
    ):
        with pytest.raises(WeightsError, match=problem):
            load_encoder(str(given), "cpu")


def test_what_cannot_be_encoded_is_one_error_and_leaves_no_shard(tmp_path, encoder):
    out = six(tmp_path / "out")
    autoencoder = Autoencoder(4, 16).requires_grad_(False)
    autoencoder.latent_std *= 1e-9
    with pytest.raises(ShardError, match=r"chunk-0000: values .*65504"):
        write_latents(out, replace(encoder, autoencoder=autoencoder))
    assert not list((out / "latents").glob("toy-*.tar"))
    images = open_dataset(out)
    with pytest.raises(ShardError, match="no latents at"):
        open_latents(images)
    other = six(tmp_path / "other")
    flip(other / images.row(1).shard, images.row(1).json_offset + 9)
    with pytest.raises(ShardError, match=r"chunk-0001.json: damaged"):
        write_latents(other, encoder)


def test_frames_that_places_do_not_cover_are_refused(tmp_path, encoder):
    odd = replace(make_chunk(0, 3), cameras=(), frames={"front": [encode_jpeg(np.zeros((16, 36, 3), np.uint8))] * 3})
    with pytest.raises(ConfigError, match=r"36x16, and latents need multiples of 8 .*--size"):
        write_latents(write(tmp_path / "out", [odd]), encoder)


def test_any_flipped_byte_of_a_shard_is_found_and_its_member_named(tmp_path, encoder):
    images = open_dataset(six(tmp_path / "out"))
    write_latents(images.path, encoder)
    latents = open_latents(images)
    row = latents.row(1)
    shard, members = latents.path / row.shard, row.members()
    good = shard.read_bytes()
    for member in members:
        for at in (member.offset - 400, member.offset, member.offset + member.size - 1):
            flip(shard, at)
            problems = verify(latents.path).problems
            assert problems[0].endswith("SHA-256 differs from dataset.json")
            assert problems[1].startswith(f"{row.shard}: {member.name}: "), at
            assert len(problems) == 2
            shard.write_bytes(good)
    for at in np.random.default_rng(0).integers(len(good), size=20):
        flip(shard, int(at))
        assert not verify(latents.path).ok
        shard.write_bytes(good)
    report = verify(latents.path)
    assert (report.ok, report.samples, report.frames) == (True, 6, 30)
    shard.unlink()
    assert verify(latents.path).problems == [f"{row.shard}: missing"]
    with pytest.raises(ShardError, match="is missing"):
        open_latents(images)


def test_shapes_and_the_index_are_checked(tmp_path, encoder):
    images = open_dataset(six(tmp_path / "out"))
    write_latents(images.path, encoder)
    file, index = (images.path / "latents" / name for name in ("dataset.json", "index.parquet"))
    text = file.read_text()
    file.write_text(text.replace('"channels": 4', '"channels": 5'))
    problems = verify(file.parent).problems
    assert len(problems) == 6
    assert problems[0].endswith("front.latents.npy: float16 (4, 4, 2, 4), not float16 (4, 5, 2, 4)")
    for damaged in (text[:-20], "[]", text.replace('"images"', '"image"')):
        file.write_text(damaged)
        with pytest.raises(ShardError, match=r"dataset.json|is damaged"):
            verify(file.parent)
    file.write_text(text)
    good = index.read_bytes()
    for at in np.linspace(0, len(good) - 1, 40).astype(int):
        flip(index, int(at))
        try:
            found = " ".join(verify(file.parent).problems)
        except ShardError as error:
            found = str(error)
        assert "index.parquet" in found, at
        index.write_bytes(good)


def test_in_an_object_store_the_bytes_are_the_same(tmp_path, encoder):
    images = six(tmp_path / "out")
    write_latents(images, encoder)
    bucket = six(as_path("memory://latents/toy"))
    write_latents(bucket, encoder)
    assert contents(bucket / "latents") == contents(images / "latents")
    assert verify(bucket / "latents").ok
    near, far = (open_latents(open_dataset(path)) for path in (images, bucket))
    assert np.array_equal(read_latents(near, 3, 1, 2).latents["front"], read_latents(far, 3, 1, 2).latents["front"])


def test_the_command_line(tmp_path):
    out = tmp_path / "out"
    command = ["preprocess", "world", "--scenes", "2", "--frames", "4", "--size", "64x32", "--workers", "1"]
    command += ["-o", str(out), "--device", "cpu", "--json"]
    wrong = CliRunner().invoke(app, [*command, "--latents", str(tmp_path / "nowhere")])
    assert wrong.exit_code == 1
    assert not out.exists()
    done = CliRunner().invoke(app, [*command, "--latents", "nano"])
    assert done.exit_code == 0, done.output
    report = json.loads(done.stdout)["latents"]
    assert (report["samples"], report["frames"], report["new_shards"]) == (2, 8, 1)
    assert report["text"] == "none: nano's text encoder is trained with the model"
    for action in ("info", "verify"):
        result = CliRunner().invoke(app, ["shards", action, str(out / "latents"), "--json"])
        assert (result.exit_code, json.loads(result.stdout)["samples"]) == (0, 2)
