"""A student that samples in few steps, by chord distillation. Not in the paper.

The student's sampler takes S Euler steps without guidance. Between two of its times the teacher takes several steps
with guidance; the student learns the chord, the mean velocity of that part of the teacher's path. A perfect student
ends where the teacher does.

Axes: b batch, t frames, k views, c channels, h w latent places.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from gwm.core.dit import VideoDiT
from gwm.core.flow import flow_errors, interpolate, per_frame
from gwm.core.sampler import Conditions, Velocity, guided, tau_schedule
from gwm.core.world_model import Draw, noised

TEACHER_STEPS = 4  # M, of the teacher in one of the student's


def on_grid(
    draw: Draw, steps: int, shift: float, batch: int, generator: torch.Generator, rows: slice = slice(None)
) -> Draw:
    """`draw`, which holds the samples `rows` of a batch, with one of the student's `steps` steps for each sample.

    τ is where the step begins, `following` where it ends. There is no mask. Each sample has the same step whichever
    rows are asked for.
    """
    schedule = tau_schedule(steps, shift)
    i = torch.randint(steps, (batch,), generator=generator)[rows]
    return replace(draw, tau=schedule[i, None] * draw.m_c, following=schedule[i + 1, None] * draw.m_c, mask=None)


@torch.no_grad()
def chord(
    velocity: Velocity, z: Tensor, tau: Tensor, following: Tensor, scale: float, steps: int = TEACHER_STEPS
) -> Tensor:
    """Mean velocity of the path from z (b t k c h w) at `tau` (b t) to `following` (b t), in equal Euler steps.

    z minus the chord times (tau - following) is where the path ends. Frames whose two times are equal, such as
    condition frames, stay. `scale`: of the guidance.
    """
    length = per_frame(following - tau) / steps
    total = torch.zeros_like(z)
    for j in range(steps):
        v = velocity(z, torch.lerp(tau, following, j / steps), scale).to(z.dtype)
        z, total = z + length * v, total + v
    return total / steps


def distillation_errors(
    student: VideoDiT, teacher: VideoDiT, z_0: Tensor, given: Conditions, told: Conditions, untold: Conditions,
    scale: float, draw: Draw,
) -> Tensor:  # fmt: skip
    """Squared errors (b t k h w) of the student's velocity against the teacher's chord: clean latents (b t k c h w).

    given: the student's conditions. told, untold: the teacher's, and those that its guidance subtracts. The teacher
    sees the true condition frames; those that are imagined for the student are of the teacher, which knows every τ.
    """
    assert draw.following is not None

    def network(*inputs: Tensor | None) -> Tensor:
        return teacher(*inputs).to(z_0.dtype)  # type: ignore[no-any-return]  # guidance would enlarge bf16's rounding

    z_tau = interpolate(z_0, draw.eps, draw.tau)
    target = chord(guided(network, told, untold), z_tau, draw.tau, draw.following, scale)
    shown = noised(teacher, z_0, *told, draw)
    return flow_errors(student(shown, draw.tau, *given), target)
