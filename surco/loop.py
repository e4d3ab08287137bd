"""The one loop: every method, every problem, every budget."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, overload

import torch

from solvers.rows import describe_error
from surco import checkpoint as checkpoints
from surco import worker
from surco.atomic import write_text
from surco.bridge import to_torch
from surco.budget import Budget, BudgetExhausted, checked_seed
from surco.counted import CountedProblem
from surco.errors import InfeasibleError, InvalidInputError, NoDesignError, ResumeError
from surco.ledger import Ledger
from surco.methods import build_method
from surco.protocols import HasLowerBound, HasMetrics, HasSpec, Method, Problem, State
from surco.result import Result, SolveStatus

DEFAULT_SECONDS = 10.0
SAVE_SECONDS = 1.0  # a checkpoint is at most about this old, unless one step takes longer
INCUMBENT = "incumbent.json"
INCUMBENT_SECONDS = 0.2
GRACE = 0.05  # of the budget: how long a run past its deadline may go on before it is left behind

_REJECTED = (
    "The oracle's designs fail the independent check: oracle and `violation` disagree about the rules. "
    "`surco.checks.check_problem` shows where."
)
_NO_NUMBER = (
    "The objective gave no finite number for any design of the oracle; call it on one: a larger budget will not help."
)

Callback = Callable[[Ledger], bool | None]


@overload
def solve(problem: Problem, method: str | Method = ..., *, designs: None = None, **options: Any) -> Result: ...


@overload
def solve(problem: Problem, method: str | Method = ..., *, designs: int, **options: Any) -> tuple[Result, ...]: ...


def solve(
    problem: Problem,
    method: str | Method = "auto",
    *,
    seconds: float | None = None,
    calls: int | None = None,
    objective_calls: int | None = None,
    seed: int = 0,
    callback: Callback | None = None,
    checkpoint: str | Path | None = None,
    resume: bool = False,
    threads: int = 1,
    designs: int | None = None,
    min_distance: float | None = None,
    **options: Any,
) -> Result | tuple[Result, ...]:
    """Search a problem's feasible set for the design of least true cost.

    The incumbent comes from every vertex that any oracle call returns, checked by the problem's own ``violation``.
    The run is deterministic for one seed when only calls limit it.

    Args:
        problem: anything with the four parts of :class:`surco.Problem`.
        method: ``"auto"`` (a portfolio), a name of :data:`surco.METHODS`, a name of the problem's own heuristics, or
            a :class:`surco.Method`.
        seconds: wall seconds to spend; 10 where no budget is given at all.
        calls: oracle calls to spend (one a cost vector). Under this limit alone, 20 objective calls go with each
            oracle call, so that a method which never asks the oracle ends too.
        objective_calls: objective calls to spend (one a design).
        seed: of every random choice.
        callback: called on the worker thread with the run's ledger (``value``, ``bound``, ``oracle_calls``,
            ``seconds`` ...) at every improvement; returning True stops the run. One that raises is noted in the
            result and not called again.
        checkpoint: folder in which the run saves itself about once a second and at its end.
        resume: go on from that folder's checkpoint, if it has one; under the same budget in calls the result equals
            that of the uninterrupted run.
        threads: torch threads of the run; one is best unless a single objective call is large.
        designs: return this many designs, or as many as were found, sorted by value, as a tuple; each place gets an
            equal share of the budget (see :mod:`surco.diverse`).
        min_distance: least sum of |x_i - y_i| between any two of them, above 0; 1 where not given.
        options: of the method, for example ``step_size=0.1`` for ``zero``.

    Returns:
        The best feasible design with its certificate and its costs. Ctrl-C returns it too.

    Raises:
        InvalidInputError: a budget, method or option is not valid.
        InfeasibleError: the rules leave no design.
        NoDesignError: the budget ended before a feasible design was seen.

    Example:
        >>> import surco
        >>> result = surco.solve(surco.make("paths/grid-5-code-v0"), seed=0)
        >>> result.status.value, result.gap
        ('optimal', 0.0)
    """
    _check_problem(problem)
    checked_seed(seed)
    if seconds is None and calls is None and objective_calls is None:
        seconds = DEFAULT_SECONDS
    if designs is not None or min_distance is not None:
        from surco.diverse import solve_diverse

        if checkpoint is not None or resume:
            raise InvalidInputError("Several designs have no checkpoint; solve for one, or leave `checkpoint` out.")
        limits = {"seconds": seconds, "calls": calls, "objective_calls": objective_calls}
        return solve_diverse(
            solve,
            problem,
            method,
            designs=1 if designs is None else designs,
            min_distance=1.0 if min_distance is None else min_distance,
            limits=limits,
            callback=callback,
            seed=seed,
            threads=threads,
            **options,
        )
    budget = Budget(seconds, calls, objective_calls)
    chosen = build_method(method, problem, options)
    run = _Run(problem, chosen, budget, seed, callback, Path(checkpoint) if checkpoint is not None else None, threads)
    if resume:
        run.load()
    return run.go()


class _Run:
    """One run: its ledger, its random generator, its state, its checkpoint."""

    def __init__(
        self,
        problem: Problem,
        method: Method,
        budget: Budget,
        seed: int,
        callback: Callback | None,
        folder: Path | None,
        threads: int,
    ) -> None:
        self.problem, self.method, self.budget, self.seed, self.folder = problem, method, budget, seed, folder
        self.callback, self.threads = callback, threads
        self.is_stopped = False
        self.ledger = Ledger(problem, budget, self._improved)
        self.ledger.method = method.name
        self.generator = torch.Generator().manual_seed(seed)
        self.state: State | None = None
        self.saved_at = self.incumbent_at = -math.inf
        self.boundary: tuple[State, torch.Tensor, dict[str, Any]] | None = None  # after the last whole step
        if folder is not None:
            folder.mkdir(parents=True, exist_ok=True)

    # ------------------------------------------------------------------ running

    def go(self) -> Result:
        ledger = self.ledger
        status = SolveStatus.BUDGET
        try:
            status = worker.run(self._loop, self._seconds_to_wait, threads=self.threads)
        except worker.HungError:
            ledger.note(
                "the run passed its deadline inside one call and was left: "
                "the call needs longer than the budget, or hangs"
            )
        except KeyboardInterrupt:
            status = SolveStatus.INTERRUPTED
        finally:
            with ledger.lock:
                ledger.is_closed = True
            self._save(force=True)
        if ledger.is_optimal:
            status = SolveStatus.OPTIMAL
        return self._result(status)

    def _seconds_to_wait(self) -> float:
        if self.budget.seconds is None:
            return math.inf
        return self.ledger.seconds_left + GRACE * self.budget.seconds + 0.05

    def _loop(self) -> SolveStatus:
        """Init, then step until done; the state is saved between steps."""
        counted = CountedProblem(self.ledger)
        status = SolveStatus.CONVERGED
        try:
            if self.state is None:
                self._first_bound()
                self.state = self.method.init(counted, generator=self.generator)
                self._save()
            while not self.state.get("done"):
                self.ledger.check()
                if self.is_stopped:
                    status = SolveStatus.STOPPED
                    break
                self.state, _ = self.method.step(counted, self.state, generator=self.generator)
                counted.value_pending()
                if self.ledger.is_cut:
                    raise BudgetExhausted
                self._save()
            counted.value_pending()
        except BudgetExhausted:
            status = SolveStatus.OPTIMAL if self.ledger.is_optimal else SolveStatus.BUDGET
            try:
                if not self.ledger.is_closed and self.ledger.seconds_left > 0:
                    counted.value_pending()
            except BudgetExhausted:
                pass
        return SolveStatus.STOPPED if self.is_stopped else status

    def _first_bound(self) -> None:
        if isinstance(self.problem, HasLowerBound):
            self.ledger.offer_bound(float(self.problem.lower_bound()))

    def _improved(self, ledger: Ledger) -> None:
        if self._called_back():
            self.is_stopped = True
            ledger.is_closed = True
        now = time.monotonic()
        if self.folder is not None and now - self.incumbent_at >= INCUMBENT_SECONDS:
            self._save_incumbent(now)

    def _called_back(self) -> bool:
        """Whether the callback wants to stop; one that raises is not called again, and costs no run."""
        if self.callback is None:
            return False
        try:
            return bool(self.callback(self.ledger))
        except Exception as error:
            self.callback = None
            self.ledger.note(f"the callback raised {describe_error(error)}; it was not called again")
            return False

    # ------------------------------------------------------------------ checkpoint

    def _identity(self) -> dict[str, Any]:
        problem = self.problem
        return {
            "id": problem.id if isinstance(problem, HasSpec) else "",
            "n": problem.oracle.n,
            "method": self.method.name,
            "seed": self.seed,
        }

    def _save(self, *, force: bool = False) -> None:
        """Save the last step boundary: what a half step did is done again, identically, on resume."""
        if self.folder is None:
            return
        if not force:
            assert self.state is not None
            self.boundary = (self.state, self.generator.get_state(), self.ledger.mark())
        now = time.monotonic()
        if self.boundary is None or not (force or now - self.saved_at >= SAVE_SECONDS):
            return
        self.saved_at = now
        self._save_incumbent(now)
        state, generator, mark = self.boundary
        data = {
            "identity": self._identity(),
            "ledger": self.ledger.state(mark),
            "method": state,
            "generator": generator,
        }
        checkpoints.save(self.folder / checkpoints.FILE, data)

    def _save_incumbent(self, now: float) -> None:
        """The best design so far, where a person can read it while the run goes on or after it was killed."""
        ledger = self.ledger
        if self.folder is None or ledger.x is None:
            return
        self.incumbent_at = now
        point = {
            **self._identity(),
            "value": ledger.value,
            "bound": ledger.bound if math.isfinite(ledger.bound) else None,
            "oracle_calls": ledger.oracle_calls,
            "objective_calls": ledger.objective_calls,
            "seconds": ledger.seconds,
            "x": ledger.x.tolist(),
        }
        write_text(self.folder / INCUMBENT, json.dumps(point))

    def load(self) -> None:
        """Take over the folder's checkpoint; without one the run starts afresh."""
        if self.folder is None:
            raise ResumeError("Expected `checkpoint`, the folder to resume from, together with `resume=True`.")
        file = self.folder / checkpoints.FILE
        if not file.is_file():
            return
        data = checkpoints.load(file)
        if data["identity"] != self._identity():
            raise ResumeError(
                f"The checkpoint in `{self.folder}` is of {data['identity']}, but this run is {self._identity()}. "
                "Resume with the same problem, method and seed, or choose another folder."
            )
        self.ledger.restore(data["ledger"])
        self.state = data["method"]
        self.generator.set_state(data["generator"])

    # ------------------------------------------------------------------ result

    def _result(self, status: SolveStatus) -> Result:
        ledger, problem = self.ledger, self.problem
        notes = tuple(text if count == 1 else f"{text} ({count} times)" for text, count in ledger.notes.items())
        if ledger.x is None:
            if ledger.infeasible_rows:
                raise InfeasibleError("The oracle proved that the rules leave no feasible design.")
            reasons = "; ".join(notes) or "no oracle call finished"
            raise NoDesignError(
                f"No feasible design within {_shown(self.budget)} ({ledger.oracle_calls} oracle calls: {reasons}). "
                + _remedy(ledger)
            )
        x = to_torch(ledger.x)
        spec: Mapping[str, Any] = problem.spec if isinstance(problem, HasSpec) else {}
        return Result(
            x=ledger.x,
            value=ledger.value,
            bound=ledger.bound if math.isfinite(ledger.bound) else None,
            is_feasible=True,  # the ledger takes nothing else
            status=status,
            method=self.method.name,
            source=ledger.source,
            seed=self.seed,
            stats=ledger.stats(),
            trace=tuple(ledger.trace),
            id=problem.id if isinstance(problem, HasSpec) else "",
            spec=spec,
            metrics=dict(problem.metrics(x)) if isinstance(problem, HasMetrics) else {},
            notes=notes,
            problem=problem,
        )


def _shown(budget: Budget) -> str:
    parts = [f"{budget.seconds} seconds"] if budget.seconds is not None else []
    parts += [f"{budget.calls} oracle calls"] if budget.calls is not None else []
    parts += [f"{budget.objective_calls} objective calls"] if budget.objective_calls is not None else []
    return " and ".join(parts)


def _check_problem(problem: object) -> None:
    if isinstance(problem, str):
        raise InvalidInputError(
            f"Expected a problem, got the text {problem!r}. Try `surco.solve(surco.make({problem!r}))`."
        )
    missing = [name for name in ("oracle", "objective", "violation", "initial_costs") if not hasattr(problem, name)]
    if missing:
        raise InvalidInputError(
            f"Expected a problem with `oracle`, `objective`, `violation` and `initial_costs`, but "
            f"{type(problem).__name__} lacks {', '.join(missing)}. `surco.problem(...)` builds one from functions."
        )


def _remedy(ledger: Ledger) -> str:
    """What to do about a run without a design."""
    if ledger.rejected:
        return _REJECTED
    return _NO_NUMBER if ledger.objective_failures else "Raise the budget or try another method."
