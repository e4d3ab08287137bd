"""Oracle calls beside the network, and gradients from linear relaxations."""

import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import scipy.optimize as so
import scipy.sparse as sp
import torch

import solvers
import surco
from problems.sharding.oracle import PlacementOracle
from problems.sharding.placement_lp import PlacementRelaxation
from surco.errors import InvalidInputError
from surco.instance_family import Instance, Split, ask, collate, family, relaxation
from surco.training import train
from surco.training.gradients import GRADIENTS, Step, taken

GRID = "paths/grid-5-paper-v0"
TABLES = "sharding/dlrm-50t-8d-v0"
FAST = {"instances": 8, "validation": 4, "batch": 4, "samples": 4, "validate_every": 100, "network": {"hidden": 8}}


def test_the_network_works_on_the_next_part_while_the_oracle_answers(monkeypatch):
    source = family(GRID)
    fresh = source.network
    is_at_second = threading.Event()
    forwards = []

    def watched(**config):
        network = fresh(**config)

        def count(module, _):
            if module.training:  # validation does not count
                forwards.append(threading.current_thread().name)
                if len(forwards) == 2:
                    is_at_second.set()

        network.register_forward_pre_hook(count)
        return network

    class Pool:
        def map(self, function, items, /):
            if threading.current_thread() is not threading.main_thread():  # a gradient; the first has to wait
                assert is_at_second.wait(60.0), "the network waited for the oracle"
            return map(function, items)

    monkeypatch.setattr(source, "network", watched)
    prior = train(source, steps=1, pool=Pool(), parts=2, **FAST)
    assert forwards == [threading.main_thread().name] * 2
    assert prior.training["seconds_of"]["hidden"] >= 0.0


@pytest.mark.parametrize("gradient", ["perturbed", "identity"])
def test_parts_are_the_whole_but_for_their_noise(gradient):
    """Without noise (identity) the gradient of two parts is that of the batch, up to the order of the sums."""
    whole, parts, again = (
        train(GRID, steps=3, parts=n, gradient=gradient, step_size=1e-2, **FAST).network.state_dict() for n in (1, 2, 2)
    )
    assert all(torch.equal(parts[name], again[name]) for name in parts)  # whatever the timing
    if gradient == "identity":
        for name in whole:
            torch.testing.assert_close(whole[name], parts[name], rtol=1e-4, atol=1e-5)
    with ThreadPoolExecutor(4) as pool:
        pooled = train(GRID, steps=3, parts=2, gradient=gradient, step_size=1e-2, pool=pool, **FAST)
    assert all(torch.equal(value, pooled.network.state_dict()[name]) for name, value in parts.items())


def test_an_error_of_the_oracle_reaches_the_caller():
    class Broken:
        def map(self, function, items, /):
            if threading.current_thread() is not threading.main_thread():
                raise RuntimeError("no license")
            return map(function, items)

    with pytest.raises(RuntimeError, match="no license"):
        train(GRID, steps=1, pool=Broken(), parts=2, **FAST)


def tight():
    """Tables that fill most of the memory, as instances of a family: random costs overfill a device."""
    from tests.problems.sharding.small_instances import small_problem

    source = family(TABLES)
    problems = [small_problem(seed, tables=9, devices=3, tightness=0.6) for seed in (2, 5, 7)]
    instances = [Instance(p, source.features(p), Split.TRAIN, k) for k, p in enumerate(problems)]
    return source, instances, collate([i.features for i in instances])


def test_relaxed_placements_are_the_optimum_of_the_linear_program():
    """Judged by SciPy's HiGHS on the same rules, written out here."""
    source, instances, _ = tight()
    problem = instances[0].problem
    tables, devices = len(problem.tables), len(problem.devices)
    costs = np.random.default_rng(0).random((6, tables, devices)) + np.linspace(0, 3, devices)  # all want device 0
    lp = relaxation(problem)
    found = lp.solve(costs.reshape(6, -1))
    unit = problem.capacity_bytes.max()
    memory = sp.kron(problem.table_bytes[None] / unit, sp.eye_array(devices))
    one = sp.kron(sp.eye_array(tables), np.ones((1, devices)))
    for c, value in zip(costs, found.objective, strict=True):
        judge = so.linprog(c.ravel(), memory, problem.capacity_bytes / unit, one, np.ones(tables))
        assert value == pytest.approx(judge.fun, rel=1e-6)
    assert float(lp.violation(found.x).max()) < 1e-6
    assert float(lp.violation(found.x + 0.1).min()) > 0.05
    assert (np.abs(found.x - np.rint(found.x)) > 0.01).any()  # memory did bind
    plans, ok = ask(source, problem, costs.reshape(6, -1))
    assert ok.all()
    assert (found.objective <= (plans * costs.reshape(6, -1)).sum(1) + 1e-9).all()  # a bound on every plan


def test_relaxed_gradients_ask_the_relaxation_alone(monkeypatch):
    source, instances, batch = tight()
    costs = torch.linspace(0, 1, 3, dtype=torch.float64).expand(3, 9, 3).contiguous()
    asked = set()
    for kind in (PlacementRelaxation, PlacementOracle):

        def solve(self, rows, _old=kind.solve, _kind=kind):
            asked.add(_kind)
            return _old(self, rows)

        monkeypatch.setattr(kind, "solve", solve)
    for is_relaxed, kind in ((True, PlacementRelaxation), (False, PlacementOracle)):
        asked.clear()
        generator = torch.Generator().manual_seed(0)
        step = Step(source, batch, instances, costs, generator, 8, 0.5, None, None, is_relaxed)
        loss, grad = taken(GRADIENTS["perturbed"], step)
        assert asked == {kind}
        assert bool(torch.isfinite(loss).all())
        assert float(grad.abs().sum()) > 0.0


def test_relaxed_answers_do_not_depend_on_what_was_asked_before():
    oracle = solvers.milp(matrix=[[3.0, 4.0, 2.0, 5.0]], row_upper=7.0, upper=1.0, backend="highs")
    problem = surco.problem(oracle, lambda x: float(x.sum()), id="my/knapsack")
    source = family(GRID)  # its relabeling is none
    costs = -np.random.default_rng(0).random((5, 4))
    first, ok = ask(source, problem, costs, is_relaxed=True)
    assert ok.all()
    ask(source, problem, costs[::-1] - 1.0, is_relaxed=True)
    again, _ = ask(source, problem, costs, is_relaxed=True)
    assert (first == again).all()
    whole, _ = ask(source, problem, costs)
    assert ((first * costs).sum(1) <= (whole * costs).sum(1) + 1e-9).all()


def test_relaxations_that_are_not_there_are_named():
    with pytest.raises(InvalidInputError, match="no linear relaxation"):
        train(GRID, steps=1, is_relaxed=True, **FAST)
    with pytest.raises(InvalidInputError, match="is_relaxed"):
        train(TABLES, steps=1, is_relaxed=True, gradient="local", **FAST)
