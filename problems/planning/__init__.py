"""Survivable backbone capacity planning: instances, an exact decomposition, an independent judge, nonlinear costs."""

from typing import TYPE_CHECKING

from problems.lazy import lazy
from problems.planning.domain import DOMAIN
from problems.planning.instance import (
    Demand,
    Disconnection,
    Failure,
    Fiber,
    Link,
    Module,
    Node,
    PlanningInstance,
    shared_risk_failures,
    single_fiber_failures,
    single_link_failures,
    single_node_failures,
)
from problems.planning.judge import Judge, judge
from problems.planning.network import Network, compile_instance
from problems.planning.plan import Plan, plan_of
from problems.planning.topologies import from_topohub, from_topology

if TYPE_CHECKING:
    from problems.planning.decomposition import Decomposition
    from problems.planning.problem import NonlinearPlanning, PlanningProblem

__getattr__ = lazy(__name__, {"decomposition": "Decomposition", "problem": "NonlinearPlanning PlanningProblem"})
__all__ = [
    "DOMAIN",
    "Decomposition",
    "Demand",
    "Disconnection",
    "Failure",
    "Fiber",
    "Judge",
    "Link",
    "Module",
    "Network",
    "Node",
    "NonlinearPlanning",
    "Plan",
    "PlanningInstance",
    "PlanningProblem",
    "compile_instance",
    "from_topohub",
    "from_topology",
    "judge",
    "plan_of",
    "shared_risk_failures",
    "single_fiber_failures",
    "single_link_failures",
    "single_node_failures",
]
