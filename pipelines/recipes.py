"""The recipes: presets of the paper's stages (7.2), in plain Python."""

from __future__ import annotations

from dataclasses import replace

from gwm.core.config import preset
from gwm.pipelines.recipe import Recipe, Stage

PRETRAINING_DATA = (("opendv", 1.0),)
HALF_AND_HALF = (("nuscenes", 0.5), ("opendv", 0.5))
MVIEW_DATA = (("nuscenes", 1.0),)

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
# Not in the paper: stage 3's steps and batch. Its share of stage 2's steps is the paper's, as are K and T.
NANO_MVIEW = replace(
    NANO_LONG,
    variant="mview",
    stages=(*NANO_LONG.stages, Stage("3", steps=1500, frames=(8,), batch=4, actions=True, views=6, cooldown=0.3)),
)

# Not in the paper: a preset of about 100 M parameters for one consumer GPU, trained from scratch like nano. Its size,
# steps, batches and learning rate are a choice between nano's and the paper's, not yet the outcome of a training.
SMALL_LONG = replace(
    NANO_LONG,
    preset="small",
    model=preset("small"),
    size=(256, 144),
    stages=(
        Stage("1a", steps=10_000, frames=(1,), batch=128, temporal=False, reconstruction=False),
        Stage("1b", steps=10_000, frames=(16, 20, 24), batch=16, reconstruction=False, accumulate=2),
        Stage("1c", steps=10_000, frames=(16, 20, 24), batch=16, accumulate=2),
        Stage("2", steps=40_000, frames=(25,), batch=16, actions=True, cooldown=0.3, accumulate=2),
    ),
    learning_rate=3e-4,
    warmup=1000,
)
SMALL_MVIEW = replace(
    SMALL_LONG,
    variant="mview",
    stages=(
        *SMALL_LONG.stages,
        Stage("3", steps=12_000, frames=(8,), batch=16, actions=True, views=6, cooldown=0.3, accumulate=4),
    ),
)

# The paper's (7.2). Not in the paper: the batches of stages 2 and 3, and all that the note about nano names.
SD3_LONG = replace(
    NANO_LONG,
    preset="sd3-medium",
    model=preset("sd3-medium"),
    size=(512, 288),
    stages=(
        Stage("1a", steps=18_000, frames=(1,), batch=768, temporal=False, reconstruction=False, data=PRETRAINING_DATA),
        Stage("1b", steps=24_000, frames=(16, 20, 24), batch=64, reconstruction=False, data=PRETRAINING_DATA),
        Stage("1c", steps=20_000, frames=(16, 20, 24), batch=64, data=PRETRAINING_DATA),
        Stage("2", steps=20_000, frames=(25,), batch=64, actions=True, data=HALF_AND_HALF),
    ),
    learning_rate=5e-5,
    warmup=1000,
    guidance=4.0,
)
SD3_MVIEW = replace(
    SD3_LONG,
    variant="mview",
    stages=(*SD3_LONG.stages, Stage("3", steps=6_000, frames=(8,), batch=32, actions=True, views=6, data=MVIEW_DATA)),
)

RECIPES = {
    (recipe.variant, recipe.preset): recipe
    for recipe in (NANO_LONG, NANO_MVIEW, SMALL_LONG, SMALL_MVIEW, SD3_LONG, SD3_MVIEW)
}
