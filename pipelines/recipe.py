"""A training recipe in the paper's stages (7.2): its types, what they refuse, `--set`, and parts of it.

The recipes themselves are in `recipes.py`.
"""

from __future__ import annotations

import math
from collections.abc import Collection
from dataclasses import dataclass, replace
from itertools import pairwise
from types import UnionType
from typing import Any, Literal, get_args, get_origin, get_type_hints

from gwm.core import ConfigError
from gwm.core.actions import MODES
from gwm.core.config import AUTOENCODER_FACTOR, ModelConfig, check_type
from gwm.pipelines.checkpoint import STUDENT
from gwm.shards.schema import VIEWS

RIG = ("front", "front_right", "back_right", "back", "back_left", "front_left")  # nuScenes', clockwise
VISTA_CONDITION_FRAMES = (1 / 15, 2 / 15, 4 / 15, 8 / 15)  # probability of 0, 1, 2, 3 condition frames
PRETRAINING = "1c"  # the last of its stages
STUDENT_STEPS = 4  # S
Shares = tuple[tuple[str, float], ...]

# What `--set` leaves alone: chosen by other options, or given by the stages.
_FIXED = {
    "Recipe": ("variant", "preset", "model", "stages", "seed"),
    "Stage": ("name", "student_steps"),
    "ModelConfig": ("temporal", "reconstruction", "actions", "views"),
}


def _require(holds: bool, place: str, value: object, remedy: str) -> None:
    if not holds:
        raise ConfigError(f"{place} {value}: {remedy}")


@dataclass(frozen=True)
class Stage:
    """One training stage. `frames` are window lengths, one drawn per batch. ConfigError for what no stage can be."""

    name: str
    steps: int
    frames: tuple[int, ...]
    batch: int  # windows of a step, those of all its passes together
    temporal: bool = True
    reconstruction: bool = True
    actions: bool = False
    views: int = 1  # K
    cooldown: float = 0.0  # share of the steps, at the end, over which the learning rate falls linearly to zero
    data: Shares | None = None  # share of the windows by name of the source; None: what is given, all alike
    accumulate: int = 1  # passes of batch / accumulate windows that make up a step
    student_steps: int | None = None  # S: distil the start's model into so many sampling steps

    def __post_init__(self) -> None:
        """Refuse values that cannot be, as stage.field with the value."""
        at, longest = self.name, max(self.frames, default=0)
        for field, kind in get_type_hints(type(self)).items():
            if field != "data":
                check_type(f"{at}.{field}", getattr(self, field), kind)
        _require(at.isalnum(), "stage name", repr(at), "use letters and digits")
        _require(longest > 0, f"{at}.frames", self.frames, "give at least one window length")
        _require(
            longest == 1 or self.temporal, f"{at}.frames", self.frames, "without temporal blocks a window has 1 frame"
        )
        _require(
            self.temporal or not self.actions, f"{at}.actions", self.actions, "they act in temporal blocks: add these"
        )
        _require(0 <= self.cooldown <= 1, f"{at}.cooldown", self.cooldown, "a share of the steps lies in [0, 1]")
        _require(
            self.batch % self.accumulate == 0, f"{at}.accumulate", self.accumulate, f"must divide batch {self.batch}"
        )
        if self.student_steps is not None:
            check_type(f"{at}.student_steps", self.student_steps, int)
        if self.data is not None:
            check_type(f"{at}.data", self.data, Shares)
            names, shares = [name for name, _ in self.data], [share for _, share in self.data]
            remedy = "give different sources, each with a share above 0, that sum to 1, or none for all data alike"
            good = len(set(names)) == len(names) and all(names) and all(0 < share <= 1 for share in shares)
            _require(good and math.isclose(sum(shares), 1, abs_tol=1e-6), f"{at}.data", self.data, remedy)

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
    """A whole training run. ConfigError for what no run can be."""

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
    guidance: float  # scale for rollouts; the paper's is 4.0. In distillation the teacher's
    joint_dropout: float  # share of samples without text and actions: the branch that guidance subtracts
    action_modes: tuple[str, ...]  # cycled over samples, Vista
    condition_probabilities: tuple[float, ...] = VISTA_CONDITION_FRAMES  # element i for i condition frames
    imagined_share: float = 0.0  # of the samples whose condition frames the model imagines; not in the paper
    view_names: tuple[str, ...] = RIG  # a stage of K views reads the first K
    seed: int = 0

    def __post_init__(self) -> None:
        """Refuse values that cannot be, by field and value."""
        for field, kind in get_type_hints(type(self)).items():
            if field != "seed":
                check_type(field, getattr(self, field), kind)
        _require(type(self.seed) is int and self.seed >= 0, "seed", self.seed, "a whole number of at least 0")
        _require(0 < self.learning_rate <= 1, "learning_rate", self.learning_rate, "must lie above 0, at most at 1")
        _require(0 < self.gradient_clip < math.inf, "gradient_clip", self.gradient_clip, "a norm lies above 0")
        _require(math.isfinite(self.guidance), "guidance", self.guidance, "must be a finite number")
        _require(0 <= self.ema < 1, "ema", self.ema, "must lie in [0, 1); 0 averages nothing")
        for field in ("weight_decay", "text_dropout", "action_dropout", "joint_dropout", "imagined_share"):
            _require(0 <= getattr(self, field) <= 1, field, getattr(self, field), "must lie in [0, 1]")
        unknown = [mode for mode in self.action_modes if mode not in MODES]
        _require(not unknown and bool(self.action_modes), "action_modes", self.action_modes, f"use {', '.join(MODES)}")
        shares = self.condition_probabilities
        good = all(0 <= share <= 1 for share in shares) and math.isclose(sum(shares), 1, abs_tol=1e-6)
        _require(good, "condition_probabilities", shares, "probabilities of 0, 1, 2, … condition frames sum to 1")
        self._check_views()
        self._check_grid()
        self._check_stages()

    @property
    def steps(self) -> int:
        """Of all stages."""
        return sum(stage.steps for stage in self.stages)

    def _check_views(self) -> None:
        names, most = self.view_names, max((stage.views for stage in self.stages), default=1)
        good = len(set(names)) == len(names) >= most and all(name in VIEWS for name in names)
        remedy = f"give at least {most} different ones of {', '.join(VIEWS)}"
        _require(good, "view_names", names, remedy)
        for stage in self.stages:
            good = stage.views == 1 or self.variant == "mview"
            _require(good, f"{stage.name}.views", stage.views, "only --variant mview has view blocks; use 1")

    def _check_grid(self) -> None:
        """The frame is a whole number of tokens, and the mask hides a whole number of them."""
        token, (width, height) = AUTOENCODER_FACTOR * self.model.patch, self.size
        good = width % token == 0 and height % token == 0
        _require(good, "size", f"{width}x{height}", f"width and height are multiples of {token} pixels, one token")
        columns, rows, grid = width // token, height // token, self.model.position_grid
        good = max(columns, rows) <= grid
        _require(good, "size", f"{width}x{height}", f"at most {grid * token} pixels a side, or a larger position_grid")
        for stage in self.stages:
            for kind in self.model.mask_kinds if stage.reconstruction else ():
                by_row = kind == "time" or stage.views > 1
                hidden = self.model.mask_ratio * (columns if by_row else columns * rows)
                what = f"{columns} tokens of a row" if by_row else f"{columns * rows} tokens of a frame"
                remedy = f"hides {hidden:g} of the {what} in stage {stage.name}; choose one that hides a whole number"
                _require(abs(hidden - round(hidden)) < 1e-6, "model.mask_ratio", self.model.mask_ratio, remedy)

    def _check_stages(self) -> None:
        """Names differ, and no stage lacks a part that the one before it had trained."""
        names = [stage.name for stage in self.stages]
        _require(len(set(names)) == len(names) > 0, "stages", names, "give at least one, with different names")
        alone = len(names) == 1 or all(stage.student_steps is None for stage in self.stages)
        _require(alone, "stages", names, "a stage that distils stands alone, as in gwm distill")
        for before, stage in pairwise(self.stages):
            for part in ("temporal", "reconstruction", "actions"):
                kept = getattr(stage, part) or not getattr(before, part)
                remedy = f"stage {before.name} before it has this part already; later stages keep it"
                _require(kept, f"{stage.name}.{part}", getattr(stage, part), remedy)
            kept = stage.views > 1 or before.views == 1
            _require(kept, f"{stage.name}.views", stage.views, f"stage {before.name} before it has view blocks already")


def learning_rate(recipe: Recipe, stage: Stage, step: int) -> float:
    """Linear warm-up, then constant, then the stage's cooldown. `step` counts from 0 within the stage."""
    warm = min(1.0, (step + 1) / recipe.warmup)
    left = (stage.steps - step) / max(1.0, stage.cooldown * stage.steps)
    return recipe.learning_rate * min(warm, left if stage.cooldown else 1.0)


def make_recipe(variant: str, preset_name: str, steps_scale: float, seed: int) -> Recipe:
    """The named recipe with all step counts scaled (at least 1 step a stage); ConfigError where there is none."""
    from gwm.pipelines.recipes import RECIPES  # which needs the types above

    if (variant, preset_name) not in RECIPES:
        known = ", ".join(f"--variant {v} --preset {p}" for v, p in RECIPES)
        raise ConfigError(f"no recipe for --variant {variant} --preset {preset_name}; there are: {known}")
    return scaled(replace(RECIPES[variant, preset_name], seed=seed), steps_scale)


def scaled(recipe: Recipe, steps_scale: float) -> Recipe:
    """The recipe with all step counts scaled, at least 1 step a stage."""
    if not 0 < steps_scale <= 100:
        raise ConfigError(f"--steps-scale {steps_scale} must lie above 0 and at most at 100")
    stages = tuple(replace(s, steps=max(1, round(s.steps * steps_scale))) for s in recipe.stages)
    warmup = max(1, round(recipe.warmup * min(1.0, steps_scale)))
    return replace(recipe, stages=stages, warmup=warmup)


def select(recipe: Recipe, stage: str, finished: Collection[str] | None = None) -> Recipe:
    """The recipe up to the end of a stage.

    finished: stages that a run has finished; where given, ConfigError unless all before this one are among them.
    """
    names, place = [s.name for s in recipe.stages], _place(recipe, stage)
    left = [] if finished is None else [name for name in names[:place] if name not in finished]
    if left:
        raise ConfigError(
            f"stage {stage} comes after {left[0]}, which is not finished: train that with --stage {left[0]}, or leave "
            "--stage out to train all"
        )
    return replace(recipe, stages=recipe.stages[: place + 1])


def _place(recipe: Recipe, stage: str) -> int:
    """Where the stage stands among the recipe's; ConfigError where it does not."""
    names = [s.name for s in recipe.stages]
    if stage not in names:
        raise ConfigError(f"no stage {stage}; {recipe.variant} has {', '.join(names)}")
    return names.index(stage)


def stage_alone(recipe: Recipe, stage: str) -> Recipe:
    """One stage without those before it, for a model that has been through them. ConfigError: see `select`."""
    return replace(recipe, stages=(recipe.stages[_place(recipe, stage)],))


def pretrain(recipe: Recipe) -> Recipe:
    """Stages 1a to 1c."""
    return select(recipe, PRETRAINING)


def finetune_mview(recipe: Recipe) -> Recipe:
    """Stage 3 alone; ConfigError where the recipe has no view blocks."""
    stages = tuple(stage for stage in recipe.stages if stage.views > 1)
    if not stages:
        raise ConfigError(f"the recipe {recipe.variant} {recipe.preset} has no stage of several views; use mview")
    return replace(recipe, stages=stages)


def distill(recipe: Recipe, steps: int = STUDENT_STEPS) -> Recipe:
    """One stage, which distils a model of the recipe's last stage into one that samples in `steps` steps."""
    stage = replace(recipe.stages[-1], name=STUDENT, steps=2000, cooldown=0.5, student_steps=steps)
    return replace(recipe, stages=(stage,), learning_rate=3e-4)


def override(recipe: Recipe, *settings: str) -> Recipe:
    """The recipe with `--set` applied: field=value, model.field=value or stage.field=value, all of them at once.

    Several values are separated by commas, sources and shares as name:share. ConfigError for a name that there is not
    and for a value that is none; what there is stands in the message.
    """
    parts: dict[str, Any] = {"": recipe, "model": recipe.model} | {stage.name: stage for stage in recipe.stages}
    changes: dict[str, dict[str, Any]] = {name: {} for name in parts}
    for setting in settings:
        path, equals, text = (x.strip() for x in setting.partition("="))
        part, _, field = path.rpartition(".")
        if not equals:
            raise ConfigError(f"--set {setting}: write field=value, model.field=value or stage.field=value")
        if part not in parts:
            raise ConfigError(f"--set {setting}: no {part!r}; there are {', '.join(name for name in parts if name)}")
        kinds = get_type_hints(type(parts[part]))
        fixed = _FIXED[type(parts[part]).__name__]
        if field not in kinds or field in fixed:
            known = ", ".join(name for name in kinds if name not in fixed)
            raise ConfigError(f"--set {setting}: {part or 'the recipe'} has no {field!r} to set; it has {known}")
        try:
            changes[part][field] = _parsed(text, kinds[field])
        except (ValueError, ZeroDivisionError) as error:
            raise ConfigError(f"--set {setting}: {path} is {_spelling(kinds[field])}, not {text!r}") from error
    stages = tuple(replace(stage, **changes[stage.name]) for stage in recipe.stages)
    return replace(recipe, model=replace(recipe.model, **changes["model"]), stages=stages, **changes[""])


def _parsed(text: str, kind: Any) -> Any:
    """The value of a type that `text` spells; ValueError or ZeroDivisionError where it spells none."""
    if get_origin(kind) is UnionType:
        return None if text == "none" else _parsed(text, get_args(kind)[0])
    if get_origin(kind) is tuple:
        return _parsed_tuple(text, kind, ",")
    if get_origin(kind) is Literal:
        return get_args(kind)[get_args(kind).index(text)]
    if kind is bool:
        return bool(("false", "true").index(text))
    if kind is float:
        above, slash, below = text.partition("/")
        return float(above) / float(below) if slash else float(above)
    return kind(text)


def _parsed_tuple(text: str, kind: Any, separator: str) -> tuple[Any, ...]:
    kinds, values = get_args(kind), [x.strip() for x in text.split(separator)] if text else []
    kinds = kinds[:1] * len(values) if kinds[-1] is Ellipsis else kinds
    return tuple(
        _parsed_tuple(x, k, ":") if get_origin(k) is tuple else _parsed(x, k)
        for x, k in zip(values, kinds, strict=True)
    )


def _spelling(kind: Any) -> str:
    """How a value of a type is written."""
    if get_origin(kind) is UnionType:
        return f"{_spelling(get_args(kind)[0])}, or none"
    if kind == Shares:
        return "name:share, separated by commas"
    if get_origin(kind) is tuple:
        kinds = get_args(kind)
        return f"{'values' if kinds[-1] is Ellipsis else len(kinds)} separated by commas, each {_spelling(kinds[0])}"
    if get_origin(kind) is Literal:
        return f"one of {', '.join(get_args(kind))}"
    return {bool: "true or false", int: "a whole number", float: "a number or a fraction"}.get(kind, "a text")
