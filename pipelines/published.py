"""Published figures that a result is set beside, each with what it was measured on and where it is printed.

All are quoted from the MaskGWM paper (arXiv 2502.11663), those of other methods too: none was measured here.
"""

from __future__ import annotations

from dataclasses import dataclass

Values = tuple[float, ...]


@dataclass(frozen=True)
class Published:
    """The figures of one method: a value for each of the horizons of its protocols; none where none is printed."""

    method: str
    protocols: tuple[str, ...]  # names of the protocols that score the same clips
    setting: str  # what was generated and counted, in words
    source: str
    fid: Values = ()
    fid_without_condition: Values = ()  # the given frames left out
    fvd: Values = ()


def published_for(protocol: str) -> tuple[Published, ...]:
    """What is published for the clips of a protocol, by its name; may be none."""
    return tuple(entry for entry in PUBLISHED if protocol in entry.protocols)


PAPER = "MaskGWM (arXiv 2502.11663)"
_ONE_VIEW = ("nuscenes-vista", "nuscenes-maskgwm")
_FIVE_THOUSAND = "5369 validation clips of 25 frames, 1 given frame"
_SIX_VIEWS = ("nuscenes-drivewm",)
_SCENES = "150 scenes, six views: 900 videos for FVD, 10 000 frames for FID"
_WAYMO = ("waymo-zero-shot",)
_DRIVES = "600 videos for FVD, 15 000 frames for FID; 1 given frame, no actions; not trained on Waymo"
_LONG = ("opendv-long-horizon",)
_VIDEOS = "300 validation videos, 3 given frames, no actions; past 2.5 s 25 frames drawn from the drive"
_ABLATION = ("opendv-ablation",)
_CLIPS = "3000 validation clips for FVD, 18 000 frames for FID"

_SINGLE = f"{PAPER}, single view of nuScenes"
_MULTI = f"{PAPER}, six views of nuScenes"
_ZERO = f"{PAPER}, zero-shot on Waymo"
_SWITCH = f"{PAPER}, ablations"
_FIGURE = f"{PAPER}, read from figure 7"

_MAIN = (
    Published("MaskGWM-long", _ONE_VIEW, f"{_FIVE_THOUSAND}; FID over all frames", _SINGLE, (5.6,), fvd=(92.5,)),
    Published(
        "MaskGWM-long without action", _ONE_VIEW, f"{_FIVE_THOUSAND}; FID over all frames", _SINGLE, (4.0,),
        fvd=(59.4,),
    ),
    Published(
        "Vista", _ONE_VIEW, f"{_FIVE_THOUSAND}, no actions; FID over 24 of the 25 frames", _SINGLE,
        fid_without_condition=(6.9,), fvd=(89.4,),
    ),
    Published("GenAD", _ONE_VIEW, "as quoted; which frames FID counts is not said", _SINGLE, (15.4,), fvd=(184.0,)),
    Published("MaskGWM-mview", _SIX_VIEWS, _SCENES, _MULTI, (8.9,), fvd=(65.4,)),
    Published("DriveDreamer-2", _SIX_VIEWS, _SCENES, _MULTI, (11.2,), fvd=(55.7,)),
    Published("Drive-WM", _SIX_VIEWS, _SCENES, _MULTI, (15.8,), fvd=(122.7,)),
    Published("MaskGWM-long", _WAYMO, _DRIVES, _ZERO, (9.55,), fvd=(118.83,)),
    Published("Vista", _WAYMO, _DRIVES, _ZERO, (9.76,), fvd=(176.56,)),
    Published("MaskGWM", _LONG, _VIDEOS, _FIGURE, (9.5, 16.4, 22.4, 24.4, 28.0), fvd=(163, 236, 322, 353, 343)),
    Published(
        "MaskGWM without mask reconstruction", _LONG, _VIDEOS, _FIGURE, (14.0, 24.0, 28.6, 37.7, 42.3),
        fvd=(181, 333, 464, 493, 576),
    ),
    Published("Vista", _LONG, _VIDEOS, _FIGURE, fvd=(242, 407, 547, 789, 865)),
)  # fmt: skip

# What is varied, the variant, FVD, FID
_ABLATIONS: tuple[tuple[str, str, float, float | None], ...] = (
    ("mask token", "p", 126.71, 7.35),
    ("mask token", "p on τ in [0.5, 1]", 120.35, 7.12),
    ("mask token", "f_m(ε)", 116.85, 6.40),
    ("mask token", "f_m(ε) on τ in [0, 0.5]", 109.87, 5.92),
    ("mask token", "z_τ with a contrastive loss", 113.26, 6.32),
    ("mask token", "equation 3", 105.52, 5.69),
    ("branches", "none", 136.55, 10.28),
    ("branches", "time, masked attention", 142.68, None),
    ("branches", "time, row-wise and shifted", 121.38, None),
    ("branches", "spatial", 116.73, 5.92),
    ("branches", "both", 105.52, 5.69),
    ("mask ratio", "spatial, 0", 136.5, None),
    ("mask ratio", "spatial, 0.1", 125.8, None),
    ("mask ratio", "spatial, 0.25", 116.7, None),
    ("mask ratio", "spatial, 0.4", 155.9, None),
    ("mask ratio", "time, masked attention, 0", 136.5, None),
    ("mask ratio", "time, masked attention, 0.1", 133.2, None),
    ("mask ratio", "time, masked attention, 0.25", 142.6, None),
    ("mask ratio", "time, masked attention, 0.4", 179.1, None),
    ("mask ratio", "time, row-wise, 0", 136.5, None),
    ("mask ratio", "time, row-wise, 0.1", 123.7, None),
    ("mask ratio", "time, row-wise, 0.25", 121.3, None),
    ("mask ratio", "time, row-wise, 0.4", 149.8, None),
    ("F", "two branches, 1 layer", 105.52, 5.69),
    ("F", "two branches, 2 layers", 107.34, 5.60),
    ("F", "shared, 1 layer", 121.37, 5.85),
    ("F", "shared, 2 layers", 127.91, 6.03),
)
_CROSS_VIEW = (
    ("KŴ, r = 0", 65.9, 9.2),
    ("KŴ, r = 0.25", 65.4, 8.9),
    ("K", 71.5, 8.7),
    ("KĤŴ", 64.7, 8.5),
)

PUBLISHED: tuple[Published, ...] = (
    *_MAIN,
    *(
        Published(f"{what}: {variant}", _ABLATION, _CLIPS, _SWITCH, (fid,) if fid is not None else (), fvd=(fvd,))
        for what, variant, fvd, fid in _ABLATIONS
    ),
    *(
        Published(f"cross-view attention over {variant}", _SIX_VIEWS, _SCENES, _SWITCH, (fid,), fvd=(fvd,))
        for variant, fvd, fid in _CROSS_VIEW
    ),
)  # fmt: skip
