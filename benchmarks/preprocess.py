"""Preprocessing side by side: videos against ffmpeg, one worker and two, Waymo, nuScenes, and loading.

    python -m benchmarks.preprocess --json OUT [--videos FILE_OR_FOLDER] [--waymo TFRECORD]

All in one run: variants are interleaved, ratios are medians over rounds of ratios within a round, after a round that
does not count. "Per CPU-second" counts the processor time of all threads and of the processes that were waited for.
Without `--videos` a rendered minute of 720p is read. ffmpeg, decord and the official Waymo package are needed for their
own rows only; what is missing is said, and its row is left out.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from statistics import median
from typing import Any
from unittest.mock import patch

import av
import cv2
import numpy as np
import torch
from PIL import Image as Pillow

from gwm.pipelines.cuts import TransNetCuts
from gwm.pipelines.loader import Shape, evaluation_batches
from gwm.pipelines.preprocess import preprocess
from gwm.pipelines.workers import in_processes, one_thread
from gwm.shards.clips import Cutting
from gwm.shards.cuts import FindCuts
from gwm.shards.files import write_json
from gwm.shards.images import encode_jpeg
from gwm.shards.index import open_dataset
from gwm.shards.motion import planar_pose
from gwm.shards.nuscenes.scene import VIEWS
from gwm.shards.nuscenes.write import Recording, Taken, shot_times, write_nuscenes
from gwm.shards.schema import Floats, Images
from gwm.shards.sources.nuscenes import NuScenesSource
from gwm.shards.sources.video import VideoSource, video_files
from gwm.shards.sources.world import WorldSource
from gwm.shards.tfrecord import frame_record, read_records
from gwm.shards.video import read_frames
from gwm.shards.waymo import v1
from gwm.shards.waymo.frame import Calibration, Frame, Image
from gwm.shards.wire import put_bytes
from gwm.shards.world import Renderer, front_camera, make_scene

SIZE = (512, 288)
SECONDS, FPS = 60, 30  # of the rendered video
WORKED = 4800  # frames that the workers share, at least, in jobs of about 200
RECORDS = 60  # frames of Waymo
SCENE_SECONDS = 20.0  # of a scene of nuScenes
LENGTH = 25  # frames of a window

Work = dict[str, Callable[[], object]]
Timed = tuple[float, float]  # wall and processor seconds


def timed(work: Callable[[], object]) -> Timed:
    """Seconds of one call, of this process and those it waited for."""

    def cpu() -> float:
        used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
        return sum(u.ru_utime + u.ru_stime for u in used)

    wall, began = time.perf_counter(), cpu()
    work()
    return time.perf_counter() - wall, cpu() - began


def interleaved(work: Work, rounds: int) -> dict[str, list[Timed]]:
    """Each piece of work once a round, after one round that does not count."""
    times: dict[str, list[Timed]] = {name: [] for name in work}
    for i in range(rounds + 1):
        for name, call in work.items():
            measured = timed(call)
            if i:
                times[name].append(measured)
    return times


def rates(times: dict[str, list[Timed]], amount: float, base: str) -> dict[str, Any]:
    """Amount per second and per CPU-second, and the latter over that of `base` in the same round, if it is there."""
    found: dict[str, Any] = {}
    for name, values in times.items():
        found[name] = {
            "per_second": amount / median(wall for wall, _ in values),
            "per_cpu_second": amount / median(cpu for _, cpu in values),
        }
        if base in times:
            ratios = [b / a for (_, a), (_, b) in zip(values, times[base], strict=True)]
            found[name][f"of_{base}"] = median(ratios)
            found[name]["from_to"] = [min(ratios), max(ratios)]
    return found


def without(what: str, remedy: str) -> None:
    """Say that a row is left out."""
    print(f"{what} is not installed, its row is left out: {remedy}", file=sys.stderr, flush=True)


def rendered_video(path: Path, seconds: int = SECONDS) -> Path:
    """A drive through the world in 1280x720, h264, every picture shown for three frames of 30 a second."""
    renderer = Renderer(make_scene(7, 0, seconds * 10 + 1), front_camera(1280, 720))
    with av.open(str(path), "w") as file:
        stream = file.add_stream("libx264", rate=FPS, options={"crf": "20", "preset": "veryfast"})
        stream.width, stream.height, stream.pix_fmt = 1280, 720, "yuv420p"
        for i in range(seconds * FPS):
            if i % 3 == 0:
                image = renderer.frame(i // 3)
            frame = av.VideoFrame.from_ndarray(image, format="rgb24")
            frame.pts, frame.time_base = i, Fraction(1, FPS)
            file.mux(stream.encode(frame))
        file.mux(stream.encode())
    return path


def fresh(folder: Path) -> Iterator[Path]:
    """Names for folders that are not there."""
    return (folder / f"run{i}" for i in range(10**6))


def videos(source: Path, folder: Path, rounds: int) -> dict[str, Any]:
    """Frames/s of `preprocess video` with cut detection and without, of ffmpeg into JPEGs, of PyAV and decord alone."""
    new, paths = fresh(folder), [Path(str(path)) for path in video_files(source)]
    frames = sum(1 for path in paths for _ in read_frames(path, SIZE, losses=[]))

    def ours(find_cuts: FindCuts | None) -> None:
        out = next(new)
        preprocess(VideoSource(source, Cutting(find_cuts, SIZE)), out)
        shutil.rmtree(out)

    def ffmpeg() -> None:
        scale = f"fps=10:round=up,scale={SIZE[0]}:{SIZE[1]}"
        for path in paths:
            out = next(new)
            out.mkdir()
            command = ["ffmpeg", "-v", "error", "-i", str(path), "-vf", scale, "-q:v", "2", str(out / "f_%06d.jpg")]
            subprocess.run(command, check=True)
            shutil.rmtree(out)

    work: Work = {"gwm": lambda: ours(TransNetCuts()), "gwm without cut detection": lambda: ours(None)}
    if shutil.which("ffmpeg"):
        work["ffmpeg"] = ffmpeg
    else:
        without("ffmpeg", "apt-get install ffmpeg")
    work["reading alone, PyAV"] = lambda: [None for path in paths for _ in read_frames(path, SIZE, losses=[])]
    try:
        import decord
    except ImportError:
        without("decord", "pip install decord")
    else:
        work["reading alone, decord"] = lambda: [decord_frames(decord, path) for path in paths]
    return {"frames": frames, "videos": len(paths), **rates(interleaved(work, rounds), frames, "ffmpeg")}


def decord_frames(decord: Any, video: Path) -> int:
    """Read a frame for each tenth of a second, at SIZE: by index, which is wrong where the rate varies."""
    reader = decord.VideoReader(str(video), width=SIZE[0], height=SIZE[1])
    step = reader.get_avg_fps() / 10
    return sum(len(reader[int(i * step)].asnumpy()) > 0 for i in range(int(len(reader) / step)))


def workers(source: Path, folder: Path, rounds: int) -> dict[str, Any]:
    """Wall time of `preprocess video` with one worker over that with two; the start of the processes counts.

    One worker is this process, where the cut detector's network uses all CPUs; so it runs with one thread as well, as
    each of several workers does.
    """
    many, new = folder / "many", fresh(folder)
    many.mkdir()
    paths = [Path(str(path)) for path in video_files(source)]
    frames = sum(1 for path in paths for _ in read_frames(path, SIZE, losses=[]))
    for copy in range(-(-WORKED // frames)):
        for path in paths:
            shutil.copy(path, many / f"{copy}_{path.name}")

    def run(count: int) -> None:
        out = next(new)
        with patch("gwm.shards.plan.SHARD_IMAGES", 200):  # so that there are several jobs for each worker
            preprocess(VideoSource(many, Cutting(TransNetCuts(), SIZE)), out, workers=in_processes(count))
        shutil.rmtree(out)

    def one_thread_alone() -> None:
        before = torch.get_num_threads(), cv2.getNumThreads()
        one_thread()
        run(1)
        torch.set_num_threads(before[0])
        cv2.setNumThreads(before[1])

    work: Work = {"1": lambda: run(1), "1, one thread": one_thread_alone, "2": lambda: run(2)}
    times = interleaved(work, rounds)
    return {
        "seconds": {name: median(wall for wall, _ in values) for name, values in times.items()},
        "speedup_of_2_over": {
            name: median(a / b for (a, _), (b, _) in zip(values, times["2"], strict=True))
            for name, values in times.items()
        },
        "cpus": len(os.sched_getaffinity(0)),
    }


def waymo(record: Path | None, rounds: int) -> dict[str, Any]:
    """MB/s of our reader and of the official parser on the same records, all after our reading of the TFRecord.

    The official parser makes Python objects of a field only when it is asked for: once it is asked for the fields that
    our reader gives, once for nothing.
    """
    if record:
        with record.open("rb") as file:
            frame = next(iter(read_records(file, str(record))))
    else:
        lidar = put_bytes(5, put_bytes(2, put_bytes(2, np.random.default_rng(0).bytes(4_000_000))))
        frame = v1.encode_frame(made_frame()) + lidar  # lasers / ri_return1 / range_image_compressed
    data = frame_record(frame) * RECORDS
    work: Work = {"gwm": lambda: [None for _ in v1.read_frames(io.BytesIO(data), "x")]}
    work["reading the TFRecord alone"] = lambda: [None for _ in read_records(io.BytesIO(data), "x")]
    try:
        from google.protobuf.internal import api_implementation
        from waymo_open_dataset import dataset_pb2
    except ImportError:
        without(
            "the official Waymo package", "pip install protobuf; pip install --no-deps waymo-open-dataset-tf-2-12-0"
        )
        kind = "none"
    else:
        parse, kind = dataset_pb2.Frame.FromString, api_implementation.Type()
        work["official"] = lambda: [used_fields(parse(one)) and None for one in read_records(io.BytesIO(data), "x")]
        work["official, no field asked for"] = lambda: [
            parse(one) and None for one in read_records(io.BytesIO(data), "x")
        ]
    measured = rates(interleaved(work, rounds), len(data) / 1e6, "official")
    return {"mb_a_record": len(frame) / 1e6, "protobuf": kind, **measured}


def used_fields(frame: Any) -> tuple[object, ...]:
    """What our reader takes from an official `Frame`, in its types."""
    stats, context = frame.context.stats, frame.context

    def matrix(transform: Any) -> Floats:
        return np.array(transform.transform).reshape(4, 4)

    def velocity(v: Any) -> tuple[float, ...]:
        return v.v_x, v.v_y, v.v_z, v.w_x, v.w_y, v.w_z

    images = [(i.name, i.image, matrix(i.pose), velocity(i.velocity), i.pose_timestamp) for i in frame.images]
    calibrations = [
        (c.name, c.width, c.height, tuple(c.intrinsic), matrix(c.extrinsic)) for c in context.camera_calibrations
    ]
    told = (context.name, frame.timestamp_micros, stats.time_of_day, stats.location, stats.weather)
    return *told, matrix(frame.pose), images, calibrations


def made_frame() -> Frame:
    """Five cameras of Waymo's sizes."""
    sizes = {"front": 1280, "front_left": 1280, "front_right": 1280, "side_left": 886, "side_right": 886}
    images = {view: Image(picture(1920, height), np.eye(4), (1.0,) * 6, 0.5) for view, height in sizes.items()}
    calibrations = tuple(Calibration(view, 1920, height, (1.0,) * 9, np.eye(4)) for view, height in sizes.items())
    return Frame("1_0_000_20_000", 1, np.eye(4), images, calibrations)


def picture(width: int, height: int, frame: int = 0) -> bytes:
    """A rendered frame as JPEG, with noise, as a camera has."""
    image = Renderer(make_scene(7, 0, frame + 2), front_camera(width, height)).frame(frame).astype(np.int16)
    noise = np.random.default_rng(frame).normal(0, 4, image.shape).astype(np.int16)
    return encode_jpeg(np.clip(image + noise, 0, 255).astype(np.uint8), 90)


def nuscenes(folder: Path, rounds: int) -> dict[str, Any]:
    """Scenes/s: 20 s of six cameras of 1600x900 at 12 Hz, into 512x288 at 10 Hz; and decoding their images alone."""
    pictures = [picture(1600, 900, 20 * i) for i in range(4)]
    cameras = tuple(replace(front_camera(1600, 900), view=view) for view in VIEWS)
    start = 1_532_402_927_600_000  # µs

    def pose(micros: int) -> Floats:
        x, zero = np.array([10 * (micros - start) / 1e6]), np.zeros(1)
        return np.asarray(planar_pose(x, zero, zero)[0], np.float64)

    images = [
        Taken(view, micros, key, pictures[i % 4])
        for view in VIEWS
        for i, (micros, key) in enumerate(shot_times(start, round(SCENE_SECONDS * 1e6) + 1))
    ]
    root, new = folder / "nuscenes", fresh(folder)
    write_nuscenes(root, [Recording("scene-0103", "", "singapore-onenorth", "2018-07-24", cameras, pose, images)])

    def ours() -> None:
        out = next(new)
        report = preprocess(NuScenesSource(root, split="mini_val"), out, strict=True)
        assert report.frames > 10 * SCENE_SECONDS - 5, report
        shutil.rmtree(out)

    def decoding() -> None:
        for image in images:
            cv2.imdecode(np.frombuffer(image.jpeg, np.uint8), cv2.IMREAD_COLOR)

    work: Work = {"gwm": ours, "decoding all images alone, OpenCV": decoding}
    return {"images": len(images), **rates(interleaved(work, rounds), 1, "decoding all images alone, OpenCV")}


def pillow_decode(data: bytes) -> Images:
    """As `gwm.shards.images.decode_jpeg`, by Pillow."""
    return np.asarray(Pillow.open(io.BytesIO(data)).convert("RGB"))


def loading(folder: Path, rounds: int) -> dict[str, Any]:
    """Windows/s of our loader, 25 frames of 512x288 in one process, as it is (turbo) and with Pillow's decoder."""
    out = folder / "world"
    preprocess(WorldSource(8, frames=4 * LENGTH, size=SIZE), out)
    dataset = open_dataset(out)

    def load() -> int:
        return sum(len(batch.keys) for batch in evaluation_batches(dataset, "train", Shape(LENGTH), 1, LENGTH))

    def pillow() -> None:
        with patch("gwm.shards.reader.decode_jpeg", pillow_decode):
            load()

    return rates(interleaved({"turbo": load, "Pillow": pillow}, rounds), load(), "Pillow")


def main() -> None:
    """Parse, run, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="file for the record")
    parser.add_argument("--videos", type=Path, help="a video or a folder of them; else a rendered minute of 720p")
    parser.add_argument("--waymo", type=Path, help="a TFRecord whose first frame is read; else a made one")
    parser.add_argument("--rounds", type=int, default=5)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        source = given.videos or rendered_video(folder / "world.mp4")
        few = max(1, given.rounds // 2)
        parts: dict[str, Callable[[], dict[str, Any]]] = {
            "video, frames": lambda: videos(source, folder, given.rounds),
            "workers": lambda: workers(source, folder, few),
            "waymo, MB": lambda: waymo(given.waymo, given.rounds),
            "nuscenes, scenes": lambda: nuscenes(folder, few),
            "loading, windows": lambda: loading(folder, given.rounds),
        }
        record: dict[str, Any] = {"rounds": given.rounds, "load_before": os.getloadavg()}
        for part, measure in parts.items():
            record[part] = measure()
            print(json.dumps({part: record[part]}, indent=2), flush=True)
        record["load_after"] = os.getloadavg()
    if given.json:
        write_json(given.json, record)


if __name__ == "__main__":
    main()
