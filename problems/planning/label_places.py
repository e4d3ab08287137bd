"""Where names of nodes stand on a map: beside their node, off the other nodes, the names and the links."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
_DIRECTIONS = [(1, 0), (-1, 0), (0, 1), (0, -1), (1, 1), (1, -1), (-1, 1), (-1, -1)]
_DISTANCES = (1.0, 1.8, 3.0)  # times the gap
_SAMPLES = 24  # points on a link
_PASSES = 3


def label_boxes(place: Floats, sizes: Floats, curves: Floats, *, gap: float) -> Floats:
    """Boxes [N, 4] (left, bottom, right, top) of the names of nodes.

    Greedy with a few passes: each name takes the place that covers least, given where the others stand; names in crowds
    choose first.

    Args:
        place: [N, 2] of the nodes, in the unit of ``sizes``, y upward.
        sizes: [N, 2] width and height of each name.
        curves: [L, 3, 2] ends and control points (start, control, end) of the links.
        gap: from a node to its name.
    """
    n = len(place)
    share = np.linspace(0.0, 1.0, _SAMPLES)[None, :, None]
    start, control, end = curves[:, None, 0], curves[:, None, 1], curves[:, None, 2]
    on_links = ((1 - share) ** 2 * start + 2 * share * (1 - share) * control + share**2 * end).reshape(-1, 2)
    candidates = np.stack([_candidates(place[i], sizes[i], gap) for i in range(n)])  # [N, C, 4]
    far = np.tile(np.arange(len(_DISTANCES)), len(_DIRECTIONS))
    price = (
        np.stack([2.0 * _inside(boxes, on_links) + 40.0 * _inside(boxes, place) for boxes in candidates]) + 1.5 * far
    )
    crowd = (np.linalg.norm(place[:, None] - place[None], axis=-1) < 4.0 * sizes[:, 0].mean()).sum(axis=1)
    chosen = candidates[:, 0].copy()
    is_placed = np.zeros(n, dtype=bool)
    for _ in range(_PASSES):
        for i in np.argsort(-crowd, kind="stable"):
            others = chosen[is_placed & (np.arange(n) != i)]
            overlap = _overlap(candidates[i], others) / float(sizes[i].prod())
            chosen[i] = candidates[i, int(np.argmin(price[i] + 60.0 * overlap))]
            is_placed[i] = True
    return chosen


def _candidates(at: Floats, size: Floats, gap: float) -> Floats:
    """[C, 4] boxes around a node, near ones first in each direction."""
    boxes = []
    for direction in np.array(_DIRECTIONS, dtype=np.float64):
        for distance in _DISTANCES:
            middle = at + direction * (distance * gap / np.linalg.norm(direction) + 0.5 * size)
            boxes.append(np.r_[middle - 0.5 * size, middle + 0.5 * size])
    return np.array(boxes)


def _inside(boxes: Floats, points: Floats) -> Floats:
    """[C] points in each box."""
    x, y = points[None, :, 0], points[None, :, 1]
    left, bottom, right, top = boxes.T[:, :, None]
    return ((x > left) & (x < right) & (y > bottom) & (y < top)).sum(axis=1).astype(np.float64)


def _overlap(boxes: Floats, others: Floats) -> Floats:
    """[C] area that each box shares with the others."""
    if not len(others):
        return np.zeros(len(boxes))
    low = np.maximum(boxes[:, None, :2], others[None, :, :2])
    high = np.minimum(boxes[:, None, 2:], others[None, :, 2:])
    return np.maximum(high - low, 0.0).prod(axis=-1).sum(axis=1)
