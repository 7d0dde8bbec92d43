"""Against diffusers: the spatial stack is Stable Diffusion 3's transformer, and weights go both ways."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from gwm.core import WeightsError
from gwm.core.config import ModelConfig
from gwm.core.dit import VideoDiT
from gwm.core.sd3 import from_diffusers, to_diffusers

SD3Transformer2DModel = pytest.importorskip("diffusers").SD3Transformer2DModel

SMALL = ModelConfig(
    width=64, heads=4, depth=3, decoder_depth=1, channels=4, text_width=24, pooled_width=20, position_grid=24,
    position_base=16, temporal=False, reconstruction=False, actions=False,
)  # fmt: skip
DEEP = ModelConfig(
    width=96, heads=2, depth=5, decoder_depth=2, channels=16, text_width=32, pooled_width=32, position_grid=16,
    position_base=16, temporal=False, reconstruction=False, actions=False,
)  # fmt: skip
MEDIUM_WIDTH = ModelConfig(
    width=1536, heads=24, depth=2, decoder_depth=1, channels=16, text_width=4096, pooled_width=2048, position_grid=48,
    position_base=16, temporal=False, reconstruction=False, actions=False,
)  # fmt: skip


def theirs(config: ModelConfig) -> torch.nn.Module:
    """diffusers' model of the same shape, with all weights random (its adaptive norms are not zero-initialised)."""
    torch.manual_seed(0)
    model: torch.nn.Module = SD3Transformer2DModel(
        sample_size=config.position_base * config.patch, patch_size=config.patch, in_channels=config.channels,
        num_layers=config.depth, attention_head_dim=config.width // config.heads, num_attention_heads=config.heads,
        joint_attention_dim=config.text_width, caption_projection_dim=config.width,
        pooled_projection_dim=config.pooled_width, out_channels=config.channels,
        pos_embed_max_size=config.position_grid,
    ).eval()  # fmt: skip
    return model


def inputs(config: ModelConfig, h: int, w: int, s: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Latent (2 c h w), τ (2,), text (2 s e) and pooled text (2 e)."""
    g = torch.Generator().manual_seed(1)
    draw = lambda *shape: torch.randn(*shape, generator=g)  # noqa: E731
    return (
        draw(2, config.channels, h, w),
        torch.tensor([0.3, 0.85]),
        draw(2, s, config.text_width),
        draw(2, config.pooled_width),
    )


@pytest.mark.parametrize(
    ("config", "h", "w", "s"), [(SMALL, 8, 14, 7), (SMALL, 18, 6, 1), (DEEP, 10, 32, 20), (MEDIUM_WIDTH, 18, 32, 21)]
)
def test_one_frame_equals_sd3(config: ModelConfig, h: int, w: int, s: int):
    z, tau, text, pooled = inputs(config, h, w, s)
    model, reference = VideoDiT(config), theirs(config)
    model.load_state_dict(from_diffusers(reference.state_dict(), config))
    with torch.no_grad():
        expected = reference(z, text, pooled, tau * 1000).sample
        out = model(z[:, None, None], tau[:, None], text, pooled)[:, 0, 0]
    assert expected.std() > 0.1
    assert (out - expected).abs().max() < 2e-5


def test_export_gives_the_tensors_back():
    state = theirs(SMALL).state_dict()
    back = to_diffusers(from_diffusers(state, SMALL), SMALL)
    assert back.keys() == state.keys()
    assert all(torch.equal(back[name], state[name]) for name in state)


def test_every_missing_and_surplus_tensor_is_named():
    state = theirs(SMALL).state_dict()
    del state["proj_out.bias"], state["transformer_blocks.1.attn.to_q.weight"]
    state["transformer_blocks.0.attn.norm_q.weight"] = torch.ones(16)  # SD 3.5 normalises queries and keys
    with pytest.raises(WeightsError) as error:
        from_diffusers(state, SMALL)
    for problem in (
        "missing proj_out.bias",
        "missing transformer_blocks.1.attn.to_q.weight",
        "surplus transformer_blocks.0.attn.norm_q.weight",
    ):
        assert problem in str(error.value)


def test_trained_positions_are_refused():
    state = theirs(SMALL).state_dict()
    state["pos_embed.pos_embed"] += 0.01
    with pytest.raises(WeightsError, match=r"differs by up to 0\.01"):
        from_diffusers(state, SMALL)
