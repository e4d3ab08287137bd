"""On-time routes: the path that most probably arrives before a deadline, on any graph."""

from typing import TYPE_CHECKING

from problems.lazy import lazy
from problems.paths.domain import DOMAIN
from problems.paths.instances import DEADLINES, grid, real_network, reference_seeds

if TYPE_CHECKING:
    from problems.paths.route import OnTimeRoute

__getattr__ = lazy(__name__, {"route": "OnTimeRoute"})
__all__ = ["DEADLINES", "DOMAIN", "OnTimeRoute", "grid", "real_network", "reference_seeds"]
