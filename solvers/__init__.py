"""Linear oracles over fixed feasible sets: MILP backends, graph and selection oracles, caches, pools. NumPy only.

Names are loaded on first use, so that `import solvers` imports neither a backend nor a compiler.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from solvers.binning import GeneralizedAssignmentOracle, generalized_assignment
    from solvers.caching import CachedOracle, SolutionPool, cached, pool
    from solvers.callables import FunctionOracle, function
    from solvers.choice import MultipleChoiceOracle, multiple_choice
    from solvers.choice_relaxation import MultipleChoiceRelaxation
    from solvers.fanout import ParallelOracle, parallel
    from solvers.flows import MinCostFlowOracle, min_cost_flow
    from solvers.matching import AssignmentOracle, assignment
    from solvers.mixed_integer import MilpOracle, milp
    from solvers.oracle import Array, LinearOracle, OracleBatch, Status, as_costs
    from solvers.packing import KnapsackOracle, knapsack
    from solvers.paths import ShortestPathOracle, shortest_path
    from solvers.polyhedron import Polyhedron
    from solvers.selection import CardinalityOracle, PartitionMatroidOracle, cardinality, partition_matroid
    from solvers.trees import SpanningTreeOracle, spanning_tree

_HOME = {
    "Array": "oracle",
    "AssignmentOracle": "matching",
    "CachedOracle": "caching",
    "CardinalityOracle": "selection",
    "FunctionOracle": "callables",
    "GeneralizedAssignmentOracle": "binning",
    "KnapsackOracle": "packing",
    "LinearOracle": "oracle",
    "MilpOracle": "mixed_integer",
    "MinCostFlowOracle": "flows",
    "MultipleChoiceOracle": "choice",
    "MultipleChoiceRelaxation": "choice_relaxation",
    "OracleBatch": "oracle",
    "ParallelOracle": "fanout",
    "PartitionMatroidOracle": "selection",
    "Polyhedron": "polyhedron",
    "ShortestPathOracle": "paths",
    "SolutionPool": "caching",
    "SpanningTreeOracle": "trees",
    "Status": "oracle",
    "as_costs": "oracle",
    "assignment": "matching",
    "cached": "caching",
    "cardinality": "selection",
    "function": "callables",
    "generalized_assignment": "binning",
    "knapsack": "packing",
    "milp": "mixed_integer",
    "min_cost_flow": "flows",
    "multiple_choice": "choice",
    "parallel": "fanout",
    "partition_matroid": "selection",
    "pool": "caching",
    "shortest_path": "paths",
    "spanning_tree": "trees",
}

__all__ = [
    "Array", "AssignmentOracle", "CachedOracle", "CardinalityOracle", "FunctionOracle",
    "GeneralizedAssignmentOracle", "KnapsackOracle", "LinearOracle", "MilpOracle", "MinCostFlowOracle",
    "MultipleChoiceOracle", "MultipleChoiceRelaxation", "OracleBatch", "ParallelOracle", "PartitionMatroidOracle",
    "Polyhedron", "ShortestPathOracle", "SolutionPool", "SpanningTreeOracle", "Status", "as_costs", "assignment",
    "cached", "cardinality", "function", "generalized_assignment", "knapsack", "milp", "min_cost_flow",
    "multiple_choice", "parallel", "partition_matroid", "pool", "shortest_path", "spanning_tree",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'solvers' has no attribute {name!r}")
    value = getattr(import_module(f"solvers.{_HOME[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOME})
