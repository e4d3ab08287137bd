"""An expert placement in words and pictures."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import Tensor

from surco.bridge import to_numpy

if TYPE_CHECKING:
    from problems.moe.problem import ExpertPlacement

MAX_LAYERS_IN_WORDS = 16
MAX_NODES_IN_WORDS = 16
MAX_LAYERS_IN_FIGURES = 2


def describe(problem: ExpertPlacement, x: Tensor) -> str:
    """One line about the plan, one a layer, and for a single layer one a node."""
    cluster, routing = problem.cluster, problem.routing
    plan, shares = problem.plan_of(x), problem.cost.shares(x)
    loads = to_numpy(problem.cost.gpu_loads(shares))
    further = to_numpy(problem.cost.further_nodes(shares))
    bounds = problem.load_bounds()
    traffic = "no tokens recorded, traffic left out"
    if routing.has_tokens:
        traffic = f"traffic weight {problem.traffic_weight:g}, from {routing.tokens.shape[1]} recorded tokens a layer"
    lines = [
        f"{routing.experts} experts in {cluster.gpus * cluster.slots} slots on {cluster.gpus} GPUs of {cluster.nodes} "
        f"nodes, {routing.layers} layer{'s' if routing.layers > 1 else ''}; {traffic}"
    ]
    for layer in range(min(routing.layers, MAX_LAYERS_IN_WORDS)):
        busiest = int(loads[layer].argmax())
        here = np.flatnonzero(plan[layer, :, busiest])
        copies = plan[layer].sum(axis=1)
        names = ", ".join(f"{e} (1 of {copies[e]})" if copies[e] > 1 else f"{e}" for e in here)
        lines.append(
            f"  layer {layer}: largest load {loads[layer].max():.4f} of the mean (at least {bounds[layer]:.4f} is "
            f"proven) on GPU {busiest} with experts {names}; {further[layer]:.3f} further nodes per token; "
            f"{int(copies.sum())} copies, {int(copies.max())} of expert {int(copies.argmax())}"
        )
    if routing.layers > MAX_LAYERS_IN_WORDS:
        lines.append(f"  and {routing.layers - MAX_LAYERS_IN_WORDS} more layers")
    if routing.layers == 1 and cluster.nodes > 1:
        for node in range(min(cluster.nodes, MAX_NODES_IN_WORDS)):
            part = loads[0].reshape(cluster.nodes, -1)[node]
            held = int(plan[0].reshape(routing.experts, cluster.nodes, -1)[:, node].any(axis=1).sum())
            lines.append(
                f"  node {node}: GPU loads {part.min():.3f} to {part.max():.3f} of the mean, {held} different experts"
            )
        if cluster.nodes > MAX_NODES_IN_WORDS:
            lines.append(f"  and {cluster.nodes - MAX_NODES_IN_WORDS} more nodes")
    if problem.migration is not None:
        moved = int((plan & ~problem.migration.current).sum())
        lines.append(f"  {moved} copies move to a GPU that does not hold them now (cap {problem.migration.cap})")
    return "\n".join(lines)


def traffic_matrix(problem: ExpertPlacement, x: Tensor) -> np.ndarray:
    """[L, N, N] tokens sent from node (row) to node (column), as a share of all tokens; the diagonal stays inside."""
    chances = to_numpy(problem.cost.node_chances(problem.cost.shares(x)))  # [L, N]
    nodes = problem.cluster.nodes
    return np.repeat(chances[:, None, :], nodes, axis=1) / nodes  # tokens start evenly, so all rows are alike


def figures(problem: ExpertPlacement, x: Tensor) -> Mapping[str, Any]:
    """Title -> Figure: the load of every GPU, and tokens between nodes, of the first layers."""
    from matplotlib.figure import Figure

    loads = to_numpy(problem.cost.gpu_loads(problem.cost.shares(x)))
    found: dict[str, Any] = {}
    gpus, nodes = problem.cluster.gpus, problem.cluster.nodes
    for layer in range(min(problem.routing.layers, MAX_LAYERS_IN_FIGURES)):
        suffix = f", layer {layer}" if problem.routing.layers > 1 else ""
        figure = Figure(figsize=(float(np.clip(2.0 + 0.13 * gpus, 5.0, 14.0)), 3.0), layout="constrained")
        axes = figure.subplots()
        colors = ["#0072B2" if node % 2 == 0 else "#56B4E9" for node in problem.cluster.node_of]
        axes.bar(np.arange(gpus), loads[layer], color=colors, width=0.85)
        axes.axhline(1.0, color="black", linewidth=0.9, linestyle="--")
        axes.set_xlabel("GPU, one shade a node")
        axes.set_ylabel("load / mean load")
        axes.set_xlim(-0.7, gpus - 0.3)
        for side in ("top", "right"):
            axes.spines[side].set_visible(False)
        found[f"Load of every GPU{suffix}"] = figure
        if problem.routing.has_tokens and nodes > 1:
            found[f"Tokens between nodes{suffix}"] = _matrix_figure(100.0 * traffic_matrix(problem, x)[layer])
    return found


def _matrix_figure(percent: np.ndarray) -> Any:
    from matplotlib.figure import Figure

    nodes = len(percent)
    size = float(np.clip(2.0 + 0.35 * nodes, 3.2, 8.0))
    figure = Figure(figsize=(size + 1.0, size), layout="constrained")
    axes = figure.subplots()
    shown = np.where(np.eye(nodes, dtype=bool), np.nan, percent)  # what stays in its node does not travel
    image = axes.imshow(shown, cmap="viridis", vmin=0.0)
    axes.set_xlabel("to node")
    axes.set_ylabel("from node")
    ticks = np.arange(0, nodes, max(1, nodes // 8))
    axes.set_xticks(ticks)
    axes.set_yticks(ticks)
    figure.colorbar(image, ax=axes, label="% of all tokens")
    return figure
