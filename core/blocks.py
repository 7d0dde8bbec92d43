"""The transformer blocks. Tokens stay (b t k n d) and modulations (b t 1 1 d), so no axis can be mixed up.

Axes: b batch, t frames, k views, n tokens of a frame, s text tokens, d width, h heads, e width of a head.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
import torch.nn.functional as F
from einops import rearrange, repeat
from torch import Tensor, nn

from gwm.core.embed import frame_positions
from gwm.core.mask import TokenMask, keep_tokens, restore_tokens

GELU_RATE = 2 * math.sqrt(2 / math.pi)


def attend(q: Tensor, k: Tensor, v: Tensor, heads: int, joined: Tensor | None = None) -> Tensor:
    """Scaled dot-product attention of (batch n d) over (batch m d) with `heads` heads -> (batch n d).

    `joined` (batch 1 n m), bool: which queries see which keys.
    """
    q, k, v = (rearrange(x, "b n (h e) -> b h n e", h=heads) for x in (q, k, v))
    return rearrange(F.scaled_dot_product_attention(q, k, v, joined), "b h n e -> b n (h e)")


def modulate(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    """Eq. 5's inner part: x scaled and shifted, per frame, in one pass over memory."""
    return torch.addcmul(shift, x, 1 + scale)


def add_gated(x: Tensor, gate: Tensor, update: Tensor) -> Tensor:
    """The residual x + gate · update, in one pass over memory."""
    return torch.addcmul(x, gate, update)


class Modulation(nn.Module):
    """Adaptive norm parameters of every frame from its conditioning vector; zero-initialised (adaLN-Zero)."""

    def __init__(self, width: int, count: int) -> None:
        super().__init__()
        self.count = count
        self.linear = nn.Linear(width, count * width)
        nn.init.zeros_(self.linear.weight)
        nn.init.zeros_(self.linear.bias)

    def forward(self, c: Tensor) -> tuple[Tensor, ...]:
        """c (b t d) -> `count` tensors (b t 1 1 d)."""
        parameters: Tensor = rearrange(self.linear(F.silu(c)), "b t d -> b t 1 1 d")
        return parameters.chunk(self.count, dim=-1)


class Gelu(nn.Module):
    """The tanh-approximated GELU, which is x σ(2 √(2/π) (x + 0.044715 x³)).

    On a CPU PyTorch's takes twice as long as this form, which keeps nothing for a backward pass and rounds more often.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Of any shape."""
        if torch.is_grad_enabled() or x.device.type != "cpu" or x.dtype.itemsize < 4:
            return F.gelu(x, approximate="tanh")
        u = (x * x).mul_(GELU_RATE * 0.044715).add_(GELU_RATE)
        return u.mul_(x).sigmoid_().mul_(x)


class Mlp(nn.Sequential):
    """SD3's feed-forward: four times as wide, tanh-approximated GELU."""

    def __init__(self, width: int) -> None:
        super().__init__(nn.Linear(width, 4 * width), Gelu(), nn.Linear(4 * width, width))


def layer_norm(width: int) -> nn.LayerNorm:
    """The norm before every modulation: no parameters of its own."""
    return nn.LayerNorm(width, elementwise_affine=False, eps=1e-6)


class SpatialBlock(nn.Module):
    """SD3's joint block: attention within one frame of one view, image and text tokens together.

    `updates_text=False` is SD3's last block, whose text only serves as keys and values; F_s is one too.
    """

    def __init__(self, width: int, heads: int, updates_text: bool = True) -> None:
        super().__init__()
        self.heads = heads
        self.updates_text = updates_text
        self.norm = layer_norm(width)
        self.modulation = Modulation(width, 6)
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)
        self.mlp = Mlp(width)
        self.text_modulation = Modulation(width, 6 if updates_text else 2)
        self.text_qkv = nn.Linear(width, 3 * width)
        if updates_text:
            self.text_out = nn.Linear(width, width)
            self.text_mlp = Mlp(width)

    def forward(self, x: Tensor, text: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
        """x (b t k n d), text (b t k s d), c (b t d) -> new x and text."""
        shift_1, scale_1, gate_1, shift_2, scale_2, gate_2 = self.modulation(c)
        text_shift, text_scale, *text_rest = self.text_modulation(c)
        a, a_text = self._joint_attention(
            modulate(self.norm(x), shift_1, scale_1), modulate(self.norm(text), text_shift, text_scale)
        )
        x = add_gated(x, gate_1, self.out(a))
        x = add_gated(x, gate_2, self.mlp(modulate(self.norm(x), shift_2, scale_2)))
        if self.updates_text:
            gate_1, shift_2, scale_2, gate_2 = text_rest
            text = add_gated(text, gate_1, self.text_out(a_text))
            text = add_gated(text, gate_2, self.text_mlp(modulate(self.norm(text), shift_2, scale_2)))
        return x, text

    def _joint_attention(self, x: Tensor, text: Tensor) -> tuple[Tensor, Tensor]:
        b, t, k, n, _ = x.shape
        joint = torch.cat([self.qkv(x), self.text_qkv(text)], dim=-2)  # b t k (n + s) 3d
        q, key, v = rearrange(joint, "b t k n d -> (b t k) n d").chunk(3, dim=-1)
        a = rearrange(attend(q, key, v, self.heads), "(b t k) n d -> b t k n d", b=b, t=t, k=k)
        return a[..., :n, :], a[..., n:, :]


class TemporalBlock(nn.Module):
    """Attention over the frames of one place, then cross-attention to the text with actions in keys and values.

    Zero-initialised gates: a new block is the identity. The text stream is read, never updated.
    Not in the paper: frame positions are sinusoids added inside the block, and a zero key stands beside the text's,
    since one vector added to *all* keys cancels in the softmax. The actions' value is added to its value too: a model
    whose attention had settled on the zero key, as on text that tells nothing, could not learn what an action does.
    """

    def __init__(self, width: int, heads: int, actions: bool) -> None:
        super().__init__()
        self.heads = heads
        self.norm = layer_norm(width)
        self.modulation = Modulation(width, 9)
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)
        self.cross_q = nn.Linear(width, width)
        self.cross_kv = nn.Linear(width, 2 * width)
        self.cross_out = nn.Linear(width, width)
        self.mlp = Mlp(width)
        if actions:
            self.action_kv = nn.Linear(width, 2 * width, bias=False)
            nn.init.zeros_(self.action_kv.weight)

    def forward(
        self, x: Tensor, text: Tensor, c: Tensor, actions: Tensor | None, places: TokenMask | None = None
    ) -> Tensor:
        """x (b t k n d), text (b s d), c (b t d), actions of every frame (b t d) or None -> new x.

        Without `places`, attention over time joins the tokens of equal index ("shifted" under the time mask). With
        the time mask as `places`, x holds its kept tokens, and attention joins those of one place, where visible.
        """
        s1, m1, g1, s2, m2, g2, s3, m3, g3 = self.modulation(c)
        x = add_gated(x, g1, self.out(self._over_time(modulate(self.norm(x), s1, m1), places)))
        x = add_gated(x, g2, self.cross_out(self._cross(modulate(self.norm(x), s2, m2), text, actions)))
        out: Tensor = add_gated(x, g3, self.mlp(modulate(self.norm(x), s3, m3)))
        return out

    def _over_time(self, x: Tensor, places: TokenMask | None) -> Tensor:
        b, t, k, _, d = x.shape
        positions = rearrange(frame_positions(t, d, x.device).to(x.dtype), "t d -> t 1 1 d")
        qkv, joined = self.qkv(x + positions), None
        if places is not None:
            hidden = qkv.new_zeros(*places.ids_hidden.shape, 3 * d)
            qkv = restore_tokens(qkv, hidden, places)  # b t k n 3d
            visible = rearrange(~places.mask, "b t k n -> (b k n) 1 1 t")
            joined = visible | torch.eye(t, dtype=torch.bool, device=x.device)  # no row without a key
        q, key, v = rearrange(qkv, "b t k n d -> (b k n) t d").chunk(3, dim=-1)
        a = rearrange(attend(q, key, v, self.heads, joined), "(b k n) t d -> b t k n d", b=b, k=k)
        return a if places is None else keep_tokens(a, places.ids_keep)

    def _cross(self, x: Tensor, text: Tensor, actions: Tensor | None) -> Tensor:
        b, t, k = x.shape[:3]
        kv, added = repeat(self.cross_kv(text), "b s d -> b t s d", t=t), None
        if actions is not None:
            action_key, added = rearrange(self.action_kv(actions), "b t d -> b t 1 d").chunk(2, dim=-1)
            kv = kv + F.pad(action_key, (0, action_key.shape[-1]))
        key, v = rearrange(F.pad(kv, (0, 0, 0, 1)), "b t s d -> (b t) s d").chunk(2, dim=-1)
        q = rearrange(self.cross_q(x), "b t k n d -> (b t) (k n) d")
        a = rearrange(attend(q, key, v, self.heads), "(b t) (k n) d -> b t k n d", b=b, k=k)
        return a if added is None else a + added[..., None, :]  # weights sum to 1: one value for all keys adds itself


class ViewBlock(nn.Module):
    """Self-attention across the views of one moment: over one row of all views side by side (paper 3.4), or one
    place, or everything. Zero-initialised gates: a new block is the identity.

    Not in the paper: the view's index enters as a sinusoid inside the block, and an MLP follows.
    """

    def __init__(self, width: int, heads: int, over: Literal["row", "place", "frame"]) -> None:
        super().__init__()
        self.heads = heads
        self.over = over
        self.norm = layer_norm(width)
        self.modulation = Modulation(width, 6)
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)
        self.mlp = Mlp(width)

    def forward(self, x: Tensor, c: Tensor, rows: int) -> Tensor:
        """x (b t k n d) of `rows` rows, equally long; c (b t d) -> new x."""
        s1, m1, g1, s2, m2, g2 = self.modulation(c)
        x = add_gated(x, g1, self.out(self._across(modulate(self.norm(x), s1, m1), rows)))
        out: Tensor = add_gated(x, g2, self.mlp(modulate(self.norm(x), s2, m2)))
        return out

    def _across(self, x: Tensor, rows: int) -> Tensor:
        b, t, k, n, d = x.shape
        groups = {"row": rows, "place": n, "frame": 1}[self.over]  # of tokens that see each other
        positions = rearrange(frame_positions(k, d, x.device).to(x.dtype), "k d -> k 1 d")
        qkv = rearrange(self.qkv(x + positions), "b t k (g w) d -> (b t g) (k w) d", g=groups)
        q, key, v = qkv.chunk(3, dim=-1)
        a = attend(q, key, v, self.heads)
        return rearrange(a, "(b t g) (k w) d -> b t k (g w) d", b=b, t=t, k=k)
