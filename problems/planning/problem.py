"""Planning as problems of the engine: linear prices, and costs that are not linear."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from problems.planning.decomposition import Bounds, Decomposition
from problems.planning.instance import PlanningInstance
from problems.planning.judge import Judge, Verdict
from problems.planning.judgment import violation_of
from problems.planning.moves import neighbors
from problems.planning.neighborhoods import heuristic_plans
from problems.planning.network import Network, compile_instance
from problems.planning.objectives import Objective
from problems.planning.oracle import SurvivableOracle
from problems.planning.plan import Plan, plan_of
from surco.bridge import to_numpy, to_torch
from surco.errors import InfeasibleError
from surco.protocols import Exact, Verification

HEURISTIC_SECONDS = 3.0  # per rule, where the caller sets no limit
BOUND_SECONDS = 1.0
JUDGMENT_SHARE = 0.07  # of the seconds of an exact run, at most, left to judge the last plan
REPORT_SHARE = 0.1  # of the seconds of an exact run, between two reports
REPORT_COST = 10.0  # times as long as its last report, a run goes on before the next: each point is judged from scratch

Report = Callable[[Tensor | None, float], None]


class PlanningProblem:
    """Cheapest whole modules so that all demands can be carried in every failure.

    Variables: x [n], whole numbers of modules per link (see ``network``), plus 0-1 set-up variables where links have
    set-up costs. Feasible: capacity, exclusivity, spectrum and lease rules hold; and for the intact network and each
    failure the demands that it must carry can be routed (fractionally, rerouted freely) within ``load_factor`` times
    the surviving capacity. Objective: prices of modules and set-ups.

    The linear form needs no learning: ``exact`` proves its answers. The costs that are not linear are
    :class:`NonlinearPlanning`.

    Args:
        instance: what is planned.
        id: of the problem; default ``planning/<name>``.
        spec: JSON object that rebuilds it; default the whole instance.
        tolerance: relative gap at which ``exact`` stops.
    """

    is_differentiable = True
    is_convex = True
    exact_goes_on = True
    exact_reports = True
    objective_is_price = True

    def __init__(
        self,
        instance: PlanningInstance,
        *,
        id: str | None = None,
        spec: Mapping[str, Any] | None = None,
        tolerance: float = 1e-4,
    ) -> None:
        self.instance = instance
        self.network: Network = compile_instance(instance)
        self.tolerance = tolerance
        self.id = id if id is not None else f"planning/{instance.name}"
        self.spec: Mapping[str, Any] = (
            dict(spec) if spec is not None else {"domain": "planning", "instance": instance.to_spec()}
        )
        self.engine = Decomposition(self.network, tolerance=tolerance)
        self.oracle = SurvivableOracle(self.engine)
        self._heuristics: dict[str, Tensor] | None = None
        self._heuristic_seconds = 0.0  # that they were given
        self._judge = Judge(instance)
        self._judge_seconds = 0.0  # of the plan that took longest to judge
        self._clock: Callable[[], float] = time.monotonic

    def use_clock(self, clock: Callable[[], float]) -> None:
        """Count seconds on another clock than the wall's, such as ``time.process_time`` for CPU seconds."""
        self._clock = self.oracle.clock = clock

    # ------------------------------------------------------------------ the four parts

    def objective(self, x: Tensor) -> Tensor:
        """Price, [..., n] -> [...]."""
        return x @ torch.from_numpy(self.network.cost).to(x)

    def violation(self, x: Tensor) -> Tensor:
        """[..., n] -> [...] by the independent judge; 0 if feasible."""
        flat, begin = to_numpy(x).reshape(-1, self.network.n), self._clock()
        found = to_torch([violation_of(self.network, row) for row in flat]).reshape(x.shape[:-1])
        self._judge_seconds = max(self._judge_seconds, (self._clock() - begin) / max(len(flat), 1))
        return found

    def initial_costs(self) -> Tensor:
        """[n], the prices."""
        return to_torch(self.network.cost)

    # ------------------------------------------------------------------ talents

    def lower_bound(self) -> float:
        """Bound of the relaxation, as far as it comes within a second."""
        self.engine.run(BOUND_SECONDS, clock=self._clock, is_root_only=True)
        return self.engine.lower

    def exact(
        self, *, seconds: float | None = None, start: Tensor | None = None, report: Report | None = None
    ) -> Exact:
        """The decomposition; it goes on where an earlier call stopped, and reports what it finds on the way."""
        if start is not None:
            self.engine.offer_checked(to_numpy(start))
        bounds = self._run(self.engine, seconds, report)
        best = self.engine.best
        return Exact(
            None if best is None else to_torch(best),
            bounds.lower,
            is_optimal=bounds.gap <= 1e-9,
            work=self.engine.statistics.lps,
        )

    def _run(self, engine: Decomposition, seconds: float | None, report: Report | None) -> Bounds:
        """Run ``engine``, of which the first n variables are the plan, a little less than ``seconds``.

        The margin is for the judgment of the last plan, and for a last step that takes longer than what is left.
        """
        limit = None
        if seconds is not None:
            judgment = JUDGMENT_SHARE * seconds
            if self._judge_seconds > 0.0:
                judgment = min(judgment, self._judge_seconds)
            limit = max(0.05, 0.95 * seconds - 0.05 - judgment)
        return engine.run(limit, clock=self._clock, callback=report and self._reporter(engine, limit, report))

    def _reporter(self, engine: Decomposition, limit: float | None, report: Report) -> Callable[[Bounds], None]:
        due, told = self._clock() + REPORT_SHARE * (limit or 10.0), np.inf

        def tell(bounds: Bounds) -> None:
            nonlocal due, told
            begin = self._clock()
            if begin < due or engine.best is None:
                return
            is_new, told = bounds.upper < told, bounds.upper
            report(to_torch(engine.best[: self.network.n]) if is_new else None, bounds.lower)
            now = self._clock()
            due = now + max(REPORT_SHARE * (limit or 10.0), REPORT_COST * (now - begin))

        return tell

    heuristics_take_seconds = True

    def heuristics(self, *, seconds: float | None = None) -> Mapping[str, Tensor]:
        """Greedy, greedy and trim, rounding, greedy box, neighborhoods, in the order of their costs.

        They are computed again only where a call gives them more time.

        Args:
            seconds: for all together; default a few seconds for each.
        """
        limit = math.inf if seconds is None else seconds
        if self._heuristics is None or limit > self._heuristic_seconds:
            begin = self._clock()
            self.engine.prepare()
            left = limit - (self._clock() - begin)
            plans = heuristic_plans(self.engine, seconds=HEURISTIC_SECONDS, total=left, clock=self._clock)
            found = {name.replace("-", "_"): to_torch(x) for name, x in plans.items()}
            # The best first: each new incumbent is judged from scratch, which takes longer than to find it.
            self._heuristics = dict(sorted(found.items(), key=lambda item: float(self.objective(item[1]))))
            self._heuristic_seconds = limit
        return self._heuristics

    def moves(self, x: Tensor, *, count: int, generator: torch.Generator) -> Tensor:
        """Plans that differ by a module taken away, added, or moved to another link; all survive."""
        seed = int(torch.randint(2**31 - 1, (1,), generator=generator))
        found = neighbors(self.engine, to_numpy(x), count=count, rng=np.random.default_rng(seed))
        return to_torch(found.reshape(-1, self.network.n))

    def metrics(self, x: Tensor) -> Mapping[str, float]:
        """Price, capacity, use of links, worst and mean utilization."""
        verdict = self.verdict(x)
        intact = list(verdict.states[0].utilization.values())
        worst = max((max(s.utilization.values(), default=0.0) for s in verdict.states if s.is_survived), default=0.0)
        new = self.plan(x).installed_gbps(self.instance)
        return {
            "price": verdict.cost,
            "installed_gbps": float(sum(new)),
            "links_used": float(sum(gbps > 0 for gbps in new)),
            "mean_utilization": float(np.mean(intact)) if intact else 0.0,
            "worst_utilization": float(worst),
            "states_survived": float(sum(s.is_survived for s in verdict.states)),
            "states_excused": float(len(verdict.excused)),
        }

    def describe(self, x: Tensor) -> str:
        """The judge's verdict and the largest links."""
        verdict, new = self.verdict(x), self.plan(x).installed_gbps(self.instance)
        order = np.argsort(-np.array(new))[:8]
        largest = ", ".join(f"{self.instance.links[i].name} {new[i]:,.0f}" for i in order if new[i] > 0)
        lines = [f"{self.instance.name}: the judge says {verdict}"]
        if self.network.skipped:
            lines.append(f"failures left out because they disconnect a demand: {', '.join(self.network.skipped[:8])}")
        lines.append(f"largest new capacities (Gbps): {largest or 'none'}")
        return "\n".join(lines)

    def figures(self, x: Tensor) -> Mapping[str, Any]:
        """The map of the plan, and the gap of the exact engine against time where it ran."""
        from problems.planning.charts import gap_figure, plan_map

        figures = {"Plan": plan_map(self.instance, self.plan(x), self.verdict(x))}
        if len(self.engine.statistics.trace) > 1:
            figures["Bounds of the exact engine"] = gap_figure(self.engine.statistics.trace)
        return figures

    def judges(self) -> Mapping[str, Callable[[Tensor], Verification]]:
        """``flows``: paths of every demand in every failure, added up by code that did not make the plan."""
        from problems.planning.verification import verify_flows

        def flows(x: Tensor) -> Verification:
            claimed = float(self.objective(x)) if self.objective_is_price else None
            return verify_flows(self.instance, self.plan(x), claimed=claimed)

        return {"flows": flows}

    def exports(self) -> Mapping[str, Callable[[Tensor, Path], None]]:
        """``json``, ``csv``, ``routing`` of all failures, ``certificate``, ``map`` (HTML), ``geojson``."""
        from problems.planning.formats.export import exports

        return exports(self)

    def explain_infeasibility(self) -> str:
        """Which cut or which rules leave no plan."""
        try:
            self.engine.run(5.0, is_root_only=True)
        except InfeasibleError as error:
            return str(error)
        return "No conflict found: some plan survives."

    # ------------------------------------------------------------------ plans

    def plan(self, x: Tensor) -> Plan:
        """Plan of variables x [n]."""
        return plan_of(self.network, to_numpy(x))

    def verdict(self, x: Tensor) -> Verdict:
        """The independent judge on x [n]."""
        return self._judge(self.plan(x))


class NonlinearPlanning(PlanningProblem):
    """The same plans under a cost that is not linear; see :mod:`problems.planning.objectives`.

    Where no integer program states the cost (expected loss), local search was the best single method on all networks
    of the benchmark, so it leads.

    Args:
        instance: one module size per link, ``max_gbps`` set (it bounds the search).
        objective: class of :data:`problems.planning.objectives.OBJECTIVES`, called with the network and ``options``.
        options: of the objective.
        others: as of :class:`PlanningProblem`.
    """

    search_share = 0.75
    objective_is_price = False

    def __init__(
        self, instance: PlanningInstance, objective: type, *, options: Mapping[str, Any] | None = None, **others: Any
    ) -> None:
        super().__init__(instance, **others)
        self.cost: Objective = objective(self.network, **(options or {}))
        self.is_convex = self.cost.is_convex
        self.is_differentiable = self.cost.is_differentiable
        self.oracle = SurvivableOracle(self.engine, seconds=2.0, gap=1e-3)

    def objective(self, x: Tensor) -> Tensor:
        """The cost, [..., n] -> [...]."""
        return self.cost.value(x)

    def initial_costs(self) -> Tensor:
        """[n], the natural linear prices."""
        return to_torch(self.cost.linear)

    def lower_bound(self) -> float:
        """The bound of the prices alone where the cost is prices plus something >= 0, else 0."""
        return super().lower_bound() if self.is_convex else 0.0

    exact_goes_on = False
    exact = None  # type: ignore[assignment]  # only where an integer program is exact: ProgrammedPlanning

    def metrics(self, x: Tensor) -> Mapping[str, float]:
        """Parts of the cost, and the metrics of the plan."""
        return {**super().metrics(x), **self.cost.metrics(to_numpy(x))}


class ProgrammedPlanning(NonlinearPlanning):
    """A nonlinear cost that a piecewise-linear integer program states exactly; its decomposition is ``exact``."""

    exact_goes_on = True
    search_share = 0.0
    exact_share = 0.85  # best or proven in most cells of the benchmark; the rest of the time is for the others

    def __init__(self, *arguments: Any, **others: Any) -> None:
        super().__init__(*arguments, **others)
        program = self.cost.integer_program()
        assert program is not None
        self._program_network, self._constant = program
        self._program: Decomposition | None = None

    def exact(  # type: ignore[override]
        self, *, seconds: float | None = None, start: Tensor | None = None, report: Report | None = None
    ) -> Exact:
        """Decomposition of the piecewise-linear program; it goes on where an earlier call stopped, and reports."""
        n, network = self.network.n, self._program_network
        if self._program is None:
            self._program = Decomposition(
                network, tolerance=self.tolerance, constant=self._constant, cutset_size=4, most_cutsets=500
            )
        if start is not None:
            wide = np.zeros(network.n)
            wide[:n] = to_numpy(start)
            self._program.offer_checked(network.complete(wide))
        bounds = self._run(self._program, seconds, report)
        best = self._program.best
        return Exact(
            None if best is None else to_torch(best[:n]),
            bounds.lower,
            is_optimal=bounds.upper - bounds.lower <= 1e-9 * max(abs(bounds.upper), 1.0),
            work=self._program.statistics.lps,
        )
