"""Tables of learned network planning: plans and throughput, one a command; what-if is ``benchmarks.rl_whatif``.

    python -m benchmarks.rl_planning plans --networks polska nobel-germany

The networks were never seen in training. Every plan was accepted by the independent judge; a plan that it refuses stops
the run. CPU seconds are ``time.process_time`` of everything from the compiled network on (features, cuts, rollouts,
linear programs). Results go to ``--out`` as JSON with their provenance, and a row that is there already is not computed
again, so a killed run goes on by the same command.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.planning import judged
from problems.planning import Decomposition, Network, PlanningInstance, compile_instance, from_topohub
from problems.planning.construction import repair, shortest_path_plan, trim
from problems.planning.neighborhoods import round_relaxation
from problems.planning.network import Array
from problems.planning.survival import Deadline
from rl.game_rules import GameRules
from rl.generator import HELD_OUT
from rl.planning_env import NetworkPlanningEnv
from rl.policy import describe
from rl.polish import exchanged, without_spare
from rl.topology import Topology
from rl.two_stage import SHIPPED, FirstStage, first_stage, planning_policy, second_stage
from rl.vector_env import VectorPlanningEnv
from surco import provenance as origin

Row = dict[str, Any]
ALPHAS = (1.0, 1.25, 1.5, 2.0)
SAMPLES = 8
BOX_SECONDS = 20.0  # CPU seconds of one second stage
TOLERANCE = 1e-4
REFERENCE = Path("benchmarks/reference/planning.json")


class Bench:
    """One network: engines for every row, costs by the judge, and the proven bound."""

    def __init__(self, name: str, exact_seconds: float) -> None:
        self.instance: PlanningInstance = from_topohub(name)
        self.network: Network = compile_instance(self.instance)
        self.name, self.exact_seconds = name, exact_seconds

    def engine(self) -> Decomposition:
        """A fresh engine: no row profits from another's work."""
        return Decomposition(self.network, tolerance=TOLERANCE)

    def row(self, method: str, plan: Array, seconds: float, **more: Any) -> Row:
        """A row of the table."""
        cost = judged(self.instance, self.network, plan)
        return {"network": self.name, "method": method, "cost": cost, "cpu_s": seconds, **more}

    def timed(self, method: str, make: Callable[[Decomposition], Array | None], **more: Any) -> Iterator[Row]:
        """A row of a rule that makes a plan with a fresh engine."""
        begin = time.process_time()
        plan = make(self.engine())
        used = time.process_time() - begin
        if plan is not None:
            yield self.row(method, plan, used, **more)

    # ------------------------------------------------------------------ rules

    def rules(self) -> Iterator[Row]:
        """The rules without learning."""
        network = self.network

        def greedy(engine: Decomposition) -> Array | None:
            return shortest_path_plan(engine.network)

        def greedy_trim(engine: Decomposition) -> Array | None:
            engine.prepare()
            relaxation = Topology(network, engine=engine)
            relaxation.share(engine)
            return None if engine.best is None else relaxation.point(relaxation.trimmed(relaxation.greedy))

        def greedy_exchanges(engine: Decomposition) -> Array | None:
            engine.prepare()
            topology = Topology(network, engine=engine)
            topology.share(engine)
            if engine.best is None:
                return None
            units = without_spare(topology, topology.greedy, Deadline(None))
            return topology.point(exchanged(topology, units, deadline=Deadline(None)))

        def greedy_box(engine: Decomposition) -> Array | None:
            engine.prepare()
            plan = engine.best
            return None if plan is None else self.boxed(engine, plan, plan, 1.5)

        def rounding(engine: Decomposition) -> Array | None:
            return round_relaxation(engine, Deadline(self.exact_seconds, time.process_time))

        def cutset_rounding(engine: Decomposition) -> Array | None:
            topology = Topology(network, engine=engine)
            x = topology.point(np.floor(topology.relaxed + 0.5))
            fixed = repair(network, engine.survival, x, Deadline(60.0))
            cuts = (engine.master.rows, engine.master.rhs)
            return None if fixed is None else trim(network, engine.survival, fixed, Deadline(60.0), cuts=cuts)

        yield from self.timed("greedy", greedy)
        yield from self.timed("greedy + trim", greedy_trim)
        yield from self.timed("greedy + trim + exchanges", greedy_exchanges)
        yield from self.timed("greedy box 1.5", greedy_box)
        yield from self.timed("rounded cutset relaxation + repair + trim", cutset_rounding)
        yield from self.timed("LP rounding", rounding)

    def boxed(self, engine: Decomposition, plan: Array, start: Array, alpha: float) -> Array:
        """Stage 2 within ``BOX_SECONDS``."""
        return second_stage(engine, plan, alpha, start=start, seconds=BOX_SECONDS, clock=time.process_time)

    def exact(self) -> Iterator[Row]:
        """The decomposition."""
        begin = time.process_time()
        engine = self.engine()
        bounds = engine.run(self.exact_seconds, clock=time.process_time)
        used = time.process_time() - begin
        assert engine.best is not None
        yield self.row("exact", engine.best, used, bound=bounds.lower, gap_percent=100.0 * bounds.gap)

    # ------------------------------------------------------------------ agents

    def agent(
        self, label: str, policy: torch.nn.Module | None, *, samples: int, alphas: Iterable[float]
    ) -> Iterator[Row]:
        """Rollouts, trim, and the second stage: each row's CPU seconds include the stages before it."""
        is_random = policy is None
        engine = self.engine()
        found: FirstStage = first_stage(engine, policy, samples=samples, greedy=not is_random, trims=3)
        yield self.row(f"{label}", found.rollout, found.rollout_cpu_s)
        used = found.rollout_cpu_s + found.trim_cpu_s
        yield self.row(f"{label} + trim", found.trimmed, used)
        used += found.polish_cpu_s
        yield self.row(f"{label} + trim + exchanges", found.polished, used)
        for alpha in alphas:
            # each box starts from an engine that knows what stage 1 taught it, and nothing of the other boxes
            again = self.engine()
            first_stage(again, policy, samples=samples, greedy=not is_random, trims=3)
            begin = time.process_time()
            plan = self.boxed(again, found.rollout, found.polished, alpha)
            yield self.row(f"{label} + stage 2, alpha {alpha:g}", plan, used + time.process_time() - begin)


def plans(
    names: Iterable[str],
    *,
    policy: torch.nn.Module,
    exact_seconds: float,
    alphas: tuple[float, ...],
    only: str,
    known: set[tuple[str, str]],
) -> Iterator[Row]:
    """The table of plans; ``only`` names the first words of a group, such as ``policy``."""
    for name in names:
        bench = Bench(name, exact_seconds)
        groups: list[tuple[str, Callable[[], Iterator[Row]]]] = [
            ("exact", bench.exact),
            ("greedy", bench.rules),
            ("policy", lambda bench=bench: bench.agent("policy", policy, samples=0, alphas=(1.5,))),
            (
                f"policy, best of {SAMPLES + 1}",
                lambda bench=bench: bench.agent(
                    f"policy, best of {SAMPLES + 1}", policy, samples=SAMPLES, alphas=alphas
                ),
            ),
            (
                f"random + mask, best of {SAMPLES + 1}",
                lambda bench=bench: bench.agent(
                    f"random + mask, best of {SAMPLES + 1}", None, samples=SAMPLES + 1, alphas=(1.5,)
                ),
            ),
        ]
        for first, rows in groups:
            if (name, first) not in known and first.startswith(only):
                yield from rows()


def throughput(name: str, *, steps: int) -> Iterator[Row]:
    """Steps per CPU second of random allowed actions: plain environment and batches, proving all plans or some."""

    def actions(mask: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        return (rng.random(mask.shape) * (mask > 0.5)).argmax(axis=-1)

    for share in (1.0, 1.0 / 16.0, 0.0):
        rng = np.random.default_rng(0)
        plain = NetworkPlanningEnv([f"planning/{name}-v0"], rules=GameRules(proof_share=share))
        observation, _ = plain.reset(seed=0)
        for phase in ("warm", "timed"):
            begin = time.process_time()
            for _ in range(steps):
                observation, _, over, cut, _ = plain.step(actions(observation["action_mask"][None], rng)[0])
                if over or cut:
                    observation, _ = plain.reset()
            if phase == "timed":
                rate = steps / (time.process_time() - begin)
                yield {
                    "network": name,
                    "environment": "plain",
                    "slots": 1,
                    "proof_share": share,
                    "steps_per_cpu_s": rate,
                }
        for slots in (16, 64):
            rng = np.random.default_rng(0)
            batch = VectorPlanningEnv(slots, [f"planning/{name}-v0"], rules=GameRules(proof_share=share))
            together, _ = batch.reset(seed=0)
            for phase in ("warm", "timed"):
                played, begin, ended = 0, time.process_time(), np.zeros(slots, dtype=bool)
                for _ in range(max(1, steps * 4 // slots)):
                    played += int((~ended).sum())
                    together, _, over, cut, _ = batch.step(actions(together["action_mask"], rng))
                    ended = over | cut
                if phase == "timed":
                    rate = played / (time.process_time() - begin)
                    yield {
                        "network": name,
                        "environment": "batched",
                        "slots": slots,
                        "proof_share": share,
                        "steps_per_cpu_s": rate,
                    }


# ---------------------------------------------------------------------- storing


def store(out: Path, key: str, rows: list[Row], about: dict[str, Any]) -> None:
    """Replace a table of the file."""
    data = json.loads(out.read_text(encoding="utf-8")) if out.is_file() else {}
    data[key] = {
        "provenance": about,
        "rows": rows,
    }
    out.write_text(json.dumps(data, indent=1) + "\n", encoding="utf-8")


def main() -> None:
    """The commands."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("table", choices=("plans", "throughput"))
    parser.add_argument("--networks", nargs="+", default=list(HELD_OUT))
    parser.add_argument("--policy", help="folder of the policy; default the one of the package")
    parser.add_argument("--exact-seconds", type=float, default=60.0, help="CPU seconds of the exact engine")
    parser.add_argument("--alphas", type=float, nargs="+", default=list(ALPHAS), help="of the second stage")
    parser.add_argument("--only", default="", help="first word of the rows wanted: exact, greedy, policy, random")
    parser.add_argument("--steps", type=int, default=4000)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/reference/rl_planning.json"))
    options = parser.parse_args()
    torch.set_num_threads(1)
    policy = planning_policy(options.policy)
    data = json.loads(options.out.read_text(encoding="utf-8")) if options.out.is_file() else {}
    rows: list[Row] = list(data.get(options.table, {}).get("rows", []))
    weights = describe(options.policy or SHIPPED)
    words = origin.without_paths(sys.argv[1:], {"--out": "FILE"})
    about = {**origin.origin(words, "python -m benchmarks.rl_planning"), "policy_sha256": weights["sha256"]}
    if options.table == "plans":
        known = {(row["network"], row["method"]) for row in rows}
        found = plans(
            options.networks,
            policy=policy,
            exact_seconds=options.exact_seconds,
            alphas=tuple(options.alphas),
            only=options.only,
            known=known,
        )
    else:
        rows = []
        found = throughput(options.networks[0], steps=options.steps)
    for row in found:
        rows.append(row)
        store(options.out, options.table, rows, about)
        print({key: round(value, 4) if isinstance(value, float) else value for key, value in row.items()}, flush=True)


if __name__ == "__main__":
    main()
