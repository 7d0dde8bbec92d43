"""The published protocols: which clips, which frames of them, and what they refuse."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest
from conftest import tiny_chunk
from toy_shards import make_chunk, write

from gwm.core import ConfigError
from gwm.pipelines.protocols import (
    ABLATION,
    DRIVE_WM,
    LONG_HORIZON,
    MASKGWM,
    PROTOCOLS,
    VISTA,
    ZERO_SHOT,
    Clip,
    choose_protocol,
    clip_list_sha256,
    list_clips,
    segments,
    spread_evenly,
)
from gwm.shards import ShardError
from gwm.shards.index import Dataset, open_dataset


def clip(number: int, key: str = "") -> Clip:
    return Clip(number, 0, 0, key or f"drive-{number}@0", "scene")


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    """Three samples of 30 frames for validation and one for training, of two scenes."""
    chunks = [replace(tiny_chunk(i, split="val" if i else "train"), scene=f"scene-{i // 2}") for i in range(4)]
    return open_dataset(write(tmp_path_factory.mktemp("protocols") / "shards", chunks))


def as_waymo(dataset: Dataset, **changes: object) -> Dataset:
    return replace(dataset, **{"source": "waymo", **changes})  # type: ignore[arg-type]


@pytest.mark.parametrize(("n", "wanted"), [(10, 3), (3, 10), (7, 7), (5369, 600), (1, 1), (0, 4)])
def test_clips_lie_evenly(n: int, wanted: int) -> None:
    chosen = spread_evenly(n, wanted)
    assert len(chosen) == len(set(chosen)) == min(n, wanted)
    assert chosen == sorted(chosen)
    gaps = {b - a for a, b in pairwise(chosen)}
    assert not gaps or max(gaps) - min(gaps) <= 1
    assert [n - 1 - i for i in reversed(chosen)] == pytest.approx(chosen, abs=1)  # neither end is favoured


@pytest.mark.parametrize(
    ("protocol", "frames", "clips"),
    [(ZERO_SHOT, 15_000, 600), (ABLATION, 18_000, 3000), (DRIVE_WM, 10_000, 900), (VISTA, 5369 * 25, 5369)],
)
def test_the_published_numbers_of_frames_and_clips(protocol, frames: int, clips: int) -> None:
    """FID's frames and FVD's clips, counted over the whole list."""
    scored = [part for number in range(protocol.clips) for part in segments(protocol, clip(number))]
    assert len(scored) == clips
    assert sum(len(part.counted) for part in scored) == frames
    spread = {len(part.counted) for part in scored}
    assert max(spread) - min(spread) <= 1


@pytest.mark.parametrize("protocol", PROTOCOLS, ids=lambda p: p.name)
def test_segments_lie_in_the_drive(protocol) -> None:
    for part in segments(protocol, clip(5)):
        frames = range(part.first, part.first + protocol.segment)
        assert frames.stop <= round(part.horizon * 10) <= protocol.frames
        assert set(part.counted) <= set(frames)
        assert list(part.counted) == sorted(set(part.counted))


def test_past_the_first_window_a_place_is_drawn_among_what_was_generated() -> None:
    drawn = [segments(LONG_HORIZON, clip(number)) for number in range(300)]
    assert {parts[0].first for parts in drawn} == {0}  # at 2.5 s: the first window
    for i, latest in ((1, 25), (4, 100)):
        places = {parts[i].first for parts in drawn}
        assert min(places) >= LONG_HORIZON.condition_frames
        assert max(places) == latest
        assert len(places) > 15
    again = segments(LONG_HORIZON, clip(7, "drive-7@0"))
    assert again == drawn[7]
    assert segments(replace(LONG_HORIZON, version=2), clip(7)) != again


def test_the_list_of_clips(shards: Dataset) -> None:
    found = list_clips(ZERO_SHOT, as_waymo(shards))
    assert [c.key for c in found] == ["tiny-001@0", "tiny-002@0", "tiny-003@0"]  # validation only, 25 of 30 frames
    assert [c.number for c in found] == [0, 1, 2]
    short = replace(ZERO_SHOT, frames=10, clips=4)
    several = list_clips(short, as_waymo(shards))
    assert [c.key for c in several] == ["tiny-001@10", "tiny-002@0", "tiny-002@20", "tiny-003@10"]
    hashes = {clip_list_sha256(p, c) for p, c in ((ZERO_SHOT, found), (short, found), (short, several))}
    assert len(hashes) == 3
    scenes = list_clips(replace(short, per_scene=True), as_waymo(shards))
    assert [c.key for c in scenes] == ["tiny-001@0", "tiny-002@0"]


def test_what_is_no_clip_list_is_refused(shards: Dataset) -> None:
    with pytest.raises(ConfigError, match=r"holds shards of 'toy'; protocol waymo-zero-shot .* gwm preprocess waymo"):
        list_clips(ZERO_SHOT, shards)
    with pytest.raises(ConfigError, match=r"whole scenes; .* --export-vista clips.json, then .* --annotations"):
        list_clips(VISTA, replace(shards, source="nuscenes"))
    listed = replace(shards, source="nuscenes", settings={"rate": "clips"})
    assert len(list_clips(VISTA, listed)) == 3
    with pytest.raises(ShardError, match=r"no val sample of 125 frames, .* gwm preprocess opendv .* --frames 200"):
        list_clips(LONG_HORIZON, replace(shards, source="opendv"))
    with pytest.raises(ShardError, match="front_right"):
        list_clips(DRIVE_WM, replace(shards, source="nuscenes"))


def test_samples_without_the_front_view_are_no_clips(tmp_path: Path) -> None:
    """They once were listed, to be missed as damaged when they were read."""
    chunks = [make_chunk(i, 25, views, "val") for i, views in enumerate((("front",), ("back",), ("back", "front")))]
    found = list_clips(ZERO_SHOT, as_waymo(open_dataset(write(tmp_path / "some", chunks))))
    assert [c.row for c in found] == [0, 2]
    with pytest.raises(ShardError, match="no val sample with the views front; it has back"):
        list_clips(ZERO_SHOT, as_waymo(open_dataset(write(tmp_path / "none", chunks[1:2]))))


def test_the_usual_protocol_of_a_dataset() -> None:
    assert choose_protocol("nuscenes", None, views=1) is MASKGWM
    assert choose_protocol("nuscenes", None, views=6) is DRIVE_WM
    assert choose_protocol("nuscenes", "vista", views=6) is VISTA
    assert choose_protocol("opendv", None, 1) is LONG_HORIZON
    assert choose_protocol("opendv", "ablation", 1) is ABLATION
    with pytest.raises(ConfigError, match="--protocol vista: waymo has zero-shot"):
        choose_protocol("waymo", "vista", 1)
    assert len({p.name for p in PROTOCOLS}) == len(PROTOCOLS)
