"""Memory while a video is preprocessed: that of a short one."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
import toy_video

from gwm.shards.index import open_dataset

RUN = """
import sys
from pathlib import Path
from gwm.pipelines.preprocess import preprocess
from gwm.shards.clips import Cutting
from gwm.shards.sources.video import VideoSource

preprocess(VideoSource(Path(sys.argv[1]), Cutting(None, (640, 360))), Path(sys.argv[2]))
print(Path("/proc/self/status").read_text())
"""


def peak(video: Path, out: Path) -> int:
    """kB, of a process that preprocesses a video. The system's `ru_maxrss` would begin with the size of this one."""
    said = subprocess.run([sys.executable, "-c", RUN, video, out], capture_output=True, text=True, check=True).stdout
    (found,) = re.findall(r"VmHWM:\s*(\d+) kB", said)
    return int(found)


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs Linux")
def test_memory_does_not_grow_with_the_length_of_a_video(tmp_path, monkeypatch):
    """Within 10 %: a decoded frame takes 0.7 MB, so all of them 410 MB."""
    monkeypatch.setattr(toy_video, "WIDTH", 640)
    monkeypatch.setattr(toy_video, "HEIGHT", 360)
    found = {}
    for seconds in (10, 60):
        video, out = tmp_path / f"{seconds}.mp4", tmp_path / f"{seconds}"
        toy_video.write(video, toy_video.regular(10, 10 * seconds), codec="mpeg4")
        found[seconds] = peak(video, out)
        assert sum(open_dataset(out).table.column("frames").to_pylist()) == 10 * seconds
    assert found[60] <= 1.1 * found[10], found
