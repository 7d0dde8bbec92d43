"""A made-up Waymo segment: every number its own, so that no two can be exchanged unseen."""

import numpy as np

from gwm.shards.waymo.frame import Calibration, Frame, Image


def matrix(seed):
    return np.random.default_rng(seed).normal(size=(4, 4))


def frame(i, views=("front", "side_left", "front_left")):
    """Frame i of a made-up segment: every number its own."""
    velocity = tuple(float(np.float32(i + j / 8)) for j in range(6))
    images = {
        view: Image(f"{view}{i}".encode(), matrix(10 * i + k), velocity, i + 0.125) for k, view in enumerate(views)
    }
    calibrations = tuple(
        Calibration(view, 1920, 1280 - 394 * (view == "side_left"), tuple(range(9)), matrix(k))
        for k, view in enumerate(("front", "front_left", "side_left"))
    )
    return Frame(
        "123_0_000_20_000", 1_500_000 + 100_000 * i, matrix(i), images, calibrations, "Night", "location_phx", "rain"
    )
