"""The driver's actions, drawn small into the lower left corner of a picture."""

from __future__ import annotations

import math

import cv2
import numpy as np

from gwm.shards.schema import Images

SHARE = 0.22  # of the picture's height that the wheel takes
FULL = 30.0  # m/s, a full bar
INK, SHADE, NEEDLE = (235, 235, 235), 0.45, (255, 190, 60)
FONT = cv2.FONT_HERSHEY_SIMPLEX


def draw_actions(image: Images, speed: float, steering: float) -> Images:
    """A copy of `image` (H, W, 3) with a steering wheel (its needle points up where it is straight) and a speed bar.

    speed: m/s; steering: rad at the steering wheel, left positive.
    """
    height, width = image.shape[:2]
    radius = max(6, min(round(SHARE * height / 2), width // 8))
    gap, line = max(2, radius // 3), max(1, radius // 12)
    out = image.copy()
    corner = out[height - 2 * radius - 3 * gap :, : 2 * radius + 12 * gap]
    corner[:] = (corner * SHADE).astype(np.uint8)
    middle = (gap + radius, height - radius - 3 * gap // 2)
    cv2.circle(out, middle, radius, INK, line, cv2.LINE_AA)
    tip = (middle[0] - radius * math.sin(steering), middle[1] - radius * math.cos(steering))
    cv2.line(out, middle, (round(tip[0]), round(tip[1])), NEEDLE, 2 * line, cv2.LINE_AA)
    left, bottom = 2 * gap + 2 * radius + line, middle[1] + radius
    top = bottom - round(2 * radius * min(abs(speed), FULL) / FULL)
    cv2.rectangle(out, (left, top), (left + gap, bottom), NEEDLE, cv2.FILLED)
    cv2.rectangle(out, (left, bottom - 2 * radius), (left + gap, bottom), INK, line)
    size = radius / 48
    for text, y in ((f"{speed:.1f} m/s", middle[1]), (f"{math.degrees(steering):+.0f} deg", bottom)):
        cv2.putText(out, text, (left + 2 * gap, y), FONT, size, INK, max(1, line // 2), cv2.LINE_AA)
    return out
