"""Latent shards against diffusers: SD3's autoencoder and text encoders, tiny ones with random weights."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from test_sd3_text import pipeline  # noqa: F401  (a fixture)
from toy_shards import make_chunk, write

from gwm.core.sd3_autoencoder import CONFIG, SCALE, SHIFT
from gwm.pipelines.checkpoint import load_checkpoint
from gwm.pipelines.latent_shards import load_encoder, write_latents
from gwm.pipelines.weights import import_sd3
from gwm.shards.index import open_dataset
from gwm.shards.latents.index import open_latents
from gwm.shards.latents.read import read_empty_text, read_latents
from gwm.shards.reader import read_chunk
from gwm.shards.verify import verify

diffusers = pytest.importorskip("diffusers")


@pytest.fixture
def vae(monkeypatch):
    small = {**CONFIG, "block_out_channels": [32, 32, 32, 32], "layers_per_block": 1}
    monkeypatch.setattr("gwm.core.sd3_autoencoder.CONFIG", small)
    monkeypatch.setattr("gwm.pipelines.weights.AUTOENCODER_CONFIG", small)
    torch.manual_seed(1)
    return diffusers.AutoencoderKL(**small, scaling_factor=SCALE, shift_factor=SHIFT).eval()


@pytest.mark.parametrize("views", [("front",), ("front", "back")])
def test_latents_and_embeddings_are_those_of_diffusers(pipeline, vae, tmp_path, views):  # noqa: F811
    folder = tmp_path / "sd3"
    pipeline.save_pretrained(folder)
    vae.save_pretrained(folder / "vae")
    texts = ["a road in the rain", "night", ""]
    out = write(tmp_path / "out", [replace(make_chunk(i, 4, views), text=text) for i, text in enumerate(texts)])
    report = write_latents(out, load_encoder(str(folder), "cpu"))
    assert report.text == "by SD3's text encoders"
    assert verify(out / "latents").ok
    images = open_dataset(out)
    latents = open_latents(images)
    with torch.inference_mode():
        expected, _, expected_pooled, _ = pipeline.encode_prompt(
            texts, None, None, do_classifier_free_guidance=False, max_sequence_length=77
        )
    for i in range(3):
        window, chunk = read_latents(latents, i, 0, 4), read_chunk(images, i)
        tokens, pooled = window.embedding
        assert np.allclose(tokens, expected[i], rtol=2**-11, atol=1e-5)
        assert np.allclose(pooled, expected_pooled[i], rtol=2**-11, atol=1e-5)
        for k, view in enumerate(chunk.views):
            frames = torch.from_numpy(chunk.frames[:, k]).permute(0, 3, 1, 2).float() / 127.5 - 1
            with torch.inference_mode():
                z = (vae.encode(frames).latent_dist.mean - vae.config.shift_factor) * vae.config.scaling_factor
            assert np.allclose(window.latents[view], z, rtol=2**-11, atol=1e-5)
    assert not np.allclose(expected[0], expected[1], atol=0.01)
    assert np.array_equal(read_empty_text(latents)[0], window.embedding[0])


def test_an_imported_checkpoint_gives_the_same_latents_and_says_that_it_has_no_text(pipeline, vae, tmp_path):  # noqa: F811
    folder = tmp_path / "sd3"
    pipeline.save_pretrained(folder)
    vae.save_pretrained(folder / "vae")
    diffusers.SD3Transformer2DModel(
        sample_size=16, num_layers=2, attention_head_dim=16, num_attention_heads=2, caption_projection_dim=32,
        joint_attention_dim=48, pooled_projection_dim=40, pos_embed_max_size=12,
    ).save_pretrained(folder / "transformer")  # fmt: skip
    import_sd3(folder, tmp_path / "ours")
    out = write(tmp_path / "out", [make_chunk(0, 4)])
    report = write_latents(out, load_encoder(str(tmp_path / "ours"), "cpu"))
    assert report.text.startswith("none: ")
    assert "give SD3-medium's folder" in report.text
    images = open_dataset(out)
    window = read_latents(open_latents(images), 0, 0, 4)
    assert window.embedding is None
    z = load_checkpoint(tmp_path / "ours").model.encode(torch.from_numpy(read_chunk(images, 0).frames)[None])
    assert np.allclose(window.latents["front"], z[0, :, 0], rtol=2**-11, atol=1e-5)
