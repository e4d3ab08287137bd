"""How low the rank of gradients is: stable rank, captured energy, energy curves, and a report of an optimizer.

The theory behind low-rank optimizers (GaLore section 3, JoMA) says that the stable rank ||G||_F^2 / ||G||_2^2 of a
gradient falls during training. Here it is a measured quantity, for each weight and table.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from surco.errors import InvalidInputError
from surco.optim.galore import GaLore
from surco.optim.subspace import gram
from surco.optim.update import as_matrix


@dataclass(frozen=True, slots=True)
class Spectrum:
    """Energies of a gradient along its principal directions.

    Attributes:
        shares: [n] float64, falling, sum 1: eigenvalues of the smaller Gram matrix over their sum.
    """

    shares: Tensor

    @property
    def stable_rank(self) -> float:
        """||G||_F^2 / ||G||_2^2, from 1 to the rank."""
        return float(1.0 / self.shares[0])

    def captured(self, rank: int) -> float:
        """Largest share of energy that ``rank`` directions can hold."""
        return float(self.shares[:rank].sum())

    def rank_for(self, energy: float) -> int:
        """Fewest directions that hold the share ``energy``."""
        return min(int((self.shares.cumsum(0) < energy).sum()) + 1, len(self.shares))


def spectrum(gradient: Tensor) -> Spectrum:
    """Spectrum of a dense gradient of any shape, or of the touched rows of a sparse one.

    Raises:
        InvalidInputError: the gradient is zero or not finite.
    """
    matrix = gradient.detach().coalesce().values() if gradient.is_sparse else as_matrix(gradient.detach())
    matrix = matrix if matrix.shape[0] >= matrix.shape[1] else matrix.T
    return covariance_spectrum(gram(matrix))


def covariance_spectrum(covariance: Tensor) -> Spectrum:
    """Spectrum of a Gram or running covariance matrix [n, n]."""
    values = covariance.detach().to(torch.float64)
    total = float(values.trace())
    if not 0.0 < total < float("inf"):
        raise InvalidInputError(f"Expected a finite gradient that is not zero; its squared norm is {total}.")
    shares = torch.linalg.eigvalsh(values / total).clamp_min(0.0).flip(0)
    return Spectrum(shares / shares.sum())


def captured_energy(gradient: Tensor, basis: Tensor) -> float:
    """||G P||_F^2 / ||G||_F^2 of a gradient and an orthonormal basis of either of its sides."""
    matrix = gradient.detach().coalesce().values() if gradient.is_sparse else as_matrix(gradient.detach())
    if matrix.shape[1] != basis.shape[0]:
        matrix = matrix.T
    if matrix.shape[1] != basis.shape[0]:
        raise InvalidInputError(f"Expected a basis of a side of {tuple(gradient.shape)}; got {tuple(basis.shape)}.")
    matrix = matrix.to(torch.float32)
    return float((torch.linalg.vector_norm(matrix @ basis) / torch.linalg.vector_norm(matrix)).square())


@dataclass(frozen=True, slots=True)
class LayerReport:
    """What the optimizer knows of one parameter.

    Attributes:
        name: of the parameter in its module.
        shape: of the parameter.
        rank: columns of its basis, None where nothing is projected.
        stable_rank: at the last refresh, NaN where the mode learns no basis.
        captured: energy inside the basis at the last refresh, NaN likewise.
        state_bytes: of its tensors.
        refreshes: bases taken.
        kept_bases: refreshes that met a zero or non-finite gradient.
        skipped_steps: steps left out for a non-finite gradient.
    """

    name: str
    shape: tuple[int, ...]
    rank: int | None
    stable_rank: float
    captured: float
    state_bytes: int
    refreshes: int
    kept_bases: int
    skipped_steps: int


def report(optimizer: GaLore, module: nn.Module) -> list[LayerReport]:
    """One line for each parameter of ``module`` that the optimizer has stepped."""
    rows = []
    for name, parameter in module.named_parameters():
        state = optimizer.state.get(parameter)
        if not state:
            continue
        size = sum(value.numel() * value.element_size() for value in state.values() if isinstance(value, Tensor))
        rows.append(
            LayerReport(
                name=name,
                shape=tuple(parameter.shape),
                rank=state.get("rank"),
                stable_rank=state.get("stable_rank", float("nan")),
                captured=state.get("captured_energy", float("nan")),
                state_bytes=size,
                refreshes=state["refreshes"],
                kept_bases=state["kept_bases"],
                skipped_steps=state["skipped_steps"],
            )
        )
    return rows
