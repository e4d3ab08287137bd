"""Optimizers with low-rank states, for dense weights and for the sparse gradients of embedding tables."""

from surco.optim.diagnostics import captured_energy, report, spectrum
from surco.optim.fused import ClipNorm, FusedBackward
from surco.optim.galore import GaLore
from surco.optim.options import Conventions, Implementation, Inner, Mode, Projection, Refresh
from surco.optim.rowwise import RowwiseAdagrad, RowwiseAdam

__all__ = [
    "ClipNorm",
    "Conventions",
    "FusedBackward",
    "GaLore",
    "Implementation",
    "Inner",
    "Mode",
    "Projection",
    "Refresh",
    "RowwiseAdagrad",
    "RowwiseAdam",
    "captured_energy",
    "report",
    "spectrum",
]
