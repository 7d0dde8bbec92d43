"""The training recipe in the paper's stages (7.2): typed, in one place."""

from __future__ import annotations

from dataclasses import dataclass, replace

from gwm.core import ConfigError
from gwm.core.config import ModelConfig, preset

VISTA_CONDITION_FRAMES = (1 / 15, 2 / 15, 4 / 15, 8 / 15)  # probability of 0, 1, 2, 3 condition frames


@dataclass(frozen=True)
class Stage:
    """One training stage. `frames` are window lengths, one drawn per batch."""

    name: str
    steps: int
    frames: tuple[int, ...]
    batch: int
    temporal: bool = True
    reconstruction: bool = True
    actions: bool = False
    views: int = 1  # K
    cooldown: float = 0.0  # share of the steps, at the end, over which the learning rate falls linearly to zero

    def model(self, config: ModelConfig) -> ModelConfig:
        """The configuration in this stage: later parts do not exist yet."""
        return replace(
            config,
            temporal=self.temporal,
            reconstruction=self.reconstruction,
            actions=self.actions,
            views=self.views,
        )


@dataclass(frozen=True)
class Recipe:
    """A whole training run."""

    variant: str
    preset: str
    model: ModelConfig  # with all parts
    size: tuple[int, int]  # (width, height) of the training frames, pixels
    stages: tuple[Stage, ...]
    learning_rate: float
    warmup: int  # steps, at the start of every stage
    weight_decay: float
    gradient_clip: float
    ema: float
    text_dropout: float  # share of samples whose text is empty, for guidance
    action_dropout: float  # share of samples without actions, Vista
    guidance: float  # scale for rollouts; the paper's is 4.0
    joint_dropout: float  # share of samples without text and actions: the branch that guidance subtracts
    action_modes: tuple[str, ...]  # cycled over samples, Vista
    condition_probabilities: tuple[float, ...] = VISTA_CONDITION_FRAMES
    seed: int = 0


# Not in the paper: nano trains from scratch on a small machine, so its learning rate is higher, its stages shorter, and
# it ends with a cooldown. Most of its steps are in stage 2, since long training without actions leaves a small model
# deaf to them: exchanging two samples' actions after 300 steps of stage 2 cost 6 % of the loss from scratch, and 0.2 %
# after 7700 steps without. Weight decay, gradient clipping, EMA and text dropout are not in the paper either.
# The stages' order, window lengths and what each brings are the paper's.
NANO_LONG = Recipe(
    variant="long",
    preset="nano",
    model=preset("nano"),
    size=(128, 64),
    stages=(
        Stage("1a", steps=300, frames=(1,), batch=64, temporal=False, reconstruction=False),
        Stage("1b", steps=400, frames=(16, 20, 24), batch=8, reconstruction=False),
        Stage("1c", steps=400, frames=(16, 20, 24), batch=8),
        Stage("2", steps=4900, frames=(25,), batch=8, actions=True, cooldown=0.3),
    ),
    learning_rate=1e-3,
    warmup=100,
    weight_decay=0.01,
    gradient_clip=1.0,
    ema=0.999,
    text_dropout=0.1,
    action_dropout=0.15,
    guidance=2.0,  # 4.0 leaves visible artefacts at this size
    joint_dropout=0.1,
    action_modes=("motion", "trajectory", "motion", "command", "motion", "goal"),
)

# The paper's (7.2). Not in the paper: the batches of stages 2 and 3, and all that the note above names.
SD3_LONG = replace(
    NANO_LONG,
    preset="sd3-medium",
    model=preset("sd3-medium"),
    size=(512, 288),
    stages=(
        Stage("1a", steps=18_000, frames=(1,), batch=768, temporal=False, reconstruction=False),
        Stage("1b", steps=24_000, frames=(16, 20, 24), batch=64, reconstruction=False),
        Stage("1c", steps=20_000, frames=(16, 20, 24), batch=64),
        Stage("2", steps=20_000, frames=(25,), batch=64, actions=True),
    ),
    learning_rate=5e-5,
    warmup=1000,
    guidance=4.0,
)
SD3_MVIEW = replace(
    SD3_LONG,
    variant="mview",
    stages=(*SD3_LONG.stages, Stage("3", steps=6_000, frames=(8,), batch=32, actions=True, views=6)),
)

RECIPES = {(recipe.variant, recipe.preset): recipe for recipe in (NANO_LONG, SD3_LONG, SD3_MVIEW)}


def make_recipe(variant: str, preset_name: str, steps_scale: float, seed: int) -> Recipe:
    """The named recipe with all step counts scaled (at least 1 step a stage); ConfigError where there is none."""
    if (variant, preset_name) not in RECIPES:
        known = ", ".join(f"--variant {v} --preset {p}" for v, p in RECIPES)
        raise ConfigError(f"no recipe for --variant {variant} --preset {preset_name}; there are: {known}")
    if not 0 < steps_scale <= 100:
        raise ConfigError(f"--steps-scale {steps_scale} must lie above 0 and at most at 100")
    recipe = RECIPES[variant, preset_name]
    stages = tuple(replace(s, steps=max(1, round(s.steps * steps_scale))) for s in recipe.stages)
    warmup = max(1, round(recipe.warmup * min(1.0, steps_scale)))
    return replace(recipe, stages=stages, warmup=warmup, seed=seed)


def learning_rate(recipe: Recipe, stage: Stage, step: int) -> float:
    """Linear warm-up, then constant, then the stage's cooldown. `step` counts from 0 within the stage."""
    warm = min(1.0, (step + 1) / recipe.warmup)
    left = (stage.steps - step) / max(1.0, stage.cooldown * stage.steps)
    return recipe.learning_rate * min(warm, left if stage.cooldown else 1.0)
