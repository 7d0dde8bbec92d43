"""How the model runs: compiled, in bf16, with recomputed activations, without waiting for the device."""

from dataclasses import replace

import pytest
import torch
from conftest import TINY, random_dit

from gwm.core.dit import VideoDiT
from gwm.core.world_model import Draw, draw_mask, training_loss

B, T, K, H, W = 2, 4, 2, 4, 8
CONFIG = replace(TINY, views=2)


def batch(config=CONFIG, kind="time"):
    """Latents, text, pooled text, actions and a masked draw."""
    g = torch.Generator().manual_seed(0)
    z, eps = (torch.randn(B, T, K, config.channels, H, W, generator=g) for _ in range(2))
    text = torch.randn(B, config.text_tokens, config.text_width, generator=g)
    tau = torch.rand(B, T, generator=g)
    mask = draw_mask(B, T, K, H, W, replace(config, mask_kinds=(kind,)), g)
    return z, text, text.mean(1), torch.rand(B, 4, 7, generator=g), Draw(tau, torch.ones(B, T), eps, mask)


@pytest.mark.parametrize("variant", [{}, {"time_attention": "masked"}], ids=str)
def test_layers_compile_without_a_graph_break(variant):
    torch.compiler.reset()  # what other tests compiled counts towards the limit, past which nothing is compiled
    config = replace(CONFIG, depth=2, **variant)
    plain, compiled = random_dit(config), random_dit(config)
    for layer in compiled.layers:
        layer.compile(fullgraph=True, backend="eager")  # a graph break is an error
    loss, other = (training_loss(dit, *batch(config)) for dit in (plain, compiled))
    assert torch.allclose(loss, other)
    other.backward()
    assert all(p.grad is not None for p in compiled.layers.parameters())


@pytest.mark.parametrize("kind", ["spatial", "time"])
def test_bf16_autocast_is_close_to_fp32(kind):
    z, text, pooled, actions, draw = batch(kind=kind)
    dit = random_dit(CONFIG)
    inputs = (z, draw.tau, text, pooled, actions, draw.mask, draw.eps)
    with torch.no_grad():
        expected = dit(*inputs)
        with torch.autocast("cpu", torch.bfloat16):
            out, loss = dit(*inputs), training_loss(dit, z, text, pooled, actions, draw)
    assert (out - expected).norm() < 2e-2 * expected.norm()
    assert loss.dtype == torch.float32


def test_norms_and_the_residual_stream_stay_in_fp32_under_autocast():
    seen = []
    dit = random_dit(CONFIG)
    for module in dit.modules():
        if isinstance(module, torch.nn.LayerNorm):
            module.register_forward_hook(lambda _, args, out: seen.append((args[0].dtype, out.dtype)))
    z, text, pooled, actions, draw = batch()
    with torch.autocast("cpu", torch.bfloat16):
        training_loss(dit, z, text, pooled, actions, draw)
    assert set(seen) == {(torch.float32, torch.float32)}


@pytest.mark.parametrize("kind", ["spatial", "time"])
def test_recomputed_activations_give_the_same_gradients(kind):
    gradients = []
    for config in (CONFIG, replace(CONFIG, checkpointing=True)):
        dit = random_dit(config)
        training_loss(dit, *batch(config, kind)).backward()
        gradients.append([p.grad for p in dit.parameters() if p.grad is not None])
    assert all(torch.equal(a, b) for a, b in zip(*gradients, strict=True))


def test_recomputing_keeps_less():
    """Bytes that stay allocated between forward and backward, the layers' own."""
    kept = []
    for config in (CONFIG, replace(CONFIG, checkpointing=True)):
        dit, sizes = random_dit(config), []

        def keep(x, sizes=sizes):
            sizes.append(x.numel())
            return x

        with torch.autograd.graph.saved_tensors_hooks(keep, lambda x: x):
            training_loss(dit, *batch(config))
        kept.append(sum(sizes))
    assert kept[1] < 0.5 * kept[0]


def test_nothing_in_a_masked_step_waits_for_the_device():
    """A meta tensor has no values: whatever looked at one (`.item()`, a branch on data) would raise."""
    config = replace(CONFIG, checkpointing=False)
    z, text, pooled, actions, draw = batch(config)
    with torch.device("meta"):
        dit = VideoDiT(config)
    training_loss(dit, z.to("meta"), text.to("meta"), pooled.to("meta"), actions.to("meta"), draw.to("meta")).backward()
