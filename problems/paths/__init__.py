"""On-time routes: the path that most probably arrives before a deadline, on any graph."""

from problems.paths.domain import DOMAIN
from problems.paths.instances import DEADLINES, grid, real_network, reference_seeds
from problems.paths.route import OnTimeRoute

__all__ = ["DEADLINES", "DOMAIN", "OnTimeRoute", "grid", "real_network", "reference_seeds"]
