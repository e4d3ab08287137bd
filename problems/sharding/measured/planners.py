"""Plans of others on the measured cost: TorchRec's planner, greedy by predicted cost, grid search, additive MILP.

Each gives a choice [G] of a device per group (tables and groups are the same unless tables are colocated), or None
where it finds no room.
"""

from __future__ import annotations

import contextlib
import io
import math
import warnings
from dataclasses import dataclass, replace

import numpy as np
import torch

from problems.sharding import rules
from problems.sharding.makespan_cpsat import add_placement
from problems.sharding.measured.cost import BoundMeasured, MeasuredCost
from problems.sharding.measured.network import Head
from problems.sharding.problem import ShardingProblem
from problems.sharding.symmetry import Index
from solvers.oracle import Array
from surco.errors import InvalidInputError, MissingExtraError

GRID = np.linspace(1.0, 1.5, 11)  # caps on a device's sum of dims, in means
RESOLUTION = 10**6


@dataclass(frozen=True, slots=True)
class Found:
    """A plan and what it took.

    Attributes:
        choice: [G] device of each group, or None.
        calls: plans or devices that the cost networks evaluated.
        bound: proven bound on the planner's own model in ms, or None.
    """

    choice: Index | None
    calls: int = 0
    bound: float | None = None


def measured_cost(problem: ShardingProblem) -> BoundMeasured:
    """The problem's cost.

    Raises:
        InvalidInputError: another cost model.
    """
    if not isinstance(problem.cost, BoundMeasured):
        raise InvalidInputError(f"Expected a problem with a measured cost, got {problem.cost_model.name!r}.")
    return problem.cost


def longest_first(problem: ShardingProblem) -> Found:
    """LPT on what the networks predict for each table alone."""
    alone = measured_cost(problem).alone_ms().sum(0)
    weight = problem.placement.sum_groups(np.tile(alone[:, None], len(problem.devices)))
    return Found(rules.balance(problem, weight), len(problem.tables))


def dim_grid(problem: ShardingProblem) -> Found:
    """NeuroShard's search for table-wise plans: a grid of caps on sums of dims, greedy by predicted device cost inside.

    Groups go in the order of their predicted cost alone, each to the device whose predicted compute is smallest with it
    among those with room and a sum of dims within the cap; the best plan of all caps by predicted step time.
    Its beam over splits of columns has no counterpart where tables stay whole.

    Source: Zha et al. 2023, from the description of beam-and-grid search.
    """
    cost, oracle = measured_cost(problem), problem.oracle
    alone = problem.placement.sum_groups(np.tile(cost.alone_ms().sum(0)[:, None], (1, len(problem.devices))))
    dims = problem.placement.sum_groups(np.array([[float(table.dim)] for table in problem.tables]))[:, 0]
    order = np.argsort(-alone.min(axis=1), kind="stable")
    best: tuple[float, Index] | None = None
    calls = len(problem.tables)
    for cap in GRID * dims.sum() / len(problem.devices):
        choice, tried = _greedy(problem, cost, order, dims, max(float(cap), float(dims.max())))
        calls += tried
        if choice is None or not oracle.fits(choice[None])[0]:
            continue
        value = float(problem.objective(problem.design(choice)))
        calls += 1
        if best is None or value < best[0]:
            best = (value, choice)
    return Found(None if best is None else best[1], calls)


def _greedy(
    problem: ShardingProblem, cost: BoundMeasured, order: Index, dims: Array, cap: float
) -> tuple[Index | None, int]:
    oracle = problem.oracle
    devices = len(problem.devices)
    features = torch.zeros(problem.group_weights.shape[0], devices, dtype=torch.float64)
    used, width = np.zeros(devices), np.zeros(devices)
    choice = np.zeros(len(order), dtype=np.int64)
    for done, g in enumerate(order):
        room = np.isfinite(oracle.blocked[g]) & (used + oracle.memory[g] <= oracle.limit) & (width + dims[g] <= cap)
        if not room.any():
            return None, done * devices
        with_it = cost.times_ms(cost.loads_ms(features + problem.group_weights[:, g]))
        compute = (with_it[0] + with_it[3]).numpy()
        d = int(np.where(room, compute, np.inf).argmin())
        choice[g] = d
        features[:, d] += problem.group_weights[:, g, d]
        used[d] += oracle.memory[g]
        width[d] += dims[g]
    return choice, len(order) * devices


def additive_milp(problem: ShardingProblem, fitted: str | None, *, seconds: float) -> Found:
    """Best plan of an additive model: what is left to be won by anything that is not additive.

    Minimizes the sum over the four phases of the largest device sum of the tables' values, with the rules and memory of
    the problem: first local search on the additive model for a third of the time, then CP-SAT from its plan. Intercepts
    are the same for all plans.

    Args:
        problem: with a measured cost.
        fitted: file of networks with the head ``additive``, trained on the same campaign: the best fitted additive
            model (an exchange is linear in the bytes, with its slope at balance). None takes the tangent plane of the
            problem's own networks at balance instead; then a greedy plan starts CP-SAT.
        seconds: wall seconds.
    """
    from ortools.sat.python import cp_model

    if fitted is None:
        loads = problem.single_ms  # [4, G, D]
        begin = rules.balance(problem, loads.sum(0))
    else:
        stand_in = additive_stand_in(problem, fitted)
        loads = stand_in.single_ms
        searched = stand_in.exact(seconds=seconds / 3.0).x
        begin = None if searched is None else problem.oracle.choice(searched.numpy()[None])[0]
    oracle = problem.oracle
    top = float(loads.sum(0).max(axis=1).sum())
    unit = max(top, 1e-300) / RESOLUTION
    whole = np.round(loads / unit).astype(np.int64)
    byte_unit = max(1, math.ceil(max(oracle.capacity.max(), oracle.memory.max(initial=0.0)) / 2**40))
    used = np.ceil(oracle.memory / byte_unit).astype(np.int64)
    groups, devices = loads.shape[1:]
    program = cp_model.CpModel()
    may, on = add_placement(program, oracle)
    slowest = [program.new_int_var(0, RESOLUTION + groups, "") for _ in range(4)]
    for d in range(devices):
        here = [g for g in range(groups) if may[g, d]]
        for phase in range(4):
            program.add(sum(int(whole[phase, g, d]) * on[g, d] for g in here) <= slowest[phase])
        program.add(sum(int(used[g]) * on[g, d] for g in here) <= math.floor(oracle.capacity[d] / byte_unit))
    program.minimize(sum(slowest))
    if begin is not None:
        start = oracle.canonical(begin[None])[0]
        for (g, d), variable in on.items():
            program.add_hint(variable, bool(start[g] == d))
    solver = cp_model.CpSolver()
    solver.parameters.max_time_in_seconds = seconds * 2.0 / 3.0
    solver.parameters.num_workers = 1
    solver.parameters.random_seed = 0
    solver.parameters.relative_gap_limit = 1e-4
    status = solver.solve(program)
    if status not in (cp_model.OPTIMAL, cp_model.FEASIBLE):
        return Found(begin)
    choice = np.zeros(groups, dtype=np.int64)
    for (g, d), variable in on.items():
        if solver.boolean_value(variable):
            choice[g] = d
    return Found(choice, 0, solver.best_objective_bound * unit)


def additive_stand_in(problem: ShardingProblem, fitted: str) -> ShardingProblem:
    """The same problem with the additive networks of a file as its cost.

    Raises:
        InvalidInputError: the networks have another head.
    """
    model = problem.cost_model
    assert isinstance(model, MeasuredCost)
    other = replace(model, network=fitted, temperature_ms=0.0)
    head = other.networks().compute.settings["head"]
    if head != Head.ADDITIVE:
        raise InvalidInputError(f"Expected networks with an additive head, got {head!r}.")
    return ShardingProblem.from_spec({**problem.spec, "cost_model": other.to_json()})


def torchrec_plan(problem: ShardingProblem) -> Found:
    """TorchRec's own planner, untouched but for two limits: table-wise, fused kernel.

    Raises:
        MissingExtraError: torchrec is not installed.
        InvalidInputError: rules that it cannot be told (pins and groups).
    """
    if problem.placement.groups != len(problem.tables) or not problem.placement.allowed.all():
        raise InvalidInputError("TorchRec's planner takes no pins, bans or groups of tables.")
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        try:
            import torchrec
            from torchrec import optim as optimizers
            from torchrec.distributed.embedding_types import EmbeddingComputeKernel
            from torchrec.distributed.embeddingbag import EmbeddingBagCollectionSharder
            from torchrec.distributed.planner import EmbeddingShardingPlanner, ParameterConstraints, Topology
            from torchrec.distributed.types import ShardingType
            from torchrec.modules.embedding_configs import EmbeddingBagConfig
        except ImportError as error:
            raise MissingExtraError(
                f"torchrec is needed ({error}): pip install -r .ci/torchrec.txt --no-deps"
            ) from error
        module = torchrec.EmbeddingBagCollection(
            device=torch.device("meta"),
            tables=[
                EmbeddingBagConfig(name=t.name, num_embeddings=t.rows, embedding_dim=t.dim, feature_names=[t.name])
                for t in problem.tables
            ],
        )
        for parameter in module.parameters():
            parameter._optimizer_classes = [optimizers.RowWiseAdagrad]  # type: ignore[attr-defined]
        world = len(problem.devices)
        topology = Topology(
            world_size=world,
            compute_device="cuda",
            local_world_size=sum(device.host == problem.devices[0].host for device in problem.devices),
            hbm_cap=problem.devices[0].memory_bytes,
        )
        constraints = {
            t.name: ParameterConstraints(
                sharding_types=[ShardingType.TABLE_WISE.value],
                compute_kernels=[EmbeddingComputeKernel.FUSED.value],
                pooling_factors=[t.pooling_factor],
            )
            for t in problem.tables
        }
        planner = EmbeddingShardingPlanner(
            topology=topology, batch_size=problem.workload.batch_size, constraints=constraints
        )
        plan = planner.plan(module, [EmbeddingBagCollectionSharder()])  # type: ignore[list-item]
    ranks = {
        name: sharding.ranks[0]
        for part in plan.plan.values()
        for name, sharding in part.items()  # type: ignore[attr-defined]
    }
    return Found(np.array([ranks[table.name] for table in problem.tables], dtype=np.int64))
