"""Token masks: dropping, exact restore, and rows that stay rows."""

import pytest
import torch

from gwm.core import ConfigError
from gwm.core.mask import keep_tokens, restore_tokens, spatial_mask, time_mask

B, T, H, W = 2, 5, 4, 8


def both_masks(k=1, ratio=0.25):
    generator = torch.Generator().manual_seed(0)
    return [make(B, T, k, H, W, ratio, generator) for make in (spatial_mask, time_mask)]


@pytest.mark.parametrize("k", [1, 3])
@pytest.mark.parametrize("ratio", [0.0, 0.25, 0.5])
def test_restore_after_keep_is_the_identity(k, ratio):
    x = torch.randn(B, T, k, H * W, 3)
    for mask in both_masks(k, ratio):
        kept, hidden = keep_tokens(x, mask.ids_keep), keep_tokens(x, mask.ids_hidden)
        assert kept.shape[-2] == round((1 - ratio) * H * W)
        assert torch.equal(restore_tokens(kept, hidden, mask), x)


def test_mask_is_1_on_hidden_tokens_and_covers_the_ratio():
    for mask in both_masks():
        assert not mask.mask.gather(-1, mask.ids_keep).any()
        assert mask.mask.gather(-1, mask.ids_hidden).all()
        assert (mask.mask.sum(-1) == 0.25 * H * W).all()


def test_kept_tokens_of_a_row_stay_in_that_row_after_the_row_mask():
    """Ordered by random score instead of by id, packed tokens land in other rows: seen in a public implementation."""
    by_row = spatial_mask(B, T, 3, H, W, 0.25, torch.Generator().manual_seed(0), by_row=True)
    for mask in (both_masks()[1], both_masks(k=3)[1], by_row):
        kept_rows = mask.ids_keep // W  # b t k (h m)
        expected = torch.arange(H).repeat_interleave(mask.ids_keep.shape[-1] // H)
        assert (kept_rows == expected).all()


def test_ids_are_ascending():
    for mask in both_masks():
        assert (mask.ids_keep.diff(dim=-1) > 0).all()
        assert (mask.ids_hidden.diff(dim=-1) > 0).all()


def test_spatial_mask_is_the_same_in_all_frames_and_the_time_mask_is_not():
    spatial, time = both_masks(k=2)
    assert (spatial.mask == spatial.mask[:, :1, :1]).all()
    assert not (time.mask == time.mask[:, :1]).all()
    assert not (spatial.mask[0] == spatial.mask[1]).all()  # samples differ


def test_every_token_is_hidden_equally_often():
    generator = torch.Generator().manual_seed(1)
    for make in (spatial_mask, time_mask):
        share = make(2000, 1, 1, H, W, 0.25, generator).mask.float().mean(dim=(0, 1, 2))
        assert (share - 0.25).abs().max() < 0.05


def test_a_ratio_that_does_not_divide_the_row_is_refused():
    with pytest.raises(ConfigError, match=r"mask ratio 0.3 hides 2.4 of 8 tokens of a row"):
        time_mask(1, 2, 1, H, W, 0.3, torch.Generator())
