"""What is random in a training step is a function of the step, drawn during the one before."""

from __future__ import annotations

import threading
from dataclasses import replace

import pytest
import torch
from conftest import SIZE, tiny_recipe
from toy_sources import dataset

from gwm.pipelines import draws
from gwm.pipelines.datasets import orders
from gwm.pipelines.draws import draw_random, drawing
from gwm.pipelines.team import Team
from gwm.shards.index import open_dataset


@pytest.fixture
def order(tmp_path):
    recipe = tiny_recipe()
    found = orders(recipe, [open_dataset(dataset(tmp_path / "data"))], Team())[-1]
    return recipe, replace(found, stage=replace(found.stage, steps=4))


def test_each_step_has_its_own_whatever_the_first_is(order):
    recipe, order = order
    stage, last = order.stage, order.stage.steps
    places = recipe.model.channels, SIZE[1] // 8, SIZE[0] // 8
    with drawing(recipe, order, 1, Team()) as drawn:
        found = list(drawn)
    assert len(found) == last - 1 == 3
    for step, (drops, draw) in enumerate(found, start=1):
        length, generator = order.begin(step)
        wanted = draw_random(recipe, stage, (length, 1, *places), generator, Team())
        assert drops == wanted.drops
        assert torch.equal(draw.eps, wanted.draw.eps)
        assert torch.equal(draw.tau, wanted.draw.tau)


def test_one_step_is_drawn_ahead_in_a_thread_and_no_more(order, monkeypatch):
    recipe, order = order
    plain, seen, second = draws.draw_random, [], threading.Event()

    def noted(*arguments):
        seen.append(threading.current_thread())
        if len(seen) == 2:
            second.set()
        return plain(*arguments)

    monkeypatch.setattr(draws, "draw_random", noted)
    with drawing(recipe, order, 0, Team()) as drawn:
        next(drawn)
        assert second.wait(30)
    assert len(seen) == 2
    assert threading.current_thread() not in seen


def test_what_fails_in_the_thread_is_told(order, monkeypatch):
    def broken(*_):
        raise ValueError("no such draw")

    recipe, order = order
    monkeypatch.setattr(draws, "draw_random", broken)
    with drawing(recipe, order, 0, Team()) as drawn, pytest.raises(ValueError, match="no such draw"):
        next(drawn)
