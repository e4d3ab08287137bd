"""Plans as files: experts of every GPU, and the maps between logical and physical experts that serving engines load."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from problems.moe.instance import Index
from problems.moe.spec import experts_of_gpus
from surco.atomic import write_text
from surco.errors import InvalidInputError

if TYPE_CHECKING:
    from problems.moe.problem import ExpertPlacement


def exports(problem: ExpertPlacement) -> Mapping[str, Callable[[Tensor, Path], None]]:
    """Kind -> writer of one design x [n]."""
    return {
        "json": lambda x, path: write_text(path, json.dumps(plan_json(problem, x))),
        "eplb": lambda x, path: write_text(path, json.dumps(eplb_json(problem, x))),
    }


def plan_json(problem: ExpertPlacement, x: Tensor) -> dict[str, Any]:
    """Experts of every GPU in every layer, and what the plan is worth; ``experts`` can be read back as ``current``."""
    return {
        "id": problem.id,
        "gpus": problem.cluster.gpus,
        "nodes": problem.cluster.nodes,
        "slots": problem.cluster.slots,
        "experts": experts_of_gpus(problem.plan_of(x)),
        "value": float(problem.objective(x)),
        "metrics": dict(problem.metrics(x)),
    }


def eplb_json(problem: ExpertPlacement, x: Tensor) -> dict[str, Any]:
    """The three maps that EPLB returns, as lists.

    ``physical_to_logical_map`` [L, G S], ``logical_to_physical_map`` [L, E, most copies] filled up with -1, and
    ``logical_count`` [L, E]. Engines want an expert in every slot, so empty ones are filled, see `fill`.
    """
    physical = np.stack([fill(problem, plan, loads) for plan, loads in zip(
        problem.plan_of(x), problem.routing.loads, strict=True
    )])  # fmt: skip
    layers, experts = problem.routing.layers, problem.routing.experts
    count = np.stack([np.bincount(row, minlength=experts) for row in physical])
    logical = np.full((layers, experts, int(count.max())), -1, dtype=np.int64)
    for layer, row in enumerate(physical):
        for expert in range(experts):
            slots = np.flatnonzero(row == expert)
            logical[layer, expert, : len(slots)] = slots
    return {
        "physical_to_logical_map": physical.tolist(),
        "logical_to_physical_map": logical.tolist(),
        "logical_count": count.tolist(),
    }


def fill(problem: ExpertPlacement, plan: NDArray[np.bool_], loads: NDArray[np.float64]) -> Index:
    """Expert of every physical slot, GPU by GPU, [G S]: empty slots take the lightest experts that the GPU lacks.

    Their copies then share the load of those experts too, which changes the value of the plan by little; the design
    itself leaves such slots empty.

    Raises:
        InvalidInputError: more slots on a GPU than experts, or no expert may have another copy.
    """
    slots = problem.cluster.slots
    plan = plan.copy()
    for gpu in range(problem.cluster.gpus):
        while plan[:, gpu].sum() < slots:
            copies = plan.sum(axis=1)
            is_open = ~plan[:, gpu] & (copies < problem.most)
            if not is_open.any():
                raise InvalidInputError(f"No expert may have another copy to fill GPU {gpu}. Ask for fewer slots.")
            plan[np.where(is_open, loads / copies, np.inf).argmin(), gpu] = True
    return np.concatenate([np.flatnonzero(plan[:, gpu]) for gpu in range(problem.cluster.gpus)])
