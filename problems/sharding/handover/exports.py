"""Plans as files: our JSON with reasons, TorchRec's plan, FBGEMM's tables of each rank, DLRM's one rank per table."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from problems.sharding.handover.shards import dlrm_ranks, fbgemm_tables
from problems.sharding.handover.text import sharding_plan_text
from problems.sharding.joint.plan import JointPlan
from problems.sharding.tables import Table
from surco.atomic import write_text

Writer = Callable[[Tensor, Path], None]


def exports(
    tables: Sequence[Table], plan_of: Callable[[Tensor], JointPlan], reasons: Callable[[Tensor], list[Any]] | None
) -> Mapping[str, Writer]:
    """Kind -> writer of one design x [n].

    * ``json``: the plan, and for each table the chosen type, the runner-up and its cost, where ``reasons`` has them;
    * ``torchrec``: the JSON form of a ``ShardingPlan`` for CUDA devices, see ``problems.sharding.handover.text``;
    * ``torchrec_cpu``: the same for gloo processes on CPUs;
    * ``fbgemm``: per rank the name, rows and dim of each block;
    * ``dlrm``: one rank per table; a table-wise plan only.
    """

    def plan_with_reasons(x: Tensor) -> dict[str, Any]:
        plan = plan_of(x).to_json()
        return plan if reasons is None else {**plan, "reasons": reasons(x)}

    kinds: dict[str, Callable[[Tensor], Any]] = {
        "json": plan_with_reasons,
        "torchrec": lambda x: sharding_plan_text(plan_of(x), tables),
        "torchrec_cpu": lambda x: sharding_plan_text(plan_of(x), tables, device_type="cpu"),
        "fbgemm": lambda x: {"ranks": fbgemm_tables(plan_of(x), tables)},
        "dlrm": lambda x: dlrm_ranks(plan_of(x)),
    }
    return {kind: _writer(content) for kind, content in kinds.items()}


def _writer(content: Callable[[Tensor], Any]) -> Writer:
    def write(x: Tensor, path: Path) -> None:
        write_text(path, json.dumps(content(x), indent=1, allow_nan=False) + "\n")

    return write
