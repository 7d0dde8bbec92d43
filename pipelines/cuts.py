"""Cut detection with TransNetV2, asked where the picture changes: before that PyTorch is not even loaded."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from einops import reduce

from gwm.shards.schema import Images

THRESHOLD = 0.5  # TransNetV2's
LAG = 15  # frames
LEAST_CHANGE = 5.0  # grey levels


@dataclass(frozen=True)
class TransNetCuts:
    """A `gwm.shards.cuts.FindCuts` for frames at 10 Hz, on the CPU: results do not depend on who has a GPU.

    TransNetV2 was trained at about 25 frames/s. On 24 hard cuts between five driving videos it found all at 10 Hz as
    at the native rate, at a third of the cost, and none within the videos (largest probability there: 0.05; smallest
    at a cut: 0.66). Of dissolves of 0.1 to 2 s between two of them all but the outermost frames were marked. It does
    not find a jump in time along the same road. It holds no weights, so that a source that carries it is cheap to
    send to a worker.
    """

    name: str = "transnetv2 where the picture changes"

    def __call__(self, thumbnails: Images) -> npt.NDArray[np.bool_]:
        """(N,) True at the first frame after a cut, for consecutive RGB thumbnails (N, 27, 48, 3) uint8.

        The network's first output marks the last frame before a cut or the middle of a dissolve, its second one every
        frame of a transition. A frame after either is the first of a new scene; so a hard cut gives one True, and
        the frames of a dissolve stand alone, scenes too short to be kept.
        """
        if not picture_changes(thumbnails):
            return np.zeros(len(thumbnails), np.bool_)
        import torch

        from gwm.pipelines.transnet import load_transnet

        with torch.inference_mode():
            frames = torch.from_numpy(thumbnails)
            middle, transition = load_transnet().predict_raw(frames[None])
        ends = torch.maximum(middle, transition)[0, :, 0].numpy() > THRESHOLD
        return np.concatenate([[False], ends[:-1]])


def picture_changes(thumbnails: Images) -> bool:
    """Whether a thumbnail, seen as 3x6 cells, differs from the one `LAG` before by `LEAST_CHANGE` levels in the mean.

    Of the 530 transitions that TransNetV2 found among 700 made between real driving clips (cuts, dissolves, fades of
    0.3 to 3 s; many of them dark, flat, or from a clip to its mirror image) the least changed by 6.4. A straight
    motorway by night or in rain stays below 4, country roads come to 6, turns and towns to 10 and more.
    """
    cells = reduce(thumbnails.astype(np.float32), "n (h y) (w x) c -> n h w c", "mean", y=9, x=8)
    change = np.abs(cells[LAG:] - cells[:-LAG]).mean((1, 2, 3))
    return bool((change > LEAST_CHANGE).any())
