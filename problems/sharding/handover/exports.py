"""Plans as files: our JSON with reasons, TorchRec's plan, FBGEMM's tables of each rank, DLRM's one rank per table."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor

from problems.sharding.handover.shards import dlrm_ranks, fbgemm_tables
from problems.sharding.handover.text import sharding_plan_text
from problems.sharding.joint.plan import JointPlan, ShardingType, TablePlacement
from problems.sharding.tables import Table
from surco.atomic import write_text
from surco.errors import InvalidInputError

if TYPE_CHECKING:
    from problems.sharding.joint.problem import JointProblem
    from problems.sharding.problem import ShardingProblem

MOST_FOR_REASONS = 20_000

Writer = Callable[[Tensor, Path], None]


def exports(
    tables: Sequence[Table], plan_of: Callable[[Tensor], JointPlan], reasons: Callable[[Tensor], list[Any]]
) -> Mapping[str, Writer]:
    """Kind -> writer of one design x [n].

    * ``json``: the plan, and for each table what was chosen, the runner-up and its price (left out where a design has
      more than `MOST_FOR_REASONS` variables, for the time it takes);
    * ``torchrec``: the JSON form of a ``ShardingPlan`` for CUDA devices, see ``problems.sharding.handover.text``;
    * ``torchrec_cpu``: the same for gloo processes on CPUs;
    * ``fbgemm``: per rank the name, rows and dim of each block;
    * ``dlrm``: one rank per table; a table-wise plan only.
    """

    def plan_with_reasons(x: Tensor) -> dict[str, Any]:
        plan = plan_of(x).to_json()
        return {**plan, "reasons": reasons(x)} if len(x) <= MOST_FOR_REASONS else plan

    kinds: dict[str, Callable[[Tensor], Any]] = {
        "json": plan_with_reasons,
        "torchrec": lambda x: sharding_plan_text(plan_of(x), tables),
        "torchrec_cpu": lambda x: sharding_plan_text(plan_of(x), tables, device_type="cpu"),
        "fbgemm": lambda x: {"ranks": fbgemm_tables(plan_of(x), tables)},
        "dlrm": lambda x: dlrm_ranks(plan_of(x)),
    }
    return {kind: _writer(content) for kind, content in kinds.items()}


def joint_reasons(problem: JointProblem, x: Tensor) -> list[dict[str, Any]]:
    """Per table or colocated group: what was chosen, the best other type with all else fixed, and its price in ms."""
    from problems.sharding.joint.report import alternatives

    return [
        {
            "tables": list(item.names),
            "chosen": item.chosen,
            "runner_up": item.runner_up or None,
            "extra_ms": item.extra_ms if math.isfinite(item.extra_ms) else None,
        }
        for item in alternatives(problem, x)
    ]


def table_wise_plan(problem: ShardingProblem, x: Tensor) -> JointPlan:
    """A table-wise design [n] as a plan; rank r is device r.

    Raises:
        InvalidInputError: hosts of unequal size, or devices out of the order of their hosts: TorchRec has no such.
    """
    hosts = [device.host for device in problem.devices]
    local = hosts.count(hosts[0])
    if len(hosts) % local or [host - hosts[0] for host in hosts] != [r // local for r in range(len(hosts))]:
        raise InvalidInputError(
            f"Expected hosts with the same number of devices each, in order, got hosts {hosts}. List devices by host."
        )
    ranks = problem.plan(x).argmax(dim=-1).tolist()
    placements = (
        TablePlacement(table.name, ShardingType.TABLE_WISE, (rank,))
        for table, rank in zip(problem.tables, ranks, strict=True)
    )
    return JointPlan(tuple(placements), len(hosts), local)


def table_wise_reasons(problem: ShardingProblem, x: Tensor) -> list[dict[str, Any]]:
    """Per table: its device, the best other device with all else fixed, and its price in ms."""
    plan, value = problem.plan(x), float(problem.objective(x))
    found = []
    for t, table in enumerate(problem.tables):
        here = int(plan[t].argmax())
        others = [d for d in range(len(problem.devices)) if d != here]
        trials = plan.repeat(len(others), 1, 1)
        trials[:, t] = 0.0
        trials[range(len(others)), t, others] = 1.0
        flat = trials.flatten(1)
        values = problem.objective(flat).where(problem.violation(flat) <= 0.0, math.inf)
        best = int(values.argmin()) if others and bool(values.isfinite().any()) else None
        found.append(
            {
                "tables": [table.name],
                "chosen": f"table_wise on {problem.devices[here].name}",
                "runner_up": None if best is None else f"table_wise on {problem.devices[others[best]].name}",
                "extra_ms": None if best is None else float(values[best]) - value,
            }
        )
    return found


def _writer(content: Callable[[Tensor], Any]) -> Writer:
    def write(x: Tensor, path: Path) -> None:
        write_text(path, json.dumps(content(x), indent=1, allow_nan=False) + "\n")

    return write
