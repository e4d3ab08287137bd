"""The protocols of the engine: problem, estimator, method, and the optional talents of a problem.

Shapes: n variables, B rows of a batch, ``...`` any leading shape. Tensors are torch, float64 on the CPU unless said.
A problem always minimizes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from solvers.oracle import Array, LinearOracle
from surco.errors import InvalidInputError

if TYPE_CHECKING:  # the ids of all domains are listed without torch
    import torch
    from torch import Tensor

    from surco.counted import CountedProblem


@runtime_checkable
class Problem(Protocol):
    """A combinatorial design problem: min f(x) over the feasible set of ``oracle``."""

    @property
    def oracle(self) -> LinearOracle:
        """Minimizes linear costs over the feasible set."""
        ...

    def objective(self, x: Tensor) -> Tensor:
        """True cost f, [..., n] -> [...]; differentiable by autograd where it can be (see ``is_differentiable``)."""
        ...

    def violation(self, x: Tensor) -> Tensor:
        """[..., n] -> [...], 0 if feasible; written independently of the oracle, so that it can judge it.

        It judges every rule, the bounds of x and its being integer among them.
        """
        ...

    def initial_costs(self) -> Tensor:
        """[n], the natural linearization of f."""
        ...


# ------------------------------------------------------------------ optional talents, found by isinstance


@runtime_checkable
class HasSpec(Protocol):
    """The problem can say what it is: ``id`` and a JSON-able ``spec`` that rebuilds it."""

    @property
    def id(self) -> str:
        """Registered id, or empty."""
        ...

    @property
    def spec(self) -> Mapping[str, Any]:
        """JSON-able description, with its ``"domain"``, that rebuilds the problem."""
        ...


@runtime_checkable
class HasLowerBound(Protocol):
    """A cheap, valid lower bound on min f."""

    def lower_bound(self) -> float:
        """The bound; -inf where there is none."""
        ...


@runtime_checkable
class HasAggregates(Protocol):
    """f(x) = g(W x) with few rows in W: the surrogate costs W' lambda span a small search space."""

    def aggregates(self) -> Tensor:
        """W, [k, n]."""
        ...


@runtime_checkable
class HasMoves(Protocol):
    """The problem knows good neighborhoods for local search; see :func:`search_share` where that is its best method."""

    def moves(self, x: Tensor, *, count: int, generator: torch.Generator) -> Tensor:
        """At most ``count`` feasible neighbors of x [n], as [K, n]; K = 0 where there are none."""
        ...


@runtime_checkable
class HasHeuristics(Protocol):
    """The field's own constructive rules; each is a baseline row and a start of ``auto``.

    Rules that take long say ``heuristics_take_seconds = True``: then the call has a keyword ``seconds`` (None for no
    limit), the time for all rules together. A method passes what its turn has left.
    """

    def heuristics(self) -> Mapping[str, Tensor]:
        """Name -> feasible x [n], the most promising first; a rule that finds nothing is left out."""
        ...


@dataclass(frozen=True, slots=True)
class Exact:
    """Answer of a problem's own exact method: best point x [n] or None, and a proven lower bound on min f."""

    x: Tensor | None
    bound: float
    is_optimal: bool = False
    work: int = 0  # labels, nodes or pivots: the method's own unit


@runtime_checkable
class HasExact(Protocol):
    """The problem has an exact or bounding method of its own.

    It may say how it is to be used by attributes: :func:`exact_is_fast`, :func:`exact_goes_on`, :func:`exact_reports`,
    :func:`exact_share`.
    """

    def exact(self, *, seconds: float | None = None, start: Tensor | None = None) -> Exact:
        """Run for at most ``seconds``; ``start`` [n] is a feasible point that may prune."""
        ...


@runtime_checkable
class HasMethods(Protocol):
    """The problem's domain brings search methods of its own, and may name the one that ``auto`` is to run."""

    @property
    def auto_method(self) -> str:
        """Name of the method that ``auto`` runs here; empty for the portfolio."""
        ...

    def methods(self) -> Mapping[str, Any]:
        """Name -> :class:`Method`."""
        ...


@runtime_checkable
class HasMetrics(Protocol):
    """Reported quantities that differ from the optimized one."""

    def metrics(self, x: Tensor) -> Mapping[str, float]:
        """Of one design x [n]."""
        ...


@runtime_checkable
class HasDescription(Protocol):
    """The problem can say in words and pictures what a design is."""

    def describe(self, x: Tensor) -> str:
        """A few lines about one design x [n], for a terminal."""
        ...

    def figures(self, x: Tensor) -> Mapping[str, Any]:
        """Title -> matplotlib Figure, for the report. Import matplotlib inside."""
        ...


@dataclass(frozen=True, slots=True)
class Verification:
    """What an independent judge says of a design: its verdict, and what it measured (JSON values by name)."""

    is_confirmed: bool
    facts: Mapping[str, float | int | str]


@runtime_checkable
class HasJudges(Protocol):
    """The problem can have a design judged by other code than its own: a peer package, a second formulation."""

    def judges(self) -> Mapping[str, Callable[[Tensor], Verification]]:
        """Name -> judge of one design x [n]; a judge whose package is missing raises MissingExtraError when called."""
        ...


@runtime_checkable
class HasExports(Protocol):
    """The problem can write a design in file formats that other programs read."""

    def exports(self) -> Mapping[str, Callable[[Tensor, Path], None]]:
        """Kind -> writer of one design x [n] to a file; a missing package raises MissingExtraError when called."""
        ...


@runtime_checkable
class ExplainsInfeasibility(Protocol):
    """The problem can name the conflicting rules and the smallest relaxation."""

    def explain_infeasibility(self) -> str:
        """One paragraph for the user."""
        ...


def is_differentiable(problem: object) -> bool:
    """Whether gradients of ``objective`` may be taken: the problem's ``is_differentiable``, else True."""
    return bool(getattr(problem, "is_differentiable", True))


def is_rowwise(problem: object) -> bool:
    """Whether ``objective`` treats rows one at a time anyway, so that values should count one by one: else False."""
    return bool(getattr(problem, "is_rowwise", False))


def is_convex(problem: object) -> bool:
    """Whether f is convex on the convex hull of the feasible set: the problem's ``is_convex``, else False."""
    return bool(getattr(problem, "is_convex", False))


# Hints: what a problem says, by attributes of these names that may all be left out, of its own exact method and rules.


def exact_is_fast(problem: object) -> bool:
    """Whether ``exact`` takes no more than a few oracle calls, so that ``auto`` begins with it: else False."""
    return bool(getattr(problem, "exact_is_fast", False))


def exact_goes_on(problem: object) -> bool:
    """Whether a call of ``exact`` goes on where the last one stopped, so that it may be cut into parts: else False."""
    return bool(getattr(problem, "exact_goes_on", False))


def exact_reports(problem: object) -> bool:
    """Whether ``exact`` has a keyword ``report``: else False.

    It is called as ``report(x, bound)`` with points x [n] (or None) and bounds as they are found, so that a run which
    overstays its seconds loses nothing; it may raise, and ``exact`` lets that pass.
    """
    return bool(getattr(problem, "exact_reports", False))


def exact_share(problem: object) -> float:
    """Part of the seconds that ``auto`` gives to ``exact`` at once, where it is the best search too: else 0.

    Raises:
        InvalidInputError: a share outside [0, 1].
    """
    share = float(getattr(problem, "exact_share", 0.0))
    if not 0.0 <= share <= 1.0:
        raise InvalidInputError(f"Expected `exact_share` of {type(problem).__name__} in [0, 1], got {share}.")
    return share


def search_share(problem: object) -> float:
    """Part of the seconds that ``auto`` gives to local search at once, where it is the best method: else 0.

    Raises:
        InvalidInputError: a share outside [0, 1].
    """
    share = float(getattr(problem, "search_share", 0.0))
    if not 0.0 <= share <= 1.0:
        raise InvalidInputError(f"Expected `search_share` of {type(problem).__name__} in [0, 1], got {share}.")
    return share


def heuristics_take_seconds(problem: object) -> bool:
    """Whether ``heuristics`` has a keyword ``seconds``, see :class:`HasHeuristics`: else False."""
    return bool(getattr(problem, "heuristics_take_seconds", False))


# ------------------------------------------------------------------ learning


@dataclass(frozen=True, slots=True)
class Estimate:
    """Estimate of the loss E f(x*(c)) and its gradient with respect to the costs.

    Attributes:
        loss: [B].
        grad: [B, n], d loss / d costs.
        atoms: [B, M, n], the vertices that were seen; NaN rows where the oracle had no answer.
        values: [B, M], f at the atoms.
    """

    loss: Tensor
    grad: Tensor
    atoms: Tensor
    values: Tensor


@runtime_checkable
class GradientEstimator(Protocol):
    """Estimates d loss / d costs through the oracle."""

    def __call__(self, problem: Problem, costs: Tensor, *, generator: torch.Generator) -> Estimate:
        """Estimate at ``costs`` [B, n]."""
        ...


State = dict[str, Any]  # tensors, numbers, strings, and dicts or lists of them: what a checkpoint can hold


@runtime_checkable
class Method(Protocol):
    """One way to search. A state is plain data, so that a run can be saved and resumed exactly."""

    @property
    def name(self) -> str:
        """Name in results and traces."""
        ...

    def init(self, problem: CountedProblem, *, generator: torch.Generator) -> State:
        """First state. ``problem`` counts: every vertex and value that passes through it is recorded."""
        ...

    def step(
        self, problem: CountedProblem, state: State, *, generator: torch.Generator
    ) -> tuple[State, Estimate | None]:
        """One step; ``state["done"] = True`` says that there is nothing left to do."""
        ...


__all__ = [
    "Array",
    "Estimate",
    "Exact",
    "ExplainsInfeasibility",
    "GradientEstimator",
    "HasAggregates",
    "HasDescription",
    "HasExact",
    "HasExports",
    "HasHeuristics",
    "HasJudges",
    "HasLowerBound",
    "HasMethods",
    "HasMetrics",
    "HasMoves",
    "HasSpec",
    "LinearOracle",
    "Method",
    "Problem",
    "State",
    "Verification",
    "exact_goes_on",
    "exact_is_fast",
    "exact_reports",
    "exact_share",
    "heuristics_take_seconds",
    "is_convex",
    "is_differentiable",
    "is_rowwise",
    "search_share",
]
