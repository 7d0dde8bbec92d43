"""The command line: results as JSON, and one clear message for each mistake."""

import json
import subprocess
import sys
from pathlib import Path

import diffusers
import pytest
import torch
from conftest import SIZE, TINY
from safetensors.torch import load_file
from toy_video import plain, regular, write
from typer.testing import CliRunner

from gwm.cli.main import app
from gwm.core.world_model import WorldModel
from gwm.pipelines.checkpoint import Training, save_checkpoint

pytestmark = pytest.mark.usefixtures("elsewhere")


@pytest.fixture
def checkpoint(tmp_path):
    path = tmp_path / "tiny.safetensors"
    save_checkpoint(path, TINY, WorldModel(TINY).state_dict(), Training(SIZE, 6, preset="tiny"))
    return path


def gwm(*arguments):
    return CliRunner().invoke(app, [str(a) for a in arguments])


def refused(*arguments):
    """The message of a refusal: one error, exit code 1, no traceback."""
    result = gwm(*arguments)
    assert result.exit_code == 1, result.output
    assert result.stdout == ""
    assert "Traceback" not in result.stderr
    assert result.stderr.count("error:") == 1
    return result.stderr


def test_preprocess_verify_and_info(tmp_path):
    made = gwm(
        "preprocess", "world", "-o", "s", "--scenes", 2, "--frames", 4, "--size", "32x16", "--workers", 1, "--json"
    )
    report = json.loads(made.stdout)
    assert (report["out"], report["samples"], report["frames"], report["skipped"]) == ("s", 2, 8, [])
    assert json.loads(gwm("shards", "info", "s", "--json").stdout)["source"] == "world"
    assert json.loads(gwm("shards", "verify", "s", "--json").stdout)["problems"] == []
    assert gwm("shards", "verify", "s").exit_code == 0
    shard = tmp_path / "s" / "world-000000.tar"
    data = bytearray(shard.read_bytes())
    data[len(data) // 2] ^= 1
    shard.write_bytes(data)
    report = gwm("shards", "verify", "s", "--json")
    assert report.exit_code == 1
    assert any("world-000000.tar" in problem for problem in json.loads(report.stdout)["problems"])
    assert "other settings: size" in refused("preprocess", "world", "-o", "s", "--scenes", 2, "--frames", 4)


def test_rollout_and_info_of_a_checkpoint(checkpoint, tiny_shards, tmp_path):
    result = gwm("rollout", "--frames", 9, "--steps", 1, "--checkpoint", checkpoint, "--from", tiny_shards, "--json")
    record = json.loads(result.stdout)
    assert record["frames"] == 9
    assert record["folder"] == "out/rollout-001"
    names = sorted(p.name for p in (tmp_path / "out" / "rollout-001").iterdir())
    assert names == ["contact.png", "rollout.json", "rollout.mp4", "side-by-side.mp4"]
    parts = json.loads(gwm("info", checkpoint, "--json").stdout)["parameters"]
    total = parts.pop("total")
    assert total == sum(parts.values()) == sum(p.numel() for p in WorldModel(TINY).parameters())
    assert [name for name, count in parts.items() if count == 0] == ["view blocks"]
    nano = json.loads(gwm("info", "--preset", "nano", "--gpu", "H100", "--json").stdout)
    assert nano["parameters"]["total"] > 1e6
    assert nano["gpu"] == "H100"
    assert list(nano["stages"]) == ["1a", "1b", "1c", "2"]


def test_weights_go_in_and_out(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    diffusers.SD3Transformer2DModel(
        sample_size=16, num_layers=2, attention_head_dim=16, num_attention_heads=2, joint_attention_dim=12,
        caption_projection_dim=32, pooled_projection_dim=20, pos_embed_max_size=12,
    ).save_pretrained("sd3/transformer")  # fmt: skip
    assert "layers.1.temporal.qkv.weight" in gwm("weights", "import", "sd3", "-o", "ours", "--json").stdout
    assert gwm("weights", "export", "ours", "-o", "back").exit_code == 0
    original = load_file("sd3/transformer/diffusion_pytorch_model.safetensors")
    back = load_file("back/diffusion_pytorch_model.safetensors")
    assert back.keys() == original.keys()
    assert all(torch.equal(x, original[name]) for name, x in back.items())
    assert "no folder at nowhere" in refused("weights", "import", "nowhere", "-o", "new")
    assert "no checkpoint at" in refused("weights", "export", "nowhere", "-o", "new")
    assert not Path("new").exists()


def test_footage_without_cuts_is_not_searched_for_any(tmp_path):
    """In a process of its own: PyTorch is not loaded."""
    write(tmp_path / "a.mp4", regular(10, 60), pictures=[plain(40)] * 30 + [plain(200)] * 30)
    command = ["preprocess", "video", str(tmp_path / "a.mp4"), "-o", "shards", "--no-cuts", "--workers", "1", "--json"]
    call = f"import sys; from gwm.cli.main import app; app({command}, standalone_mode=False)"
    script = f"{call}; assert 'torch' not in sys.modules"
    made = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert json.loads(made.stdout)["samples"] == 1
    assert "cuts none instead of transnetv2" in refused("preprocess", "video", tmp_path / "a.mp4", "-o", "shards")


def test_mistakes_have_one_message_and_leave_nothing(checkpoint, tiny_shards, tmp_path):
    empty, text = tmp_path / "empty", tmp_path / "text" / "a.mp4"
    empty.mkdir()
    text.parent.mkdir()
    text.write_text("not a video")
    before = sorted(tmp_path.rglob("*"))
    tiny = ("--checkpoint", checkpoint, "--from", tiny_shards)
    assert "nowhere does not exist" in refused("preprocess", "video", "nowhere", "-o", "new")
    assert "no video in" in refused("preprocess", "video", empty, "-o", "new")
    assert "cannot be read as a video" in refused("preprocess", "video", text, "-o", "new")
    assert "--size 12" in refused("preprocess", "world", "-o", "new", "--size", "12")
    assert "0 scenes" in refused("preprocess", "world", "-o", "new", "--scenes", 0)
    assert "0 frames" in refused("preprocess", "video", text, "-o", "new", "--frames", 0)
    assert "does not exist" in refused("shards", "verify", "nowhere")
    assert "is no dataset" in refused("shards", "info", empty)
    assert "gwm preprocess world" in refused("train")
    assert "no recipe" in refused("train", "--variant", "wide", "--data", tiny_shards)
    assert "--steps-scale -1" in refused("train", "--steps-scale", -1, "--data", tiny_shards)
    assert "--frames 0" in refused("rollout", "--frames", 0, *tiny)
    assert "no checkpoint at" in refused("rollout", "--checkpoint", "nowhere")
    assert "not a readable safetensors" in refused("rollout", "--checkpoint", text)
    assert "neither a file" in refused("rollout", "--actions", "fly", *tiny)
    assert "unknown device 'gpu'" in refused("rollout", "--device", "gpu", *tiny)
    assert "cannot write into" in refused("rollout", "-o", text / "below", *tiny)
    assert "cannot write into" in refused("preprocess", "world", "-o", text, "--scenes", 1, "--frames", 2)
    assert "does not exist" in refused("score", "nowhere", tiny_shards)
    assert "no recipe for --variant long --preset huge" in refused("info", "--preset", "huge")
    assert "add --variant" in refused("info", "--gpu", "H100")
    assert "not both" in refused("info", checkpoint, "--variant", "long")
    assert "(0, 1]" in refused("info", "--variant", "long", "--utilisation", 0)
    assert "starts from SD3-medium's weights" in refused("train", "--preset", "sd3-medium", "--data", tiny_shards)
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.skipif(torch.cuda.is_available(), reason="a machine with CUDA accepts it")
def test_cuda_where_there_is_none(checkpoint, tiny_shards):
    message = refused("rollout", "--device", "cuda", "--checkpoint", checkpoint, "--from", tiny_shards)
    assert "no usable CUDA GPU" in message


def test_debug_shows_the_traceback():
    result = gwm("shards", "info", "nowhere", "--debug")
    assert result.exception is not None
    assert type(result.exception).__name__ == "ShardError"


def test_version():
    assert gwm("--version").stdout.strip() == "0.1.0"
