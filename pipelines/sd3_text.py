"""Stable Diffusion 3's three text encoders (extra `sd3`): CLIP-L, CLIP-G and T5-XXL from a diffusers folder."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from safetensors import SafetensorError
from torch import Tensor

from gwm.core import WeightsError

CLIP_TOKENS, T5_TOKENS = 77, 77  # Esser et al. 2024, figure 2: 154 tokens in all


class SD3TextEncoder:
    """Texts -> tokens (b 154 4096) and pooled text (b 2048).

    CLIP-L's and CLIP-G's last but one hidden states stand side by side, padded with zeros to T5's width; T5's tokens
    follow. Without T5 (SD3 runs without it) its tokens are zeros.
    """

    def __init__(self, folder: Path, device: torch.device, dtype: torch.dtype | str = "auto") -> None:
        """Read text_encoder, text_encoder_2, text_encoder_3 and their tokenizers below `folder`, strictly.

        dtype: "auto" is that of the files.
        """
        try:
            import transformers
        except ImportError as error:
            raise WeightsError("SD3's text encoders need transformers: pip install 'gwm[sd3]'") from error
        clip, t5 = transformers.CLIPTextModelWithProjection, transformers.T5EncoderModel
        self.device = device
        self.clips = [_load(folder, name, clip, device, dtype) for name in ("text_encoder", "text_encoder_2")]
        self.t5 = _load(folder, "text_encoder_3", t5, device, dtype) if (folder / "text_encoder_3").is_dir() else None
        self.tokenizers = [_tokenizer(folder, name) for name in ("tokenizer", "tokenizer_2")]
        self.t5_tokenizer = None if self.t5 is None else _tokenizer(folder, "tokenizer_3")

    @torch.inference_mode()
    def encode(self, texts: Sequence[str], width: int = 4096) -> tuple[Tensor, Tensor]:
        """Tokens (b s width) and pooled text; `width` is what T5 gives and the transformer takes."""
        outputs = [
            model(self._ids(tokenizer, texts, CLIP_TOKENS), output_hidden_states=True)
            for model, tokenizer in zip(self.clips, self.tokenizers, strict=True)
        ]
        clip = torch.cat([out.hidden_states[-2] for out in outputs], dim=-1)  # b 77 768+1280
        pooled = torch.cat([out.text_embeds for out in outputs], dim=-1)  # b 768+1280
        if self.t5 is None:
            t5 = clip.new_zeros(len(texts), T5_TOKENS, width)
        else:
            t5 = self.t5(self._ids(self.t5_tokenizer, texts, T5_TOKENS)).last_hidden_state
        return torch.cat([F.pad(clip, (0, t5.shape[-1] - clip.shape[-1])), t5], dim=1), pooled

    def _ids(self, tokenizer: Any, texts: Sequence[str], length: int) -> Tensor:
        out = tokenizer(list(texts), padding="max_length", max_length=length, truncation=True, return_tensors="pt")
        ids: Tensor = out.input_ids.to(self.device)
        return ids


def _load(folder: Path, name: str, kind: Any, device: torch.device, dtype: torch.dtype | str) -> Any:
    if not (folder / name / "config.json").is_file():
        raise WeightsError(f"{folder} holds no {name}/config.json; give SD3-medium in diffusers' layout")
    half = any((folder / name).glob("*.fp16.safetensors*")) and not (folder / name / "model.safetensors").is_file()
    try:
        model, found = kind.from_pretrained(
            folder / name, use_safetensors=True, local_files_only=True, dtype=dtype, output_loading_info=True,
            variant="fp16" if half else None,
        )  # fmt: skip
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        raise WeightsError(f"{folder / name} cannot be read: {error}") from error
    strange = {k: [str(x) for x in v if not str(x).endswith("position_ids")] for k, v in found.items()}  # constants
    if problems := [f"{k}: {', '.join(v)}" for k, v in strange.items() if v]:
        raise WeightsError(f"{folder / name} does not fit its configuration: {'; '.join(problems)}")
    return model.eval().requires_grad_(False).to(device)


def _tokenizer(folder: Path, name: str) -> Any:
    import transformers

    try:
        return transformers.AutoTokenizer.from_pretrained(folder / name, local_files_only=True)
    except (OSError, ValueError) as error:
        raise WeightsError(f"{folder / name} cannot be read: {error}") from error
