"""Timings of refreshes and steps on one device: our low-rank optimizer beside its peers. Rows of plain data."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.galore_peers import (
    drifted,
    galore_torch_adamw,
    median,
    spectrum_matrix,
    state_bytes,
    times_ms,
)
from surco.optim import GaLore, RowwiseAdagrad
from surco.optim.moments import rotate_moments
from surco.optim.subspace import find_subspace, gram_subspace, power_subspace

Row = dict[str, Any]
BLOCK = [(512, 512)] * 4 + [(2048, 512), (512, 2048)]
LARGE_BLOCK = [(2048, 2048)] * 4 + [(8192, 2048), (2048, 8192)]


def energy_of(matrix: Tensor, basis: Tensor) -> float:
    """||G P||^2 in float64."""
    return float((matrix.double() @ basis.double()).square().sum())


def best_energy(matrix: Tensor, rank: int) -> float:
    """Sum of the ``rank`` largest squared singular values, in float64 (a float32 SVD is off by up to 2e-4)."""
    matrix = matrix.double()
    return float(torch.linalg.eigvalsh(matrix.T @ matrix)[-rank:].sum())


def refresh_rows(
    shapes: list[tuple[int, int, int]], kinds: list[str], device: torch.device, *, repeats: int = 5
) -> Iterator[Row]:
    """Refresh times and energies on synthetic spectra, cold and after a drift of 30 percent.

    Args:
        shapes: (N, n, r).
        kinds: see ``spectrum_matrix``.
        device: where to run.
        repeats: calls behind a median and a minimum; the SVD gets three at most.
    """
    for rows, columns, rank in shapes:
        for kind in kinds:
            base = spectrum_matrix(rows, columns, kind, device=device)
            cold = find_subspace(base, rank, old=None, how="auto", seed=0)
            assert cold is not None
            matrix = drifted(base)
            del base

            def reference(matrix: Tensor = matrix) -> None:
                torch.linalg.svd(matrix, full_matrices=False)

            taken = times_ms(reference, repeats=min(repeats, 3), device=device, warm_up=1)
            times, fastest = {"svd": median(taken)}, {"svd": min(taken)}
            best = best_energy(matrix, rank)
            ways = {
                "auto": lambda m=matrix, r=rank, c=cold: find_subspace(m, r, old=c.basis, how="auto", seed=0),
                "gram": lambda m=matrix, r=rank: gram_subspace(m, r),
                "power": lambda m=matrix, r=rank, c=cold: power_subspace(m, r, c.basis),
                "power, cold": lambda m=matrix, r=rank: power_subspace(m, r, None),
                "svd_lowrank": lambda m=matrix, r=rank: torch.svd_lowrank(m, q=r, niter=2)[2],
            }
            if rows >= 64 * columns:  # nobody would iterate on a tall matrix, and it takes long
                ways = {name: way for name, way in ways.items() if not name.startswith("power")}
            energies = {}
            for name, way in ways.items():
                found = way()
                basis = found if isinstance(found, Tensor) else found.basis if found is not None else None
                energies[name] = energy_of(matrix, basis) / best if basis is not None else None
                taken = times_ms(way, repeats=repeats, device=device, warm_up=1)
                times[name], fastest[name] = median(taken), min(taken)
            ratio = times["svd"] / times["auto"]
            yield {
                "shape": [rows, columns],
                "rank": rank,
                "spectrum": kind,
                "ms": times,
                "fastest_ms": fastest,
                "energy": energies,
                "x": ratio,
            }


def drift_rows(
    device: torch.device, *, width: int = 4096, rank: int = 128, steps: int = 120, gap: int = 20
) -> Iterator[Row]:
    """Energy of warm refreshes against the SVD on the real gradients of a network in training (widths squarish)."""
    generator = torch.Generator(device).manual_seed(0)
    first, second = nn.Linear(width, width), nn.Linear(width, width)
    layers = [nn.Linear(256, width), nn.GELU(), first, nn.GELU(), second, nn.GELU(), nn.Linear(width, 64)]
    model = nn.Sequential(*layers).to(device)
    teacher = torch.randn(256, 64, device=device, generator=generator)
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-4)
    weights = {"first": first.weight, "second": second.weight}
    bases: dict[str, Tensor] = {}
    for step in range(steps):
        inputs = torch.randn(1024, 256, device=device, generator=generator)
        labels = (inputs @ teacher).tanh().mul(3).argmax(dim=1)
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(model(inputs), labels)
        loss.backward()
        if step % gap == 0:
            for name, weight in weights.items():
                gradient = weight.grad
                assert gradient is not None
                found = power_subspace(gradient, rank, bases.get(name))
                if found is None:
                    continue
                old, bases[name] = bases.get(name), found.basis
                best = best_energy(gradient, rank)
                yield {
                    "layer": name,
                    "step": step,
                    "loss": loss.item(),
                    "energy": energy_of(gradient, found.basis) / best,
                    "energy of the old basis": energy_of(gradient, old) / best if old is not None else None,
                    "stable_rank": found.stable_rank,
                    "captured": found.captured,
                }
        optimizer.step()


def dense_rows(
    shapes: list[tuple[int, int]], ranks: list[int], device: torch.device, folder: Path, *, repeats: int = 30
) -> Iterator[Row]:
    """Ordinary and first step on a block of dense weights; the variants take turns, so that load hits all alike."""
    reference = galore_torch_adamw(folder)
    for rank in ranks:
        makers = {
            "galore-torch": lambda p, r=rank: reference(
                [{"params": p, "rank": r, "update_proj_gap": 10**6, "scale": 0.25, "proj_type": "std"}],
                lr=1e-3,
                no_deprecation_warning=True,
            ),
            "ours": lambda p, r=rank: GaLore(p, lr=1e-3, rank=r, update_gap=10**6, implementation="fused"),
            "ours, foreach": lambda p, r=rank: GaLore(p, lr=1e-3, rank=r, update_gap=10**6, implementation="foreach"),
            "ours, grouped": lambda p, r=rank: GaLore(p, lr=1e-3, rank=r, update_gap=10**6, implementation="grouped"),
            "ours, 8-bit": lambda p, r=rank: GaLore(p, lr=1e-3, rank=r, update_gap=10**6, inner="adamw8bit"),
            "ours, fira": lambda p, r=rank: GaLore(p, lr=1e-3, rank=r, update_gap=10**6, mode="fira"),
            "ours, apollo": lambda p, r=rank: GaLore(p, lr=1e-3, rank=r, update_gap=10**6, mode="apollo"),
            "fused AdamW": lambda p: torch.optim.AdamW(p, lr=1e-3, fused=True),
        }
        generator = torch.Generator(device).manual_seed(0)
        gradients = [torch.randn(shape, device=device, generator=generator) * 0.01 for shape in shapes]
        optimizers, first = {}, {}
        for name, make in makers.items():
            parameters = [nn.Parameter(torch.zeros(shape, device=device)) for shape in shapes]
            for parameter, gradient in zip(parameters, gradients, strict=True):
                parameter.grad = gradient
            optimizers[name] = make(parameters)
            first[name] = times_ms(optimizers[name].step, repeats=1, device=device, warm_up=0)[0]
        steady: dict[str, list[float]] = {name: [] for name in makers}
        for _ in range(repeats):
            for name, optimizer in optimizers.items():
                steady[name] += times_ms(optimizer.step, repeats=2, device=device, warm_up=1)
        for name, optimizer in optimizers.items():
            yield {
                "shapes": [list(shape) for shape in shapes],
                "rank": rank,
                "optimizer": name,
                "first_ms": first[name],
                "step_ms": median(steady[name]),
                "fastest_ms": min(steady[name]),
                "over_galore_torch": median(steady[name]) / median(steady["galore-torch"]),
                "fastest_over_galore_torch": min(steady[name]) / min(steady["galore-torch"]),
                "state_mb": state_bytes(optimizer) / 1e6,
            }


def sparse_rows(
    row_counts: list[int],
    dim: int,
    rank: int,
    device: torch.device,
    *,
    touched: int,
    repeats: int = 30,
    batches: int = 4,
) -> Iterator[Row]:
    """Ordinary step on tables of different size with the same number of distinct touched rows and repeated lookups.

    The rows are uniform, the worst case: with many ``batches`` in turn no cache holds them from one visit to the next.
    An optimizer that runs out of memory has a row that says so.
    """
    makers = {
        "ours": lambda p: GaLore([p], lr=1e-2, rank=rank, update_gap=10**6),
        "ours, 8-bit": lambda p: GaLore([p], lr=1e-2, rank=rank, update_gap=10**6, inner="adamw8bit"),
        "ours, rowwise": lambda p: GaLore([p], lr=1e-2, rank=rank, update_gap=10**6, mode="rowwise"),
        "SparseAdam": lambda p: torch.optim.SparseAdam([p], lr=1e-3),
        "row-wise Adagrad": lambda p: RowwiseAdagrad([p], lr=1e-2),
    }
    for rows in row_counts:
        weight = nn.Parameter(torch.zeros(rows, dim, device=device))
        generator = torch.Generator(device).manual_seed(0)
        gradients = []
        for _ in range(batches):
            distinct = torch.randint(rows, (touched,), device=device, generator=generator).unique()
            index = torch.cat([distinct, distinct[: touched // 2]])  # every second row is looked up twice
            values = torch.randn(len(index), dim, device=device, generator=generator) * 0.01
            gradients.append(torch.sparse_coo_tensor(index[None], values, (rows, dim), check_invariants=False))
        for name, make in makers.items():
            row: Row = {
                "rows": rows,
                "dim": dim,
                "rank": rank,
                "touched": touched,
                "batches": batches,
                "optimizer": name,
            }
            try:
                row |= _sparse_row(make(weight), weight, gradients, repeats)
            except torch.OutOfMemoryError:
                row["out_of_memory"] = True
            weight.grad = None
            if device.type == "cuda":
                torch.cuda.empty_cache()
            yield row
        del weight, gradients
        if device.type == "cuda":
            torch.cuda.empty_cache()


def _sparse_row(optimizer: torch.optim.Optimizer, weight: nn.Parameter, gradients: list[Tensor], repeats: int) -> Row:
    """First step, median of the following, and for ours the turn of all moments that a refresh adds."""
    turn = itertools.cycle(gradients)

    def step() -> None:
        weight.grad = next(turn)
        optimizer.step()

    device = weight.device
    first = times_ms(step, repeats=1, device=device, warm_up=0)[0]
    taken = times_ms(step, repeats=repeats, device=device)
    row: Row = {"first_ms": first, "step_ms": median(taken), "fastest_ms": min(taken)}
    row["state_bytes_per_row"] = state_bytes(optimizer) / weight.shape[0]
    if isinstance(optimizer, GaLore):
        state = optimizer.state[weight]
        basis, state_mode = state["basis"], optimizer.param_groups[0]["mode"]
        row["rotation_ms"] = median(
            times_ms(
                lambda: rotate_moments(state, basis, basis, 1, is_rowwise=state_mode == "rowwise"),
                repeats=3,
                device=device,
                warm_up=1,
            )
        )
    return row
