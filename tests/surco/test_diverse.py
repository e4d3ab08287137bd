import itertools

import numpy as np
import pytest
import torch

import solvers
import surco
from surco.errors import InvalidInputError


def problem(n=9, k=4):
    """k of n with a quadratic f that has many good designs."""
    rng = np.random.default_rng(0)
    weights = torch.from_numpy(rng.random(n))
    target = float(weights.sum()) * k / n

    def objective(x):
        return (x @ weights - target) ** 2 + 0.05 * (x @ weights.square())

    return surco.problem(solvers.cardinality(n, k), objective, is_differentiable=True, initial_costs=weights.numpy())


def every_design(n=9, k=4):
    rows = np.zeros((0, n))
    for members in itertools.combinations(range(n), k):
        row = np.zeros((1, n))
        row[0, list(members)] = 1.0
        rows = np.concatenate([rows, row])
    return rows


@pytest.mark.parametrize("distance", [2, 4])
def test_designs_are_feasible_apart_sorted_and_good(distance):
    p = problem()
    results = surco.solve(p, designs=4, min_distance=distance, calls=800, objective_calls=2000, seed=0)
    assert len(results) == 4
    xs = np.stack([result.x for result in results])
    assert (xs.sum(1) == 4).all()
    gaps = np.abs(xs[:, None] - xs[None]).sum(-1)[~np.eye(4, dtype=bool)]
    assert gaps.min() >= distance
    values = [result.value for result in results]
    assert values == sorted(values)
    assert values == pytest.approx(p.objective(torch.from_numpy(xs)).tolist())
    pool = every_design()
    f = p.objective(torch.from_numpy(pool)).numpy()
    kept: list[np.ndarray] = []  # greedy over all designs: the best, then the best that keeps the distance ...
    for row in np.argsort(f):
        if all(np.abs(pool[row] - other).sum() >= distance for other in kept):
            kept.append(pool[row])
    expected = p.objective(torch.from_numpy(np.stack(kept[:4]))).tolist()
    assert values == pytest.approx(expected)


def test_an_impossible_distance_gives_fewer_designs_and_says_so():
    results = surco.solve(problem(), designs=5, min_distance=8, calls=300, objective_calls=300, seed=0)
    assert 1 <= len(results) <= 2  # of 9 variables, no three sets of 4 are disjoint
    assert any("of 5 designs" in note for note in results[0].notes)


def test_routes_differ_by_the_edges_that_were_asked_for():
    results = surco.solve(surco.make("paths/grid-5-code-v0"), designs=3, min_distance=6, calls=600, seed=0)
    assert len(results) == 3
    for first, second in itertools.combinations(results, 2):
        assert np.abs(first.x - second.x).sum() >= 6
    assert all(result.metrics["probability"] > 0 for result in results)


def test_bad_input_is_refused():
    with pytest.raises(InvalidInputError, match="designs"):
        surco.solve(problem(), designs=0, calls=10)
    with pytest.raises(InvalidInputError, match="min_distance"):
        surco.solve(problem(), designs=2, min_distance=0.0, calls=10)
    with pytest.raises(InvalidInputError, match="checkpoint"):
        surco.solve(problem(), designs=2, checkpoint="x", calls=10)
