"""Inception-v3 of FID and I3D of FVD once more, as plain functions of a state dict: slow, and without modules."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional

State = dict[str, Tensor]


def _unit2(state: State, x: Tensor, name: str, stride: int = 1, padding: tuple[int, int] = (0, 0)) -> Tensor:
    """Convolution, batch norm by its formula, ReLU."""
    w = {k.removeprefix(f"{name}."): v.to(x.dtype) for k, v in state.items() if k.startswith(f"{name}.")}
    x = functional.conv2d(x, w["conv.weight"], stride=stride, padding=padding)
    c = (slice(None), None, None)
    x = (x - w["bn.running_mean"][c]) / torch.sqrt(w["bn.running_var"][c] + 1e-3)
    return (x * w["bn.weight"][c] + w["bn.bias"][c]).clamp_min(0)


def mean_of_neighbours(x: Tensor) -> Tensor:
    """3x3 sums over counts of pixels inside."""
    ones = torch.ones_like(x[:1, :1])
    kernel = x.new_ones(1, 1, 3, 3)
    count = functional.conv2d(ones, kernel, padding=1)
    return functional.conv2d(x.flatten(0, 1)[:, None], kernel, padding=1).reshape(x.shape) / count


def max_of_neighbours(x: Tensor, stride: int = 1, padding: int = 0) -> Tensor:
    """3x3 maxima."""
    x = functional.pad(x, [padding] * 4, value=-math.inf)
    return x.unfold(2, 3, stride).unfold(3, 3, stride).amax((-1, -2))


def inception_reference(state: State, x: Tensor) -> Tensor:
    """(n 3 299 299) in [-1, 1] -> (n 2048), in the precision of x."""
    shape = {"1": (0, 0), "3": (1, 1), "5": (2, 2), "across": (0, 3), "down": (3, 0)}

    def chain(x: Tensor, block: str, *steps: str) -> Tensor:
        """Steps "name:shape", or "name/2" for stride 2 without padding."""
        for step in steps:
            name, _, form = step.partition(":")
            name, _, stride = name.partition("/")
            x = _unit2(state, x, f"{block}.{name}" if block else name, int(stride or 1), shape[form or "1"])
        return x

    x = chain(x, "", "Conv2d_1a_3x3/2", "Conv2d_2a_3x3", "Conv2d_2b_3x3:3")
    x = chain(max_of_neighbours(x, 2), "", "Conv2d_3b_1x1", "Conv2d_4a_3x3")
    x = max_of_neighbours(x, 2)
    for block in ("Mixed_5b", "Mixed_5c", "Mixed_5d"):
        five = chain(x, block, "branch5x5_1", "branch5x5_2:5")
        double = chain(x, block, "branch3x3dbl_1", "branch3x3dbl_2:3", "branch3x3dbl_3:3")
        pool = chain(mean_of_neighbours(x), block, "branch_pool")
        x = torch.cat([chain(x, block, "branch1x1"), five, double, pool], 1)
    double = chain(x, "Mixed_6a", "branch3x3dbl_1", "branch3x3dbl_2:3", "branch3x3dbl_3/2")
    x = torch.cat([chain(x, "Mixed_6a", "branch3x3/2"), double, max_of_neighbours(x, 2)], 1)
    for block in ("Mixed_6b", "Mixed_6c", "Mixed_6d", "Mixed_6e"):
        seven = chain(x, block, "branch7x7_1", "branch7x7_2:across", "branch7x7_3:down")
        forms = ("1", "down", "across", "down", "across")
        double = chain(x, block, *(f"branch7x7dbl_{i}:{form}" for i, form in enumerate(forms, 1)))
        pool = chain(mean_of_neighbours(x), block, "branch_pool")
        x = torch.cat([chain(x, block, "branch1x1"), seven, double, pool], 1)
    steps = ("branch7x7x3_1", "branch7x7x3_2:across", "branch7x7x3_3:down", "branch7x7x3_4/2")
    three = chain(x, "Mixed_7a", "branch3x3_1", "branch3x3_2/2")
    x = torch.cat([three, chain(x, "Mixed_7a", *steps), max_of_neighbours(x, 2)], 1)
    for block, pooled in (("Mixed_7b", mean_of_neighbours), ("Mixed_7c", lambda x: max_of_neighbours(x, padding=1))):
        one, three = chain(x, block, "branch1x1"), chain(x, block, "branch3x3_1")
        double = chain(x, block, "branch3x3dbl_1", "branch3x3dbl_2:3")
        split = [
            _unit2(state, y, f"{block}.{name}{side}", padding=padding)
            for y, name in ((three, "branch3x3_2"), (double, "branch3x3dbl_3"))
            for side, padding in (("a", (0, 1)), ("b", (1, 0)))
        ]
        x = torch.cat([one, *split, chain(pooled(x), block, "branch_pool")], 1)
    return x.flatten(2).mean(2)


def same_padding(length: int, kernel: int, stride: int) -> tuple[int, int]:
    """TensorFlow's "SAME", in the words of its documentation: before and behind."""
    total = max(kernel - stride, 0) if length % stride == 0 else max(kernel - length % stride, 0)
    return total // 2, total - total // 2


def _pad3(x: Tensor, kernel: tuple[int, int, int], stride: tuple[int, int, int], value: float) -> Tensor:
    pads = [same_padding(n, k, s) for n, k, s in zip(x.shape[2:], kernel, stride, strict=True)]
    return functional.pad(x, [side for pad in reversed(pads) for side in pad], value=value)


def _unit3(state: State, x: Tensor, name: str, kernel: int = 1, stride: int = 1) -> Tensor:
    w = {k.removeprefix(f"{name}."): v.to(x.dtype) for k, v in state.items() if k.startswith(f"{name}.")}
    x = functional.conv3d(_pad3(x, (kernel,) * 3, (stride,) * 3, 0), w["conv3d.weight"], stride=stride)
    c = (slice(None), None, None, None)
    x = (x - w["bn.running_mean"][c]) / torch.sqrt(w["bn.running_var"][c] + 1e-3)
    return (x * w["bn.weight"][c] + w["bn.bias"][c]).clamp_min(0)


def _max3(x: Tensor, kernel: tuple[int, int, int], stride: tuple[int, int, int]) -> Tensor:
    x = _pad3(x, kernel, stride, -math.inf)
    for axis in range(3):
        x = x.unfold(2 + axis, kernel[axis], stride[axis]).amax(-1)
    return x


def i3d_reference(state: State, x: Tensor) -> Tensor:
    """(n 3 t 224 224) in [-1, 1] -> (n 400), in the precision of x."""
    x = _max3(_unit3(state, x, "Conv3d_1a_7x7", 7, 2), (1, 3, 3), (1, 2, 2))
    x = _unit3(state, _unit3(state, x, "Conv3d_2b_1x1"), "Conv3d_2c_3x3", 3)
    x = _max3(x, (1, 3, 3), (1, 2, 2))
    for block in ("3b", "3c", "4a", "4b", "4c", "4d", "4e", "4f", "5a", "5b", "5c"):
        if block.endswith("a"):
            size = (3, 3, 3) if block == "4a" else (2, 2, 2)
            x = _max3(x, size, (2, 2, 2))
            continue
        one, pooled = _unit3(state, x, f"Mixed_{block}.b0"), _max3(x, (3, 3, 3), (1, 1, 1))
        pairs = [_unit3(state, _unit3(state, x, f"Mixed_{block}.b{i}a"), f"Mixed_{block}.b{i}b", 3) for i in (1, 2)]
        x = torch.cat([one, *pairs, _unit3(state, pooled, f"Mixed_{block}.b3b")], 1)
    means = (x[:, :, 1:] + x[:, :, :-1]).mean((3, 4)) / 2  # n 1024 t-1, over two steps each
    weight, bias = (state[f"logits.conv3d.{kind}"].to(x.dtype) for kind in ("weight", "bias"))
    logits = torch.einsum("n c t, k c -> n k t", means, weight[:, :, 0, 0, 0]) + bias[:, None]
    return logits.mean(2)
