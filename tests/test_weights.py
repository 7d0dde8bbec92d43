"""`gwm weights`: SD3 folders as diffusers writes them, and what is wrong with them in one message."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from gwm.core import WeightsError
from gwm.core.sd3_autoencoder import CONFIG, SCALE, SHIFT, SD3Autoencoder
from gwm.pipelines.checkpoint import FORMAT, load_checkpoint, load_tensors, save_tensors
from gwm.pipelines.weights import export_sd3, import_sd3, summarize

diffusers = pytest.importorskip("diffusers")
SHAPE = {
    "sample_size": 16, "patch_size": 2, "in_channels": 16, "out_channels": 16, "num_layers": 3,
    "attention_head_dim": 16, "num_attention_heads": 2, "joint_attention_dim": 12, "caption_projection_dim": 32,
    "pooled_projection_dim": 20, "pos_embed_max_size": 12,
}  # fmt: skip


@pytest.fixture
def folder(tmp_path):
    """A transformer in several files, as diffusers shards a large one."""
    torch.manual_seed(0)
    model = diffusers.SD3Transformer2DModel(**SHAPE)
    model.save_pretrained(tmp_path / "sd3" / "transformer", max_shard_size="100KB")
    assert len(list((tmp_path / "sd3" / "transformer").glob("*.safetensors"))) > 2
    return tmp_path / "sd3"


def test_import_and_export_give_diffusers_its_own_model_back(folder, tmp_path):
    result = import_sd3(folder, tmp_path / "ours")
    original = diffusers.SD3Transformer2DModel.from_pretrained(folder / "transformer")
    positions = original.pos_embed.pos_embed.numel()
    assert result.parameters == sum(x.numel() for x in original.state_dict().values()) - positions
    export_sd3(tmp_path / "ours", tmp_path / "back")
    back = diffusers.SD3Transformer2DModel.from_pretrained(tmp_path / "back")
    for (name, a), b in zip(original.state_dict().items(), back.state_dict().values(), strict=True):
        assert torch.equal(a, b), name
    z, text, pooled = torch.randn(1, 16, 8, 12), torch.randn(1, 5, 12), torch.randn(1, 20)
    ours = load_checkpoint(tmp_path / "ours").model.dit(z[:, None, None], torch.tensor([[0.7]]), text, pooled)
    with torch.no_grad():
        assert (ours[:, 0, 0] - back(z, text, pooled, torch.tensor([700.0])).sample).abs().max() < 2e-5


def test_what_the_paper_adds_is_listed_by_name(folder, tmp_path):
    new = import_sd3(folder, tmp_path / "ours").new
    assert "layers.0.temporal.action_kv.weight" in new
    assert "reconstruction.mask_token.p" in new
    assert not any("spatial.qkv" in name and name.startswith("layers") for name in new)
    assert "layers.*.temporal.qkv.weight (3)" in summarize(new)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_stays_half(folder, tmp_path, dtype):
    model = diffusers.SD3Transformer2DModel.from_pretrained(folder / "transformer").to(dtype)
    model.save_pretrained(tmp_path / "half", variant="fp16")
    import_sd3(tmp_path / "half", tmp_path / "ours")
    stored = load_file(tmp_path / "ours" / "model.safetensors")
    assert stored["dit.patch_in.weight"].dtype == dtype
    assert load_checkpoint(tmp_path / "ours").model.autoencoder is None
    export_sd3(tmp_path / "ours", tmp_path / "back")
    back, original = (load_file(next((tmp_path / f).glob("*.safetensors"))) for f in ("back", "half"))
    assert all(torch.equal(back[name], x) and back[name].dtype == x.dtype for name, x in original.items())


def test_the_autoencoder_beside_it_is_read_and_is_diffusers(folder, tmp_path, monkeypatch):
    small = {**CONFIG, "block_out_channels": [32, 32, 32, 32], "layers_per_block": 1}
    monkeypatch.setattr("gwm.core.sd3_autoencoder.CONFIG", small)
    monkeypatch.setattr("gwm.pipelines.weights.AUTOENCODER_CONFIG", small)
    torch.manual_seed(1)
    vae = diffusers.AutoencoderKL(**small, scaling_factor=SCALE, shift_factor=SHIFT)
    vae.save_pretrained(folder / "vae")
    assert import_sd3(folder, tmp_path / "ours").autoencoder
    model = load_checkpoint(tmp_path / "ours").model
    assert isinstance(model.autoencoder, SD3Autoencoder)
    images = torch.rand(1, 3, 16, 24) * 2 - 1
    with torch.no_grad():
        latents = (vae.encode(images).latent_dist.mean - vae.config.shift_factor) * vae.config.scaling_factor
        assert torch.equal(model.autoencoder.encode(images), latents)
        assert torch.equal(model.autoencoder.decode(latents), vae.decode(latents / SCALE + SHIFT).sample)
    config = json.loads((folder / "vae" / "config.json").read_text())
    (folder / "vae" / "config.json").write_text(json.dumps({**config, "scaling_factor": 0.18}))
    with pytest.raises(WeightsError, match=r"not SD3's autoencoder: scaling_factor = 0.18"):
        import_sd3(folder, tmp_path / "other")
    assert not (tmp_path / "other").exists()


def broken(folder, change):
    """The transformer folder in one file, with its tensors changed."""
    transformer = folder / "transformer"
    tensors = {}
    for file in transformer.glob("*.safetensors"):
        tensors |= load_file(file)
        file.unlink()
    (transformer / "diffusion_pytorch_model.safetensors.index.json").unlink()
    change(tensors)
    save_file(tensors, transformer / "diffusion_pytorch_model.safetensors", {"format": "pt"})


def test_all_missing_surplus_and_misshapen_tensors_are_named(folder, tmp_path):
    def lose_two(tensors):
        del tensors["proj_out.bias"], tensors["context_embedder.weight"]
        tensors["surprise"] = torch.zeros(2)

    broken(folder, lose_two)
    with pytest.raises(WeightsError, match=r"missing proj_out.bias; surplus surprise"):
        import_sd3(folder, tmp_path / "ours")


def test_misshapen_tensors_are_named(folder, tmp_path):
    def widen(tensors):
        tensors["proj_out.bias"] = torch.zeros(65)
        tensors["transformer_blocks.0.attn.to_k.weight"] = torch.zeros(32, 33)

    broken(folder, widen)
    with pytest.raises(WeightsError) as error:
        import_sd3(folder, tmp_path / "ours")
    assert "proj_out.bias is (65,), not (64,)" in str(error.value)
    assert "transformer_blocks.0.attn.to_k.weight is (32, 33), not (32, 32)" in str(error.value)


def test_a_lost_file_a_truncated_file_and_a_pickle_are_refused(folder, tmp_path):
    transformer = folder / "transformer"
    last = sorted(transformer.glob("*.safetensors"))[-1]
    whole = last.read_bytes()
    last.write_bytes(whole[:-100])
    with pytest.raises(WeightsError, match="not a readable safetensors file"):
        import_sd3(folder, tmp_path / "ours")
    last.unlink()
    with pytest.raises(WeightsError, match=last.name):
        import_sd3(folder, tmp_path / "ours")
    last.write_bytes(whole)
    (transformer / "diffusion_pytorch_model.fp16.safetensors").write_bytes(whole)
    with pytest.raises(WeightsError, match="several versions of the weights"):
        import_sd3(folder, tmp_path / "ours")
    (transformer / "diffusion_pytorch_model.fp16.safetensors").unlink()
    index = transformer / "diffusion_pytorch_model.safetensors.index.json"
    listed = json.loads(index.read_text())
    listed["weight_map"]["proj_out.bias"] = sorted(set(listed["weight_map"].values()))[0]
    index.write_text(json.dumps(listed))
    with pytest.raises(WeightsError, match=r"disagree on proj_out\.bias"):
        import_sd3(folder, tmp_path / "ours")
    for damaged in ("[]", '{"weight_map": [1]}', '{"weight_map": {"a": 1}}', "{"):
        index.write_text(damaged)
        with pytest.raises(WeightsError, match="is damaged"):
            import_sd3(folder, tmp_path / "ours")
    for file in transformer.glob("*model*"):
        file.unlink()
    (transformer / "diffusion_pytorch_model.bin").write_bytes(b"\x80\x04.")
    with pytest.raises(WeightsError, match=r"only pickles \(diffusion_pytorch_model.bin\)"):
        import_sd3(folder, tmp_path / "ours")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"qk_norm": "rms_norm"}, "SD 3.5"),
        ({"dual_attention_layers": [0]}, "SD 3.5"),
        ({"num_layers": 4}, "missing transformer_blocks.2.attn.to_add_out.weight"),
        ({"caption_projection_dim": 16}, "no SD3"),
        ({"num_layers": "3", "patch_size": 0}, r"in patch_size = 0|num_layers = '3', patch_size = 0"),
        ({"sample_size": None}, "sample_size = None"),
    ],
)
def test_another_configuration_is_refused(folder, tmp_path, change, message):
    file = folder / "transformer" / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **change}))
    with pytest.raises(WeightsError, match=message):
        import_sd3(folder, tmp_path / "ours")


def test_nothing_is_overwritten_that_is_not_an_import_or_an_export(folder, tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "recipe.json").write_text("{}")
    with pytest.raises(WeightsError, match="holds a training run"):
        import_sd3(folder, tmp_path / "run")
    import_sd3(folder, tmp_path / "ours")
    with pytest.raises(WeightsError, match="holds other weights"):
        export_sd3(tmp_path / "ours", folder / "transformer")


def test_export_of_a_checkpoint_without_a_transformer_names_what_it_lacks(folder, tmp_path):
    import_sd3(folder, tmp_path / "ours")
    path = tmp_path / "ours" / "model.safetensors"
    tensors, header = load_tensors(path, FORMAT)
    save_tensors(path, {k: x for k, x in tensors.items() if "patch_out" not in k}, header)
    with pytest.raises(WeightsError, match=r"holds no patch_out\.weight, patch_out\.bias"):
        export_sd3(tmp_path / "ours", tmp_path / "back")


def test_no_folder_and_an_empty_one(tmp_path):
    with pytest.raises(WeightsError, match="no folder at"):
        import_sd3(tmp_path / "absent", tmp_path / "ours")
    with pytest.raises(WeightsError, match=r"no diffusers model folder: no config\.json"):
        import_sd3(tmp_path, tmp_path / "ours")
