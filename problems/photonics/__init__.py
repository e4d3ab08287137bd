"""Photonic inverse design: exact 2D E_z simulation, and designs that a stated brush can always fabricate."""

from problems.photonics.domain import DOMAIN
from problems.photonics.geometry import Device, Port
from problems.photonics.problem import PhotonicProblem
from problems.photonics.simulator import Simulator

__all__ = ["DOMAIN", "Device", "PhotonicProblem", "Port", "Simulator"]
