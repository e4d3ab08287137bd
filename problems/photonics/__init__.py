"""Photonic inverse design: exact 2D E_z simulation, and designs that a stated brush can always fabricate."""

from typing import TYPE_CHECKING

from problems.lazy import lazy
from problems.photonics.domain import DOMAIN
from problems.photonics.geometry import Device, Port

if TYPE_CHECKING:
    from problems.photonics.problem import PhotonicProblem
    from problems.photonics.simulator import Simulator

__getattr__ = lazy(__name__, {"problem": "PhotonicProblem", "simulator": "Simulator"})
__all__ = ["DOMAIN", "Device", "PhotonicProblem", "Port", "Simulator"]
