"""Plans out: JSON, CSV, routing per failure, GeoJSON, and the certificate that anyone can check by addition."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor

from problems.planning.charts import plan_map, plan_page, utilization_color
from problems.planning.instance import PlanningInstance
from problems.planning.judge import Verdict, judge
from problems.planning.plan import Plan
from surco.atomic import write_text
from surco.errors import InvalidInputError

if TYPE_CHECKING:
    from problems.planning.problem import PlanningProblem


def exports(problem: PlanningProblem) -> Mapping[str, Callable[[Tensor, Path], None]]:
    """Kind -> writer of one design x [n]; ``geojson`` only where the positions are longitude and latitude.

    The certificate has a bound where the objective is the price and the engine has proven one in this process.
    """
    instance = problem.instance

    def writer(text: Callable[[Plan, Verdict], str]) -> Callable[[Tensor, Path], None]:
        return lambda x, path: write_text(path, text(problem.plan(x), problem.verdict(x)))

    def certified(plan: Plan, verdict: Verdict) -> str:
        bound = problem.engine.lower if problem.objective_is_price else -math.inf
        known = bound if math.isfinite(bound) else None
        return _dumps(certificate(instance, plan, verdict, bound=known))

    kinds = {
        "json": writer(lambda plan, verdict: _dumps(plan.to_json(instance))),
        "csv": writer(lambda plan, verdict: plan_csv(instance, plan, verdict)),
        "routing": writer(lambda plan, verdict: _dumps(routing_json(verdict))),
        "certificate": writer(certified),
        "map": writer(lambda plan, verdict: plan_page(instance, plan, verdict)),
    }
    if instance.is_geographic:
        kinds["geojson"] = writer(lambda plan, verdict: _dumps(geojson(instance, plan, verdict)))
    return kinds


def plan_csv(instance: PlanningInstance, plan: Plan, verdict: Verdict) -> str:
    """One row per link: ends, capacities, modules, price, utilization intact and at worst."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(
        [
            "link",
            "source",
            "target",
            "existing_gbps",
            "new_gbps",
            "total_gbps",
            "modules",
            "price",
            "utilization_intact",
            "utilization_worst",
        ]
    )
    intact = verdict.states[0].utilization
    for link, row, gbps in zip(instance.links, plan.counts, plan.installed_gbps(instance), strict=True):
        price = sum(k * m.cost for k, m in zip(row, link.modules, strict=True)) + link.setup_cost * any(row)
        worst = max((s.utilization.get(link.name, 0.0) for s in verdict.states), default=0.0)
        writer.writerow(
            [
                link.name,
                link.source,
                link.target,
                link.existing_gbps,
                gbps,
                link.existing_gbps + gbps,
                " ".join(map(str, row)),
                price,
                round(intact.get(link.name, 0.0), 6),
                round(worst, 6),
            ]
        )
    return out.getvalue()


def routing_json(verdict: Verdict) -> dict[str, Any]:
    """Paths and Gbps of every demand in every state that is survived."""
    return {
        "format": "surco-routing/1",
        "states": [
            {
                "failure": s.failure,
                "is_survived": s.is_survived,
                "not_carried": [list(pair) for pair in s.lost],
                "demands": [
                    {"source": u, "target": v, "paths": [{"links": list(path), "gbps": gbps} for path, gbps in paths]}
                    for (u, v), paths in sorted(s.routing.items())
                ],
            }
            for s in verdict.states
        ],
    }


def certificate(
    instance: PlanningInstance, plan: Plan, verdict: Verdict, *, bound: float | None = None
) -> dict[str, Any]:
    """What is claimed and why: cost, bound, per state its largest utilization or the proof that it fails."""
    return {
        "format": "surco-certificate/1",
        "instance": instance.name,
        "provenance": instance.provenance,
        "cost": verdict.cost,
        "lower_bound": bound,
        "gap": None if bound is None else max(0.0, verdict.cost - bound) / max(abs(verdict.cost), 1e-12),
        "is_feasible": verdict.is_feasible,
        "broken_rules": list(verdict.broken_rules),
        "excused_failures": list(verdict.excused),
        "modules": {link.name: list(row) for link, row in zip(instance.links, plan.counts, strict=True)},
        "states": [
            {
                "failure": s.failure,
                "is_survived": s.is_survived,
                "largest_utilization": max(s.utilization.values(), default=0.0),
                "proof": {name: list(pair) for name, pair in s.proof.items()},
            }
            for s in verdict.states
        ],
    }


def geojson(instance: PlanningInstance, plan: Plan, verdict: Verdict) -> dict[str, Any]:
    """Nodes and links as GeoJSON (RFC 7946) with capacities and utilization.

    Raises:
        InvalidInputError: the instance's positions are not longitude and latitude.
    """
    if not instance.is_geographic:
        raise InvalidInputError(f"{instance.name!r} has no geographic positions, so there is no GeoJSON of it.")
    place = {node.name: [node.x, node.y] for node in instance.nodes}
    features: list[dict[str, Any]] = [
        {"type": "Feature", "geometry": {"type": "Point", "coordinates": at}, "properties": {"name": name}}
        for name, at in place.items()
    ]
    for link, gbps in zip(instance.links, plan.installed_gbps(instance), strict=True):
        worst = max((s.utilization.get(link.name, 0.0) for s in verdict.states), default=0.0)
        line = {"type": "LineString", "coordinates": [place[link.source], place[link.target]]}
        properties = {
            "name": link.name,
            "new_gbps": gbps,
            "total_gbps": link.existing_gbps + gbps,
            "utilization_worst": round(worst, 6),
            "stroke": utilization_color(worst),
        }
        features.append({"type": "Feature", "geometry": line, "properties": properties})
    return {"type": "FeatureCollection", "features": features}


def save_plan(
    folder: str | Path,
    instance: PlanningInstance,
    plan: Plan,
    *,
    verdict: Verdict | None = None,
    bound: float | None = None,
) -> Path:
    """Write everything about a plan into ``folder`` and return it.

    plan.json, plan.csv, routing.json, certificate.json, instance.json, map.png, map.html, and plan.geojson where
    positions are geographic.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    verdict = judge(instance, plan) if verdict is None else verdict
    texts = {
        "plan.csv": plan_csv(instance, plan, verdict),
        "map.html": plan_page(instance, plan, verdict),
        "plan.json": _dumps(plan.to_json(instance)),
        "routing.json": _dumps(routing_json(verdict)),
        "certificate.json": _dumps(certificate(instance, plan, verdict, bound=bound)),
        "instance.json": _dumps(instance.to_spec()),
    }
    if instance.is_geographic:
        texts["plan.geojson"] = _dumps(geojson(instance, plan, verdict))
    for name, text in texts.items():
        (folder / name).write_text(text, encoding="utf-8")
    plan_map(instance, plan, verdict).savefig(folder / "map.png", dpi=130)
    return folder


def _dumps(data: Any) -> str:
    return json.dumps(data, indent=1, allow_nan=False) + "\n"
