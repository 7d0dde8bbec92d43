"""The lines of metrics.jsonl: what is written is read, and what a kill leaves behind does no harm."""

import json
from dataclasses import replace

import pytest

from gwm.core import ConfigError
from gwm.pipelines.metrics import Metrics, append, read, truncate

LINE = Metrics(
    stage="1b", step=30, position=330, loss=0.5, loss_tau=(0.1, None, 0.3, 0.4, 0.5, 0.6, 0.7, 1.0), loss_visible=0.4,
    loss_hidden=None, loss_frame=(None, 0.5, 0.6), gradient_norm=1.25, lr=1e-3, seconds_per_step=0.2, data_wait=0.05,
    tokens_per_second=8000.0, memory_bytes=1 << 31, time=1.7e9,
)  # fmt: skip


def written(path, positions=(10, 20, 30)):
    lines = [replace(LINE, position=position) for position in positions]
    for line in lines:
        append(path, line)
    return lines


def test_what_is_written_is_read_back(tmp_path):
    path = tmp_path / "metrics.jsonl"
    assert read(path) == []
    assert read(path) == written(path, ())
    lines = written(path)
    assert read(path) == lines
    assert json.loads(path.read_text().splitlines()[0]) == {
        "stage": "1b", "step": 30, "position": 10, "loss": 0.5,
        "loss_tau": [0.1, None, 0.3, 0.4, 0.5, 0.6, 0.7, 1.0], "loss_visible": 0.4, "loss_hidden": None,
        "loss_frame": [None, 0.5, 0.6], "gradient_norm": 1.25, "lr": 1e-3, "seconds_per_step": 0.2, "data_wait": 0.05,
        "tokens_per_second": 8000.0, "memory_bytes": 1 << 31, "time": 1.7e9,
    }  # fmt: skip


def test_a_kill_at_any_byte_of_the_last_line_loses_that_line_alone(tmp_path):
    path = tmp_path / "metrics.jsonl"
    lines = written(path)
    whole = path.read_bytes()
    start = whole.rindex(b"\n", 0, -1) + 1
    for size in range(start, len(whole) + 1):
        path.write_bytes(whole[:size])
        assert read(path) == lines[: 3 if size >= len(whole) - 1 else 2]
        truncate(path, 1000)
        append(path, lines[2])  # begins a line of its own
        assert read(path)[-2:] == ([lines[2]] * 2 if size >= len(whole) - 1 else lines[1:])


def test_truncating_drops_the_steps_after_a_state(tmp_path):
    path = tmp_path / "metrics.jsonl"
    truncate(path, 0)
    assert not path.exists()
    lines = written(path)
    before = path.read_bytes()
    truncate(path, 30)
    assert path.read_bytes() == before
    truncate(path, 29)
    assert read(path) == lines[:2]
    truncate(path, 0)
    assert path.read_bytes() == b""
    assert [p.name for p in tmp_path.iterdir()] == ["metrics.jsonl"]


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"loss": None}, "loss is None"),
        ({"loss": float("nan")}, "NaN"),
        ({"step": 1.5}, "step is 1.5"),
        ({"step": True}, "step is True"),
        ({"stage": 1}, "stage is 1"),
        ({"loss_tau": [1.0]}, r"loss_tau is \[1.0\]"),
        ({"loss_frame": ["a"]}, "loss_frame is"),
        ({"colour": 1}, "unknown: colour"),
    ],
)
@pytest.mark.parametrize("act", [read, lambda path: truncate(path, 1000)])
def test_a_damaged_line_is_named(tmp_path, change, complaint, act):
    path = tmp_path / "metrics.jsonl"
    written(path)
    lines = path.read_text().splitlines()
    lines[1] = json.dumps({**json.loads(lines[1]), **change})
    path.write_text("\n".join(lines) + "\n")
    before = path.read_bytes()
    with pytest.raises(ConfigError, match=rf"metrics\.jsonl, line 2 is damaged \(.*{complaint}.*delete"):
        act(path)
    assert path.read_bytes() == before


@pytest.mark.parametrize("damage", [b"", b"[1]", b'{"stage": "1b"}', b"\xff\xfe", b'{"stage"'])
def test_a_damaged_line_with_its_newline_was_not_cut_short(tmp_path, damage):
    path = tmp_path / "metrics.jsonl"
    written(path)
    path.write_bytes(path.read_bytes() + damage + b"\n")
    with pytest.raises(ConfigError, match="line 4 is damaged"):
        read(path)


def test_a_value_that_is_no_number_is_never_written(tmp_path):
    with pytest.raises(ValueError, match="JSON"):
        append(tmp_path / "metrics.jsonl", replace(LINE, loss=float("inf")))
    assert not (tmp_path / "metrics.jsonl").exists()
