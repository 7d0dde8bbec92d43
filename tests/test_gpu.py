"""The same code on CUDA: run by hand on a machine with a GPU, `pytest -m gpu`."""

import pytest
import torch
from conftest import random_dit, tiny_recipe
from test_execution import CONFIG, batch

from gwm.core.world_model import training_loss
from gwm.pipelines.checkpoint import load_checkpoint
from gwm.pipelines.control import held
from gwm.pipelines.rollout import RolloutSettings, generate, make_drive
from gwm.pipelines.start import load_start
from gwm.pipelines.train import train
from gwm.shards.reader import MOTION_AHEAD

pytestmark = pytest.mark.gpu
CUDA = torch.device("cuda")


def on_cuda(inputs):
    return tuple(x.to(CUDA) for x in inputs)


@pytest.mark.parametrize("kind", ["spatial", "time"])
def test_loss_and_gradients_are_those_of_the_cpu(kind):
    dit = random_dit(CONFIG)
    loss = training_loss(dit, *batch(kind=kind))
    loss.backward()
    there = random_dit(CONFIG).to(CUDA)
    other = training_loss(there, *on_cuda(batch(kind=kind)))
    other.backward()
    assert other.item() == pytest.approx(loss.item(), rel=1e-5)
    for p, q in zip(dit.parameters(), there.parameters(), strict=True):
        if p.grad is not None:
            assert torch.allclose(p.grad, q.grad.cpu(), rtol=1e-3, atol=1e-3 * float(p.grad.abs().max()))


@pytest.mark.parametrize("kind", ["spatial", "time"])
def test_a_masked_step_does_not_wait_for_the_gpu(kind):
    dit, inputs = random_dit(CONFIG).to(CUDA), on_cuda(batch(kind=kind))
    training_loss(dit, *inputs).backward()
    torch.cuda.set_sync_debug_mode("error")
    try:
        with torch.autocast("cuda", torch.bfloat16):
            loss = training_loss(dit, *inputs)
        loss.backward()
    finally:
        torch.cuda.set_sync_debug_mode("default")


def test_bf16_and_compiled_layers_are_close_to_fp32():
    plain, compiled = random_dit(CONFIG).to(CUDA), random_dit(CONFIG).to(CUDA)
    for layer in compiled.layers:
        layer.compile(fullgraph=True)
    z, text, pooled, actions, draw = on_cuda(batch())
    outs = []
    with torch.no_grad():
        for dit in (plain, compiled):
            expected = plain(z, draw.tau, text, pooled, actions, draw.mask, draw.eps)
            with torch.autocast("cuda", torch.bfloat16):
                outs.append(dit(z, draw.tau, text, pooled, actions, draw.mask, draw.eps))
            assert (outs[-1] - expected).norm() < 2e-2 * expected.norm()


def test_training_runs_on_the_gpu_and_resumes(tiny_shards, autoencoder, tmp_path):
    recipe = tiny_recipe(steps=3)
    assert not train(tiny_shards, tmp_path / "run", recipe, autoencoder, "cuda", stop_after=5).finished
    assert train(tiny_shards, tmp_path / "run", recipe, autoencoder, "cuda").finished


def test_the_embedded_models_rollout_is_that_of_the_cpu():
    """The noise is drawn on the CPU; rounding grows over the steps, but the latents stay the same."""
    start = load_start(None, (128, 64), 3)
    settings = RolloutSettings(frames=25, steps=4, guidance=2.0)
    motion = held(start.motion, 25 + MOTION_AHEAD)
    latents = []
    for device in ("cpu", "cuda"):
        model = load_checkpoint(None, device).model
        with torch.inference_mode():
            drive = make_drive(model, start.frames, start.text, motion, start.cameras)
            latents += [z.cpu() for z in generate(model, drive, 25, settings)]
    assert (latents[1] - latents[0]).norm() < 1e-2 * latents[0].norm()
