"""surco: combinatorial design optimization by learned linear surrogate costs.

    import surco
    problem = surco.make("sharding/mlperf-dlrm-v2-8gpu-v0")
    result = surco.solve(problem, seconds=30, seed=0)

Names are imported at first use, so that ``import surco`` is cheap and parts can be used without the rest.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from surco.budget import Budget as Budget
    from surco.errors import InfeasibleError as InfeasibleError
    from surco.errors import InvalidInputError as InvalidInputError
    from surco.errors import MissingExtraError as MissingExtraError
    from surco.errors import NoDesignError as NoDesignError
    from surco.errors import ResumeError as ResumeError
    from surco.errors import SurcoError as SurcoError
    from surco.errors import UnknownIdError as UnknownIdError
    from surco.estimators import ESTIMATORS as ESTIMATORS
    from surco.function_problem import problem as problem
    from surco.instance_family import Family as Family
    from surco.instance_family import families as families
    from surco.instance_family import family as family
    from surco.loop import solve as solve
    from surco.methods import METHODS as METHODS
    from surco.protocols import Estimate as Estimate
    from surco.protocols import Exact as Exact
    from surco.protocols import GradientEstimator as GradientEstimator
    from surco.protocols import Method as Method
    from surco.protocols import Problem as Problem
    from surco.registry import from_spec as from_spec
    from surco.registry import ids as ids
    from surco.registry import load as load
    from surco.registry import make as make
    from surco.result import Result as Result
    from surco.result import SolveStatus as SolveStatus
    from surco.training import Prior as Prior
    from surco.training import TrainConfig as TrainConfig
    from surco.training import train as train

__version__ = "0.1.0"

_HOME = {
    "Budget": "budget",
    "ESTIMATORS": "estimators",
    "Estimate": "protocols",
    "Exact": "protocols",
    "GradientEstimator": "protocols",
    "InfeasibleError": "errors",
    "InvalidInputError": "errors",
    "METHODS": "methods",
    "Method": "protocols",
    "MissingExtraError": "errors",
    "NoDesignError": "errors",
    "Problem": "protocols",
    "Result": "result",
    "ResumeError": "errors",
    "SolveStatus": "result",
    "SurcoError": "errors",
    "UnknownIdError": "errors",
    "Family": "instance_family",
    "families": "instance_family",
    "family": "instance_family",
    "from_spec": "registry",
    "ids": "registry",
    "load": "registry",
    "make": "registry",
    "problem": "function_problem",
    "solve": "loop",
    "Prior": "training",
    "TrainConfig": "training",
    "train": "training",
}

__all__ = ["__version__", *sorted(_HOME)]


def __getattr__(name: str) -> Any:
    if name in _HOME:
        value = getattr(import_module(f"surco.{_HOME[name]}"), name)
        globals()[name] = value
        return value
    raise AttributeError(f"module `surco` has no attribute `{name}`")


def __dir__() -> list[str]:
    return sorted(__all__)
