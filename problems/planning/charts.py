"""Pictures of plans: the map (matplotlib), the interactive page (inline SVG and a little script), gap against time."""

from __future__ import annotations

import html
import json
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from problems.planning.instance import PlanningInstance
from problems.planning.judge import Verdict
from problems.planning.label_places import label_boxes
from problems.planning.plan import Plan

if TYPE_CHECKING:
    from problems.planning.decomposition import Bounds

_FONT = 11.0  # pixels, of names on the page
_RAMP = ("#2c7bb6", "#6fb1cf", "#bcdcc5", "#f6e8a6", "#f6a86b", "#d7191c")  # utilization 0 to 1, readable when gray


def utilization_color(share: float) -> str:
    """Color of a utilization: blue at 0, red at 1, linear in between."""
    share = min(max(share, 0.0), 1.0) * (len(_RAMP) - 1)
    low = min(int(share), len(_RAMP) - 2)
    a, b = (tuple(int(_RAMP[i][k : k + 2], 16) for k in (1, 3, 5)) for i in (low, low + 1))
    mixed = (round(p + (q - p) * (share - low)) for p, q in zip(a, b, strict=True))
    return "#" + "".join(f"{value:02x}" for value in mixed)


def positions(instance: PlanningInstance) -> np.ndarray:
    """[N, 2] places to draw: given ones (longitude shrunk by the mean latitude), else a spring layout."""
    if all(node.x is not None and node.y is not None for node in instance.nodes):
        place = np.array([[node.x, node.y] for node in instance.nodes], dtype=np.float64)
        if instance.is_geographic:
            place[:, 0] *= math.cos(math.radians(float(place[:, 1].mean())))
        return place
    import networkx as nx

    graph = nx.Graph([(link.source, link.target) for link in instance.links])
    graph.add_nodes_from(node.name for node in instance.nodes)
    layout = nx.spring_layout(graph, seed=0)
    return np.array([layout[node.name] for node in instance.nodes], dtype=np.float64)


def _curves(instance: PlanningInstance, place: np.ndarray) -> list[np.ndarray]:
    """Control point [2] of each link's curve: parallel links bend to different sides."""
    number = {node.name: i for i, node in enumerate(instance.nodes)}
    seen: dict[tuple[int, int], int] = {}
    points = []
    for link in instance.links:
        u, v = number[link.source], number[link.target]
        key = (min(u, v), max(u, v))
        rank = seen.get(key, 0)
        seen[key] = rank + 1
        middle, along = (place[key[0]] + place[key[1]]) / 2, place[key[1]] - place[key[0]]
        bend = 0.0 if rank == 0 else 0.18 * ((rank + 1) // 2) * (1 if rank % 2 else -1)
        points.append(middle + bend * np.array([-along[1], along[0]]))
    return points


def worst_state(verdict: Verdict) -> int:
    """Number of the state with the highest utilization (a state that is not survived comes first)."""
    keys = [
        (not s.is_survived, max(s.utilization.values(), default=0.0), sum(s.utilization.values()))
        for s in verdict.states
    ]
    failures = range(1, len(keys)) if len(keys) > 1 else range(len(keys))
    return max(failures, key=lambda i: keys[i], default=0)


def plan_map(instance: PlanningInstance, plan: Plan, verdict: Verdict, *, state: int | None = None) -> Any:
    """Matplotlib figure: width is capacity, color is utilization in one state (default the worst), failed links dashed.

    Args:
        instance: what was planned.
        plan: the plan.
        verdict: of the judge.
        state: number of a state in ``verdict.states``.
    """
    from matplotlib.collections import LineCollection
    from matplotlib.colors import LinearSegmentedColormap, Normalize
    from matplotlib.figure import Figure
    from matplotlib.path import Path

    state = worst_state(verdict) if state is None else state
    shown = verdict.states[state]
    place = positions(instance)
    controls = _curves(instance, place)
    number = {node.name: i for i, node in enumerate(instance.nodes)}
    total = [link.existing_gbps + g for link, g in zip(instance.links, plan.installed_gbps(instance), strict=True)]
    top = max(max(total, default=0.0), 1e-9)
    span = np.ptp(place, axis=0)
    figure = Figure(figsize=(9.0, min(10.0, max(5.0, 9.0 * float(span[1] / max(span[0], 1e-9))))), layout="constrained")
    axes = figure.add_subplot()
    ramp = LinearSegmentedColormap.from_list("utilization", _RAMP)
    lines, widths, colors, styles = [], [], [], []
    for i, link in enumerate(instance.links):
        ends = place[number[link.source]], place[number[link.target]]
        curve = Path([ends[0], controls[i], ends[1]], [Path.MOVETO, Path.CURVE3, Path.CURVE3])
        lines.append(
            curve.to_polygons(closed_only=False)[0] if (controls[i] != (ends[0] + ends[1]) / 2).any() else ends
        )
        is_up = link.name in shown.utilization
        widths.append((0.8 + 7.0 * math.sqrt(total[i] / top) if total[i] > 0 else 0.6) if is_up else 1.8)
        used = ramp(shown.utilization.get(link.name, 0.0)) if total[i] > 0 else "#9a9a9a"
        colors.append(used if is_up else "#111111")
        styles.append("solid" if is_up else (0, (2.5, 2.5)))
        if not is_up:  # the failure is the news: a cross on the link
            middle = 0.25 * ends[0] + 0.5 * controls[i] + 0.25 * ends[1]
            axes.plot(*middle, marker="X", markersize=11, color="#111111", markeredgecolor="white", zorder=5)
    axes.add_collection(LineCollection(lines, linewidths=widths, colors=colors, linestyles=styles, capstyle="round"))
    axes.scatter(place[:, 0], place[:, 1], s=26, color="white", edgecolors="#222222", linewidths=1.0, zorder=3)
    axes.set_aspect("equal")
    axes.margins(0.08)
    axes.set_axis_off()
    status = "" if shown.is_survived else ", NOT SURVIVED"
    axes.set_title(
        f"{instance.name}: cost {verdict.cost:,.0f}, {'feasible' if verdict.is_feasible else 'NOT feasible'}\n"
        f"color: utilization in state “{shown.failure}”{status} (dashed: down)   width: capacity, widest {top:,.0f} Gbps",
        fontsize=10,
        loc="left",
    )
    from matplotlib.cm import ScalarMappable

    bar = figure.colorbar(ScalarMappable(Normalize(0, 1), ramp), ax=axes, shrink=0.5, pad=0.01)
    bar.set_label("utilization of the busier direction")
    _label_nodes(axes, instance, place, controls)
    return figure


def _label_nodes(axes: Any, instance: PlanningInstance, place: np.ndarray, controls: Sequence[np.ndarray]) -> None:
    """Names beside their nodes, small where there are many."""
    figure = axes.figure
    figure.draw_without_rendering()  # the layout settles: from here on, points of the axes are points of the page
    size = 8.0 if len(place) <= 40 else 7.0
    unit = figure.dpi / 72.0 * size
    sizes = np.array([[0.62 * len(node.name) * unit, 1.25 * unit] for node in instance.nodes])
    curves = axes.transData.transform(_ends_and_controls(instance, place, controls).reshape(-1, 2)).reshape(-1, 3, 2)
    boxes = label_boxes(axes.transData.transform(place), sizes, curves, gap=0.7 * unit)
    middles = axes.transData.inverted().transform((boxes[:, :2] + boxes[:, 2:]) / 2)
    for node, middle in zip(instance.nodes, middles, strict=True):
        box = {"boxstyle": "square,pad=0.1", "facecolor": "white", "edgecolor": "none", "alpha": 0.7}
        axes.text(*middle, node.name, fontsize=size, ha="center", va="center", bbox=box, zorder=4)


def _ends_and_controls(instance: PlanningInstance, place: np.ndarray, controls: Sequence[np.ndarray]) -> np.ndarray:
    """[L, 3, 2] source, control point and target of each link's curve."""
    number = {node.name: i for i, node in enumerate(instance.nodes)}
    ends = [(place[number[link.source]], place[number[link.target]]) for link in instance.links]
    return np.array([[a, control, b] for (a, b), control in zip(ends, controls, strict=True)]).reshape(-1, 3, 2)


def gap_figure(trace: Sequence[Bounds]) -> Any:
    """Matplotlib figure of both bounds and the gap against seconds."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8.0, 5.5), layout="constrained")
    upper_axes, lower_axes = figure.subplots(2, 1, sharex=True, height_ratios=(2, 1))
    seconds = [b.seconds for b in trace]
    upper_axes.step(seconds, [b.upper if math.isfinite(b.upper) else np.nan for b in trace], where="post", label="plan")
    low = [b.lower if math.isfinite(b.lower) and b.lower > 0 else np.nan for b in trace]
    upper_axes.step(seconds, low, where="post", label="lower bound")
    upper_axes.set_ylabel("cost")
    upper_axes.legend(frameon=False)
    gaps = [100 * b.gap if math.isfinite(b.gap) else np.nan for b in trace]
    lower_axes.step(seconds, np.maximum(gaps, 1e-4), where="post", color="#444444")
    lower_axes.set_yscale("log")
    lower_axes.set_ylabel("gap (%)")
    lower_axes.set_xlabel("seconds")
    for axes in (upper_axes, lower_axes):
        axes.spines[["top", "right"]].set_visible(False)
    return figure


def plan_page(instance: PlanningInstance, plan: Plan, verdict: Verdict) -> str:
    """A self-contained HTML page: pick a state, point at a link. No network access, no library."""
    place = positions(instance)
    low, span = place.min(axis=0), np.maximum(np.ptp(place, axis=0), 1e-9)
    width = 960.0
    height = float(np.clip(width * span[1] / span[0], 360.0, 900.0))
    scale = min((width - 160) / span[0], (height - 90) / span[1])
    offset = (np.array([width, height]) - span * scale) / 2

    def spot(point: np.ndarray) -> list[float]:
        x, y = (point - low) * scale + offset
        return [round(float(x), 1), round(height - float(y), 1)]

    number = {node.name: i for i, node in enumerate(instance.nodes)}
    new = plan.installed_gbps(instance)
    links = [
        {
            "name": link.name,
            "a": spot(place[number[link.source]]),
            "b": spot(place[number[link.target]]),
            "c": spot(control),
            "gbps": round(link.existing_gbps + gbps, 6),
            "modules": list(row) if len(row) <= 12 else sum(row),
        }
        for link, gbps, row, control in zip(instance.links, new, plan.counts, _curves(instance, place), strict=True)
    ]
    names = label_boxes(
        (place - low) * scale + offset,
        np.array([[0.56 * _FONT * len(node.name), 1.2 * _FONT] for node in instance.nodes]),
        (_ends_and_controls(instance, place, _curves(instance, place)) - low) * scale + offset,
        gap=0.8 * _FONT,
    )
    middles = (names[:, :2] + names[:, 2:]) / 2
    states = [
        {
            "name": s.failure,
            "ok": s.is_survived,
            "use": [round(s.utilization[x.name], 4) if x.name in s.utilization else None for x in instance.links],
        }
        for s in verdict.states
    ]
    data = {
        "links": links,
        "nodes": [
            {"name": node.name, "p": spot(place[i]), "t": [round(float(x), 1), round(height - float(y), 1)]}
            for i, (node, (x, y)) in enumerate(zip(instance.nodes, middles, strict=True))
        ],
        "states": states,
        "worst": worst_state(verdict),
        "ramp": list(_RAMP),
        "size": [width, round(height, 1)],
    }
    facts = f"cost {verdict.cost:,.0f} · {'feasible' if verdict.is_feasible else 'NOT feasible'}"
    facts += f" · {sum(s.is_survived for s in verdict.states)} of {len(verdict.states)} states survived"
    if verdict.excused:
        facts += f" · excused (bridges): {len(verdict.excused)}"
    return (
        _PAGE.replace("@TITLE@", html.escape(instance.name))
        .replace("@FACTS@", html.escape(facts))
        .replace("@DATA@", json.dumps(data, separators=(",", ":")).replace("<", "\\u003c"))
    )


# ruff: noqa: E501 - the page below is one string
_PAGE = """<!doctype html><html lang="en"><head><meta charset="utf-8"><title>@TITLE@</title><style>
body{font:14px/1.4 system-ui,sans-serif;margin:1rem auto;max-width:1000px;color:#222;padding:0 1rem}
h1{font-size:1.2rem;margin:0}p{margin:.2rem 0 .6rem}svg{width:100%;height:auto;border:1px solid #ddd;background:#fcfcfc}
text{font-size:11px;paint-order:stroke;stroke:#fff;stroke-width:3px}path{fill:none;stroke-linecap:round;cursor:pointer}
path:hover,path:focus{filter:brightness(.75)}select{font:inherit;max-width:60%}#tip{min-height:1.4em}
.bar{display:inline-block;width:160px;height:12px;vertical-align:middle}
</style></head><body><h1>@TITLE@</h1><p>@FACTS@</p>
<p><label>State <select id="state"></select></label> <button id="worst" type="button">worst failure</button>
utilization 0 <span class="bar" id="bar"></span> 1 · width: capacity · dashed: down</p>
<svg id="map" role="img" aria-label="map of the plan"></svg><p id="tip" aria-live="polite">Point at a link.</p>
<script type="application/json" id="data">@DATA@</script><script>
"use strict";
const data=JSON.parse(document.getElementById("data").textContent),NS="http://www.w3.org/2000/svg";
const svg=document.getElementById("map"),pick=document.getElementById("state"),tip=document.getElementById("tip");
svg.setAttribute("viewBox","0 0 "+data.size.join(" "));
document.getElementById("bar").style.background="linear-gradient(90deg,"+data.ramp.join(",")+")";
const top_=Math.max(...data.links.map(l=>l.gbps),1e-9);
function rgb(h){return [1,3,5].map(i=>parseInt(h.slice(i,i+2),16));}
function color(s){s=Math.min(Math.max(s,0),1)*(data.ramp.length-1);const i=Math.min(Math.floor(s),data.ramp.length-2);
const a=rgb(data.ramp[i]),b=rgb(data.ramp[i+1]);return "rgb("+a.map((v,k)=>Math.round(v+(b[k]-v)*(s-i))).join(",")+")";}
function make(tag,attrs){const e=document.createElementNS(NS,tag);for(const k in attrs)e.setAttribute(k,attrs[k]);
svg.appendChild(e);return e;}
const paths=data.links.map((l,i)=>{const p=make("path",{d:`M${l.a} Q${l.c} ${l.b}`,tabindex:0,
"stroke-width":l.gbps>0?1+9*Math.sqrt(l.gbps/top_):.8});
const say=()=>{const s=data.states[+pick.value],u=s.use[i];tip.textContent=`${l.name}: ${l.gbps.toLocaleString()} Gbps, `+
`modules ${l.modules}; `+(u===null?"down":`${(100*u).toFixed(1)} % used`)+` in state "${s.name}"`;};
p.addEventListener("mouseenter",say);p.addEventListener("focus",say);
p.addEventListener("click",()=>{const k=data.states.findIndex(s=>s.use[i]===null);if(k>=0){pick.value=k;show();say();}});
return p;});
for(const n of data.nodes){make("circle",{cx:n.p[0],cy:n.p[1],r:4.5,fill:"#fff",stroke:"#222"});
const t=make("text",{x:n.t[0],y:n.t[1],"text-anchor":"middle","dominant-baseline":"central"});t.textContent=n.name;}
data.states.forEach((s,k)=>{const o=document.createElement("option");o.value=k;
o.textContent=s.name+(s.ok?"":" (NOT survived)");pick.appendChild(o);});
function show(){const s=data.states[+pick.value];paths.forEach((p,i)=>{const u=s.use[i],l=data.links[i];
p.setAttribute("stroke",u===null?"#111":l.gbps>0?color(u):"#9a9a9a");p.setAttribute("stroke-dasharray",u===null?"2 8":"none");
p.setAttribute("stroke-width",u===null?3:l.gbps>0?1+9*Math.sqrt(l.gbps/top_):.8);});}
pick.addEventListener("change",show);
document.getElementById("worst").addEventListener("click",()=>{pick.value=data.worst;show();});
pick.value=data.worst;show();
</script></body></html>
"""
