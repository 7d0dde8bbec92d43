"""`gwm score`."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from gwm import GwmError
from gwm.cli.evaluate import FeatureKind, Fit, Form, Resize
from gwm.cli.run import Device, Json, Out, data_root, parse_size, show


def score(
    real: Annotated[Path | None, typer.Argument(help="Videos (a folder or one file) or a folder of shards.")] = None,
    generated: Annotated[Path | None, typer.Argument(help="The same kinds.")] = None,
    from_features: Annotated[
        Path | None, typer.Option("--from-features", help="Score the features.parquet of `gwm eval` again, alone.")
    ] = None,
    paired: Annotated[
        bool, typer.Option("--paired", help="PSNR, SSIM and LPIPS between videos of the same names instead.")
    ] = False,
    clip_frames: Annotated[int, typer.Option("--clip-frames", help="Frames of a clip for the video distance.")] = 25,
    size: Annotated[
        str | None, typer.Option("--size", help="Bring both to WIDTHxHEIGHT; the smaller of the two if absent.")
    ] = None,
    features: FeatureKind = "auto",
    resize: Resize = "torch-fidelity",
    fvd: Form = "tats",
    fvd_fit: Fit = "squash",
    allow_missing: Annotated[
        bool, typer.Option("--allow-missing", help="Score what decodes of damaged videos; the result names them.")
    ] = False,
    out: Out = None,
    device: Device = "auto",
    as_json: Json = False,
) -> None:
    """FID, KID and FVD between two sets of video; or, with the small features, distances of other names."""
    from gwm.shards.files import write_json

    chosen = (features, resize, fvd, fvd_fit) != ("auto", "torch-fidelity", "tats", "squash")
    if from_features is not None:
        other = allow_missing or clip_frames != 25 or device != "auto"
        if real is not None or paired or chosen or size or other:
            raise GwmError("--from-features takes all from its file: give --out, --json or nothing beside it")
        _check_writable(out)
        values = _again(from_features)
    elif real is None or generated is None:
        raise GwmError("give two sets of video, REAL and GENERATED, or --from-features FILE")
    elif paired:
        if chosen or allow_missing or clip_frames != 25:
            raise GwmError("--paired compares frames: leave out --features, --allow-missing and --clip-frames")
        from gwm.pipelines.paired import score_paired

        _check_writable(out)
        values = asdict(score_paired(real, generated, _store(), device, parse_size(size) if size else None))
    else:
        from gwm.pipelines.feature_choice import FeatureChoice
        from gwm.pipelines.score import score as run_score
        from gwm.pipelines.score import shown

        choice = FeatureChoice(_store(), features, resize, fvd, fvd_fit).settled()
        wanted = parse_size(size) if size else None
        _check_writable(out)
        values = shown(run_score(real, generated, choice, clip_frames, device, wanted, allow_missing))
    if out is not None:
        write_json(out / "scores.json", values)
    show("scores", values, as_json)


def _check_writable(out: Path | None) -> None:
    """Make the output folder before the work, which would be lost without it."""
    from gwm.shards.files import make_folder

    if out is not None:
        make_folder(out)


def _store() -> Path:
    return data_root() / "weights"


def _again(path: Path) -> dict[str, Any]:
    from gwm.pipelines.figures import compute_figures

    figures = compute_figures(path)
    return {**asdict(figures.origin), "figures": list(figures.rows), "warnings": list(figures.warnings)}
