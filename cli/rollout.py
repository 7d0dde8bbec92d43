"""`gwm rollout`."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from gwm import GwmError
from gwm.cli.run import Device, Json, Out, Seed, new_folder, show

CheckpointFile = Annotated[
    Path | None,
    typer.Option(
        "--checkpoint",
        help="A .safetensors file, a run's folder, or an embedded one by name: nano-long (if absent), nano-student "
        "(of four steps), nano-mview (of three views).",
    ),
]
Steps = Annotated[
    int | None, typer.Option("--steps", help="Steps of the solver per window; the checkpoint's own if absent.")
]
SolverName = Annotated[
    Literal["euler", "ab2"], typer.Option("--solver", help="euler, or ab2: of second order at the same price.")
]
Guidance = Annotated[
    float | None, typer.Option("--guidance", help="Guidance scale; the checkpoint's own if absent, 1 is none.")
]
GuidanceRange = Annotated[
    str | None, typer.Option("--guidance-range", help="LOW,HIGH: guide where τ lies there alone; 0,1 if absent.")
]
GuidanceEvery = Annotated[
    int,
    typer.Option(
        "--guidance-every", min=1, help="Compute guidance at every N-th step, and keep what it adds for those between."
    ),
]
ACTIONS = (
    "What the driver does; the source's own actions if absent. A manoeuvre: keep, turn-left, turn-right, lane-left, "
    "lane-right (3.5 m in 4 s), accelerate (1.5 m/s² to 30 m/s), brake (2 m/s²), stop (3 m/s²). A script of them, with "
    "left, right and straight for short: left:2s,straight:3s,stop (the last without a time lasts to the end). Or a CSV "
    "or JSON file with columns speed (m/s) and steering (rad at the steering wheel, left positive), one row per frame "
    "of 0.1 s; or time (s), speed and steering; or time, x and y (m forward and left of where the start begins)."
)


def rollout(
    frames: Annotated[int, typer.Option("--frames", help="Frames at 10 Hz, the condition frames included.")] = 200,
    source: Annotated[
        Path | None, typer.Option("--from", help="Image, video or shard folder to start from; embedded clip if absent.")
    ] = None,
    key: Annotated[
        str | None, typer.Option("--key", help="Sample of the shards; the first for validation if absent.")
    ] = None,
    actions: Annotated[str | None, typer.Option("--actions", help=ACTIONS)] = None,
    prompt: Annotated[
        str | None, typer.Option("--prompt", help="Text in the place of the source's; '' for none.")
    ] = None,
    views: Annotated[
        int | None,
        typer.Option(
            "--views",
            help="Cameras; as many as checkpoint and source have if absent. More than one without --checkpoint: those "
            "of nano-mview, at most 3.",
        ),
    ] = None,
    samples: Annotated[
        int, typer.Option("--samples", help="Rollouts, in folders sample-000, …; sample i has the seed --seed + i.")
    ] = 1,
    checkpoint: CheckpointFile = None,
    out: Out = None,
    steps: Steps = None,
    solver: SolverName = "euler",
    guidance: Guidance = None,
    guidance_range: GuidanceRange = None,
    guidance_every: GuidanceEvery = 1,
    condition_frames: Annotated[
        int, typer.Option("--condition-frames", help="Frames that each window repeats from the one before.")
    ] = 3,
    gif: Annotated[bool, typer.Option("--gif", help="Write rollout.gif too, at most 512 pixels wide.")] = False,
    save_frames: Annotated[
        bool, typer.Option("--save-frames", help="Write frames/000000.png, … too, at the model's size.")
    ] = False,
    overlay: Annotated[
        bool, typer.Option("--overlay", help="Draw steering wheel and speed on videos, GIF and contact sheet.")
    ] = False,
    seed: Seed = 0,
    device: Device = "auto",
    as_json: Json = False,
) -> None:
    """Roll out a driving video: rollout.mp4, contact.png and rollout.json.

    Where the source goes on, also side-by-side.mp4; of several cameras, also view-NAME.mp4. Stopped by Ctrl-C, what is
    written plays, and the same command with the same -o goes on.
    """
    from gwm.pipelines.checkpoint import load_checkpoint
    from gwm.pipelines.rollout import RolloutSettings, make_scene, rollouts
    from gwm.pipelines.rollout import rollout as run_rollout
    from gwm.pipelines.rollout_out import Outputs

    if checkpoint is None and views is not None and views > 1:
        checkpoint = Path("nano-mview")
    loaded = load_checkpoint(checkpoint, device)
    scale = loaded.training.guidance if guidance is None else guidance
    steps = loaded.training.sampling_steps if steps is None else steps
    part = parse_range(guidance_range, scale)
    settings = RolloutSettings(frames, steps, scale, condition_frames, seed, solver, part, guidance_every)
    outputs = Outputs(gif, save_frames, overlay)
    if samples == 1:
        folder = out or new_folder("rollout")
        result = run_rollout(
            loaded, folder, settings, source, actions, key=key, views=views, prompt=prompt, outputs=outputs
        )
        show(f"rollout in {folder}", {"folder": str(folder), **shown(result)}, as_json)
        return
    scene = make_scene(loaded, settings, source, actions, key, views, prompt)
    folder = out or new_folder("rollout")
    results = rollouts(loaded, folder, settings, scene, samples, outputs)
    show(f"rollouts in {folder}", {"folder": str(folder), "samples": [shown(result) for result in results]}, as_json)


def shown(result: Any) -> dict[str, Any]:
    """What is printed of a rollout's record."""
    return {k: v for k, v in asdict(result).items() if k not in ("speed", "steering")}


def parse_range(text: str | None, scale: float) -> tuple[float, float]:
    """LOW,HIGH of `--guidance-range` as two numbers; all of τ where it is absent."""
    if text is None:
        return 0.0, 1.0
    if scale == 1:
        raise GwmError("--guidance-range has no effect where the guidance scale is 1; leave it out")
    low, _, high = text.partition(",")
    try:
        return float(low), float(high)
    except ValueError:
        raise GwmError(f"--guidance-range {text}: write two numbers of 0 to 1, such as 0.2,0.8") from None
