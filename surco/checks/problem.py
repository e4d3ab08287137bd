"""Checks of a problem: its oracle, its objective and its own violation judge each other."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from solvers.oracle import Array, LinearOracle
from surco.bridge import to_numpy, to_torch
from surco.budget import checked_seed
from surco.checks.oracle import TOLERANCE, judge_points, near_misses, random_costs, run_oracle_checks
from surco.checks.report import Checker, Finding, Report, Skipped, expect
from surco.checks.talents import Seen, run_talent_checks
from surco.errors import CutGradientError
from surco.estimators.atoms import values_and_gradients
from surco.protocols import Problem, is_convex, is_differentiable

STEPS = (1e-2, 1e-3, 1e-4, 1e-5, 1e-6)  # of finite differences, relative to the feasible set
SLOPE_TOLERANCE = 2e-3  # relative error of a directional derivative
VERTICES = 8


def check_problem(problem: Problem, *, seed: int = 0) -> Report:
    """Check a :class:`surco.Problem` of one's own: some 70 oracle rows and 100 objective rows.

    All of :func:`check_oracle`; initial costs; a violation independent of the oracle; the objective's shapes, its value
    in a batch and alone, its gradient against finite differences (or that it needs none); convexity where claimed; and
    every optional talent: lower bound, aggregates, moves, heuristics, exact method, metrics, description, and a spec
    that survives JSON and rebuilds the same problem.

    Raises:
        CheckFailed: the first check that fails, with what was expected, what came, and what to try.
    """
    checker = Checker(type(problem).__name__)
    rng = np.random.default_rng(checked_seed(seed))
    judge = ProblemJudge(problem, rng)
    checker.run("parts", judge.check_parts)
    checker.run("initial costs", judge.check_initial_costs)
    points = run_oracle_checks(checker, problem.oracle, rng, near=judge.near, prefix="oracle: ")
    checker.run("vertices", lambda: judge.gather(points))
    for name, check in (
        ("violation shape", judge.check_violation_shape),
        ("violation", judge.check_violation),
        ("violation judges", judge.check_violation_judges),
        ("objective shape", judge.check_objective_shape),
        ("objective values", judge.check_objective_values),
        ("objective batch", judge.check_objective_batch),
        ("gradient reaches x", judge.check_gradient_reaches),
        ("gradient", judge.check_gradient),
        ("convexity", judge.check_convexity),
    ):
        checker.run(name, check)
    run_talent_checks(checker, problem, Seen(judge.x, judge.values, rng))
    return checker.report()


class ProblemJudge:
    """The checks of the four required parts, in the order in which they rely on each other."""

    def __init__(self, problem: Problem, rng: np.random.Generator) -> None:
        self.problem = problem
        self.rng = rng
        self.near: Array = np.zeros(0)
        self.x: Tensor = torch.zeros(0)
        self.values: Tensor = torch.zeros(0)

    def check_parts(self) -> str:
        """The four parts are there."""
        parts = ("oracle", "objective", "violation", "initial_costs")
        missing = [name for name in parts if not hasattr(self.problem, name)]
        expect(not missing, f"expected {', '.join(parts)}, but {', '.join(missing)} is missing.")
        oracle = self.problem.oracle
        expect(
            isinstance(oracle, LinearOracle),
            f"expected `oracle` with n, solve and violation, got {type(oracle).__name__}. "
            "Try `solvers.function(call, n)`.",
        )
        return ""

    def check_initial_costs(self) -> str:
        """Finite costs of the right shape, the same at every call."""
        costs, n = self.problem.initial_costs(), self.problem.oracle.n
        expect(isinstance(costs, Tensor), f"expected a torch tensor, got {type(costs).__name__}.")
        expect(tuple(costs.shape) == (n,), f"expected shape [{n}], got {list(costs.shape)}.")
        expect(costs.is_floating_point(), f"expected a floating point tensor, got {costs.dtype}.")
        bad = int((~torch.isfinite(costs)).sum())
        expect(
            bad == 0, f"expected finite costs, got {bad} that are NaN or inf. Forbid a variable in the oracle instead."
        )
        self.near = to_numpy(costs).copy()
        again = to_numpy(self.problem.initial_costs())
        expect(np.array_equal(again, self.near), "expected the same costs at every call, they differ.")
        return f"rms {np.sqrt(np.mean(self.near**2)):.4g}"

    def gather(self, points: Array) -> str:
        """Distinct vertices: the answers of the oracle's checks and, where they are few, of more costs."""
        for _ in range(4):
            if len(points) >= VERTICES:
                break
            batch = self.problem.oracle.solve(random_costs(self.problem.oracle, self.rng, self.near))
            points = np.unique(np.concatenate([points, batch.x[batch.has_point]]), axis=0)
        chosen = np.sort(self.rng.permutation(len(points))[: 2 * VERTICES])
        self.x = to_torch(points[chosen])
        return f"{len(self.x)} distinct"

    def check_violation_shape(self) -> str:
        """A violation takes any leading shape."""
        return self._check_shape("violation", self.problem.violation)

    def check_violation(self) -> str:
        """The oracle's points keep the problem's own rules."""
        worst = float(self.problem.violation(self.x).max())
        expect(
            worst <= TOLERANCE,
            f"expected the oracle's points to be feasible, but the problem's own `violation` is {worst:.3g}. "
            "Oracle and rules disagree.",
        )
        return f"largest violation {worst:.1e}"

    def check_violation_judges(self) -> str:
        """The violation rejects nonsense and what the oracle's own rejects."""

        def violation(x: Array) -> Array:
            return to_numpy(self.problem.violation(to_torch(x)))

        points = to_numpy(self.x)
        judge_points(violation, points)
        candidates = near_misses(points, self.rng)
        ours = violation(candidates) <= TOLERANCE
        theirs = np.asarray(self.problem.oracle.violation(candidates)) <= TOLERANCE
        lax_rows = np.flatnonzero(ours & ~theirs)
        canonical = getattr(self.problem, "canonical", None)
        if len(lax_rows) and canonical is not None:
            # The oracle may keep one design of each class of alike ones: the others are judged by their namesake.
            alike = to_numpy(canonical(to_torch(candidates[lax_rows])))
            lax_rows = lax_rows[np.asarray(self.problem.oracle.violation(alike)) > TOLERANCE]
        lax = len(lax_rows)
        expect(
            lax == 0,
            f"the problem's `violation` accepts {lax} of {len(ours)} points that the oracle's own rejects: it misses a "
            "rule.",
        )
        return f"rejects nonsense and {int((~ours).sum())} of {len(ours)} near misses"

    def check_objective_shape(self) -> str:
        """An objective takes any leading shape."""
        return self._check_shape("objective", self.problem.objective)

    def check_objective_values(self) -> str:
        """Values are finite somewhere and repeat."""
        before = self.x.clone()
        self.values = self._f(self.x)
        expect(torch.equal(before, self.x), "expected `objective` to leave x alone, it changed x in place.")
        again = self._f(self.x)
        equal = torch.isclose(again, self.values, rtol=1e-9, atol=0.0, equal_nan=True)
        expect(
            bool(equal.all()),
            "expected the same value for the same x, it differs from call to call. Average the noise inside, with a "
            "fixed seed.",
        )
        finite = torch.isfinite(self.values)
        expect(bool(finite.any()), "expected a finite value at some vertex, all are NaN or inf.")
        least, most = float(self.values[finite].min()), float(self.values[finite].max())
        bad = "" if bool(finite.all()) else f", {int((~finite).sum())} not finite"
        return f"{len(self.x)} vertices from {least:.6g} to {most:.6g}{bad}"

    def check_objective_batch(self) -> str:
        """A batch changes no value."""
        worst = 0.0
        scale = float(self.values[torch.isfinite(self.values)].abs().max()) + 1e-300
        for row, x in enumerate(self.x):
            alone = self._f(x[None])[0]
            both = torch.stack([alone, self.values[row]])
            if bool(torch.isfinite(both).all()):
                worst = max(worst, float((both[0] - both[1]).abs()) / scale)
            else:
                expect(
                    not bool(torch.isfinite(both).any()),
                    f"vertex {row} is {float(alone)} alone and {float(both[1])} in a batch.",
                )
        expect(worst <= 1e-6, f"expected the same value alone and in a batch, relative difference {worst:.3g}.")
        return f"alone = in a batch, relative difference {worst:.1e}"

    def check_gradient_reaches(self) -> str:
        """Autograd leads from f to x, to more than zeros."""
        self._require_differentiable()
        try:
            _, gradients, is_known = values_and_gradients(self.problem, self.x, torch.isfinite(self.values))
        except CutGradientError as error:
            raise Finding(str(error)) from error
        expect(bool(is_known.any()), "expected a finite gradient at some vertex, all have NaN or inf.")
        spread = float((self.values[is_known].max() - self.values[is_known].min()).abs())
        is_zero = not bool(gradients.any())
        expect(
            not (is_zero and spread > 0),
            "the gradient is zero at every vertex although f differs between them: f is piecewise constant for "
            "autograd (round, argmax, one_hot, comparison). Take f at x itself, or set `is_differentiable = False`.",
        )
        return f"finite at {int(is_known.sum())} of {len(self.x)} vertices"

    def check_gradient(self) -> str:
        """Directional derivatives between vertices against one-sided finite differences, which also fit kinks of f."""
        center, directions = self._inner_point()
        values, gradient, is_known = values_and_gradients(self.problem, center[None], torch.ones(1, dtype=torch.bool))
        expect(
            bool(is_known.all()),
            f"expected f and its gradient to be finite between vertices, as `is_differentiable` says, got f = "
            f"{float(values)}. If f exists at vertices only, set `is_differentiable = False`.",
        )
        slopes = directions @ gradient[0]
        worst = 0.0
        for d, slope in zip(directions, slopes, strict=True):
            errors = [self._slope_error(center, d, float(values), float(slope), h) for h in STEPS]
            best = min(errors)
            worst = max(worst, best)
            expect(
                best <= 1.0,
                f"expected the gradient of f along a difference of vertices to fit finite differences, got "
                f"{float(slope):.6g} where f changes by {self._quotients(center, d, float(values), 1e-4)} (backward, "
                "forward). Check the backward pass of the objective, in-place changes, and detached parts.",
            )
        return f"{len(directions)} directional derivatives, worst error {worst * SLOPE_TOLERANCE:.1e}"

    def check_convexity(self) -> str:
        """The bound of a convex problem is a certificate, so the claim is tested on mixtures of vertices."""
        if not is_convex(self.problem):
            raise Skipped("`is_convex` is not claimed")
        expect(
            is_differentiable(self.problem),
            "`is_convex` is of use only with gradients, but `is_differentiable` is False.",
        )
        weights = to_torch(self.rng.dirichlet(np.ones(len(self.x)), 16))
        pairs = list(itertools.combinations(range(len(self.x)), 2))[:16]
        halves = torch.zeros(len(pairs), len(self.x), dtype=torch.float64)
        for row, (i, j) in enumerate(pairs):
            halves[row, i] = halves[row, j] = 0.5
        weights = torch.cat([weights, halves])
        over = self._f(weights @ self.x) - weights @ self.values
        worst = float(over.max())
        limit = 1e-6 * float(1 + self.values.abs().max())
        expect(
            worst <= limit,
            f"`is_convex` is claimed, but f at a mixture of vertices is {worst:.3g} above the mixture of its values. "
            "The lower bounds would be wrong: set `is_convex = False`.",
        )
        return f"{len(weights)} mixtures of vertices"

    # ------------------------------------------------------------------ parts of the checks

    def _f(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            return self.problem.objective(x).double()

    def _require_differentiable(self) -> None:
        if not is_differentiable(self.problem):
            raise Skipped("`is_differentiable` is False")

    def _check_shape(self, name: str, function: Callable[[Tensor], Tensor]) -> str:
        for x in (self.x[0], self.x[:2], self.x[None, :2, None]):
            with torch.no_grad():
                found = function(x)
            expect(isinstance(found, Tensor), f"expected `{name}` to return a tensor, got {type(found).__name__}.")
            expect(
                found.shape == x.shape[:-1],
                f"expected `{name}` to map x {list(x.shape)} to {list(x.shape[:-1])}, got {list(found.shape)}. "
                "Work on the last dimension only.",
            )
            expect(found.is_floating_point(), f"expected `{name}` to be floating point, got {found.dtype}.")
        return "[..., n] -> [...]"

    def _inner_point(self) -> tuple[Tensor, Tensor]:
        """A point inside the hull of the vertices [n], and directions [D, n] that stay in their affine hull."""
        self._require_differentiable()
        if len(self.x) < 2:
            raise Skipped("only one vertex is known")
        weights = to_torch(self.rng.dirichlet(np.full(len(self.x), 5.0)))
        center = weights @ self.x
        return center, (self.x - center)[:5]

    def _quotients(self, center: Tensor, d: Tensor, value: float, h: float) -> tuple[float, float]:
        ahead, behind = self._f(torch.stack([center + h * d, center - h * d])).tolist()
        return (value - behind) / h, (ahead - value) / h

    def _slope_error(self, center: Tensor, d: Tensor, value: float, slope: float, h: float) -> float:
        """How far ``slope`` is outside the one-sided quotients, in units of what is tolerated."""
        low, high = sorted(self._quotients(center, d, value, h))
        size = max(abs(low), abs(high), abs(slope))
        allowed = SLOPE_TOLERANCE * size + 100 * float(np.finfo(np.float64).eps) * abs(value) / h + 1e-12
        error = max(low - slope, slope - high, 0.0) / allowed
        return error if np.isfinite(error) else np.inf
