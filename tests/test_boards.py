"""What TensorBoard reads back, and boards that are not installed."""

import builtins
import io
import sys
from dataclasses import replace
from types import SimpleNamespace

import av
import numpy as np
import pytest

from gwm.core import ConfigError
from gwm.pipelines.boards import encode_gif, open_boards, scalars
from gwm.pipelines.metrics import Metrics

LINE = Metrics(
    stage="1c", step=10, position=10, loss=0.5, loss_tau=(0.1, None, 0.3, 0.4, 0.5, 0.6, 0.7, 1.0), loss_visible=None,
    loss_hidden=0.75, loss_frame=(None, 0.5), gradient_norm=1.25, lr=1e-3, seconds_per_step=0.2, data_wait=0.05,
    tokens_per_second=8000.0, memory_bytes=1 << 31, time=1.7e9,
)  # fmt: skip


def video(frames=7):
    """A square that moves over a gradient."""
    y, x = np.mgrid[:48, :96]
    out = np.stack([y * 4, 2 * x, 0 * x + 90], -1).astype(np.uint8)[None].repeat(frames, 0)
    for t in range(frames):
        out[t, 10:20, 4 + 10 * t : 14 + 10 * t] = 255
    return out


def decoded(gif):
    with av.open(io.BytesIO(gif)) as file:
        pictures = list(file.decode(video=0))
    return np.stack([p.to_ndarray(format="rgb24") for p in pictures]), [float(p.time) for p in pictures]


@pytest.mark.parametrize("frames", [1, 7])
def test_a_gif_holds_every_frame_in_its_colours_at_10_hz(frames):
    pictures, times = decoded(encode_gif(video(frames)))
    assert pictures.shape == (frames, 48, 96, 3)
    assert times == pytest.approx([t / 10 for t in range(frames)])
    assert np.abs(pictures.astype(int) - video(frames)).mean() < 6
    assert b"NETSCAPE2.0" in encode_gif(video(2))  # repeats


def read_events(folder):
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator", reason="extra")
    events = accumulator.EventAccumulator(str(folder), size_guidance={"images": 0, "scalars": 0})
    events.Reload()
    return events


def test_tensorboard_reads_scalars_and_videos(tmp_path):
    pytest.importorskip("tensorboard", reason="needs the extra tensorboard: pip install 'gwm[tensorboard]'")
    board = open_boards(tmp_path, tensorboard=True, wandb=False)
    for position in (10, 20):
        board.log(replace(LINE, position=position, loss=position / 10, time=1.7e9 + position))
    board.video("preview/0", video(), 20)
    board.close()
    events = read_events(tmp_path / "tensorboard")
    tags = events.Tags()
    assert set(tags["scalars"]) == set(scalars(LINE))
    assert [(e.step, e.value, e.wall_time) for e in events.Scalars("loss/all")] == [
        (10, 1.0, 1.7e9 + 10),
        (20, 2.0, 1.7e9 + 20),
    ]
    assert events.Scalars("loss_tau/0.875-1.000")[0].value == 1.0
    assert "loss_tau/0.125-0.250" not in tags["scalars"]
    assert "loss/visible" not in tags["scalars"]
    assert tags["images"] == ["preview/0"]
    (image,) = events.Images("preview/0")
    assert (image.step, image.width, image.height) == (20, 96, 48)
    assert image.encoded_image_string == encode_gif(video())


def test_a_resumed_run_forgets_what_came_after_its_state(tmp_path):
    pytest.importorskip("tensorboard", reason="needs the extra tensorboard: pip install 'gwm[tensorboard]'")
    for resumed, positions in ((0, (10, 20, 30)), (20, (30, 40))):
        board = open_boards(tmp_path, tensorboard=True, wandb=False, position=resumed)
        for position in positions:
            board.log(replace(LINE, position=position, loss=float(position + resumed)))
        board.close()
    events = read_events(tmp_path / "tensorboard")
    assert [(e.step, e.value) for e in events.Scalars("loss/all")] == [(10, 10), (20, 20), (30, 50), (40, 60)]


def test_without_boards_nothing_is_written(tmp_path):
    board = open_boards(tmp_path, tensorboard=False, wandb=False)
    board.log(LINE)
    board.video("preview/0", video(), 1)
    board.close()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["tensorboard", "wandb"])
def test_a_missing_package_is_one_message_with_its_remedy(tmp_path, monkeypatch, name):
    real = builtins.__import__

    def missing(wanted, *rest):
        if wanted.partition(".")[0] == name or wanted == f"torch.utils.{name}":
            raise ModuleNotFoundError(wanted)
        return real(wanted, *rest)

    monkeypatch.setattr(builtins, "__import__", missing)
    with pytest.raises(ConfigError, match=rf"pip install 'gwm\[{name}\]'"):
        open_boards(tmp_path, tensorboard=name == "tensorboard", wandb=name == "wandb")
    assert list(tmp_path.iterdir()) == []


def test_wandb_is_called_with_positions_and_continues_the_same_run(tmp_path, monkeypatch):
    """Against a stand-in that records: the package itself is not among what the tests install."""
    begun, logged, finished = [], [], []

    def init(**settings):
        begun.append(settings)
        return SimpleNamespace(
            log=logged.append, finish=lambda: finished.append(1), define_metric=lambda *_, **__: None
        )

    def as_video(file, format):
        return format, file.getvalue()

    monkeypatch.setitem(sys.modules, "wandb", SimpleNamespace(init=init, Video=as_video))
    for position in (10, 20):
        board = open_boards(tmp_path, tensorboard=False, wandb=True, position=position - 10)
        board.log(replace(LINE, position=position))
        board.video("preview/0", video(), position)
        board.close()
    assert len(finished) == 2
    assert begun[0] == begun[1]
    assert begun[0]["resume"] == "allow"
    assert len(begun[0]["id"]) == 16
    assert [line["position"] for line in logged] == [10, 10, 20, 20]
    assert logged[0]["loss/hidden"] == 0.75
    assert logged[1]["preview/0"] == ("gif", encode_gif(video()))
