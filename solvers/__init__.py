"""Linear oracles over fixed feasible sets: MILP backends, graph and selection oracles, caches, pools. NumPy only.

Names are loaded on first use, so that `import solvers` imports neither a backend nor a compiler.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from solvers.binning import GeneralizedAssignmentOracle, generalized_assignment
    from solvers.callables import FunctionOracle, function
    from solvers.choice import MultipleChoiceOracle, MultipleChoiceRelaxation, multiple_choice
    from solvers.mixed_integer import MilpOracle, milp
    from solvers.oracle import Array, LinearOracle, OracleBatch, Status, as_costs
    from solvers.paths import ShortestPathOracle, shortest_path
    from solvers.polyhedron import Polyhedron
    from solvers.selection import CardinalityOracle, PartitionMatroidOracle, cardinality, partition_matroid

_HOME = {
    "Array": "oracle",
    "CardinalityOracle": "selection",
    "FunctionOracle": "callables",
    "GeneralizedAssignmentOracle": "binning",
    "LinearOracle": "oracle",
    "MilpOracle": "mixed_integer",
    "MultipleChoiceOracle": "choice",
    "MultipleChoiceRelaxation": "choice",
    "OracleBatch": "oracle",
    "PartitionMatroidOracle": "selection",
    "Polyhedron": "polyhedron",
    "ShortestPathOracle": "paths",
    "Status": "oracle",
    "as_costs": "oracle",
    "cardinality": "selection",
    "function": "callables",
    "generalized_assignment": "binning",
    "milp": "mixed_integer",
    "multiple_choice": "choice",
    "partition_matroid": "selection",
    "shortest_path": "paths",
}

__all__ = [
    "Array", "CardinalityOracle", "FunctionOracle", "GeneralizedAssignmentOracle", "LinearOracle", "MilpOracle",
    "MultipleChoiceOracle", "MultipleChoiceRelaxation", "OracleBatch", "PartitionMatroidOracle", "Polyhedron",
    "ShortestPathOracle", "Status", "as_costs", "cardinality", "function", "generalized_assignment", "milp",
    "multiple_choice", "partition_matroid", "shortest_path",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'solvers' has no attribute {name!r}")
    value = getattr(import_module(f"solvers.{_HOME[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOME})
