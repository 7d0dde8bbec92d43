"""The rows of the paper's ablation table (without the contrastive loss) are fields: each trains and differs."""

from dataclasses import replace

import pytest
import torch
from conftest import TINY, random_dit

from gwm.core import ConfigError
from gwm.core.blocks import TemporalBlock, ViewBlock, modulate
from gwm.core.config import ModelConfig
from gwm.core.embed import frame_positions
from gwm.core.mask import keep_tokens, spatial_mask, time_mask
from gwm.core.world_model import Draw, draw_mask, draw_step, training_loss

BASE = replace(TINY, views=2)
B, T, K, H, W = 2, 4, 2, 4, 8
VARIANTS = [
    {"mask_token": "p"}, {"mask_token": "noise"}, {"mask_token": "latent"}, {"branches": "shared"},
    {"branch_layers": 2}, {"branches": "shared", "branch_layers": 2}, {"view_attention": "place"},
    {"view_attention": "frame"}, {"decoder_depth": 2}, {"time_attention": "masked"}, {"mask_ratio": 0.5},
    {"mask_kinds": ("spatial",)}, {"checkpointing": True},
]  # fmt: skip


def loss_of(config: ModelConfig) -> torch.Tensor:
    """The training loss of fixed inputs under the time mask (or the one kind there is)."""
    g = torch.Generator().manual_seed(0)
    z, eps = (torch.randn(B, T, K, 4, H, W, generator=g) for _ in range(2))
    text = torch.randn(B, 4, config.text_width, generator=g)
    kinds = config.mask_kinds[-1:]
    mask = draw_mask(B, T, K, H, W, replace(config, mask_kinds=kinds), torch.Generator().manual_seed(1))
    draw = Draw(tau=torch.full((B, T), 0.4), m_c=torch.ones(B, T), eps=eps, mask=mask)
    return training_loss(random_dit(config), z, text, text.mean(1), torch.ones(B, 4, 7) * 0.3, draw)


@pytest.mark.parametrize("variant", VARIANTS, ids=str)
def test_every_variant_trains_and_differs(variant):
    loss = loss_of(replace(BASE, **variant))
    loss.backward()
    assert loss.isfinite()
    same = torch.equal(loss, loss_of(BASE))
    assert same == ("checkpointing" in variant)  # recomputing changes nothing


def test_no_kind_of_mask_and_a_ratio_of_0_are_no_mask():
    for config in (replace(TINY, mask_kinds=()), replace(TINY, mask_ratio=0.0)):
        assert draw_step(torch.Size((2, 3, 1, 4, 4, 8)), config, (1.0,), torch.Generator()).mask is None


def test_only_batches_within_the_tau_range_are_masked():
    config, g = replace(TINY, mask_tau=(0.5, 1.0)), torch.Generator().manual_seed(0)
    draws = [draw_step(torch.Size((4, 3, 1, 4, 4, 8)), config, (1.0,), g) for _ in range(50)]
    assert {d.mask is not None for d in draws} == {True, False}
    assert all((d.tau >= 0.5).all() == (d.mask is not None) for d in draws)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"mask_token": "q"}, "mask_token knows eq3, p, noise, latent, not 'q'"),
        ({"mask_kinds": ("rows",)}, "mask_kinds knows spatial, time, not 'rows'"),
        ({"mask_tau": (0.5, 0.2)}, "must be a range within"),
        ({"mask_tau": (0.5,)}, "mask_tau must be a tuple of 2, not"),
        ({"views": 0}, "views must be a whole number of at least 1, not 0"),
        ({"depth": 3.5}, "depth must be a whole number"),
        ({"heads": 0}, "heads must be a whole number"),
        ({"checkpointing": "no"}, "checkpointing must be true or false"),
        ({"mask_ratio": "a"}, "mask_ratio must be a number"),
        ({"mask_kinds": "spatial"}, "mask_kinds must be a tuple of values"),
        ({"encoders": "sd3"}, "SD3's autoencoder has 16 channels, not 4"),
    ],
)
def test_what_is_no_variant_is_refused(values, message):
    with pytest.raises(ConfigError, match=message):
        replace(TINY, **values)


def random_block(block: torch.nn.Module) -> torch.nn.Module:
    torch.manual_seed(0)
    for parameter in block.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return block


def test_masked_attention_joins_one_place_and_only_what_is_visible():
    """Against the definition: a softmax over the visible frames of one place."""
    block = random_block(TemporalBlock(8, 2, actions=False)).double()
    full, c = torch.randn(1, 5, 1, 6, 8).double(), torch.randn(1, 5, 8).double()
    text = torch.randn(1, 2, 8).double()
    mask = time_mask(1, 5, 1, 2, 3, 1 / 3, torch.Generator().manual_seed(3))
    out = block(keep_tokens(full, mask.ids_keep), text, c, None, mask)
    for place in range(6):
        frames = (~mask.mask[0, :, 0, place]).nonzero()[:, 0]
        places = [int((mask.ids_keep[0, t, 0] == place).nonzero()) for t in frames.tolist()]
        alone = attention_of(block, full[:, :, :, place : place + 1], text, c, frames)
        assert torch.allclose(out[0, frames, 0, places], alone)


def attention_of(block, x, text, c, frames):
    """Dense attention over the frames `frames` of one place x (1 t 1 1 d); the others lie beyond its mask."""
    t, d = x.shape[1], x.shape[-1]
    ids = torch.tensor([i for i in range(t) if i not in frames.tolist()])
    s1, m1, g1, s2, m2, g2, s3, m3, g3 = block.modulation(c)
    y = modulate(block.norm(x), s1, m1)[0, :, 0, 0] + frame_positions(t, d, x.device)
    q, k, v = (z.unflatten(-1, (block.heads, -1)).transpose(0, 1) for z in block.qkv(y).chunk(3, -1))
    scores = q @ k.mT / q.shape[-1] ** 0.5
    scores[..., ids] = -torch.inf
    x = x + g1 * block.out((scores.softmax(-1) @ v).transpose(0, 1).flatten(1))[None, :, None, None]
    x = x + g2 * block.cross_out(block._cross(modulate(block.norm(x), s2, m2), text, None))
    x = x + g3 * block.mlp(modulate(block.norm(x), s3, m3))
    return x[0, frames, 0, 0]


def test_the_view_block_joins_a_row_of_all_views_and_nothing_else():
    reach = {"row": lambda i: i // 4 == 1, "place": lambda i: i == 5, "frame": lambda i: True}
    x, c = torch.randn(1, 2, 3, 8, 16), torch.randn(1, 2, 16)  # 2 rows of 4
    for over, sees in reach.items():
        block = random_block(ViewBlock(16, 2, over))
        other = x.clone()
        other[0, 1, 2, 5] += torch.randn(16)  # row 1
        changed = (block(other, c, 2) - block(x, c, 2)).abs().amax(-1)[0] > 0
        assert not changed[0].any()
        assert changed[1].tolist() == [[sees(i) for i in range(8)]] * 3


def test_a_new_view_block_is_the_identity_and_views_are_told_apart():
    x, c = torch.randn(1, 2, 3, 8, 16), torch.randn(1, 2, 16)
    assert torch.equal(ViewBlock(16, 2, "row")(x, c, 2), x)
    same = torch.randn(1, 1, 1, 8, 16).expand(1, 2, 3, 8, 16)
    out = random_block(ViewBlock(16, 2, "row"))(same, c, 2)
    assert not torch.allclose(out[:, :, 0], out[:, :, 1], atol=1e-3)


def test_rows_of_several_views_keep_equally_many_tokens():
    mask = draw_mask(B, T, K, H, W, replace(BASE, mask_kinds=("spatial",)), torch.Generator())
    assert mask is not None
    assert (mask.mask.unflatten(-1, (2, 4)).sum(-1) == 1).all()
    unstructured = spatial_mask(8, 1, 1, 2, 4, 0.25, torch.Generator().manual_seed(0)).mask
    assert not (unstructured.unflatten(-1, (2, 4)).sum(-1) == 1).all()


@pytest.mark.parametrize("kind", ["spatial", "time"])
def test_gradients_of_the_whole_masked_model(kind):
    """Against finite differences, in float64."""
    config = ModelConfig(
        width=8, heads=2, depth=2, decoder_depth=1, channels=1, text_width=4, pooled_width=4, views=2,
        mask_kinds=(kind,),
    )  # fmt: skip
    model = random_dit(config).double()
    g = torch.Generator().manual_seed(0)
    z, eps = (torch.randn(1, 2, 2, 1, 2, 8, generator=g).double() for _ in range(2))
    text = torch.randn(1, 3, 4, generator=g).double()
    mask = draw_mask(1, 2, 2, 2, 8, config, g)
    draw = Draw(torch.tensor([[0.0, 0.6]]).double(), torch.tensor([[0.0, 1.0]]).double(), eps, mask)
    values = torch.rand(1, 4, 7, generator=g).double()

    def loss() -> torch.Tensor:
        return training_loss(model, z, text, text.mean(1), values, draw)

    loss().backward()
    for parameter in model.parameters():
        if parameter.grad is None:  # the other branch
            continue
        direction = torch.randn(parameter.shape, generator=g).double()
        with torch.no_grad():
            parameter += 1e-5 * direction
            above = loss()
            parameter -= 2e-5 * direction
            below = loss()
            parameter += 1e-5 * direction
        slope = (parameter.grad * direction).sum()
        assert torch.isclose((above - below) / 2e-5, slope, rtol=1e-5, atol=1e-8)
