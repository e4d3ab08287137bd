"""Network planning as a Gymnasium environment, one network at a time."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from problems.planning.domain import DOMAIN
from problems.planning.instance import PlanningInstance
from problems.planning.network import compile_instance
from rl import features
from rl.game_rules import GameRules
from rl.planning_game import N_CONTEXT, N_LINK, N_NODE, PlanningGame
from rl.topology import Topology
from surco.errors import InvalidInputError

ID = "surco/NetworkPlanning-v0"
DEFAULT_PROBLEMS = ("planning/abilene-v0",)

Source = str | PlanningInstance | Topology


def topologies_of(sources: Sequence[Source]) -> list[Topology]:
    """Topologies of problem ids, instances, or topologies (which are then shared)."""
    if isinstance(sources, (str, PlanningInstance, Topology)):
        raise InvalidInputError(
            f"Expected a list of problems, got one {type(sources).__name__}. Try `[...]` around it."
        )
    result = []
    for source in sources:
        if isinstance(source, str):
            result.append(Topology(DOMAIN.make(source).network))
        elif isinstance(source, PlanningInstance):
            result.append(Topology(compile_instance(source)))
        else:
            result.append(source)
    return result


def observation_space(n_nodes: int, n_options: int, heads: int) -> spaces.Dict:
    """Space of one environment's observations; see :class:`NetworkPlanningEnv`."""

    def box(*shape: int, low: float = -features.CLIP, high: float = features.CLIP) -> spaces.Box:
        return spaces.Box(low, high, shape, np.float32)

    return spaces.Dict(
        {
            "nodes": box(n_nodes, N_NODE),
            "links": box(n_options, N_LINK),
            "context": box(N_CONTEXT),
            "ends": spaces.Box(0, max(n_nodes - 1, 0), (n_options, 2), np.int64),
            "node_mask": box(n_nodes, low=0.0, high=1.0),
            "link_mask": box(n_options, low=0.0, high=1.0),
            "action_mask": box(n_options * heads, low=0.0, high=1.0),
        }
    )


class NetworkPlanningEnv(gymnasium.Env[dict[str, NDArray[Any]], np.int64]):
    """Plan a survivable network, module by module.

    **Observation** (``Dict``; N nodes and M options after padding): ``nodes`` [N, ...] and ``links`` [M, ...] float32
    with the columns of :mod:`rl.features`, ``context`` float32, ``ends`` [M, 2] node numbers, ``node_mask`` [N],
    ``link_mask`` [M], and ``action_mask`` [M * heads], 1 where an action is allowed. An option is a module size on a
    link, in most networks simply the link.

    **Action** (``Discrete(M * heads)``): ``option * heads + h`` adds the h-th size of ``units`` (and with
    ``allow_remove`` the second half of the heads takes it away). Masked are actions that break a rule and those that
    help no violated cut. A masked action changes nothing and costs ``illegal_price``.

    **Reward**: minus the price of the step over the lower bound of the instance, so that a return of -1.1 means a plan
    at most 10 % above the optimum; plus ``shaping`` times the change of the worst cut's ratio, the same sum for every
    plan. An episode without a plan loses ``failure_price`` and the share that is missing.

    **End**: terminated when the network survives every failure (cuts first, linear programs last) or when no action is
    left; truncated after one and a half times the units of the shortest-path plan and two steps an option.

    **Info** at the end: ``cost``, ``cost_over_bound``, ``is_feasible``, ``is_proven``, ``plan`` (variables [n]).

    Args:
        problems: ids, instances or topologies to draw from, one an episode.
        rules: of the game; keyword arguments of :class:`GameRules` may be given instead.
        padding: (nodes, options) of the observation; default the largest of the problems.
        others: of :class:`GameRules`.
    """

    metadata = {"render_modes": []}  # noqa: RUF012 - Gymnasium's own form

    def __init__(
        self,
        problems: Sequence[Source] = DEFAULT_PROBLEMS,
        *,
        rules: GameRules | None = None,
        padding: tuple[int, int] | None = None,
        render_mode: None = None,
        **others: Any,
    ) -> None:
        self.render_mode = render_mode
        self.game = PlanningGame(
            topologies_of(problems), slots=1, rules=rules_of(rules, others), seed=0, padding=padding
        )
        heads = self.game.rules.heads
        self.observation_space = observation_space(self.game.n_nodes, self.game.n_options, heads)
        self.action_space = spaces.Discrete(self.game.n_options * heads)  # type: ignore[assignment]

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[dict[str, NDArray[Any]], dict[str, Any]]:
        """Start an episode; ``options={"problem": i}`` chooses the problem by its place."""
        super().reset(seed=seed)
        if seed is not None:
            self.game.rng = np.random.default_rng(seed)
        which = np.array([int(options["problem"])]) if options and "problem" in options else None
        self.game.reset(np.array([0]), which)
        return self._observation(), {"problem": self._name()}

    def step(self, action: Any) -> tuple[dict[str, NDArray[Any]], float, bool, bool, dict[str, Any]]:
        """Play one action."""
        outcome = self.game.step(np.array([int(action)]), np.array([True]))
        info: dict[str, Any] = {}
        if outcome.is_terminated[0] or outcome.is_truncated[0]:
            topology = self.game.topologies[self.game.which[0]]
            info = {
                "problem": self._name(),
                "cost": float(outcome.price[0]),
                "cost_over_bound": float(outcome.price[0] / topology.bound),
                "is_feasible": bool(outcome.is_feasible[0]),
                "is_proven": bool(outcome.is_proven[0]),
                "plan": topology.point(self.game.plan(0)),
            }
        reward = float(outcome.reward[0])
        return self._observation(), reward, bool(outcome.is_terminated[0]), bool(outcome.is_truncated[0]), info

    def action_masks(self) -> NDArray[np.bool_]:
        """[A] bool, the mask of the last observation (the name that sb3-contrib looks for)."""
        return self.game.observation["action_mask"][0] > 0.5

    def _observation(self) -> dict[str, NDArray[Any]]:
        return {key: value[0].copy() for key, value in self.game.observation.items()}

    def _name(self) -> str:
        return self.game.topologies[self.game.which[0]].network.instance.name


def rules_of(rules: GameRules | None, others: dict[str, Any]) -> GameRules:
    """The rules given, or rules of keyword arguments.

    Raises:
        InvalidInputError: both, or a rule that does not exist.
    """
    if rules is not None and others:
        raise InvalidInputError(f"Expected `rules` or single rules, got both: {sorted(others)}.")
    if rules is not None:
        return rules
    if "units" in others:
        others = {**others, "units": tuple(others["units"])}
    try:
        return GameRules(**others)
    except TypeError as error:
        raise InvalidInputError(f"{ID} does not know these rules: {error}.") from error
