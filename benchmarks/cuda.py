"""The paper's width on one CUDA GPU: time, memory and utilisation of training steps, against what `gwm info` counts.

    python -m benchmarks.cuda --json OUT

Variants run one after another, each alone on the GPU; the first runs again at the end, as a check of drift. At the full
width the state of AdamW leaves room for half of the layers without recomputing (80 GB); the full depth is run with it.
"""

from __future__ import annotations

import argparse
import gc
import json
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch import Tensor, nn

from gwm.core.config import ModelConfig, preset
from gwm.core.dit import VideoDiT
from gwm.core.world_model import Draw, draw_mask, training_loss
from gwm.pipelines.cost import PEAK, sampling_cost, step_cost
from gwm.shards.files import write_json

SIZE = (512, 288)  # pixels
STATE_BYTES = 16  # per parameter: fp32 weight, gradient, two Adam moments

Measured = dict[str, float]


def variants(layers: int, width: int) -> dict[str, ModelConfig]:
    """The models: `layers` layers unless the name says otherwise."""
    full = replace(preset("sd3-medium"), encoders="none", actions=False, width=width, heads=width // 64)
    r25 = replace(full, depth=layers, decoder_depth=max(1, layers * full.decoder_depth // full.depth))
    r0 = replace(r25, reconstruction=False, mask_kinds=())
    return {
        "r=0": r0,
        "r=.25": r25,
        "r=.5": replace(r25, mask_ratio=0.5),
        "masked attention, r=.25": replace(r25, mask_kinds=("time",), time_attention="masked"),
        "without temporal blocks": replace(r0, temporal=False),
        "r=0, recomputing": replace(r0, checkpointing=True),
        "r=.25, recomputing": replace(r25, checkpointing=True),
        "full depth, r=.25, recomputing": replace(full, checkpointing=True),
    }


def draws_of(config: ModelConfig, batch: int, t: int, device: torch.device) -> list[Draw]:
    """One random draw for each kind of mask."""
    h, w = SIZE[1] // 8, SIZE[0] // 8
    g = torch.Generator().manual_seed(0)
    masks = [draw_mask(batch, t, 1, h, w, replace(config, mask_kinds=(kind,)), g) for kind in config.mask_kinds] or [
        None
    ]
    shape = (batch, t, 1, config.channels, h, w)
    return [Draw(torch.rand(batch, t), torch.ones(batch, t), torch.randn(shape), mask).to(device) for mask in masks]


def measure(
    module: nn.Module, loss: Callable[[int], Tensor], device: torch.device, kinds: int, rounds: int
) -> Measured:
    """Full training steps in bf16 autocast with AdamW: seconds (mean over `kinds`, median over rounds), peak GB."""
    optimizer = torch.optim.AdamW(module.parameters(), lr=1e-4, fused=True)

    def step(i: int) -> None:
        optimizer.zero_grad(set_to_none=True)
        with torch.autocast(device.type, torch.bfloat16):
            value = loss(i)
        value.backward()
        optimizer.step()

    for i in range(2 * kinds):
        step(i)
    _wait(device)
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    seconds = []
    for _ in range(rounds):
        began = time.perf_counter()
        for i in range(kinds):
            step(i)
        _wait(device)
        seconds.append((time.perf_counter() - began) / kinds)
    peak = torch.cuda.max_memory_allocated() if device.type == "cuda" else 0
    return {"seconds": median(seconds), "peak_gb": peak / 1e9}


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()


def training(
    config: ModelConfig, batch: int, t: int, device: torch.device, gpu: str, rounds: int, compiled: bool
) -> Measured:
    """A variant's measurements, with its counted FLOPs and activations beside them."""
    torch.manual_seed(0)
    with device:
        dit = VideoDiT(config)
        z = torch.randn(batch, t, 1, config.channels, SIZE[1] // 8, SIZE[0] // 8)
        text = torch.randn(batch, config.text_tokens, config.text_width)
        pooled = torch.randn(batch, config.pooled_width)
    draws = draws_of(config, batch, t, device)
    if compiled:
        for layer in dit.layers:
            layer.compile()
    out = measure(
        dit, lambda i: training_loss(dit, z, text, pooled, None, draws[i % len(draws)]), device, len(draws), rounds
    )
    costs = [step_cost(config, t, SIZE, draw.mask) for draw in draws_of(config, 1, t, torch.device("cpu"))]
    parameters = sum(p.numel() for p in dit.parameters())
    flops = batch * sum(flops for flops, _ in costs) / len(costs)
    return {
        **out, "parameters": parameters, "state_gb": parameters * STATE_BYTES / 1e9, "tflop": flops / 1e12,
        "counted_activations_gb": batch * max(kept for _, kept in costs) / 1e9,
        "utilisation": flops / out["seconds"] / PEAK[gpu],
    }  # fmt: skip


def diffusers(config: ModelConfig, frames: int, device: torch.device, rounds: int) -> Measured:
    """diffusers' SD3 of the same shape on as many frames."""
    from diffusers import SD3Transformer2DModel

    torch.manual_seed(0)
    with device:
        model: Any = SD3Transformer2DModel(
            sample_size=128, patch_size=2, in_channels=16, out_channels=16, num_layers=config.depth,
            attention_head_dim=64, num_attention_heads=config.heads, joint_attention_dim=config.text_width,
            caption_projection_dim=config.width, pooled_projection_dim=config.pooled_width, pos_embed_max_size=192,
        )  # fmt: skip
        z, tau = torch.randn(frames, 16, SIZE[1] // 8, SIZE[0] // 8), torch.rand(frames) * 1000
        text, pooled = (
            torch.randn(frames, config.text_tokens, config.text_width),
            torch.randn(frames, config.pooled_width),
        )
    return measure(model, lambda _: model(z, text, pooled, tau).sample.float().square().mean(), device, 1, rounds)


def sampling(config: ModelConfig, t: int, device: torch.device, gpu: str, rounds: int) -> Measured:
    """One pass of the full model in bf16 over a window of t frames, without gradients."""
    with device:
        dit = VideoDiT(config).to(torch.bfloat16)
        z = torch.randn(1, t, 1, config.channels, SIZE[1] // 8, SIZE[0] // 8, dtype=torch.bfloat16)
        text, pooled = torch.randn(1, config.text_tokens, config.text_width), torch.randn(1, config.pooled_width)
    inputs = (z, torch.rand(1, t, device=device).bfloat16(), text.bfloat16(), pooled.bfloat16())
    seconds = []
    with torch.no_grad():
        for _ in range(rounds + 2):
            began = time.perf_counter()
            dit(*inputs)
            _wait(device)
            seconds.append(time.perf_counter() - began)
    once = median(seconds[2:])
    flops = sampling_cost(config, t, SIZE, 1, 1.0, 0) * t
    return {"seconds": once, "tflop": flops / 1e12, "utilisation": flops / once / PEAK[gpu]}


def run(
    device: torch.device, gpu: str, layers: int, width: int, batch: int, frames: int, rounds: int
) -> dict[str, Any]:
    """Everything, as one record."""
    models = variants(layers, width)
    jobs: dict[str, Callable[[], Measured]] = {
        name: lambda config=config: training(config, batch, frames, device, gpu, rounds, compiled=False)
        for name, config in models.items()
    }
    jobs["diffusers SD3"] = lambda: diffusers(models["without temporal blocks"], batch * frames, device, rounds)
    full = replace(models["full depth, r=.25, recomputing"], reconstruction=False, checkpointing=False)
    jobs["full depth, one pass over 25 frames, no gradients"] = lambda: sampling(full, 25, device, gpu, rounds)
    for name in ("r=0", "r=.25"):
        config = models[name]
        jobs[f"{name}, compiled"] = lambda config=config: training(
            config, batch, frames, device, gpu, rounds, compiled=True
        )
    jobs["r=0 again"] = jobs["r=0"]
    measured: dict[str, Measured] = {}
    for name, job in jobs.items():
        try:
            measured[name] = job()
        except torch.OutOfMemoryError:
            print(f"{name}: does not fit in this GPU's memory", flush=True)
        else:
            print(name, json.dumps(measured[name]), flush=True)
        gc.collect()
        torch.cuda.empty_cache()
    base = measured["r=0"]
    trained = [name for name, values in measured.items() if "peak_gb" in values and not name.startswith("full depth")]
    return {
        "gpu": torch.cuda.get_device_name() if device.type == "cuda" else "none", "torch": torch.__version__,
        "size": SIZE, "frames": frames, "layers": layers, "width": width, "batch": batch, "rounds": rounds,
        "measured": measured,
        "seconds_ratio_to_r=0": {name: measured[name]["seconds"] / base["seconds"] for name in trained},
        "memory_ratio_to_r=0": {name: measured[name]["peak_gb"] / max(base["peak_gb"], 1e-9) for name in trained},
    }  # fmt: skip


def main() -> None:
    """Parse, run, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="file for the record")
    parser.add_argument("--gpu", choices=PEAK, default="H100", help="whose datasheet peak utilisation is a share of")
    parser.add_argument("--layers", type=int, default=12)
    parser.add_argument("--width", type=int, default=1536)
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--frames", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=7)
    given = parser.parse_args()
    if not torch.cuda.is_available():
        parser.error("this machine has no usable CUDA GPU; benchmarks.model measures on a CPU")
    record = run(torch.device("cuda"), given.gpu, given.layers, given.width, given.batch, given.frames, given.rounds)
    print(json.dumps(record, indent=2))
    if given.json:
        write_json(given.json, record)


if __name__ == "__main__":
    main()
