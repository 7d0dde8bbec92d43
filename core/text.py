"""nano's text encoder: words hashed into a small vocabulary, trained together with the model."""

from __future__ import annotations

import re
import zlib
from collections.abc import Sequence

import torch
from torch import Tensor, nn

PADDING = 0


def hash_tokens(texts: Sequence[str], length: int, vocabulary: int) -> Tensor:
    """Token ids (b, length) int64 of lower-cased words and numbers; 0 pads, words past `length` are cut off."""
    ids = torch.full((len(texts), length), PADDING)
    for row, text in zip(ids, texts, strict=True):
        words = re.findall(r"[^\W_]+", text.lower())[:length]
        for i, word in enumerate(words):
            row[i] = 1 + zlib.crc32(word.encode()) % (vocabulary - 1)
    return ids


class HashedTextEncoder(nn.Module):
    """Embedding of hashed words and their positions. The empty text, all padding, is the unconditional one."""

    def __init__(self, vocabulary: int, length: int, width: int) -> None:
        super().__init__()
        self.vocabulary, self.length = vocabulary, length
        self.words = nn.Embedding(vocabulary, width)
        self.positions = nn.Parameter(torch.zeros(length, width))
        self.norm = nn.LayerNorm(width)
        nn.init.normal_(self.words.weight, std=0.02)

    def forward(self, ids: Tensor) -> tuple[Tensor, Tensor]:
        """ids (b s) -> tokens (b s width) and the pooled text (b width)."""
        tokens: Tensor = self.norm(self.words(ids) + self.positions)
        return tokens, tokens.mean(dim=1)

    def encode(self, texts: Sequence[str]) -> tuple[Tensor, Tensor]:
        """Texts -> tokens and pooled text, on this module's device."""
        ids = hash_tokens(texts, self.length, self.vocabulary)
        out: tuple[Tensor, Tensor] = self(ids.to(self.positions.device))
        return out
