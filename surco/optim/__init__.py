"""Optimizers with low-rank states, for dense weights and for the sparse gradients of embedding tables."""

from surco.optim.galore import GaLore
from surco.optim.options import Conventions, Implementation, Inner, Mode, Projection, Refresh

__all__ = ["Conventions", "GaLore", "Implementation", "Inner", "Mode", "Projection", "Refresh"]
