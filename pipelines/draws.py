"""What is random in a training step, and drawing it while the step before is at work."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from gwm.core.actions import only_modes
from gwm.core.config import AUTOENCODER_FACTOR
from gwm.core.distill import on_grid
from gwm.core.world_model import Draw, draw_step
from gwm.pipelines.ahead import one_ahead
from gwm.pipelines.feed import Order
from gwm.pipelines.recipe import Recipe, Stage
from gwm.pipelines.team import Team


@dataclass(frozen=True)
class Drops:
    """Which conditions the b samples of a batch go without."""

    text: list[bool]  # these have none
    modes: list[str] | None  # the kind of actions that each keeps, or "none"; None: the stage has no actions

    def apply(self, texts: list[str], actions: Tensor, rows: slice = slice(None)) -> tuple[list[str], Tensor | None]:
        """Texts and actions (n waypoints 7) of the samples `rows`, without what is dropped."""
        left = ["" if drop else text for text, drop in zip(texts, self.text[rows], strict=True)]
        return left, None if self.modes is None else only_modes(actions, self.modes[rows])


def draw_drops(b: int, recipe: Recipe, stage: Stage, generator: torch.Generator) -> Drops:
    """Empty a share of the texts, and leave each sample one kind of action or none (Vista).

    Not in the paper: a share of the samples loses both, since that is what guidance subtracts.
    """
    empty = torch.rand(b, generator=generator) < recipe.text_dropout
    if not stage.actions:
        return Drops(empty.tolist(), None)
    first = int(torch.randint(len(recipe.action_modes), (), generator=generator))
    modes = [recipe.action_modes[(first + i) % len(recipe.action_modes)] for i in range(b)]
    none = torch.rand(b, generator=generator) < recipe.action_dropout
    both = torch.rand(b, generator=generator) < recipe.joint_dropout
    kept = ["none" if drop else mode for mode, drop in zip(modes, (none | both).tolist(), strict=True)]
    return Drops((empty | both).tolist(), kept)


class Drawn(NamedTuple):
    """What is random in a step: of the whole batch, and of the samples of this process."""

    drops: Drops
    draw: Draw


def draw_random(
    recipe: Recipe, stage: Stage, latents: tuple[int, ...], generator: torch.Generator, team: Team
) -> Drawn:
    """Everything random in a step whose windows have latents of the shape (t k c h w).

    It is drawn for the whole batch, so that each sample has the same whichever process has it.
    """
    own = team.part_of(stage.batch, stage.accumulate)
    drops = draw_drops(stage.batch, recipe, stage, generator)
    shape, odds = torch.Size((stage.batch, *latents)), recipe.condition_probabilities
    draw = draw_step(shape, stage.model(recipe.model), odds, generator, own, recipe.imagined_share)
    if stage.student_steps is not None:
        draw = on_grid(draw, stage.student_steps, recipe.model.tau_shift, stage.batch, generator, own)
    return Drawn(drops, draw)


@contextmanager
def drawing(recipe: Recipe, order: Order, first: int, team: Team) -> Iterator[Iterator[Drawn]]:
    """What is random in the steps of a stage from `first` on, each drawn in a thread during the step before."""
    stage, (width, height) = order.stage, recipe.size
    place = recipe.model.channels, height // AUTOENCODER_FACTOR, width // AUTOENCODER_FACTOR

    def draw(step: int) -> Drawn:
        length, generator = order.begin(step)
        return draw_random(recipe, stage, (length, stage.views, *place), generator, team)

    with one_ahead(map(draw, range(first, stage.steps))) as drawn:
        yield drawn
