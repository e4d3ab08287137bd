"""Names on maps: inside no other name, on no node."""

import numpy as np
import pytest

from problems.planning.label_places import label_boxes


def _overlaps(boxes: np.ndarray) -> int:
    low = np.maximum(boxes[:, None, :2], boxes[None, :, :2])
    high = np.minimum(boxes[:, None, 2:], boxes[None, :, 2:])
    return int(np.triu((high - low > 1e-9).all(axis=-1), 1).sum())


@pytest.mark.parametrize("seed", range(4))
def test_names_cover_neither_nodes_nor_each_other(seed):
    rng = np.random.default_rng(seed)
    place = rng.uniform(0.0, 800.0, (40, 2))
    sizes = np.column_stack([rng.uniform(20.0, 70.0, 40), np.full(40, 12.0)])
    ends = place[np.array([rng.choice(40, 2, replace=False) for _ in range(60)])]
    curves = np.stack([ends[:, 0], ends.mean(axis=1), ends[:, 1]], axis=1)
    boxes = label_boxes(place, sizes, curves, gap=7.0)
    assert np.allclose(boxes[:, 2:] - boxes[:, :2], sizes)
    inside = ((place[None] > boxes[:, None, :2]) & (place[None] < boxes[:, None, 2:])).all(axis=-1)
    right = np.column_stack([place[:, 0] + 7.0, place[:, 1] - 6.0, place[:, 0] + 7.0 + sizes[:, 0], place[:, 1] + 6.0])
    assert inside.sum() <= 1
    assert _overlaps(boxes) == 0 < _overlaps(right)  # all names to the right of their nodes do overlap


def test_a_lone_node_has_its_name_at_its_right():
    box = label_boxes(np.zeros((1, 2)), np.array([[30.0, 10.0]]), np.zeros((0, 3, 2)), gap=5.0)
    assert np.allclose(box, [[5.0, -5.0, 35.0, 5.0]])
