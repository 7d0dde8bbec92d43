"""Previews of a training run: the same clips and noise each time, and a training that does not notice."""

from dataclasses import replace

import cv2
import numpy as np
import pytest
import torch
from conftest import TINY, tiny_chunk

from gwm.core.ema import start_ema
from gwm.core.world_model import WorldModel
from gwm.pipelines.preview import PreviewClips, ema_weights, sample_preview, write_preview
from gwm.pipelines.state import trainable
from gwm.shards.images import decode_jpeg

T = 6


def clips(n=2, t=T):
    """Windows of the tiny dataset's pictures, with actions."""
    frames = [[decode_jpeg(jpeg) for jpeg in tiny_chunk(i).frames["front"][:t]] for i in range(n)]
    actions = torch.arange(n * 4 * 7.0).reshape(n, 4, 7)
    return PreviewClips(torch.from_numpy(np.array(frames))[:, :, None], ["road"] * n, actions)


@pytest.fixture
def ema(tiny_model):
    """Averages that differ from the weights."""
    return {name: 0.9 * average for name, average in start_ema(trainable(tiny_model)).items()}


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(tensor, b[name]) for name, tensor in a.items())


def copy(tensors):
    return {name: tensor.detach().clone() for name, tensor in tensors.items()}


def test_training_does_not_notice(tiny_model, ema):
    """Weights, averages, optimizer, gradients' switches and the global random numbers, bit for bit."""
    optimizer = torch.optim.AdamW(tiny_model.dit.parameters())
    sum(p.sum() for p in tiny_model.dit.parameters()).backward()
    optimizer.step()
    torch.manual_seed(5)
    weights, averages, random = copy(tiny_model.state_dict()), copy(ema), torch.get_rng_state()
    places = [p.data_ptr() for p in tiny_model.parameters()]
    needs = [p.requires_grad for p in tiny_model.parameters()]
    sample_preview(tiny_model, ema, clips(), 2, 2.0, steps=2)
    assert same(tiny_model.state_dict(), weights)
    assert same(ema, averages)
    assert torch.equal(torch.get_rng_state(), random)
    assert [p.data_ptr() for p in tiny_model.parameters()] == places
    assert [p.requires_grad for p in tiny_model.parameters()] == needs


def test_the_weights_come_back_after_an_error(tiny_model, ema):
    weights, averages = copy(tiny_model.state_dict()), copy(ema)
    with pytest.raises(KeyError), ema_weights(tiny_model, ema):  # noqa: PT012
        assert same(copy(trainable(tiny_model)), averages)
        raise KeyError
    assert same(tiny_model.state_dict(), weights)
    assert same(ema, averages)


def test_the_averaged_weights_are_used_and_the_same_ones_give_the_same_pictures(tiny_model, ema):
    first = sample_preview(tiny_model, ema, clips(), 2, 2.0, steps=2)
    again = sample_preview(tiny_model, ema, clips(), 2, 2.0, steps=2)
    assert all(np.array_equal(a, b) for a, b in zip(first, again, strict=True))
    averaged = WorldModel(TINY)
    averaged.load_state_dict(tiny_model.state_dict() | ema)
    by_hand = sample_preview(averaged, start_ema(trainable(averaged)), clips(), 2, 2.0, steps=2)
    assert np.array_equal(first[1], by_hand[1])
    raw = sample_preview(tiny_model, start_ema(trainable(tiny_model)), clips(), 2, 2.0, steps=2)
    assert not np.array_equal(first[1], raw[1])
    other = sample_preview(tiny_model, ema, clips(), 2, 2.0, steps=2, seed=1)
    assert not np.array_equal(first[1], other[1])


def test_a_clip_depends_on_its_place_and_not_on_how_many_there_are(tiny_model, ema):
    both = sample_preview(tiny_model, ema, clips(2), 2, 2.0, steps=2)
    one = sample_preview(tiny_model, ema, clips(1), 2, 2.0, steps=2)
    assert all(np.array_equal(a[:1], b) for a, b in zip(both, one, strict=True))
    twice = replace(clips(2), real=clips(1).real.repeat(2, 1, 1, 1, 1, 1))
    made = sample_preview(tiny_model, ema, replace(twice, actions=None), 0, 1.0, steps=2)[1]
    assert not np.array_equal(made[0], made[1])  # noise of its own


def test_condition_frames_are_the_real_ones_and_single_images_need_none(tiny_model, ema):
    given = clips()
    real, made = sample_preview(tiny_model, ema, given, 2, 2.0, steps=2)
    assert real.shape == made.shape == tuple(given.real.shape)
    assert np.array_equal(real, given.real.numpy())
    with torch.no_grad():
        through = tiny_model.decode(tiny_model.encode(given.real)).numpy()
    assert np.abs(made[:, :2].astype(int) - through[:, :2]).max() <= 1  # batches round differently
    assert np.abs(made[:, 2:].astype(int) - through[:, 2:]).max() > 5
    image = sample_preview(tiny_model, ema, clips(t=1), 0, 2.0, steps=2)[1]
    assert image.shape == (2, 1, *given.real.shape[2:])


def test_latents_serve_as_well_as_frames(tiny_model, ema):
    frames = clips()
    with torch.no_grad():
        z = tiny_model.encode(frames.real)
        through = tiny_model.decode(z).numpy()
    real, made = sample_preview(tiny_model, ema, replace(frames, real=z), 2, 2.0, steps=2)
    assert np.abs(real.astype(int) - through).max() <= 1
    expected = sample_preview(tiny_model, ema, frames, 2, 2.0, steps=2)[1]
    assert np.abs(made.astype(int) - expected).max() <= 1


def test_actions_texts_and_guidance_reach_the_model():
    torch.manual_seed(0)
    model = WorldModel(replace(TINY, actions=True))
    for parameter in (*model.dit.parameters(), *model.text.parameters()):
        torch.nn.init.normal_(parameter, std=0.2)
    ema, base = start_ema(trainable(model)), clips()

    def made(guidance=2.0, **changes):
        return sample_preview(model, ema, replace(base, **changes), 2, guidance, steps=2)[1]

    pictures = [
        made(), made(guidance=1.0), made(texts=["rain"] * 2), made(actions=None), made(actions=base.actions + 1),
        made(texts=[""] * 2, actions=None),
    ]  # fmt: skip
    for i, one in enumerate(pictures):
        assert not any(np.array_equal(one, other) for other in pictures[:i]), i
    nothing = [made(guidance=scale, texts=[""] * 2, actions=None) for scale in (1.0, 4.0)]
    assert np.array_equal(*nothing)  # nothing to guide with


def test_a_diverged_model_still_has_a_preview(tiny_model):
    torch.nn.init.constant_(tiny_model.dit.patch_out.bias, torch.inf)
    made = sample_preview(tiny_model, start_ema(trainable(tiny_model)), clips(), 2, 2.0, steps=2)[1]
    with torch.no_grad():
        flat = tiny_model.decode(torch.zeros(1, 1, 1, TINY.channels, 4, 8)).numpy()
    assert np.abs(made[:, 2:].astype(int) - flat).max() <= 1


@pytest.mark.parametrize(("k", "t"), [(1, 25), (6, 25), (1, 1)])
def test_the_sheet_shows_real_above_generated(tmp_path, k, t):
    """Every picture has a colour of its own; the sheet holds the expected ones in reading order."""
    n, h, w = 2, 80, 160  # the size of a tile
    real, made = np.zeros((2, n, t, k, h, w, 3), np.uint8)
    for clip in range(n):
        for frame in range(t):
            for view in range(k):
                real[clip, frame, view] = (40 + 100 * clip, 9 * frame, 40 * view)
                made[clip, frame, view] = (90 + 100 * clip, 9 * frame, 40 * view)
    path = tmp_path / "preview.png"
    write_preview(path, real, made, columns=4)
    sheet = cv2.imread(str(path), cv2.IMREAD_COLOR_RGB)
    shown = [0, 8, 16, 24] if t == 25 else [0]
    left = sheet.shape[1] - len(shown) * (w + 4)
    top = sheet.shape[0] - 2 * n * (k * h + 4)
    assert left > 40
    assert top > 10
    for row, (frames, clip) in enumerate((frames, clip) for clip in range(n) for frames in (real, made)):
        for column, frame in enumerate(shown):
            for view in range(k):
                y, x = top + row * (k * h + 4) + view * h, left + column * (w + 4)
                assert np.array_equal(sheet[y : y + h, x : x + w], frames[clip, frame, view])
    assert [p.name for p in tmp_path.iterdir()] == ["preview.png"]
