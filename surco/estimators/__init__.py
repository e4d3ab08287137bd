"""Gradient estimators: d loss / d costs through an oracle that only answers with vertices.

| name                     | needs of f | loss whose gradient it estimates                                |
|--------------------------|------------|-----------------------------------------------------------------|
| score-function           | values     | E f(x*(c + s z)), unbiased: :class:`ScoreFunction`              |
| perturbed                | gradient   | f(E x*), or g . E x* with g = E grad f: :class:`Perturbed`      |
| interpolation            | gradient   | a continuous interpolation of g . x*: :class:`Interpolation`    |
| imle                     | gradient   | the same, smoothed by shared noise: :class:`IMLE`               |
| identity                 | gradient   | none; the oracle counts as minus identity: :class:`Identity`    |

``score-function-multiplicative`` and ``perturbed-multiplicative`` multiply the costs by the noise, which keeps signs.

:class:`Landscape` learns a model of f(x*(c)) as it goes; it has a memory, so it is passed as an object
(``estimator=Landscape()``) and has no name here. :class:`FenchelYoung` imitates target designs and needs nothing of f.
Each estimator asks the oracle for all its rows in one batched call (two in a row for interpolation and I-MLE, whose
second question depends on the first answer).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

from surco.errors import InvalidInputError, UnknownIdError
from surco.estimators.fenchel_young import FenchelYoung
from surco.estimators.flow import Flow, GradientWatch, gradient_flow
from surco.estimators.identity import Identity, Projection
from surco.estimators.imle import IMLE
from surco.estimators.interpolation import Interpolation
from surco.estimators.landscape import Landscape, Shape
from surco.estimators.noise import Distribution, Noise
from surco.estimators.perturbed import At, Perturbed, PerturbedMultiplicative
from surco.estimators.score_function import Baseline, ScoreFunction, ScoreFunctionMultiplicative
from surco.protocols import GradientEstimator
from surco.registry import closest

ESTIMATORS: Mapping[str, Callable[..., GradientEstimator]] = MappingProxyType(
    {
        "interpolation": Interpolation,
        "perturbed": Perturbed,
        "perturbed-multiplicative": PerturbedMultiplicative,
        "score-function": ScoreFunction,
        "score-function-multiplicative": ScoreFunctionMultiplicative,
        "imle": IMLE,
        "identity": Identity,
    }
)


def build_estimator(name: str, **options: Any) -> GradientEstimator:
    """Build an estimator by name.

    Raises:
        UnknownIdError: no such name; the message holds the closest one.
        InvalidInputError: an option that the estimator does not have, or a value out of range.

    Example:
        >>> build_estimator("score-function", samples=4, baseline="none").samples
        4
    """
    if name not in ESTIMATORS:
        raise UnknownIdError(f"No estimator `{name}`.{closest(name, ESTIMATORS)}")
    fields = sorted(getattr(ESTIMATORS[name], "__dataclass_fields__", options))
    unknown = sorted(set(options) - set(fields))
    if unknown:
        raise InvalidInputError(f"Estimator `{name}` has no option {', '.join(unknown)}. It has {', '.join(fields)}.")
    return ESTIMATORS[name](**options)


__all__ = [
    "ESTIMATORS",
    "IMLE",
    "At",
    "Baseline",
    "Distribution",
    "FenchelYoung",
    "Flow",
    "GradientWatch",
    "Identity",
    "Interpolation",
    "Landscape",
    "Noise",
    "Perturbed",
    "PerturbedMultiplicative",
    "Projection",
    "ScoreFunction",
    "ScoreFunctionMultiplicative",
    "Shape",
    "build_estimator",
    "gradient_flow",
]
