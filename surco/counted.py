"""A problem and its oracle as methods see them: each call passes through the ledger."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from solvers.oracle import Array, OracleBatch, Status
from surco.bridge import to_numpy, to_torch
from surco.budget import BudgetExhausted
from surco.errors import InfeasibleError, InvalidInputError
from surco.ledger import Ledger
from surco.protocols import is_differentiable, is_rowwise


class CountedOracle:
    """The problem's oracle, seen through the ledger."""

    def __init__(self, ledger: Ledger) -> None:
        self.ledger = ledger
        self.inner = ledger.problem.oracle
        self.needs_nonnegative_costs = bool(getattr(self.inner, "needs_nonnegative_costs", False))
        self.takes_seconds = bool(getattr(self.inner, "takes_seconds", False))

    @property
    def n(self) -> int:
        """Number of variables."""
        return self.inner.n

    def solve(self, costs: Array) -> OracleBatch:
        """Solve as many rows as the budget allows; the others are labelled ``LIMIT``."""
        ledger = self.ledger
        if self.needs_nonnegative_costs:
            costs = np.maximum(costs, 0.0)
        parts: list[OracleBatch] = []
        done = 0
        while done < len(costs):
            try:
                rows = ledger.oracle_rows(len(costs) - done)
            except BudgetExhausted:
                if not parts:
                    raise
                break
            part = self._attempt(costs[done : done + rows])
            ledger.solved(part)
            parts.append(part)
            done += rows
        if done < len(costs):
            ledger.is_cut = True
            parts.append(unanswered(len(costs) - done, self.n, Status.LIMIT, "budget"))
        return parts[0] if len(parts) == 1 else joined(parts)

    def _attempt(self, costs: Array) -> OracleBatch:
        """Solve; if the batch raises, row by row, so that one bad row does not take the others with it."""
        try:
            if self.takes_seconds and math.isfinite(self.ledger.turn_left):
                return self.inner.solve(costs, seconds=self.ledger.turn_left)  # type: ignore[call-arg]
            return self.inner.solve(costs)
        except InfeasibleError:
            raise
        except Exception as error:  # a user's oracle may raise anything; the run survives it
            if len(costs) > 1:
                return joined([self._attempt(row[None]) for row in costs])
            return unanswered(1, self.n, Status.ERROR, f"{type(error).__name__}: {error}")

    def violation(self, x: Array) -> Array:
        """The inner oracle's own check."""
        return self.inner.violation(x)


class CountedProblem:
    """The problem, seen through the ledger; optional talents are asked of ``inner``."""

    def __init__(self, ledger: Ledger) -> None:
        self.ledger = ledger
        self.inner = ledger.problem
        self.oracle = CountedOracle(ledger)
        self.is_differentiable = is_differentiable(self.inner)
        self.is_rowwise = is_rowwise(self.inner)

    @property
    def n(self) -> int:
        """Number of variables."""
        return self.oracle.n

    def violation(self, x: Tensor) -> Tensor:
        """The problem's own check."""
        return self.inner.violation(x)

    def initial_costs(self) -> Tensor:
        """The problem's natural linearization, [n].

        Raises:
            InvalidInputError: no tensor of n finite numbers.
        """
        costs = self.inner.initial_costs()
        if not isinstance(costs, Tensor) or costs.shape != (self.n,):
            came = list(costs.shape) if isinstance(costs, Tensor) else type(costs).__name__
            raise InvalidInputError(f"Expected `initial_costs` to return a tensor of shape [{self.n}], got {came}.")
        if not bool(costs.isfinite().all()):
            raise InvalidInputError("Expected `initial_costs` to return finite numbers, got NaN or infinity in them.")
        return costs

    def objective(self, x: Tensor) -> Tensor:
        """F of x [..., n]; rows without a point, that fail, or over the budget are NaN.

        Without gradient, a design that was valued before costs nothing.
        """
        flat = x.reshape(-1, x.shape[-1])
        if x.requires_grad:
            return self._evaluate(flat).reshape(x.shape[:-1])
        array = to_numpy(flat)
        values = np.full(len(array), np.nan)
        fresh: dict[bytes, list[int]] = {}
        for row, design in enumerate(array):
            if np.isnan(design[0]):
                continue
            key = design.tobytes()
            known = self.ledger.values.get(key)
            if known is None:
                fresh.setdefault(key, []).append(row)
            else:
                values[row] = known
        if fresh:
            first = [rows[0] for rows in fresh.values()]
            found = to_numpy(self._evaluate(flat[first]))
            for rows, value in zip(fresh.values(), found, strict=True):
                values[rows] = value
        return to_torch(values, like=x).reshape(x.shape[:-1])

    def relaxed_objective(self, x: Tensor) -> Tensor:
        """F of points x [R, n] of the relaxation: counted, but no incumbent is taken from them."""
        return self._evaluate(x, is_relaxed=True)

    def _evaluate(self, x: Tensor, *, is_relaxed: bool = False) -> Tensor:
        """Values of f at the rows of x [R, n], counted; rows of NaN are not passed on."""
        ledger = self.ledger
        usable = ~torch.isnan(x.detach()).any(-1)
        index = usable.nonzero().squeeze(-1)
        values = x.new_full((len(x),), math.nan)
        if not len(index):
            return values
        allowed = ledger.objective_rows(len(index))
        ledger.is_cut |= allowed < len(index)
        index = index[:allowed]
        # Row by row, each value counts before the next row may hang or the time may end.
        for part in index.split(1) if self.is_rowwise else (index,):
            ledger.check()
            values = values.index_put((part,), self._valued(x[part], is_relaxed))
        return values

    def _valued(self, x: Tensor, is_relaxed: bool) -> Tensor:
        """Values of f at the rows of x [R, n], counted and recorded; NaN where it fails."""
        ledger = self.ledger
        ledger.objective_calls += len(x)
        has_raised = False
        try:
            found = self.inner.objective(x)
        except (Exception, SystemExit) as error:  # a user's objective may raise anything; find the rows that do
            found, has_raised = self._one_by_one(x, error), True
        if not isinstance(found, Tensor) or found.shape != x.shape[:-1]:
            came = list(found.shape) if isinstance(found, Tensor) else type(found).__name__
            raise InvalidInputError(
                f"Expected `objective` to map designs [R, n] = {list(x.shape)} to a tensor of shape [{len(x)}], "
                f"got {came}. A function of one design belongs into `surco.problem(..., is_differentiable=False)`."
            )
        found = found.to(x.dtype)
        detached = to_numpy(found)
        failed = ~np.isfinite(detached)
        if failed.any():
            ledger.objective_failures += int(failed.sum())
            if not has_raised:  # else the note names the error
                ledger.note("objective: not a finite number")
            detached = np.where(failed, np.nan, detached)
            found = torch.where(torch.from_numpy(failed), torch.full_like(found, math.nan), found)
        if not is_relaxed:
            ledger.valued(to_numpy(x), detached)
        return found

    def _one_by_one(self, x: Tensor, error: BaseException) -> Tensor:
        if len(x) == 1:
            self.ledger.note(f"objective: {type(error).__name__}: {error}")
            return x.detach().new_full((1,), math.nan)
        rows = []
        for row in x:
            try:
                rows.append(self.inner.objective(row[None])[0])
            except (Exception, SystemExit) as raised:  # labelled; the row becomes NaN
                error = raised
                rows.append(row.detach().new_tensor(math.nan))
        self.ledger.note(f"objective: {type(error).__name__}: {error}")
        return torch.stack(rows)

    def value_pending(self) -> None:
        """Value every vertex that was seen but not yet asked for: no solve is thrown away."""
        ledger = self.ledger
        while ledger.pending:
            limit = ledger.budget.objective_limit
            left = len(ledger.pending) if limit is None else limit - ledger.objective_calls
            if left <= 0:
                return
            rows = list(ledger.pending.values())[:left]
            for row in rows:
                ledger.pending.pop(row.tobytes(), None)
            self._evaluate(to_torch(np.stack(rows)))


def unanswered(rows: int, n: int, status: Status, message: str) -> OracleBatch:
    """A batch of rows without a point."""
    nan = np.full(rows, np.nan)
    return OracleBatch(
        np.full((rows, n), np.nan), nan, np.full(rows, -np.inf), (status,) * rows, np.zeros(rows), (message,) * rows
    )


def joined(parts: list[OracleBatch]) -> OracleBatch:
    """Concatenate batches."""
    return OracleBatch(
        np.concatenate([p.x for p in parts]),
        np.concatenate([p.objective for p in parts]),
        np.concatenate([p.bound for p in parts]),
        tuple(s for p in parts for s in p.status),
        np.concatenate([p.seconds for p in parts]),
        tuple(m for p in parts for m in (p.message or ("",) * len(p))),
    )
