"""Training steps and forward passes side by side: masking, blocks, diffusers' SD3, compilation, matmul peak, memory.

    python -m benchmarks.model --json OUT

Variants are interleaved: a round times two steps of each, one with each kind of mask. What is printed are medians over
rounds of ratios within a round: the machine may be slow or noisy, the ratios are not. Six views cost as much as all
the rest: they run at half the batch, in rounds of their own. Memory is also measured at a large batch, where weights
and optimizer state, which no mask makes smaller, count for little.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import resource
import time
from collections.abc import Callable
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from gwm.core.config import ModelConfig
from gwm.core.dit import VideoDiT
from gwm.core.world_model import Draw, draw_mask, training_loss
from gwm.shards.files import write_json

BASE = ModelConfig(
    width=256, heads=4, depth=12, decoder_depth=2, channels=16, text_tokens=16, text_width=256, pooled_width=256,
    actions=False, mask_kinds=(),
)  # fmt: skip
T, H, W = 8, 18, 32  # frames and latent places: 9x16 tokens
R25, R50 = (replace(BASE, mask_kinds=("spatial", "time"), mask_ratio=r) for r in (0.25, 0.5))
VARIANTS: dict[str, tuple[ModelConfig, int]] = {  # name -> model and views
    "r=0": (replace(BASE, reconstruction=False), 1),
    "r=.25": (R25, 1),
    "r=.5": (R50, 1),
    "masked attention, r=.25": (replace(R25, mask_kinds=("time",), time_attention="masked"), 1),
    "without temporal blocks": (replace(BASE, reconstruction=False, temporal=False), 1),
}
SIX_VIEWS: dict[str, tuple[ModelConfig, int]] = {
    "six views": (replace(BASE, reconstruction=False, views=6), 6),
    "six views without view blocks": (replace(BASE, reconstruction=False), 6),
}
LARGE_BATCH = 16

Step = Callable[[], object]


def step_of(module: nn.Module, loss: Callable[[int], Tensor]) -> Step:
    """A full training step: forward, backward, AdamW."""
    optimizer, count = torch.optim.AdamW(module.parameters(), lr=1e-4, fused=True), iter(range(10**9))

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        loss(next(count)).backward()
        optimizer.step()

    return step


def inputs(config: ModelConfig, views: int, batch: int) -> tuple[Tensor, Tensor, Tensor]:
    """Latents, text, pooled text; more views than the model has become samples."""
    b, k = (batch, views) if config.views >= views else (batch * views, 1)
    z = torch.randn(b, T, k, config.channels, H, W)
    return z, torch.randn(b, config.text_tokens, config.text_width), torch.randn(b, config.pooled_width)


def training_step(config: ModelConfig, views: int, batch: int, compiled: bool = False) -> Step:
    """The step of a variant; with both kinds of mask, every second step draws the other."""
    torch.manual_seed(0)
    dit = VideoDiT(config)
    z, text, pooled = inputs(config, views, batch)
    b, t, k, _, h, w = z.shape
    g = torch.Generator().manual_seed(0)
    masks = [draw_mask(b, t, k, h, w, replace(config, mask_kinds=(kind,)), g) for kind in config.mask_kinds] or [None]
    draws = [Draw(torch.rand(b, t), torch.ones(b, t), torch.randn_like(z), mask) for mask in masks]
    if compiled:
        for layer in dit.layers:
            layer.compile()
    return step_of(dit, lambda i: training_loss(dit, z, text, pooled, None, draws[i % len(draws)]))


def diffusers_step(config: ModelConfig, batch: int) -> Step:
    """diffusers' SD3 of the same shape on as many frames."""
    from diffusers import SD3Transformer2DModel

    torch.manual_seed(0)
    model: Any = SD3Transformer2DModel(
        sample_size=128, patch_size=2, in_channels=16, out_channels=16, num_layers=config.depth,
        attention_head_dim=config.width // config.heads, num_attention_heads=config.heads,
        joint_attention_dim=config.text_width, caption_projection_dim=config.width,
        pooled_projection_dim=config.pooled_width, pos_embed_max_size=96,
    )  # fmt: skip
    z, tau = torch.randn(batch * T, 16, H, W), torch.rand(batch * T) * 1000
    text = torch.randn(batch * T, config.text_tokens, config.text_width)
    pooled = torch.randn(batch * T, config.pooled_width)
    return step_of(model, lambda _: model(z, text, pooled, tau).sample.square().mean())


def seconds(step: Step, repeats: int) -> float:
    """Wall time of one call."""
    began = time.perf_counter()
    for _ in range(repeats):
        step()
    return (time.perf_counter() - began) / repeats


def rounds_of(steps: dict[str, Step], rounds: int) -> dict[str, list[float]]:
    """Seconds of every step in every round, after a warm-up of two; two calls a time, so both masks count."""
    for step in steps.values():
        seconds(step, 2)
    times: dict[str, list[float]] = {name: [] for name in steps}
    for _ in range(rounds):
        for name, step in steps.items():
            times[name].append(seconds(step, 2))
    return times


def ratio(times: dict[str, list[float]], name: str, base: str) -> float:
    """Median over rounds of the ratio within a round."""
    return median(a / b for a, b in zip(times[name], times[base], strict=True))


def forward_efficiency(config: ModelConfig, views: int, batch: int, rounds: int) -> dict[str, float]:
    """FLOP/s of a forward pass, as it is and compiled, over that of a matrix product, interleaved."""
    torch._dynamo.reset()  # else earlier variants of the layer count towards its limit of recompilations
    dit = VideoDiT(config)
    compiled = deepcopy(dit)
    for layer in compiled.layers:
        layer.compile()
    z, text, pooled = inputs(config, views, batch)
    tau = torch.rand(z.shape[:2])
    with torch.device("meta"), FlopCounterMode(display=False) as counter:
        VideoDiT(config)(*(x.to("meta") for x in (z, tau, text, pooled)))
    flops, side = counter.get_total_flops(), 2048
    a, b = torch.randn(side, side), torch.randn(side, side)
    passes = {
        "share_of_matmul": lambda: dit(z, tau, text, pooled),
        "share_of_matmul_compiled": lambda: compiled(z, tau, text, pooled),
    }
    with torch.no_grad():
        times = rounds_of(passes | {"matmul": lambda: a @ b}, rounds)
    peak = [2 * side**3 / t for t in times["matmul"]]
    shares = {name: median(flops / t / p for t, p in zip(times[name], peak, strict=True)) for name in passes}
    return {"matmul_gflops": median(peak) / 1e9, "forward_gflop": flops / 1e9} | shares


def _peak(config: ModelConfig | None, views: int, batch: int, threads: int, queue: multiprocessing.Queue[int]) -> None:
    torch.set_num_threads(threads)
    if config is not None:
        seconds(training_step(config, views, batch), 4)
    queue.put(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)


def peak_memory(config: ModelConfig | None, views: int, batch: int) -> float:
    """Peak resident MB of a process of its own that makes four steps; of one that makes none for None."""
    context = multiprocessing.get_context("spawn")
    queue: multiprocessing.Queue[int] = context.Queue()
    process = context.Process(target=_peak, args=(config, views, batch, torch.get_num_threads(), queue))
    process.start()
    process.join()
    if process.exitcode:
        raise RuntimeError(f"the process that measures memory ended with {process.exitcode}")
    return queue.get() / 1024


def run(batch: int, text_tokens: int, rounds: int) -> dict[str, object]:
    """Everything, as one record."""
    one, six = (
        {name: (replace(config, text_tokens=text_tokens), k) for name, (config, k) in table.items()}
        for table in (VARIANTS, SIX_VIEWS)
    )
    few = max(1, batch // 2)
    # memory first: a new process counts the peak of the one that started it as its own
    idle = peak_memory(None, 1, batch)
    memory = {name: peak_memory(config, k, batch) - idle for name, (config, k) in one.items()}
    six_memory = {name: peak_memory(config, k, few) - idle for name, (config, k) in six.items()}
    large = {name: peak_memory(*one[name], LARGE_BATCH) - idle for name in ("r=0", "r=.25", "r=.5")}
    steps = {name: training_step(config, k, batch) for name, (config, k) in one.items()}
    steps["diffusers SD3"] = diffusers_step(one["without temporal blocks"][0], batch)
    for name in ("r=0", "r=.25"):
        steps[f"{name}, compiled"] = training_step(*one[name], batch, compiled=True)
    times = rounds_of(steps, rounds)
    del steps
    six_times = rounds_of(
        {name: training_step(config, k, few) for name, (config, k) in six.items()}, max(1, rounds // 3)
    )
    return {
        "threads": torch.get_num_threads(), "torch": torch.__version__, "text_tokens": text_tokens, "rounds": rounds,
        "batch": batch, "batch_of_six_views": few, "large_batch": LARGE_BATCH,
        "seconds": {name: median(values) for name, values in (times | six_times).items()},
        "ratio_to_r=0": {name: ratio(times, name, "r=0") for name in times},
        "ratio": {
            "without temporal blocks / diffusers SD3": ratio(times, "without temporal blocks", "diffusers SD3"),
            "six views / six views without view blocks": ratio(six_times, *six),
        },
        "idle_mb": idle, "memory_mb": memory | six_memory, "memory_mb_of_large_batch": large,
        "memory_ratio_to_r=0": {name: value / memory["r=0"] for name, value in memory.items()},
        "memory_ratio_of_large_batch": {name: value / large["r=0"] for name, value in large.items()},
        "forward": {
            "r=0": forward_efficiency(*one["r=0"], batch, rounds),
            "six views": forward_efficiency(*six["six views"], few, rounds),
        },
    }  # fmt: skip


def main() -> None:
    """Parse, run, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="file for the record")
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--text-tokens", type=int, default=16)
    parser.add_argument("--threads", type=int, default=2)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    record = run(given.batch, given.text_tokens, given.rounds)
    print(json.dumps(record, indent=2))
    if given.json:
        write_json(given.json, record)


if __name__ == "__main__":
    main()
