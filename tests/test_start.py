"""What rollouts start from: four kinds, their first frames and the real ones after them, and what is refused."""

import cv2
import numpy as np
import pytest
from conftest import SIZE
from toy_shards import make_chunk, write

from gwm.pipelines.recipe import RIG
from gwm.pipelines.start import load_start
from gwm.pipelines.video_out import write_video
from gwm.shards import SourceError
from gwm.shards.index import open_dataset
from gwm.shards.reader import read_chunk

VIEWS = ("front", "front_right", "front_left")  # clockwise, as they are stored


def write_steps(path, frames, size=(40, 80), rate=10.0):
    """A video whose frame i has the brightness 10 i."""
    write_video(path, (np.full((*size, 3), 10 * i, np.uint8) for i in range(frames)), rate)
    return path


def test_an_image_is_one_frame(tmp_path):
    cv2.imwrite(str(tmp_path / "a.png"), np.full((40, 80, 3), 50, np.uint8))
    start = load_start(tmp_path / "a.png", SIZE, 3)
    assert start.frames.shape == (1, 1, SIZE[1], SIZE[0], 3)
    assert (start.frames == 50).all()
    assert start.truth is None
    assert start.notes == ()


def test_a_video_gives_its_first_frames_and_all_as_truth(tmp_path):
    start = load_start(write_steps(tmp_path / "a.mp4", 12), SIZE, 3)
    assert start.frames.shape == (3, 1, SIZE[1], SIZE[0], 3)
    truth = list(start.truth())
    assert [image.shape for image in truth] == [(1, SIZE[1], SIZE[0], 3)] * 12
    assert [round(float(image.mean()) / 10) for image in truth] == list(range(12))
    assert np.array_equal(np.stack(truth[:3]), start.frames)
    assert start.notes == ()
    assert load_start(write_steps(tmp_path / "b.mp4", 3), SIZE, 3).truth is None  # nothing after the start


def test_a_video_shorter_than_the_condition_frames_gives_fewer_and_says_so(tmp_path):
    start = load_start(write_steps(tmp_path / "a.mp4", 2), SIZE, 3)
    assert len(start.frames) == 2
    assert start.notes == ("a.mp4 begins with 2 frames without a gap, not 3: the first window has 2 condition frames",)


def test_a_gap_in_a_video_is_a_missing_truth(tmp_path):
    """Frames 2 s apart are shown for 1 s each: there is no picture for the second after it."""
    start = load_start(write_steps(tmp_path / "a.mp4", 2, rate=0.5), SIZE, 15)
    assert len(start.frames) == 10
    truth = list(start.truth())
    assert [image is None for image in truth] == [False] * 10 + [True] * 10 + [False] * 10


@pytest.mark.parametrize("kind", ["image", "video"])
def test_another_aspect_is_cropped_and_said(tmp_path, kind):
    image = np.zeros((40, 100, 3), np.uint8)
    image[:, 10:90] = 200  # the part of SIZE's aspect
    path = tmp_path / ("a.png" if kind == "image" else "a.mp4")
    if kind == "image":
        cv2.imwrite(str(path), image)
    else:
        write_video(path, [image] * 3)
    start = load_start(path, SIZE, 3)
    assert start.notes == (f"{path.name}: 100x40 is cropped to 80x40, the aspect of the model's 64x32",)
    assert start.frames.mean() > 190


@pytest.fixture(scope="module")
def three_views(tmp_path_factory):
    chunks = [make_chunk(i, 40, VIEWS, "val" if i == 1 else "train") for i in range(8)]
    return write(tmp_path_factory.mktemp("shards") / "toy", chunks)


def test_a_sample_by_key_or_the_first_for_validation(three_views):
    dataset = open_dataset(three_views)
    start = load_start(three_views, (32, 16), 3)
    assert start.name.endswith("chunk-0001")
    named = load_start(three_views, (32, 16), 3, key="chunk-0005")
    assert named.name.endswith("chunk-0005")
    front = read_chunk(dataset, 5).frames[:, :1]
    assert np.array_equal(named.frames, front[:3])
    assert np.array_equal(np.stack(list(named.truth())), front)
    assert len(named.motion.speed) == len(named.motion.pose) == 40
    assert named.text == "Straße, night"
    assert named.notes == ()


@pytest.mark.parametrize(
    ("wanted", "names"),
    [(VIEWS[:1], VIEWS[:1]), (VIEWS[1::-1], VIEWS[1::-1]), (RIG, VIEWS), (("side_left",), VIEWS[:1])],
)
def test_views_are_those_of_training_in_its_order_or_the_sample_s_own(three_views, wanted, names):
    start = load_start(three_views, (32, 16), 3, wanted)
    assert start.views == names
    assert start.frames.shape[1] == len(names)
    assert tuple(camera.view for camera in start.cameras) == names
    assert next(iter(start.truth())).shape == (len(names), 16, 32, 3)


def test_bad_starts_are_refused(tmp_path, three_views):
    def refused(message, path, **more):
        with pytest.raises(SourceError, match=message):
            load_start(path, SIZE, 3, **more)

    refused("no such file", tmp_path / "no.mp4")
    refused("no dataset", tmp_path)
    (tmp_path / "text.mp4").write_text("not a video")
    refused(r"text\.mp4", tmp_path / "text.mp4")
    (tmp_path / "text.png").write_text("not an image")
    refused("not a readable image", tmp_path / "text.png")
    few = "chunk-0000, chunk-0001, chunk-0002, chunk-0003, chunk-0004 and 3 more"
    refused(f"--key chunk-9: .* has no such sample; it has {few}", three_views, key="chunk-9")
    refused("no folder of shards", write_steps(tmp_path / "a.mp4", 4), key="chunk-9")
