"""The diffusion transformer: per-frame modulation, mask tokens, new parts that change nothing."""

from dataclasses import replace

import pytest
import torch
from conftest import TINY

from gwm.core import ConfigError
from gwm.core.actions import SCALARS, only_modes
from gwm.core.blocks import TemporalBlock
from gwm.core.dit import MaskToken, Reconstruction, VideoDiT
from gwm.core.flow import interpolate
from gwm.core.world_model import draw_step, training_loss

B, T, K, H, W = 2, 5, 1, 4, 8


def inputs(seed=0, t=T, k=K):
    g = torch.Generator().manual_seed(seed)
    z = torch.randn(B, t, k, TINY.channels, H, W, generator=g)
    tau = torch.rand(B, t, generator=g)
    text = torch.randn(B, TINY.text_tokens, TINY.text_width, generator=g)
    return z, tau, text, text.mean(1)


def actions(seed=0):
    return torch.randn(B, 4, len(SCALARS), generator=torch.Generator().manual_seed(seed))


def test_mask_token_is_f_m_of_the_noise_at_tau_0_and_p_at_tau_1():
    token = MaskToken(6, 8, "eq3")
    eps, z = torch.randn(B, T, K, 3, 6), torch.randn(B, T, K, 3, 6)
    assert torch.equal(token(eps, z, torch.zeros(B, T)), token.f_m(eps))
    assert torch.equal(token(eps, z, torch.ones(B, T)), token.p.expand(B, T, K, 3, 8))


def test_other_mask_tokens():
    eps, z, tau = torch.randn(B, T, K, 3, 6), torch.randn(B, T, K, 3, 6), torch.rand(B, T)
    p, noise, latent = (MaskToken(6, 8, kind) for kind in ("p", "noise", "latent"))
    assert torch.equal(p(eps, z, tau), p.p.expand(B, T, K, 3, 8))
    assert torch.equal(noise(eps, z, tau), noise.f_m(eps))
    assert torch.equal(latent(eps, z, tau), latent.f_m(z))


def test_modulation_reaches_only_its_own_frame():
    """Expanded as "(hw t)" over tokens laid out "(t hw)" it would reach others: seen in a public implementation."""
    model = VideoDiT(replace(TINY, temporal=False, views=2, view_attention="place"))  # nothing else joins the frames
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    z, tau, text, pooled = inputs(k=2)
    before = model(z, tau, text, pooled)
    tau = tau.clone()
    tau[1, 3] += 0.5
    changed = (model(z, tau, text, pooled) - before).abs().amax(dim=(2, 3, 4, 5)) > 0
    expected = torch.zeros(B, T, dtype=torch.bool)
    expected[1, 3] = True
    assert torch.equal(changed, expected)


def test_temporal_modulation_reaches_only_its_own_frame():
    block = TemporalBlock(16, 2, actions=False)
    for parameter in block.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    torch.nn.init.zeros_(block.out.weight)  # attention over time joins frames: left out here
    x, text, c = torch.randn(B, T, 2, 6, 16), torch.randn(B, 4, 16), torch.randn(B, T, 16)
    other = c.clone()
    other[0, 2] += 1
    changed = (block(x, text, other, None) - block(x, text, c, None)).abs().amax(dim=(2, 3, 4)) > 0
    assert changed.nonzero().tolist() == [[0, 2]]


@pytest.mark.parametrize("kind", ["spatial", "time"])
def test_a_new_reconstruction_branch_is_the_identity(kind):
    branch = Reconstruction(TINY, 16)
    x, stream = torch.randn(B, T, K, 8, TINY.width), torch.randn(B, T, K, 4, TINY.width)
    assert torch.equal(branch(x, stream, torch.randn(B, T, TINY.width), torch.randn(B, 4, TINY.width), kind), x)


def test_targets_of_condition_frames_do_not_enter_the_loss(tiny_model):
    z, _, text, pooled = inputs()
    draw = draw_step(z.shape, TINY, (0.0, 0.0, 1.0), torch.Generator().manual_seed(0))
    loss = training_loss(tiny_model.dit, z, text, pooled, None, draw)
    v = tiny_model.dit(interpolate(z, draw.eps, draw.tau), draw.tau, text, pooled, None, draw.mask, draw.eps)
    by_hand = (v - (draw.eps - z))[:, 2:].square().mean()
    assert torch.isclose(loss, by_hand)


def test_new_temporal_blocks_are_the_identity():
    block = TemporalBlock(16, 2, actions=True)
    x = torch.randn(B, T, K, 6, 16)
    assert torch.equal(block(x, torch.randn(B, 4, 16), torch.randn(B, T, 16), torch.randn(B, T, 16)), x)


def test_a_grown_model_predicts_what_it_did_before():
    """Stages 1b, 1c, 2 and 3 bring parts that must not change the output when they enter."""
    small = VideoDiT(replace(TINY, temporal=False, reconstruction=False, actions=False))
    for parameter in small.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    grown = VideoDiT(replace(TINY, views=2))
    grown.load_state_dict(small.state_dict(), strict=False)
    z, tau, text, pooled = inputs(k=2)
    frames = [
        small(z[:, t : t + 1, k : k + 1], tau[:, t : t + 1], text, pooled) for t in range(T) for k in range(2)
    ]  # one by one
    out, alone = grown(z, tau, text, pooled, actions()), torch.cat(frames, 1)
    assert torch.allclose(out.flatten(1, 2), alone.flatten(1, 2), rtol=1e-4, atol=1e-4)
    assert torch.equal(grown(*inputs(), actions()), small(*inputs()))


def test_absent_actions_are_exactly_no_actions(tiny_model):
    absent = torch.full((B, 4, len(SCALARS)), torch.nan)
    with_none = tiny_model.dit(*inputs())
    assert torch.equal(tiny_model.dit(*inputs(), absent), with_none)
    assert not torch.allclose(tiny_model.dit(*inputs(), actions()), with_none)


@pytest.mark.parametrize("mode", ["motion", "trajectory", "goal", "command"])
def test_every_kind_of_action_and_every_waypoint_matters(tiny_model, mode):
    values = only_modes(actions(), [mode] * B)
    before = tiny_model.dit(*inputs(t=21), values)
    for waypoint in range(4):
        other = values.clone()
        other[:, waypoint] += 0.5
        assert not torch.allclose(tiny_model.dit(*inputs(t=21), other), before)


def test_actions_reach_a_block_whose_attention_has_settled_on_the_zero_key():
    """An embedded model had 0.9998 of the weight there, and left and right turns gave the same video."""
    block = TemporalBlock(16, 2, actions=True)
    for parameter in block.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    torch.nn.init.zeros_(block.cross_q.weight)
    torch.nn.init.constant_(block.cross_q.bias, 10)
    torch.nn.init.constant_(block.cross_kv.bias[:16], -10)  # the text's keys: scores of -280 beside the zero key's 0
    x, text, c = torch.randn(B, T, K, 6, 16), torch.randn(B, 4, 16), torch.randn(B, T, 16)
    action = torch.randn(B, T, 16, requires_grad=True)
    (block(x, text, c, action) - block(x, text, c, None)).square().mean().backward()
    assert (action.grad.abs().amax(dim=-1) > 1e-4).all()


def test_text_matters_and_samples_do_not_mix(tiny_model):
    z, tau, text, pooled = inputs()
    before = tiny_model.dit(z, tau, text, pooled)
    other = text.clone()
    other[1, 0] += 1
    after = tiny_model.dit(z, tau, other, pooled)
    assert torch.equal(after[0], before[0])
    assert not torch.allclose(after[1], before[1])


@pytest.mark.parametrize(("t", "k", "h", "w"), [(1, 1, 4, 8), (64, 2, 4, 6), (3, 6, 6, 2)])
def test_frames_views_and_grid_are_free(t, k, h, w):
    z = torch.randn(B, t, k, TINY.channels, h, w)
    assert VideoDiT(replace(TINY, views=6))(z, torch.rand(B, t), *inputs()[2:]).shape == z.shape


def test_more_views_than_trained_and_more_tokens_than_positions_are_refused(tiny_model):
    with pytest.raises(ConfigError, match="2 views given to a model of 1"):
        tiny_model.dit(*inputs(k=2))
    with pytest.raises(ConfigError, match="2x65 tokens exceed the 64x64 grid"):
        tiny_model.dit(torch.randn(B, T, 1, TINY.channels, 130, 4), torch.rand(B, T), *inputs()[2:])


def test_the_encoder_never_sees_hidden_tokens(tiny_model):
    z, tau, text, pooled = inputs()
    draw = draw_step(z.shape, TINY, (0.0, 1.0), torch.Generator().manual_seed(0))
    assert draw.mask is not None
    before = tiny_model.dit(z, tau, text, pooled, None, draw.mask, draw.eps)
    tokens, _ = tiny_model.dit.patches(z)
    tokens = tokens + 10.0 * draw.mask.mask[..., None]
    h, w = H // TINY.patch, W // TINY.patch
    # `unpatch` has the channel fastest, `patches` slowest: undo the latter by hand
    changed = (
        tokens.unflatten(-1, (TINY.channels, 2, 2)).unflatten(3, (h, w)).permute(0, 1, 2, 5, 3, 6, 4, 7).flatten(6, 7)
    ).flatten(4, 5)
    assert not torch.equal(changed, z)
    assert torch.equal(tiny_model.dit(changed, tau, text, pooled, None, draw.mask, draw.eps), before)


@pytest.mark.parametrize("seed", [0, 1, 2, 3])
def test_masked_training_reaches_every_parameter_of_its_branch(tiny_model, seed):
    z, _, text, pooled = inputs()
    draw = draw_step(z.shape, TINY, (0.0, 1.0), torch.Generator().manual_seed(seed))
    training_loss(tiny_model.dit, z, text, pooled, actions(), draw).backward()
    assert draw.mask is not None
    other = "reconstruction.temporal." if draw.mask.kind == "spatial" else "reconstruction.spatial."
    without = [n for n, p in tiny_model.dit.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    assert without == [n for n in without if n.startswith(other)]


def test_both_branches_are_drawn_and_condition_counts_follow_their_probabilities():
    g = torch.Generator().manual_seed(0)
    draws = [draw_step(torch.Size((8, 6, 1, 4, 4, 8)), TINY, (0.5, 0.0, 0.5), g) for _ in range(100)]
    assert 30 < sum(d.mask is not None and d.mask.kind == "spatial" for d in draws) < 70
    counts = torch.cat([(d.m_c == 0).sum(dim=1) for d in draws])
    assert set(counts.tolist()) == {0, 2}
    assert all((d.tau[d.m_c == 0] == 0).all() for d in draws)


def test_a_share_of_the_batches_is_not_masked():
    g = torch.Generator().manual_seed(0)
    config = replace(TINY, unmasked_share=0.25)
    draws = [draw_step(torch.Size((1, 2, 1, 4, 4, 8)), config, (0.0, 1.0), g) for _ in range(200)]
    assert 30 < sum(d.mask is None for d in draws) < 70


@pytest.mark.parametrize(
    ("which", "shape", "message"),
    [
        (0, (B, T, 1, 5, H, W), r"latents of shape \(2, 5, 1, 5, 4, 8\); wanted \(b t k 4 h w\)"),
        (0, (B, T, 4, H, W), "latents of shape"),
        (0, (B, 0, 1, 4, H, W), "latents of shape"),
        (1, (B, 1), r"tau of shape \(2, 1\); wanted \(2, 5\)"),
        (2, (B, 4, 15), r"text of shape \(2, 4, 15\); wanted \(2, 4, 16\)"),
        (3, (1, 16), r"pooled of shape \(1, 16\); wanted \(2, 16\)"),
        (4, (B, 4, 6), r"actions of shape \(2, 4, 6\); wanted \(2, 4, 7\)"),
    ],
)
def test_inputs_of_another_shape_are_refused(tiny_model, which, shape, message):
    given = [*inputs(), actions()]
    given[which] = torch.zeros(shape)
    with pytest.raises(ConfigError, match=message):
        tiny_model.dit(*given)


def test_odd_latents_are_refused(tiny_model):
    with pytest.raises(ConfigError, match="5x4 does not divide into 2x2 patches"):
        tiny_model.dit(torch.randn(B, T, 1, TINY.channels, 4, 5), torch.rand(B, T), *inputs()[2:])
