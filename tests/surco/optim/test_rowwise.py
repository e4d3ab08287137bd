"""Row-wise optimizers against torch's own on tables of one column, where row-wise and entry-wise are the same."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from surco.optim import RowwiseAdagrad, RowwiseAdam

# torch's own sparse optimizers build sparse tensors in a way that torch itself warns about.
pytestmark = pytest.mark.filterwarnings("ignore:Sparse invariant checks")


@pytest.mark.parametrize(
    ("ours", "theirs"), [(RowwiseAdagrad, torch.optim.Adagrad), (RowwiseAdam, torch.optim.SparseAdam)]
)
def test_one_column_equals_the_entry_wise_rule(ours, theirs):
    generator = torch.Generator().manual_seed(0)
    start = torch.randn(9, 1, generator=generator)
    weights = [nn.Parameter(start.clone()) for _ in range(2)]
    optimizers = [ours([weights[0]], lr=0.1), theirs([weights[1]], lr=0.1)]
    for _ in range(12):
        index = torch.randint(6, (1, 8), generator=generator)
        gradient = torch.sparse_coo_tensor(index, torch.randn(8, 1, generator=generator), (9, 1), check_invariants=True)
        for weight, optimizer in zip(weights, optimizers, strict=True):
            weight.grad = gradient.clone()
            optimizer.step()
    torch.testing.assert_close(weights[0], weights[1], rtol=1e-4, atol=1e-5)
    assert torch.equal(weights[0][6:], start[6:])


def test_state_is_one_number_a_row():
    weight = nn.Parameter(torch.randn(9, 5))
    weight.grad = torch.ones(9, 5).to_sparse(1)
    optimizer = RowwiseAdagrad([weight])
    optimizer.step()
    assert optimizer.state[weight]["sum"].shape == (9,)
