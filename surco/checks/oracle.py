"""Checks of a linear oracle: its answers are judged by each other and by its own violation."""

from __future__ import annotations

import numpy as np

from solvers.oracle import Array, LinearOracle, OracleBatch, Status
from surco.checks.report import Checker, Finding, Report, expect

TOLERANCE = 1e-6  # of a rule, absolute
GAP = 1e-4  # relative: what a backend may call optimal
ROWS = 8


def check_oracle(oracle: LinearOracle, *, seed: int = 0) -> Report:
    """Check a :class:`solvers.oracle.LinearOracle` of one's own; about 40 oracle rows.

    Shapes and dtypes, labels of rows without a point, costs left alone, objective = c.x, bounds, feasibility and a
    violation that tells good from bad, optimality against the points of other rows, batch = one by one, units of the
    costs, and NaN costs as a labelled row.

    Raises:
        CheckFailed: the first check that fails, with what was expected, what came, and what to try.

    Example:
        >>> import numpy as np, solvers
        >>> print(str(check_oracle(solvers.cardinality(5, 2))).splitlines()[0])
        CardinalityOracle: 15 checks passed, 0 skipped
    """
    checker = Checker(type(oracle).__name__)
    run_oracle_checks(checker, oracle, np.random.default_rng(seed))
    return checker.report()


def random_costs(oracle: LinearOracle, rng: np.random.Generator, near: Array | None = None, rows: int = ROWS) -> Array:
    """[rows, n] costs in four kinds by turns.

    ``near`` [n] times random factors; that plus positive noise; that with its entries shuffled; and normal noise of any
    sign. Without ``near`` the first are uniform, and the second negative. All are cut off at zero for an oracle that
    needs nonnegative costs.
    """
    n = oracle.n
    base = rng.uniform(0.1, 1.0, (rows, n)) if near is None else near * np.exp(0.5 * rng.standard_normal((rows, n)))
    scale = np.sqrt(np.mean(base**2)) or 1.0
    noise = scale * rng.standard_normal((rows, n))
    base[1::4] = -base[1::4] if near is None else base[1::4] + np.abs(noise[1::4])
    base[2::4] = rng.permuted(base[2::4], axis=1)
    base[3::4] = noise[3::4]
    if getattr(oracle, "needs_nonnegative_costs", False):
        return np.maximum(base, 0.0) if near is not None else np.abs(base)
    return base


def run_oracle_checks(
    checker: Checker, oracle: LinearOracle, rng: np.random.Generator, *, near: Array | None = None, prefix: str = ""
) -> Array:
    """All checks of an oracle; returns the distinct points seen, [V, n]."""
    judge = OracleJudge(oracle, rng, near)
    for name, check in (
        ("n", judge.check_n),
        ("batch", judge.check_batch),
        ("labels", judge.check_labels),
        ("costs unchanged", judge.check_costs_unchanged),
        ("objective", judge.check_objective),
        ("violation shape", judge.check_violation_shape),
        ("feasible", judge.check_feasible),
        ("violation judges", judge.check_violation_judges),
        ("bound", judge.check_bound),
        ("violation against bounds", judge.check_violation_against_bounds),
        ("optimal", judge.check_optimal),
        ("one by one", judge.check_one_by_one),
        ("units", judge.check_units),
        ("NaN costs", judge.check_nan_row),
        ("wrong shape", judge.check_wrong_shape),
    ):
        checker.run(prefix + name, check)
    return judge.points


class OracleJudge:
    """The checks of one oracle, in the order in which they rely on each other."""

    def __init__(self, oracle: LinearOracle, rng: np.random.Generator, near: Array | None) -> None:
        self.oracle = oracle
        self.rng = rng
        self.near = near
        self.costs: Array = np.zeros((0, 0))
        self.given: Array = self.costs
        self.feasible: Array = self.costs  # points that the violation accepts
        self.batch: OracleBatch

    @property
    def points(self) -> Array:
        """Distinct points seen, [V, n]."""
        return np.unique(self.batch.x[self.batch.has_point], axis=0)

    def check_n(self) -> str:
        """The number of variables."""
        n = self.oracle.n
        expect(isinstance(n, int | np.integer) and n >= 1, f"expected `n` to be an int >= 1, got {n!r}.")
        return f"{n} variables"

    def check_batch(self) -> str:
        """Types, shapes and dtypes of a batch."""
        self.costs = random_costs(self.oracle, self.rng, self.near)
        self.given = self.costs.copy()
        batch = self.oracle.solve(self.given)
        expect(
            isinstance(batch, OracleBatch),
            f"expected `solve` to return an OracleBatch, got {type(batch).__name__}. "
            "Try `OracleBatch.exact(x, costs)`.",
        )
        rows, n = self.costs.shape
        for name, shape in (("x", (rows, n)), ("objective", (rows,)), ("bound", (rows,)), ("seconds", (rows,))):
            array = getattr(batch, name)
            came = f"{list(getattr(array, 'shape', []))} {getattr(array, 'dtype', type(array).__name__)}"
            is_right = isinstance(array, np.ndarray) and array.shape == shape and array.dtype == np.float64
            expect(is_right, f"expected `{name}` of shape {list(shape)} and float64, got {came}.")
        expect(len(batch.status) == rows, f"expected {rows} statuses, got {len(batch.status)}.")
        strange = [s for s in batch.status if not isinstance(s, Status)]
        expect(not strange, f"expected members of solvers.oracle.Status, got {strange[:1]}.")
        expect(len(batch.message) in (0, rows), f"expected no or {rows} messages, got {len(batch.message)}.")
        expect(np.all(batch.seconds >= 0), f"expected `seconds` >= 0, got {batch.seconds.min()}.")
        self.batch = batch
        return f"{rows} rows"

    def check_labels(self) -> str:
        """Rows with a point have one, the others have none."""
        batch, has = self.batch, self.batch.has_point
        wrong = [str(s) for s, x in zip(batch.status, batch.x, strict=True) if s.has_point and not np.isfinite(x).all()]
        expect(not wrong, f"expected a finite x in a row of status {wrong[:1]}, got NaN or inf.")
        expect(
            np.isnan(batch.x[~has]).all() and np.isnan(batch.objective[~has]).all(),
            "expected x and objective of rows without a point to be all NaN; a leftover would be taken for a design.",
        )
        expect(
            has.any(),
            f"expected a point in at least one row, got {sorted(set(batch.status))} {list(batch.message[:1])}.",
        )
        return f"{int(has.sum())} of {len(has)} rows have a point, {len(self.points)} distinct"

    def check_costs_unchanged(self) -> str:
        """Costs belong to the caller."""
        expect(
            np.array_equal(self.given, self.costs), "expected `solve` to leave `costs` alone, it changed them in place."
        )
        return ""

    def check_objective(self) -> str:
        """The objective is costs . x."""
        has = self.batch.has_point
        exact = np.einsum("bn,bn->b", self.costs, self.batch.x)[has]
        off = float(np.abs(exact - self.batch.objective[has]).max())
        limit = TOLERANCE * self._size()
        expect(off <= limit, f"expected `objective` to be costs . x, it is off by {off:.3g}.")
        return f"off by {off:.1e}"

    def check_violation_shape(self) -> str:
        """A violation takes any leading shape."""
        for x in (self.points[0], self.points, self.points[None, :, None]):
            found = np.asarray(self.oracle.violation(x))
            expect(
                found.shape == x.shape[:-1],
                f"expected `violation` to map x {list(x.shape)} to {list(x.shape[:-1])}, got {list(found.shape)}.",
            )
        return "[..., n] -> [...]"

    def check_feasible(self) -> str:
        """The oracle's points keep its own rules."""
        worst = float(np.max(self.oracle.violation(self.points)))
        expect(worst <= TOLERANCE, f"expected feasible points, but `violation` of an answer is {worst:.3g}.")
        return f"largest violation {worst:.1e}"

    def check_violation_judges(self) -> str:
        """A violation that is always zero judges nothing."""
        judge_points(self.oracle.violation, self.points)
        return "tells nonsense from points"

    def check_bound(self) -> str:
        """A bound holds for every feasible point seen."""
        bound, has = self.batch.bound, self.batch.has_point
        expect(not np.isnan(bound).any(), "expected `bound` to be -inf where none is known, got NaN.")
        over = float(np.max(bound[has] - self.batch.objective[has]))
        expect(over <= TOLERANCE * self._size(), f"expected bound <= objective, it is {over:.3g} above.")
        for row in range(len(bound)):
            over = float(np.max(bound[row] - self.points @ self.costs[row]))
            if over > self._slack(row):
                raise Finding(
                    f"expected a valid bound, but a feasible point costs {over:.3g} less than bound {bound[row]:.6g}."
                )
        return f"{int(np.isfinite(bound).sum())} rows bounded"

    def check_violation_against_bounds(self) -> str:
        """A point that the violation accepts may not cost less than a proven bound: one of the two is wrong."""
        candidates = near_misses(self.points, self.rng)
        is_accepted = np.asarray(self.oracle.violation(candidates)) <= TOLERANCE
        self.feasible = np.concatenate([self.points, candidates[is_accepted]])
        for row in range(len(self.costs)):
            over = float(self.batch.bound[row] - np.min(self.feasible @ self.costs[row]))
            expect(
                over <= self._slack(row),
                f"`violation` accepts a point that costs {over:.3g} less than the proven bound of row {row}. "
                "Either `violation` misses a rule, or the bound is wrong.",
            )
        return f"{len(candidates)} near misses, {int(is_accepted.sum())} of them feasible, none below a bound"

    def check_optimal(self) -> str:
        """No other feasible point is cheaper than a proven optimum."""
        optimal = [row for row, status in enumerate(self.batch.status) if status is Status.OPTIMAL]
        for row in optimal:
            over = float(self.batch.objective[row] - np.min(self.feasible @ self.costs[row]))
            expect(
                over <= self._slack(row),
                f"expected row {row} to be optimal, but a point that `violation` accepts costs {over:.3g} less. "
                "If the oracle does not prove its points, try Status.FEASIBLE.",
            )
        return f"{len(optimal) * len(self.feasible)} comparisons with other feasible points"

    def check_one_by_one(self) -> str:
        """A batch changes no answer."""
        for row in range(len(self.costs)):
            alone = self.oracle.solve(self.costs[row : row + 1].copy())
            self._same(row, alone, 0, 1.0, "alone and in a batch")
        return "the same objective and status in a batch and alone"

    def check_units(self) -> str:
        """The unit of the costs changes no answer."""
        scaled = self.oracle.solve(1000.0 * self.costs)
        for row in range(len(self.costs)):
            self._same(row, scaled, row, 1000.0, "for costs and for 1000 * costs")
        return "1000 * costs gives 1000 * objective"

    def check_nan_row(self) -> str:
        """A row of NaN costs is labelled and leaves the others alone."""
        row = int(np.flatnonzero(self.batch.has_point)[0])
        costs = np.stack([np.full(self.oracle.n, np.nan), self.costs[row]])
        try:
            batch = self.oracle.solve(costs)
        except Exception as error:  # that is the finding
            raise Finding(
                f"expected a row of NaN costs to be labelled, but `solve` raised {type(error).__name__}: {error}"
            ) from error
        expect(
            not batch.status[0].has_point,
            f"expected a row of NaN costs to be labelled, for example ERROR, got {batch.status[0].value} with a point.",
        )
        expect(np.isnan(batch.x[0]).all(), "expected x of the row of NaN costs to be all NaN.")
        self._same(row, batch, 1, 1.0, "with and without a row of NaN costs beside it")
        return f"labelled {batch.status[0].value}"

    def check_wrong_shape(self) -> str:
        """Costs of another width are refused."""
        try:
            self.oracle.solve(np.zeros((1, self.oracle.n + 1)))
        except ValueError:
            return "refused"
        raise Finding("expected a ValueError for costs of n + 1 columns. Try `solvers.oracle.as_costs(costs, self.n)`.")

    def _same(self, row: int, other: OracleBatch, place: int, factor: float, when: str) -> None:
        """Compare a row of the first batch with a row of ``other``; ties may change x, but not the objective."""
        first, second = self.batch.status[row], other.status[place]
        if Status.LIMIT in (first, second) or Status.FEASIBLE in (first, second):
            return  # a clock decided, not the costs
        expect(first is second, f"expected the same status {when}, got {first.value} and {second.value}.")
        if first.has_point:
            off = abs(float(other.objective[place]) / factor - float(self.batch.objective[row]))
            expect(off <= self._slack(row), f"expected the same objective {when}, row {row} differs by {off:.3g}.")

    def _size(self) -> float:
        """1 + the largest |c| . |x|, the scale of rounding errors."""
        return 1.0 + float(np.max(np.abs(self.points) @ np.abs(self.costs).T))

    def _slack(self, row: int) -> float:
        magnitude = float(np.max(np.abs(self.points @ self.costs[row])))
        return TOLERANCE * self._size() + GAP * magnitude


def near_misses(points: Array, rng: np.random.Generator, count: int = 64) -> Array:
    """[K, n] points near ``points`` [V, n], often infeasible.

    Zeros, ones, mixtures, one entry changed, two swapped, a unit moved from one entry to another. The last keeps every
    sum: it tells whether the bounds of the entries are judged.
    """
    n = points.shape[1]
    low, high = points.min(axis=0), points.max(axis=0)
    rows = np.arange(count)
    changed = points[rng.integers(len(points), size=count)].copy()
    column = rng.integers(n, size=count)
    changed[rows, column] = np.where(changed[rows, column] != 0, 0.0, 1.0)
    swapped = points[rng.integers(len(points), size=count)].copy()
    i, j = rng.integers(n, size=(2, count))
    swapped[rows, i], swapped[rows, j] = swapped[rows, j], swapped[rows, i].copy()
    shifted = points[rng.integers(len(points), size=count)].copy()
    i, j = rng.integers(n, size=(2, count))
    shifted[rows, i] += 1.0
    shifted[rows, j] -= 1.0
    return np.concatenate(
        [np.zeros((1, n)), np.ones((1, n)), low[None], high[None], points[:2].mean(0)[None], changed, swapped, shifted]
    )


def judge_points(violation: object, points: Array) -> None:
    """Expect a violation [..., n] -> [...] (NumPy in, anything array-like out) to reject nonsense of the size of x."""
    assert callable(violation)
    n = points.shape[1]
    far = 1e9 * (1.0 + np.abs(points).max())
    flagged = [float(np.asarray(violation(np.full((1, n), sign * far)))[0]) for sign in (1.0, -1.0)]
    expect(
        any(not v <= TOLERANCE for v in flagged),
        f"expected x = {far:.0e} or x = {-far:.0e} in all variables to violate some rule, got {flagged}. "
        "A violation that accepts every point cannot judge the oracle: compute it from the rules.",
    )
    missing = float(np.asarray(violation(np.full((1, n), np.nan)))[0])
    expect(not missing <= TOLERANCE, f"expected a point of NaN to be rejected (NaN or > 0), got {missing}.")
