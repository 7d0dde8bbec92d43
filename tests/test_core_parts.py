"""Small parts: EMA, text, actions, embeddings, autoencoder, configuration."""

import zlib

import pytest
import torch

from gwm.core import ConfigError
from gwm.core.actions import SCALARS, ActionEncoder, frame_weights, only_modes
from gwm.core.autoencoder import Autoencoder, autoencoder_loss, kl_divergence, texture_difference
from gwm.core.blocks import Gelu
from gwm.core.config import ModelConfig, preset
from gwm.core.ema import ema_decay, start_ema, update_ema
from gwm.core.embed import frame_positions, grid_positions
from gwm.core.text import HashedTextEncoder, hash_tokens


def test_ema_of_constant_weights_is_the_weights_and_converges_geometrically():
    weights = {"a": torch.ones(3)}
    average = {"a": torch.zeros(3)}
    for _ in range(10):
        update_ema(average, weights, 0.5)
    assert torch.allclose(average["a"], torch.full((3,), 1 - 0.5**10))
    same = start_ema(weights)
    update_ema(same, weights, 0.9)
    assert torch.equal(same["a"], weights["a"])
    assert ema_decay(0, 0.999) == 0.1
    assert ema_decay(10**6, 0.999) == 0.999


def test_hashed_text_is_stable_and_case_blind_and_padded():
    ids = hash_tokens(["Night road, heavy", "", "night ROAD heavy traffic jam"], 4, 32)
    assert ids.shape == (3, 4)
    assert ids[0, :3].tolist() == ids[2, :3].tolist()
    assert ids[1].tolist() == [0, 0, 0, 0]
    assert (ids < 32).all()
    assert hash_tokens(["road"], 1, 1024).item() == 1 + zlib.crc32(b"road") % 1023  # not Python's salted hash


def test_text_encoder_depends_on_word_order():
    encoder = HashedTextEncoder(32, 4, 8)
    torch.nn.init.normal_(encoder.positions)
    a, b = encoder.encode(["left right"])[0], encoder.encode(["right left"])[0]
    assert not torch.allclose(a, b)


def test_each_frame_reads_the_waypoints_at_its_own_time():
    weights = frame_weights(25, 4, torch.device("cpu"))
    assert torch.allclose(weights.sum(1), torch.ones(25))
    assert weights[0].tolist() == [1, 0, 0, 0]  # before the first waypoint at 0.5 s
    assert weights[5].tolist() == [1, 0, 0, 0]
    assert torch.allclose(weights[12], torch.tensor([0, 0.6, 0.4, 0]), atol=1e-6)  # 1.2 s
    assert weights[24].tolist() == [0, 0, 0, 1]


def test_action_encoding_is_zero_only_where_absent():
    encoder = ActionEncoder(16)
    values = torch.zeros(2, 4, len(SCALARS))
    values[1] = torch.nan
    out = encoder(values, 5)
    assert (out[1] == 0).all()
    assert (out[0] != 0).any()  # an angle of zero is an action


def test_only_modes_keeps_one_kind_for_each_sample():
    kept = only_modes(torch.zeros(3, 4, len(SCALARS)), ["motion", "goal", "none"])
    present = [[name for name, x in zip(SCALARS, row, strict=True) if x == 0] for row in kept[:, 0]]
    assert present == [["angle", "speed"], ["u", "v"], []]


def test_positions_are_distinct_and_centred():
    places = grid_positions(4, 8, 32, 64, 64, torch.device("cpu"))
    assert len({tuple(p.tolist()) for p in places}) == 32
    wide = grid_positions(4, 12, 32, 64, 64, torch.device("cpu"))
    assert torch.equal(places[0], wide[2])  # the left edge of 8 columns is column 2 of 12
    assert len({tuple(p.tolist()) for p in frame_positions(64, 16, torch.device("cpu"))}) == 64


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_the_activation_without_gradients_is_the_one_with_them(dtype):
    x = torch.cat([torch.linspace(-12, 12, 999), torch.tensor([0.0, 1e20, -1e20])]).to(dtype)
    kept = x.clone()
    with torch.no_grad():
        quick = Gelu()(x)
    assert torch.equal(x, kept)
    torch.testing.assert_close(quick, Gelu()(x.requires_grad_()).detach())


def test_the_texture_loss_asks_for_fine_detail_but_not_for_its_place():
    stripes = torch.arange(16).remainder(2).float().expand(1, 3, 16, 16)
    assert texture_difference(stripes, 1 - stripes) == 0
    assert texture_difference(stripes, torch.full_like(stripes, 0.5)) == 1
    elsewhere = torch.cat([stripes[..., :8], torch.full_like(stripes[..., 8:], 0.5)], dim=-1)
    assert 0.3 < texture_difference(stripes, elsewhere) < 0.7


def test_autoencoder_shapes_statistics_and_loss():
    model = Autoencoder(4, 16)
    images = torch.rand(2, 3, 32, 64) * 2 - 1
    model.latent_mean.fill_(0.3)
    model.latent_std.fill_(2.0)
    mean, log_variance = model.posterior(images)
    assert mean.shape == (2, 4, 4, 8)
    assert torch.allclose(model.encode(images), (mean - 0.3) / 2)
    assert torch.allclose(model.decode(model.encode(images)), model.decoder(mean), atol=1e-5)
    assert kl_divergence(torch.zeros(3), torch.zeros(3)) == 0
    assert autoencoder_loss(images, images, torch.zeros(3), torch.zeros(3)) == 0
    assert autoencoder_loss(images, -images, mean, log_variance) > 0
    with pytest.raises(ConfigError, match="60x32"):
        model.encode(torch.zeros(1, 3, 32, 60))


def test_an_autoencoder_learns_an_image():
    torch.manual_seed(0)
    model = Autoencoder(4, 16)
    images = torch.rand(1, 3, 4, 8).repeat_interleave(8, 2).repeat_interleave(8, 3) * 2 - 1
    optimizer = torch.optim.AdamW(model.parameters(), 3e-3)
    errors = []
    for _ in range(200):
        out = model(images, torch.zeros(1, 4, 4, 8))
        optimizer.zero_grad()
        autoencoder_loss(images, *out).backward()
        optimizer.step()
        errors.append((out[0] - images).abs().mean().item())
    assert errors[-1] < 0.5 * errors[0]


@pytest.mark.parametrize(
    "values", [{"width": 30, "heads": 4}, {"decoder_depth": 4}, {"decoder_depth": 0}, {"mask_ratio": 1.0}]
)
def test_impossible_configurations_are_refused(values):
    with pytest.raises(ConfigError):
        ModelConfig(**values)


def test_unknown_names_are_refused_with_what_there_is():
    with pytest.raises(ConfigError, match="nano"):
        preset("huge")
    with pytest.raises(ConfigError, match="surprise"):
        ModelConfig.from_dict({"surprise": 1})
    assert ModelConfig.from_dict({"width": 64}).width == 64
