"""Checks of a gradient estimator on a problem: labels, repeatability, units, and the sign of its gradient."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from solvers.oracle import LinearOracle
from surco.checks.oracle import TOLERANCE
from surco.checks.report import Checker, Report, Skipped, expect
from surco.protocols import Estimate, GradientEstimator, Problem, is_differentiable

ROWS = 4
SIGN_ROWS = 16
SIGN_BATCHES = 16  # at most, until the sign is sure


def check_estimator(estimator: GradientEstimator, problem: Problem, *, seed: int = 0) -> Report:
    """Check a :class:`surco.GradientEstimator` of one's own on a problem; some 40 rows of estimates, more if noisy.

    Shapes and dtypes, feasible atoms with their true values, the same estimate for the same generator and no other
    source of randomness, rows without a point or value as labels, f in other units, and descent: for a linear f the
    gradient must not point the wrong way. Whether the mean is right needs a judge of the loss that is claimed; the
    tests of surco's own estimators show how.

    Raises:
        CheckFailed: the first check that fails, with what was expected, what came, and what to try.
    """
    checker = Checker(f"{type(estimator).__name__} on {type(problem).__name__}")
    judge = EstimatorJudge(estimator, problem, seed)
    for name, check in (
        ("estimate", judge.check_estimate),
        ("gradient", judge.check_gradient),
        ("atoms", judge.check_atoms),
        ("values", judge.check_values),
        ("repeatable", judge.check_repeatable),
        ("bad rows", judge.check_bad_rows),
        ("bad values", judge.check_bad_values),
        ("units of f", judge.check_units),
        ("units of costs", judge.check_cost_units),
        ("sign", judge.check_sign),
    ):
        checker.run(name, check)
    return checker.report()


class Replaced:
    """A problem with another objective."""

    def __init__(self, problem: Problem, objective: Callable[[Tensor], Tensor], *, differentiable: bool = True) -> None:
        self.inner = problem
        self.function = objective
        self.is_differentiable = differentiable

    @property
    def oracle(self) -> LinearOracle:
        """The inner problem's oracle."""
        return self.inner.oracle

    def objective(self, x: Tensor) -> Tensor:
        """The other objective."""
        return self.function(x)

    def violation(self, x: Tensor) -> Tensor:
        """The inner problem's rules."""
        return self.inner.violation(x)

    def initial_costs(self) -> Tensor:
        """The inner problem's costs."""
        return self.inner.initial_costs()


class EstimatorJudge:
    """The checks of one estimator, in the order in which they rely on each other."""

    def __init__(self, estimator: GradientEstimator, problem: Problem, seed: int) -> None:
        self.estimator = estimator
        self.problem = problem
        self.seed = seed
        center = problem.initial_costs().detach().double()
        factors = torch.randn(ROWS, len(center), dtype=torch.float64, generator=self._generator())
        self.costs = center * torch.exp(0.3 * factors)
        self.found: Estimate

    def check_estimate(self) -> str:
        """Types, shapes and dtypes of an estimate."""
        before = self.costs.clone()
        found = self._estimate(self.problem, self.costs)
        expect(isinstance(found, Estimate), f"expected a surco.Estimate, got {type(found).__name__}.")
        rows, n = self.costs.shape
        atoms = found.atoms.shape[1] if found.atoms.ndim == 3 else 0
        shapes = {"loss": [rows], "grad": [rows, n], "atoms": [rows, atoms, n], "values": [rows, atoms]}
        for name, shape in shapes.items():
            tensor = getattr(found, name)
            came = f"{list(tensor.shape)} {tensor.dtype}"
            is_right = list(tensor.shape) == shape and tensor.dtype == self.costs.dtype
            expect(is_right, f"expected `{name}` of shape {shape} in the dtype of the costs, got {came}.")
            expect(not tensor.requires_grad, f"expected `{name}` detached from any graph. Try `.detach()`.")
        expect(atoms > 0, "expected at least one atom a row; every vertex seen may become the incumbent.")
        expect(torch.equal(before, self.costs), "expected costs to be left alone, they were changed in place.")
        self.found = found
        return f"{atoms} atoms a row"

    def check_gradient(self) -> str:
        """No NaN reaches the costs."""
        bad = int((~torch.isfinite(self.found.grad)).sum())
        expect(bad == 0, f"expected a finite gradient, got {bad} numbers that are NaN or inf. Leave bad samples out.")
        return f"largest component {float(self.found.grad.abs().max()):.4g}"

    def check_atoms(self) -> str:
        """Atoms are the oracle's points, NaN where there was none."""
        has_point = torch.isfinite(self.found.atoms).all(-1)
        is_empty = torch.isnan(self.found.atoms).all(-1)
        expect(bool((has_point | is_empty).all()), "expected atoms that are points or all NaN, got a mixture.")
        expect(bool(has_point.any()), "expected at least one atom with a point.")
        worst = float(self.problem.violation(self.found.atoms[has_point]).max())
        expect(worst <= TOLERANCE, f"expected vertices as atoms, but the problem's `violation` of one is {worst:.3g}.")
        return f"{int(has_point.sum())} points, {int(is_empty.sum())} rows without"

    def check_values(self) -> str:
        """Values are f at the atoms, or NaN where f was not asked."""
        values = self.found.values
        has_point = torch.isfinite(self.found.atoms).all(-1)
        expect(bool(torch.isnan(values[~has_point]).all()), "expected NaN as the value of an atom without a point.")
        asked = torch.isfinite(values)
        with torch.no_grad():
            exact = self.problem.objective(self.found.atoms[asked]).double() if bool(asked.any()) else values[asked]
        close = torch.isclose(values[asked].double(), exact, rtol=1e-6, atol=1e-9)
        expect(bool(close.all()), "expected `values` to be f at `atoms`, they differ.")
        return f"{int(asked.sum())} of {int(has_point.sum())} valued"

    def check_repeatable(self) -> str:
        """Equal generators give equal estimates, and no global generator is used."""
        state = torch.get_rng_state()
        again = self._estimate(self.problem, self.costs)
        expect(
            torch.equal(state, torch.get_rng_state()),
            "expected all noise from `generator`, the global one of torch was used. "
            "Try `torch.randn(..., generator=generator)`.",
        )
        for name in ("loss", "grad", "atoms", "values"):
            a, b = getattr(self.found, name), getattr(again, name)
            expect(
                torch.equal(torch.nan_to_num(a), torch.nan_to_num(b)), f"expected the same `{name}` for the same seed."
            )
        return ""

    def check_bad_rows(self) -> str:
        """A row of NaN costs has gradient zero and loss inf; the others stay finite."""
        costs = self.costs.clone()
        costs[1] = torch.nan
        found = self._estimate(self.problem, costs)
        expect(
            bool(torch.isfinite(found.grad).all()),
            "expected gradient zero in a row of NaN costs, a gradient is NaN or inf.",
        )
        expect(not bool(found.grad[1].any()), "expected gradient zero in a row of NaN costs.")
        expect(bool(torch.isnan(found.atoms[1]).all()), "expected NaN atoms in a row of NaN costs.")
        expect(
            float(found.loss[1]) == torch.inf, f"expected loss inf in a row of NaN costs, got {float(found.loss[1])}."
        )
        return "labelled"

    def check_bad_values(self) -> str:
        """An objective that is NaN everywhere has gradient zero and loss inf."""
        found = self._estimate(Replaced(self.problem, lambda x: (x * torch.nan).sum(-1)), self.costs)
        expect(not bool(found.grad.any()), "expected gradient zero where f is NaN, got another one.")
        expect(bool((found.loss == torch.inf).all()), "expected loss inf where f is NaN everywhere.")
        return "labelled"

    def check_units(self) -> str:
        """1000 f has the same atoms and 1000 times the gradient."""
        scaled = Replaced(
            self.problem, lambda x: 1000.0 * self.problem.objective(x), differentiable=is_differentiable(self.problem)
        )
        found = self._estimate(scaled, self.costs)
        same = torch.equal(torch.nan_to_num(found.atoms), torch.nan_to_num(self.found.atoms))
        expect(same, "expected the same atoms for f and 1000 f. Make lambda relative to |c| / |grad f|.")
        limit = 1e-5 * float(found.grad.abs().max()) + 1e-12
        off = float((found.grad - 1000.0 * self.found.grad).abs().max())
        expect(off <= limit, f"expected the gradient of 1000 f to be 1000 times that of f, it is off by {off:.3g}.")
        return "1000 f gives 1000 times the gradient"

    def check_cost_units(self) -> str:
        """Whether noise and lambda are relative to |c|; told, not demanded."""
        found = self._estimate(self.problem, 1000.0 * self.costs)
        if not torch.equal(torch.nan_to_num(found.atoms), torch.nan_to_num(self.found.atoms)):
            raise Skipped(
                "1000 c gives other atoms: noise or lambda is absolute, and needs tuning to the scale of the costs"
            )
        return "1000 c gives the same atoms"

    def check_sign(self) -> str:
        """For f = a . x with a orthogonal to c, more cost where a is large makes a . x smaller: grad . a <= 0."""
        center = self.costs[0]
        a = torch.randn(len(center), dtype=torch.float64, generator=self._generator())
        a = a - center * (a @ center) / (center @ center).clamp(min=1e-300)
        a = a / a.norm().clamp(min=1e-300)
        linear = Replaced(self.problem, lambda x: x @ a.to(x))
        costs, generator = center.expand(SIGN_ROWS, -1).contiguous(), self._generator()
        seen: list[Tensor] = []
        for _ in range(SIGN_BATCHES):
            seen.append(self.estimator(linear, costs, generator=generator).grad @ a)
            along = torch.cat(seen)
            mean, error = float(along.mean()), float(along.std()) / len(along) ** 0.5
            if abs(mean) > 4.0 * error:
                break
        if not bool(along.any()):
            raise Skipped("the gradient was zero in every row: no vertex changed")
        expect(
            mean <= 3.0 * error,
            f"expected a gradient that lowers f = a . x, got grad . a = {mean:.4g} +- {error:.2g} > 0. Costs are "
            "minimized: the sign is that of a maximizing paper.",
        )
        return f"grad . a = {mean:.4g} +- {error:.2g} over {len(along)} rows"

    # ------------------------------------------------------------------ parts of the checks

    def _generator(self) -> torch.Generator:
        return torch.Generator().manual_seed(self.seed)

    def _estimate(self, problem: Problem, costs: Tensor) -> Estimate:
        return self.estimator(problem, costs, generator=self._generator())
