"""An instance compiled to arrays: integer variables, side rules, and the scenarios that bind.

Letters: N nodes, m links, e edges (node pairs that links join; parallel links share one), n integer variables,
S scenarios. Capacity of a link is ``offset + per_unit @ x``, already times the load factor.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from problems.planning.instance import Disconnection, Failure, PlanningInstance
from problems.planning.modules import useful_modules
from surco.errors import InfeasibleError, InvalidInputError

Array = NDArray[np.float64]


COVER = -1  # a variable that rules of the form a.x <= p y force up: set-up of a link, chassis of a node
STEP = -2  # the k-th unit of a link is there (0 or 1), for prices that are not linear


@dataclass(frozen=True, slots=True)
class Scenario:
    """One state of the network that a plan must survive.

    Attributes:
        name: of the failure; "no failure" for the intact network.
        alive: [m] bool, links that are up.
        demand: [N, N] Gbps from row to column that must be carried.
        dropped: demands that this state is excused from, as (source, target) names.
    """

    name: str
    alive: NDArray[np.bool_]
    demand: Array
    dropped: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True, eq=False, weakref_slot=True)
class Network:
    """Arrays of an instance.

    Attributes:
        link_ends: [m, 2] node numbers.
        link_edge: [m] edge of each link; ``edges`` [e, 2] node numbers, smaller first.
        is_transit: [N] bool.
        variable_link: [n] link of each variable.
        variable_module: [n] number of the module in the instance's link, or ``COVER`` or ``STEP``.
        gbps: [n] usable capacity that one unit of the variable adds (0 for a cover or step variable).
        cost: [n], what is minimized; module_cost: [n], the module's price in the instance (0 for the others).
        upper: [n] largest sensible value.
        offset: [m] usable existing capacity.
        rows, limits, row_names: side rules ``rows @ x <= limits``.
        scenarios: all states that must be survived, the intact one first.
        skipped: names of failures left out because they disconnect a demand.
        is_symmetric: every scenario's demand equals its transpose (then one direction is enough).
    """

    instance: PlanningInstance
    link_ends: NDArray[np.int64]
    link_edge: NDArray[np.int64]
    edges: NDArray[np.int64]
    is_transit: NDArray[np.bool_]
    variable_link: NDArray[np.int64]
    variable_module: NDArray[np.int64]
    gbps: Array
    cost: Array
    module_cost: Array
    upper: Array
    offset: Array
    rows: Array
    limits: Array
    row_names: tuple[str, ...]
    scenarios: tuple[Scenario, ...]
    skipped: tuple[str, ...]
    is_symmetric: bool

    def __repr__(self) -> str:
        sizes = f"{len(self.is_transit)} nodes, {self.n_links} links, {self.n} variables"
        return f"Network({self.instance.name!r}: {sizes}, {len(self.scenarios)} scenarios)"

    @property
    def n(self) -> int:
        """Number of integer variables."""
        return len(self.cost)

    @property
    def n_links(self) -> int:
        """Number of links m."""
        return len(self.link_edge)

    def capacities(self, x: Array) -> Array:
        """Usable Gbps per link and direction, x [..., n] -> [..., m]."""
        x = np.asarray(x, dtype=np.float64)
        result = np.broadcast_to(self.offset, (*x.shape[:-1], self.n_links)).copy()
        flat, values = result.reshape(-1, self.n_links), (x * self.gbps).reshape(-1, self.n)
        for j in range(self.n):
            flat[:, self.variable_link[j]] += values[:, j]
        return flat.reshape(result.shape)

    def complete(self, x: Array) -> Array:
        """X [n] with its cover and step variables set to what its modules need."""
        result = np.array(x, dtype=np.float64)
        is_module = self.variable_module >= 0
        for j in np.flatnonzero(self.variable_module == COVER):
            rules = np.flatnonzero(self.rows[:, j] < 0.0)
            used = np.maximum(self.rows[rules][:, is_module], 0.0) @ result[is_module]
            result[j] = np.ceil((used / -self.rows[rules, j]).max(initial=0.0) - 1e-9)
        steps = np.flatnonzero(self.variable_module == STEP)
        if len(steps):
            count = np.bincount(self.variable_link[is_module], result[is_module], self.n_links)
            links = self.variable_link[steps]
            rank = np.arange(len(steps)) - np.searchsorted(links, links)
            result[steps] = rank < np.round(count[links])
        return result

    def to_variables(self, per_link: Array) -> Array:
        """Coefficients on links [..., m] (per usable Gbps) -> coefficients on variables [..., n]."""
        return np.asarray(per_link)[..., self.variable_link] * self.gbps

    def edge_capacities(self, capacities: Array, scenario: Scenario) -> Array:
        """[m] link capacities -> [e] summed over the parallel links that are up."""
        return np.bincount(self.link_edge, np.where(scenario.alive, capacities, 0.0), len(self.edges)).astype(
            np.float64
        )


def compile_instance(instance: PlanningInstance) -> Network:
    """Compile.

    Raises:
        InfeasibleError: a demand has no path even without failure, or a failure disconnects one and the instance
            refuses that.
    """
    number = {node.name: i for i, node in enumerate(instance.nodes)}
    ends = np.array([[number[x.source], number[x.target]] for x in instance.links], dtype=np.int64).reshape(-1, 2)
    pairs = np.sort(ends, axis=1)
    edges, link_edge = np.unique(pairs, axis=0, return_inverse=True) if len(pairs) else (pairs, np.zeros(0, np.int64))
    transit = np.array([node.has_transit for node in instance.nodes], dtype=bool)
    scenarios, skipped = _scenarios(instance, number, ends, transit)
    symmetric = all(np.array_equal(s.demand, s.demand.T) for s in scenarios)
    most = max(float(s.demand.sum()) for s in scenarios) / (2.0 if symmetric else 1.0)
    variables = _variables(instance, most)
    return Network(
        instance=instance,
        link_ends=ends,
        link_edge=link_edge.reshape(-1).astype(np.int64),
        edges=edges,
        is_transit=transit,
        offset=np.array([x.existing_gbps * instance.load_factor for x in instance.links], dtype=np.float64),
        scenarios=scenarios,
        skipped=skipped,
        is_symmetric=symmetric,
        **variables,
    )


def _variables(instance: PlanningInstance, most_gbps: float) -> dict[str, Any]:
    """Columns and side rows."""
    link_of, module_of, gbps, raw, cost, upper = [], [], [], [], [], []
    for i, link in enumerate(instance.links):
        for k in useful_modules(link):
            module = link.modules[k]
            room = (most_gbps / instance.load_factor - link.existing_gbps) / module.capacity_gbps
            bound = max(0.0, np.ceil(room - 1e-9))
            if link.max_gbps is not None:
                bound = min(bound, np.floor((link.max_gbps - link.existing_gbps) / module.capacity_gbps + 1e-9))
            link_of.append(i)
            module_of.append(k)
            raw.append(module.capacity_gbps)
            gbps.append(module.capacity_gbps * instance.load_factor)
            cost.append(module.cost)
            upper.append(min(bound, 1.0) if link.is_exclusive else bound)
    n_modules = len(cost)
    for i, link in enumerate(instance.links):
        if link.setup_cost > 0.0 and i in link_of:
            link_of.append(i)
            module_of.append(COVER)
            raw.append(0.0)
            gbps.append(0.0)
            cost.append(link.setup_cost)
            upper.append(1.0)
    link_array, raw_array = np.array(link_of, dtype=np.int64), np.array(raw, dtype=np.float64)
    rows, limits, names = [], [], []

    def add(row: Array, limit: float, name: str) -> None:
        rows.append(row)
        limits.append(limit)
        names.append(name)

    installed = np.zeros((len(instance.links), len(cost)))
    installed[link_array, np.arange(len(cost))] = raw_array
    for i, link in enumerate(instance.links):
        mine = (link_array == i) & (np.arange(len(cost)) < n_modules)
        if link.max_gbps is not None and mine.sum() > 1 and not link.is_exclusive:
            add(installed[i], link.max_gbps - link.existing_gbps, f"largest capacity of link {link.name}")
        if link.is_exclusive and mine.sum() > 1:
            add(mine.astype(np.float64), 1.0, f"one module on link {link.name}")
        setup = np.flatnonzero((link_array == i) & (np.arange(len(cost)) >= n_modules))
        if len(setup):
            for j in np.flatnonzero(mine):
                row = np.zeros(len(cost))
                row[j], row[setup[0]] = 1.0, -max(upper[j], 1.0)
                add(row, 0.0, f"set-up of link {link.name}")
    for fiber in instance.fibers:
        over = [i for i, link in enumerate(instance.links) if fiber.name in link.fibers]
        if not over:
            continue
        if fiber.is_leased and fiber.lease_gbps is not None:
            used = sum(instance.links[i].existing_gbps for i in over)
            add(installed[over].sum(axis=0), fiber.lease_gbps - used, f"lease of fiber {fiber.name}")
        elif not fiber.is_leased and fiber.spectrum_ghz is not None:
            weights = np.array([instance.links[i].ghz_on(fiber.name) for i in over])
            used = sum(instance.links[i].ghz_on(fiber.name) * instance.links[i].existing_gbps for i in over)
            add(weights @ installed[over], fiber.spectrum_ghz - used, f"spectrum of fiber {fiber.name}")
    for row, limit in zip(rows, limits, strict=True):  # each rule alone bounds its variables
        if (row >= 0.0).all():
            mine = row > 0.0
            alone = np.maximum(np.floor(limit / row[mine] + 1e-9), 0.0)
            top = np.array(upper)
            top[mine] = np.minimum(top[mine], alone)
            upper = top.tolist()
    return {
        "variable_link": link_array,
        "variable_module": np.array(module_of, dtype=np.int64),
        "gbps": np.array(gbps, dtype=np.float64),
        "cost": np.array(cost, dtype=np.float64),
        "module_cost": np.where(np.array(module_of) >= 0, np.array(cost, dtype=np.float64), 0.0),
        "upper": np.array(upper, dtype=np.float64),
        "rows": np.array(rows, dtype=np.float64).reshape(-1, len(cost)),
        "limits": np.array(limits, dtype=np.float64),
        "row_names": tuple(names),
    }


def _scenarios(
    instance: PlanningInstance, number: dict[str, int], ends: NDArray[np.int64], transit: NDArray[np.bool_]
) -> tuple[tuple[Scenario, ...], tuple[str, ...]]:
    intact = Failure("no failure", services=instance.services)
    kept, skipped = [], []
    for failure in (intact, *instance.failures):
        alive = alive_links(instance, failure)
        demand = demand_matrix(instance, failure, number)
        reach = reachability(len(number), ends[alive], transit)
        cut = np.argwhere((demand > 0.0) & ~reach)
        names = tuple((instance.nodes[u].name, instance.nodes[v].name) for u, v in cut)
        if len(cut):
            u, v = names[0]
            if failure is intact:
                raise InfeasibleError(f"Demand {u}-{v} has no path even without failure. Add links or drop the demand.")
            if instance.on_disconnection is Disconnection.REFUSE:
                raise InfeasibleError(
                    f"Failure {failure.name!r} disconnects {u} from {v} whatever the capacities (a bridge). "
                    "Add a link, or set on_disconnection to 'skip' or 'drop'."
                )
            if instance.on_disconnection is Disconnection.SKIP:
                skipped.append(failure.name)
                continue
            demand[cut[:, 0], cut[:, 1]] = 0.0
        kept.append(Scenario(failure.name, alive, demand, names))
    return tuple(kept), tuple(skipped)


def alive_links(instance: PlanningInstance, failure: Failure) -> NDArray[np.bool_]:
    """[m] bool: links that are up in ``failure``."""
    links, fibers, nodes = set(failure.links), set(failure.fibers), set(failure.nodes)
    return np.array(
        [
            not (x.name in links or x.source in nodes or x.target in nodes or fibers.intersection(x.fibers))
            for x in instance.links
        ],
        dtype=bool,
    )


def demand_matrix(instance: PlanningInstance, failure: Failure, number: dict[str, int]) -> Array:
    """[N, N] Gbps that must be carried in ``failure``."""
    unknown = set(failure.services or ()) - {d.service for d in instance.demands}
    if unknown and instance.demands:
        raise InvalidInputError(f"Failure {failure.name!r}: no demand has the service class {sorted(unknown)[0]!r}.")
    result = np.zeros((len(number), len(number)))
    for d in instance.demands:
        if failure.services is not None and d.service not in failure.services:
            continue
        if d.source in failure.nodes or d.target in failure.nodes:
            continue
        result[number[d.source], number[d.target]] += d.gbps
        if instance.is_two_way:
            result[number[d.target], number[d.source]] += d.gbps
    return result


def reachability(n_nodes: int, ends: NDArray[np.int64], transit: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """[N, N] bool: whether a path leads from row to column that passes transit nodes only."""
    reach = np.eye(n_nodes, dtype=bool)
    reach[ends[:, 0], ends[:, 1]] = True
    reach[ends[:, 1], ends[:, 0]] = True
    for k in np.flatnonzero(transit):
        reach |= reach[:, k : k + 1] & reach[k : k + 1, :]
    return reach
