"""Cuts kept for other demands: still valid, at the exact right-hand side, and useful."""

from dataclasses import replace

import numpy as np
import pytest

from problems.planning import Decomposition, Network, compile_instance
from problems.planning.instance import PlanningInstance
from rl.cut_library import CutLibrary
from rl.generator import random_instance
from surco.errors import InvalidInputError


def _scaled(instance: PlanningInstance, seed: int) -> Network:
    rng = np.random.default_rng(seed)
    factor: dict[tuple[str, ...], float] = {}
    for demand in instance.demands:
        factor.setdefault(tuple(sorted((demand.source, demand.target))), float(rng.lognormal(0.0, 0.3)))
    return compile_instance(
        replace(
            instance,
            demands=tuple(
                replace(d, gbps=d.gbps * factor[tuple(sorted((d.source, d.target)))]) for d in instance.demands
            ),
        )
    )


@pytest.fixture(scope="module")
def solved() -> tuple[PlanningInstance, Network, Decomposition]:
    instance = random_instance(2, nodes=(13, 13))
    network = compile_instance(instance)
    engine = Decomposition(network, tolerance=1e-4)
    engine.run(None)
    return instance, network, engine


def test_same_demands_give_the_cuts_their_own_right_hand_sides(
    solved: tuple[PlanningInstance, Network, Decomposition],
) -> None:
    _, network, engine = solved
    library = CutLibrary(network)
    assert library.learn(engine.metric_cuts) > 0
    assert library.learn(engine.metric_cuts) == 0
    known = {(c.scenario, np.round(c.weights, 9).tobytes()): c.rhs for c in engine.metric_cuts}
    wanted = [known[int(s), np.round(w, 9).tobytes()] for s, w in zip(library.scenario, library.weights, strict=True)]
    np.testing.assert_allclose(library.right_hand_sides(network), wanted, rtol=1e-5)


@pytest.mark.parametrize("seed", [1, 2])
def test_cuts_hold_for_the_optimum_of_other_demands_and_close_most_of_the_gap(
    solved: tuple[PlanningInstance, Network, Decomposition], seed: int
) -> None:
    instance, network, engine = solved
    library = CutLibrary(network)
    library.learn(engine.metric_cuts)
    other = _scaled(instance, seed)
    plain = Decomposition(other, tolerance=1e-4)
    bounds = plain.run(None)
    assert plain.best is not None
    slack = library.weights @ other.capacities(plain.best) - library.right_hand_sides(other)
    assert slack.min() >= -1e-6
    taught = Decomposition(other, tolerance=1e-4)
    assert library.teach(taught) > 0
    value, _ = taught.master.solve_lp()
    assert value <= plain.upper * (1.0 + 1e-9)
    untaught = Decomposition(other, tolerance=1e-4)
    CutLibrary(network).teach(untaught)
    before = untaught.master.solve_lp()[0] if len(untaught.master.rhs) else 0.0
    assert value > before
    again = taught.run(None)
    assert again.upper == pytest.approx(bounds.upper, rel=2e-4)


def test_other_links_are_refused_and_the_size_is_kept(
    solved: tuple[PlanningInstance, Network, Decomposition],
) -> None:
    _, network, engine = solved
    library = CutLibrary(network, most=5)
    library.learn(engine.metric_cuts)
    assert len(library) == min(5, len(engine.metric_cuts))
    with pytest.raises(InvalidInputError, match="links and failures"):
        library.right_hand_sides(compile_instance(random_instance(12, nodes=(10, 10))))
