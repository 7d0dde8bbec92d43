"""Counted costs: against PyTorch's counter on real tensors."""

from dataclasses import replace

import pytest
import torch
from conftest import SIZE, TINY, tiny_recipe
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from gwm.core import ConfigError
from gwm.core.config import preset
from gwm.core.dit import VideoDiT
from gwm.core.mask import time_mask
from gwm.core.world_model import Draw, training_loss
from gwm.pipelines.cost import count_step, sampling_cost, stage_cost, step_cost
from gwm.pipelines.info import describe_recipe

MASK = time_mask(1, 4, 1, 2, 4, 0.25, torch.Generator())


def real_step(config, t, mask):
    """A training step of one sample on the CPU, counted; attention in its plain form, which the counter knows."""
    z, text = (
        torch.randn(1, t, 1, config.channels, SIZE[1] // 8, SIZE[0] // 8),
        torch.randn(1, config.text_tokens, config.text_width),
    )
    draw = Draw(torch.rand(1, t), torch.ones(1, t), torch.randn_like(z), mask)
    dit = VideoDiT(config)
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
        training_loss(dit, z, text, torch.randn(1, config.pooled_width), torch.randn(1, 4, 7), draw).backward()
    return counter.get_total_flops()


@pytest.mark.parametrize("mask", [None, MASK], ids=["unmasked", "masked"])
@pytest.mark.parametrize("config", [TINY, preset("nano")], ids=["tiny", "nano"])
def test_counted_flops_are_those_of_a_real_step(config, mask):
    assert count_step(config, 4, SIZE, mask)[0] == pytest.approx(real_step(config, 4, mask), rel=0.02)


@pytest.mark.parametrize("mask", [None, MASK], ids=["unmasked", "masked"])
@pytest.mark.parametrize("change", [{}, {"checkpointing": True}, {"time_attention": "masked"}], ids=str)
def test_layers_cost_alike(change, mask):
    config = replace(TINY, depth=7, decoder_depth=3, **change)
    assert step_cost(config, 4, SIZE, mask) == count_step(config, 4, SIZE, mask)


def test_checkpointing_keeps_less_and_counts_the_second_pass():
    config = replace(TINY, depth=6)
    flops, kept = count_step(config, 4, SIZE, MASK)
    again, kept_less = count_step(replace(config, checkpointing=True), 4, SIZE, MASK)
    assert 1.2 * flops < again < 4 / 3 * flops
    assert kept_less < kept / 3


def test_a_deep_models_pass_is_that_of_its_layers():
    config = replace(TINY, depth=7, decoder_depth=3, encoders="none")
    z, text = torch.randn(1, 4, 1, config.channels, 4, 8), torch.randn(1, config.text_tokens, config.text_width)
    with FlopCounterMode(display=False) as counter, torch.no_grad(), sdpa_kernel(SDPBackend.MATH):
        VideoDiT(config)(z, torch.rand(1, 4), text, torch.randn(1, config.pooled_width), torch.randn(1, 4, 7))
    assert sampling_cost(config, 4, (64, 32), 1, 1.0, 3) == counter.get_total_flops()


@pytest.mark.parametrize("mask", [None, MASK], ids=["unmasked", "masked"])
def test_counted_activations_are_those_of_a_real_step(mask):
    """The same hooks around a real bf16 step with fused attention, whose kernel on a CPU keeps about the same."""
    z = torch.randn(1, 4, 1, 4, SIZE[1] // 8, SIZE[0] // 8).bfloat16()
    dit, tau = VideoDiT(TINY).bfloat16(), torch.rand(1, 4).bfloat16()
    weights = {p.untyped_storage().data_ptr() for p in dit.parameters()}
    kept = {}

    def keep(x):
        if x.untyped_storage().data_ptr() not in weights:
            kept[x.untyped_storage().data_ptr()] = x
        return x

    text = torch.randn(1, TINY.text_tokens, TINY.text_width).bfloat16()
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda x: x):
        draw = Draw(tau, torch.ones_like(tau), z, mask)
        training_loss(dit, z, text, text.mean(1), torch.rand(1, 4, 7), draw)
    real = sum(x.untyped_storage().nbytes() for x in kept.values())
    assert count_step(TINY, 4, SIZE, mask)[1] == pytest.approx(real, rel=0.1)


def test_masking_costs_less_and_more_steps_cost_more():
    config = replace(TINY, depth=12, decoder_depth=2)
    assert step_cost(config, 4, SIZE, MASK)[0] < 0.95 * step_cost(config, 4, SIZE, None)[0]
    once = sampling_cost(TINY, 6, SIZE, 1, 1.0, 3)
    passes = sampling_cost(TINY, 6, SIZE, 2, 1.0, 3) - once
    assert sampling_cost(TINY, 6, SIZE, 3, 2.0, 3) == pytest.approx(once + 5 * passes)


def test_gpu_days_follow_from_flops():
    recipe = tiny_recipe(steps=1000)
    cost = stage_cost(recipe, recipe.stages[2], "A800", 0.5)
    assert cost.gpu_days == pytest.approx(1000 * cost.flops / (312e12 * 0.5) / 86_400)
    assert cost.flops > 2 * step_cost(recipe.model, 4, SIZE, MASK)[0]  # two samples, of 4 or 6 frames
    with pytest.raises(ConfigError, match="--gpu knows A100"):
        stage_cost(recipe, recipe.stages[0], "abacus", 0.5)


def test_sd3_medium_is_described_without_memory():
    values = describe_recipe("long", "sd3-medium", "A800", 0.4)
    parts = values["parameters"]
    assert parts["spatial blocks"] + parts["embeddings and output"] == 2_028_328_000  # as diffusers counts SD3-medium
    assert sum(v for k, v in parts.items() if k != "total") == parts["total"]
    assert list(values["stages"]) == ["1a", "1b", "1c", "2"]
    assert values["stage_1_a800_days_of_the_paper"] == 96
    assert "stage_1_a800_days_of_the_paper" not in describe_recipe("long", "sd3-medium", "H100", 0.4)
