"""The one place where torch meets NumPy keeps shapes, values and dtypes."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from surco.bridge import to_numpy, to_torch


@pytest.mark.parametrize("shape", [(), (0,), (3,), (2, 0), (2, 3), (2, 1, 3)])
def test_shapes_survive_both_ways(shape):
    array = np.arange(np.prod(shape, dtype=int), dtype=np.float64).reshape(shape)
    tensor = to_torch(array)
    assert tuple(tensor.shape) == shape  # a number stays a number
    assert tensor.dtype == torch.float64
    assert np.array_equal(to_numpy(tensor), array)


def test_other_layouts_and_dtypes_are_converted():
    assert torch.equal(to_torch(np.arange(6).reshape(2, 3)[:, ::-1]), torch.tensor([[2.0, 1, 0], [5, 4, 3]]).double())
    assert to_torch([True, False]).tolist() == [1.0, 0.0]
    assert to_torch(np.ones(2), like=torch.zeros(1, dtype=torch.float32)).dtype == torch.float32
    assert to_numpy(torch.ones(2, dtype=torch.float32, requires_grad=True)).dtype == np.float64
