"""Against diffusers' pipeline: SD3's text encoders, tiny ones with random weights."""

import pytest
import torch

from gwm.core import WeightsError
from gwm.pipelines.sd3_text import SD3TextEncoder
from gwm.pipelines.weights import import_sd3

diffusers = pytest.importorskip("diffusers")
transformers = pytest.importorskip("transformers")
tokenizers = pytest.importorskip("tokenizers")

TEXTS = ["a road in the rain", "night", ""]


def tokenizer(pad):
    """Words of the test alone."""
    words = [pad, "<unk>", "</s>", *sorted({w for text in TEXTS for w in text.split()})]
    raw = tokenizers.Tokenizer(tokenizers.models.WordLevel({w: i for i, w in enumerate(words)}, unk_token="<unk>"))
    raw.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    raw.post_processor = tokenizers.processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 2)])
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=raw, pad_token=pad, eos_token="</s>", unk_token="<unk>", model_max_length=77
    )


def clip(width, seed):
    torch.manual_seed(seed)
    config = transformers.CLIPTextConfig(
        vocab_size=40, hidden_size=width, intermediate_size=2 * width, num_hidden_layers=3, num_attention_heads=2,
        projection_dim=width, eos_token_id=2, pad_token_id=0, bos_token_id=1,
    )  # fmt: skip
    return transformers.CLIPTextModelWithProjection(config).eval()


@pytest.fixture
def pipeline():
    torch.manual_seed(3)
    t5 = transformers.T5EncoderModel(
        transformers.T5Config(vocab_size=40, d_model=48, d_kv=8, d_ff=32, num_layers=2, num_heads=2)
    ).eval()
    pads = [tokenizer("<pad>") for _ in range(3)]
    scheduler, transformer = diffusers.FlowMatchEulerDiscreteScheduler(), None
    return diffusers.StableDiffusion3Pipeline(
        transformer, scheduler, None, clip(16, 1), pads[0], clip(24, 2), pads[1], t5, pads[2]
    )


def test_tokens_and_pooled_text_are_those_of_diffusers(pipeline, tmp_path):
    pipeline.save_pretrained(tmp_path)
    tokens, pooled = SD3TextEncoder(tmp_path, torch.device("cpu")).encode(TEXTS)
    with torch.inference_mode():
        expected, _, expected_pooled, _ = pipeline.encode_prompt(
            TEXTS, None, None, do_classifier_free_guidance=False, max_sequence_length=77
        )
    assert tokens.shape == (3, 154, 48)
    assert torch.allclose(tokens, expected, atol=1e-6)
    assert torch.allclose(pooled, expected_pooled, atol=1e-6)
    assert not torch.allclose(tokens[0], tokens[1])


def test_without_t5_its_tokens_are_zero(pipeline, tmp_path):
    pipeline.save_pretrained(tmp_path)
    whole, _ = SD3TextEncoder(tmp_path, torch.device("cpu")).encode(TEXTS)
    (tmp_path / "text_encoder_3").rename(tmp_path / "elsewhere")
    tokens, _ = SD3TextEncoder(tmp_path, torch.device("cpu")).encode(TEXTS, width=48)
    assert torch.equal(tokens[:, :77], whole[:, :77])
    assert (tokens[:, 77:] == 0).all()


def test_import_reads_the_encoders_beside_the_transformer(pipeline, tmp_path):
    torch.manual_seed(0)
    diffusers.SD3Transformer2DModel(
        sample_size=16, num_layers=2, attention_head_dim=16, num_attention_heads=2,
        joint_attention_dim=48, caption_projection_dim=32, pooled_projection_dim=40, pos_embed_max_size=12,
    ).save_pretrained(tmp_path / "sd3" / "transformer")  # fmt: skip
    assert import_sd3(tmp_path / "sd3", tmp_path / "ours").text_encoders == "absent"
    pipeline.save_pretrained(tmp_path / "sd3")
    assert import_sd3(tmp_path / "sd3", tmp_path / "ours").text_encoders == "read"
    (tmp_path / "sd3" / "text_encoder_2" / "model.safetensors").write_bytes(b"no weights")
    with pytest.raises(WeightsError, match="text_encoder_2 cannot be read"):
        import_sd3(tmp_path / "sd3", tmp_path / "other")
    assert not (tmp_path / "other").exists()


def test_a_missing_encoder_is_named(pipeline, tmp_path):
    pipeline.save_pretrained(tmp_path)
    (tmp_path / "text_encoder_2" / "config.json").unlink()
    with pytest.raises(WeightsError, match=r"text_encoder_2/config\.json"):
        SD3TextEncoder(tmp_path, torch.device("cpu"))


def test_a_missing_tensor_is_named(pipeline, tmp_path):
    from safetensors.torch import load_file, save_file

    pipeline.save_pretrained(tmp_path)
    file = tmp_path / "text_encoder" / "model.safetensors"
    tensors = load_file(file)
    del tensors["text_projection.weight"]
    save_file(tensors, file, {"format": "pt"})
    with pytest.raises(WeightsError, match=r"text_projection\.weight"):
        SD3TextEncoder(tmp_path, torch.device("cpu"))
