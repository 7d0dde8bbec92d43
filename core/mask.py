"""Token masks of mask reconstruction (paper 3.2, 3.3). mask 1 = hidden; ids are sorted, names are MAE's.

Text tokens are never masked: they are few, and every frame's attention reads them (not in the paper).

Axes: b batch, t frames, k views, n = h w tokens of a frame in row order, m kept tokens, d width.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from einops import rearrange, repeat
from torch import Tensor

from gwm.core import ConfigError


@dataclass(frozen=True)
class TokenMask:
    """Which tokens of every frame the encoder sees. All frames keep equally many."""

    kind: Literal["spatial", "time"]
    ids_keep: Tensor  # (b t k m) int64, ascending
    ids_hidden: Tensor  # (b t k n-m) int64, ascending
    ids_restore: Tensor  # (b t k n): place of each token in the concatenation of kept and hidden ones

    @property
    def mask(self) -> Tensor:
        """(b t k n) bool, True = hidden."""
        return self.ids_restore >= self.ids_keep.shape[-1]

    def to(self, device: torch.device) -> TokenMask:
        """The same mask on another device."""
        return TokenMask(self.kind, self.ids_keep.to(device), self.ids_hidden.to(device), self.ids_restore.to(device))

    def part(self, rows: slice) -> TokenMask:
        """That of some samples."""
        return TokenMask(self.kind, self.ids_keep[rows], self.ids_hidden[rows], self.ids_restore[rows])


def _token_mask(kind: Literal["spatial", "time"], ids_keep: Tensor, ids_hidden: Tensor) -> TokenMask:
    ids_restore = torch.argsort(torch.cat([ids_keep, ids_hidden], dim=-1), dim=-1)
    return TokenMask(kind, ids_keep, ids_hidden, ids_restore)


def _split(count: int, ratio: float, what: str) -> int:
    """Number of kept tokens out of `count`, or ConfigError where r does not divide it."""
    hidden = ratio * count
    if abs(hidden - round(hidden)) > 1e-6:
        raise ConfigError(
            f"mask ratio {ratio} hides {hidden:g} of {count} tokens of a {what}; it must be a whole number"
        )
    return count - round(hidden)


def _random_subsets(shape: tuple[int, ...], count: int, keep: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Uniformly random subsets: kept ids (*shape, keep) and the others, both ascending.

    Ascending matters: ordered by random score instead, kept tokens of a row end up in other rows once packed.
    """
    order = torch.rand(*shape, count, generator=generator).argsort(dim=-1)
    return order[..., :keep].sort(dim=-1).values, order[..., keep:].sort(dim=-1).values


def _rows_to_tokens(ids: Tensor, columns: int) -> Tensor:
    """Column ids of each row (… h m) to token ids (… h*m)."""
    rows = torch.arange(ids.shape[-2])
    return rearrange(ids + columns * rows[:, None], "... h m -> ... (h m)")


def spatial_mask(
    b: int, t: int, k: int, h: int, w: int, ratio: float, generator: torch.Generator, by_row: bool = False
) -> TokenMask:
    """M_spatial: one random mask, shared by all frames and views.

    Unstructured, or every row hides the same number (`by_row`), which cross-view attention over rows needs.
    Not in the paper: condition frames are masked like the others, so that all frames keep the same places.
    """
    if not by_row:
        keep, hidden = _random_subsets((b,), h * w, _split(h * w, ratio, "frame"), generator)
    else:
        rows = _random_subsets((b, h), w, _split(w, ratio, "row"), generator)
        keep, hidden = (_rows_to_tokens(ids, w) for ids in rows)
    return _token_mask("spatial", *(repeat(ids, "b m -> b t k m", t=t, k=k) for ids in (keep, hidden)))


def time_mask(b: int, t: int, k: int, h: int, w: int, ratio: float, generator: torch.Generator) -> TokenMask:
    """M_time, row-wise: every row of every frame hides r·w tokens at its own random places.

    Packed left, the kept tokens of a row stay in that row, so temporal attention over packed places is dense and
    joins tokens of neighbouring columns ("shifted" attention, paper 3.3). Not in the paper: condition frames too.
    """
    keep, hidden = _random_subsets((b, t, k, h), w, _split(w, ratio, "row"), generator)
    return _token_mask("time", _rows_to_tokens(keep, w), _rows_to_tokens(hidden, w))


def keep_tokens(x: Tensor, ids: Tensor) -> Tensor:
    """The tokens of x (b t k n d) with ids (b t k m) -> (b t k m d)."""
    return x.gather(-2, repeat(ids, "b t k m -> b t k m d", d=x.shape[-1]))


def restore_tokens(kept: Tensor, hidden: Tensor, mask: TokenMask) -> Tensor:
    """Kept (b t k m d) and hidden (b t k n-m d) tokens, back at their places -> (b t k n d)."""
    return keep_tokens(torch.cat([kept, hidden], dim=-2), mask.ids_restore)
