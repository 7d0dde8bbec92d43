"""Pictures of a rollout: tiles, overlay, GIF, frames, the real ones beside, and what is left after a failure."""

import os
import resource
import shutil
import signal
import subprocess
import sys
from itertools import count
from pathlib import Path

import av
import cv2
import numpy as np
import pytest
from PIL import Image

from gwm.pipelines.gif_out import GifWriter
from gwm.pipelines.overlay import draw_actions
from gwm.pipelines.rollout_out import Gallery, Outputs, enlarged, even_frames, tiled
from gwm.pipelines.start import Start
from gwm.pipelines.video_out import write_video
from gwm.shards import ShardError
from gwm.shards.schema import Motion
from gwm.shards.video import read_frames

RIG = ("front", "front_right", "back_right", "back", "back_left", "front_left")
GREY = np.full((32, 64, 3), 90, np.uint8)


def start(views=("front",), truth=None):
    return Start("start", np.stack([GREY] * len(views))[None], views, truth)


def names(folder):
    return sorted(p.name for p in folder.iterdir())


def video(path):
    return [image for _, image in read_frames(path)]


def test_contact_sheet_columns_reach_from_first_to_last():
    assert even_frames(200) == [0, 22, 44, 66, 88, 111, 133, 155, 177, 199]
    assert even_frames(3) == [0, 1, 2]


@pytest.mark.parametrize(
    ("views", "rows"),
    [
        (("front",), [["front"]]),
        (RIG, [["front_left", "front", "front_right"], ["back_left", "back", "back_right"]]),
        (("front", "front_left", "front_right"), [["front_left", "front", "front_right"]]),
        (("front", "back"), [["front"], ["back"]]),
        (("front", "top", "front_right"), [["front", "front_right"], ["top", None]]),
        (("top", "roof"), [["top", "roof"]]),
    ],
)
def test_views_lie_as_one_looks_forward(views, rows):
    images = np.stack([np.full((4, 6, 3), 10 * i + 10, np.uint8) for i in range(len(views))])
    picture = tiled(images, views)
    assert picture.shape == (4 * len(rows), 6 * max(map(len, rows)), 3)
    shown = [[picture[4 * y, 6 * x, 0] for x in range(len(row))] for y, row in enumerate(rows)]
    assert shown == [[0 if view is None else 10 * views.index(view) + 10 for view in row] for row in rows]


def test_small_pictures_are_enlarged_by_whole_factors():
    assert enlarged(GREY).shape == (256, 512, 3)
    assert enlarged(np.zeros((3, 384, 3), np.uint8)).shape == (6, 768, 3)
    assert enlarged(np.zeros((3, 600, 3), np.uint8)).shape == (3, 600, 3)


def test_the_overlay_shows_speed_and_steering_in_its_corner_alone():
    plain = np.full((256, 512, 3), 90, np.uint8)

    def changed(speed, steering):
        return (draw_actions(plain, speed, steering) != draw_actions(plain, 8.0, 0.0)).any(-1)

    assert (plain == 90).all()
    assert not changed(8.0, 0.0).any()
    for speed, steering in ((16.0, 0.0), (8.0, 0.5)):
        assert changed(speed, steering).sum() > 20
        assert not changed(speed, steering)[: 256 // 2].any()
        assert not changed(speed, steering)[:, 256:].any()
    needle = (draw_actions(plain, 0.0, np.pi / 2) == (255, 190, 60)).all(-1)
    straight = (draw_actions(plain, 0.0, 0.0) == (255, 190, 60)).all(-1)
    assert needle.nonzero()[1].mean() < straight.nonzero()[1].mean()  # a left turn points left


@pytest.mark.parametrize("shape", [(256, 512), (288, 1024), (16, 32)])
def test_a_gif_is_what_was_drawn(tmp_path, shape):
    frames = [np.full((*shape, 3), (20 * i, 255 - 20 * i, 40), np.uint8) for i in range(8)]
    with GifWriter(tmp_path / "a.gif") as gif:
        for frame in frames:
            gif.add(frame)
    with Image.open(tmp_path / "a.gif") as image:
        assert image.n_frames == 8
        assert image.size == (min(512, shape[1]), shape[0] * min(512, shape[1]) // shape[1])
        assert image.info["loop"] == 0
        for i, frame in enumerate(frames):
            image.seek(i)
            assert image.info["duration"] == 100
            assert np.abs(np.asarray(image.convert("RGB")).mean((0, 1)) - frame.mean((0, 1))).max() < 10
    assert names(tmp_path) == ["a.gif"]
    with pytest.raises(KeyError), GifWriter(tmp_path / "b.gif") as gif:  # noqa: PT012
        gif.add(frames[0])
        raise KeyError
    assert names(tmp_path) == ["a.gif"]
    with pytest.raises(ShardError, match="cannot write"):
        GifWriter(tmp_path / "no" / "a.gif").__enter__()


def test_several_views_are_tiled_and_each_alone_with_the_real_ones_above(tmp_path):
    """The source goes on for 4 of 6 frames, and misses one of them."""
    views = ("front", "front_left")
    real = [np.stack([GREY + 50, GREY + 100]) if i != 2 else None for i in range(4)]
    motion = Motion(speed=np.full(6, 8.0), steering=np.zeros(6))
    outputs = Outputs(gif=True, save_frames=True, overlay=True)
    with Gallery(tmp_path, start(views, lambda: iter(real)), motion, 6, outputs) as gallery:
        for i in range(6):
            gallery.add(np.stack([GREY + i, GREY + 10 + i]))
    assert gallery.done == 6
    found = (
        "rollout.mp4",
        "view-front.mp4",
        "view-front_left.mp4",
        "side-by-side.mp4",
        "rollout.gif",
        "contact.png",
        "frames",
    )
    assert gallery.files() == found
    assert names(tmp_path) == sorted(found)
    assert [len(video(tmp_path / name)) for name in found[:4]] == [6, 6, 6, 4]
    both = video(tmp_path / "side-by-side.mp4")
    assert both[0].shape == (2 * 128, 512, 3)
    assert both[3][64, 256 + 128].mean() == pytest.approx(140, abs=3)  # front to the right of front_left
    assert both[3][64, 128].mean() == pytest.approx(190, abs=3)
    assert both[2][64, 128].mean() < 5  # the missing one
    assert both[3][128 + 64, 256 + 200].mean() == pytest.approx(93, abs=3)
    for view, add in (("front", 5), ("front_left", 15)):
        png = cv2.imread(str(tmp_path / "frames" / view / "000005.png"))
        assert np.array_equal(png, GREY + add)  # without the overlay
        assert len(names(tmp_path / "frames" / view)) == 6
    assert (np.abs(video(tmp_path / "rollout.mp4")[5][64:, :150].astype(int) - 105) > 60).any()  # with it


def test_the_overlay_is_on_videos_gif_and_sheet(tmp_path):
    motion = Motion(speed=np.full(3, 8.0), steering=np.zeros(3))
    shown = {}
    for overlay in (False, True):
        (folder := tmp_path / str(overlay)).mkdir()
        with Gallery(folder, start(), motion, 3, Outputs(gif=True, overlay=overlay)) as gallery:
            for _ in range(3):
                gallery.add(GREY[None])
        with Image.open(folder / "rollout.gif") as gif:
            sheet = cv2.imread(str(folder / "contact.png"))[30:, 100:]
            shown[overlay] = [video(folder / "rollout.mp4")[1], np.asarray(gif.convert("RGB")), sheet]
    for plain, drawn in zip(*shown.values(), strict=True):
        bright = [int((image[image.shape[0] // 2 :].min(-1) > 200).sum()) for image in (plain, drawn)]
        assert bright[0] == 0
        assert bright[1] > 20


def test_a_damaged_source_ends_the_comparison_and_not_the_rollout(tmp_path, capsys):
    def truth():
        yield GREY[None]
        yield GREY[None]
        raise ShardError("a.tar: damaged")

    with Gallery(tmp_path, start(truth=truth), Motion(), 5, Outputs()) as gallery:
        for _ in range(5):
            gallery.add(GREY[None])
    assert len(video(tmp_path / "rollout.mp4")) == 5
    assert len(video(tmp_path / "side-by-side.mp4")) == 2
    assert "no real frame 2 to compare with: a.tar: damaged" in capsys.readouterr().err


def test_what_was_added_plays_after_any_failure(tmp_path):
    with pytest.raises(KeyboardInterrupt), Gallery(tmp_path, start(), Motion(), 50, Outputs()) as gallery:  # noqa: PT012
        for _ in range(7):
            gallery.add(GREY[None])
        raise KeyboardInterrupt
    assert len(video(tmp_path / "rollout.mp4")) == 7
    assert names(tmp_path) == ["contact.png", "rollout.mp4"]


def test_nothing_is_left_of_a_rollout_without_a_frame(tmp_path):
    with pytest.raises(KeyError), Gallery(tmp_path, start(truth=lambda: iter([])), Motion(), 5, Outputs(gif=True)):
        raise KeyError
    assert names(tmp_path) == []


def test_a_full_disk_leaves_the_whole_seconds_before_it(tmp_path):
    """A limit on the size of files stands in for the disk; `salvage` needs no more room."""
    noise = np.random.default_rng(0)
    before, ignored = resource.getrlimit(resource.RLIMIT_FSIZE), signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (600_000, before[1]))
    try:
        with (  # noqa: PT012
            pytest.raises(ShardError, match=r"cannot write .*rollout\.mp4: File too large; free some space"),
            Gallery(tmp_path, start(), Motion(), 500, Outputs()) as gallery,
        ):
            for _ in count():
                gallery.add(noise.integers(0, 255, (1, 32, 64, 3), dtype=np.uint8))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, ignored)
    with av.open(str(tmp_path / "rollout.mp4")) as file:  # decodes without an error to its last frame
        assert 10 <= sum(1 for _ in file.decode(video=0)) <= gallery.done
    assert (tmp_path / "rollout.mp4").stat().st_size > 300_000
    assert names(tmp_path) == ["contact.png", "rollout.mp4"]


CHILD = """
import resource, sys
from pathlib import Path
import torch
from conftest import SIZE, TINY
from gwm.core.world_model import WorldModel
from gwm.pipelines.checkpoint import Checkpoint, Training
from gwm.pipelines.rollout import RolloutSettings, rollout
from gwm.pipelines.rollout_out import Outputs
video, out, frames = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])
model = WorldModel(TINY).eval().requires_grad_(False)
checkpoint = Checkpoint(model, Training(SIZE, 25, preset="tiny"), "tiny")
outputs = Outputs(gif=True, overlay=True)
result = rollout(checkpoint, out, RolloutSettings(frames, 1, 1.0), video, "keep", outputs=outputs)
assert result.frames == frames
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


@pytest.mark.slow
def test_memory_does_not_grow_with_the_rollout(tmp_path):
    """Peaks of two processes; the source, too, is longer than either. Minutes: 2 200 frames in three encodings."""
    image = np.random.default_rng(0).integers(0, 255, (32, 64, 3), dtype=np.uint8)
    write_video(tmp_path / "long.mp4", (np.roll(image, i, axis=1) for i in range(2100)))
    peaks = []
    for frames in (200, 2000):
        command = [sys.executable, "-c", CHILD, tmp_path / "long.mp4", tmp_path / str(frames), str(frames)]
        environment = os.environ | {"PYTHONPATH": str(Path(__file__).parent)}
        done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
        peaks.append(int(done.stdout))
        shutil.rmtree(tmp_path / str(frames))
    assert peaks[1] < 1.05 * peaks[0], peaks
