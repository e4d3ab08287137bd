"""The dense step on a GPU in four launches for all weights, whatever their number.

A small weight costs a GPU less than its launches, and the product G P [N, r] of one weight has too few tiles to fill
it. Grouped kernels (``surco.optim.grouped_kernels``) take all weights of a batch at once, on the matrix units: a
float32 product as three of TF32 or six of bfloat16, whose error is that of float32 (2e-7 of the norm, as cuBLAS). The
check for NaN and infinity is a flag that the kernels read on the device; the host reads it once, after the last launch.

It is the default (``implementation="grouped"``) and acts on float32 weights on an NVIDIA GPU under ``GaLore.step`` in
mode "galore" with inner "adamw", or "adam" without decay, where rank and both sides are multiples of 16. Every other
weight takes the plain step of ``surco.optim.galore``, which does the same in more launches: other modes, one-byte and
Adafactor states, bfloat16, odd sizes, vectors, sparse gradients, the hooks of ``FusedBackward``. A GPU on which the
kernels do not run is named once in the log, with the reason.

Measured on one H100 (benchmarks/reference/gpu_galore_kernels_scale_h100.json), time of an ordinary step over that of
galore-torch: 0.51 for six weights of 512 x 512 to 2048 x 512 at ranks 128 and 256, where the plain step takes 0.83 and
0.76; 0.72 and 0.73 for 2048 x 2048 to 8192 x 2048, plain 0.81 and 0.88. The first step compiles, half a second, once a
machine. On other cards it is not measured.
"""

from __future__ import annotations

import functools
import logging
import math
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from surco.optim.moments import create_moments
from surco.optim.options import Conventions, Implementation, Inner, Mode
from surco.optim.update import Projected, rates

FIELDS = 14  # G, P, m, v, R, W (addresses), N, n, row strides of G and W, A, B (addresses), rows, columns
# The fastest of 8 and 7 tiles and 3 precisions on an H100, weights of 2048 x 2048 to 2048 x 8192, ranks 128 and 256:
# milliseconds for six weights at rank 128, cuBLAS 0.37 for the projection.
PROJECT_TILE, PROJECT_PRECISION = (64, 128, 32), "bf16x6"  # rows, columns, depth: 0.27; as TF32 three times 0.61
WRITE_TILE, WRITE_PRECISION = (64, 64, 32), "tf32x3"  # 0.29; as bfloat16 six times 0.33
WARPS, STAGES = 4, 3
ADAM_BLOCK = 1024
MULTIPLE = 16  # of sizes and of addresses in bytes: what the kernels promise the compiler
_TABLES_KEPT = 16  # gradients come back to the same addresses in most loops
_log = logging.getLogger(__name__)


@functools.cache
def is_available(device: torch.device) -> bool:
    """Whether the kernels run on ``device``. Of a GPU where they do not, the log says why, once."""
    if device.type != "cuda":
        return False
    obstacle = _obstacle(device)
    if obstacle is not None:
        _log.warning("GaLore takes the plain step on %s, not the grouped kernels: %s.", device, obstacle)
    return obstacle is None


def _obstacle(device: torch.device) -> str | None:
    """What keeps the kernels from ``device``: they need TF32 and bfloat16, and a Triton that splits float32."""
    if torch.version.hip is not None or torch.cuda.get_device_capability(device) < (8, 0):
        return "it is no NVIDIA GPU of compute capability 8.0 or more"
    try:
        import triton  # pyright: ignore[reportMissingImports]
    except ImportError:
        return "Triton is not installed"
    if tuple(int(part) for part in triton.__version__.split(".")[:2]) < (3, 6):
        return f"Triton 3.6 is needed, {triton.__version__} is installed"
    return _failure(device)


def _failure(device: torch.device) -> str | None:
    """What is wrong with a small step on ``device``; Triton needs a C compiler and a folder to write to as it runs.

    It compiles what later steps use, so that it costs no more than the first of them.
    """
    group = {"betas": (0.9, 0.999), "eps": 0.5, "conventions": Conventions.TORCH, "inner": Inner.ADAMW}
    group |= {"lr": 0.1, "weight_decay": 0.0, "scale": 1.0}
    generator = torch.Generator().manual_seed(0)
    works, expected = [], []
    for shape in ((80, 48), (48, 80)):
        is_left = shape[0] < shape[1]
        gradient, weight = (torch.randn(shape, generator=generator) for _ in range(2))
        basis = torch.linalg.qr(torch.randn(48, 16, generator=generator))[0].contiguous()
        projected = (gradient.T if is_left else gradient).double() @ basis.double()
        update = (projected / (projected.abs() + 0.5)) @ basis.double().T  # Adam's first step: m_hat = R, v_hat = R^2
        expected.append(weight.double() - 0.1 * (update.T if is_left else update))
        state = {"basis": basis.to(device), "rank": 16, "step": 0, "skipped_steps": 0, "is_left": is_left}
        create_moments(state, 80, 16, device=device, is_8bit=False)
        there = gradient.to(device)
        works.append(Projected(weight.to(device), state, group, there, there, None, is_open=True))
    try:
        GroupedStep()(works)
        found = [work.parameter.double().cpu() for work in works]
    except Exception as error:  # whatever a compiler, a driver or the file system raises
        return f"Triton failed with {type(error).__name__}: {error}"
    error = max(float((a - b).abs().max()) for a, b in zip(found, expected, strict=True))
    return None if error < 1e-5 else f"their weights are off by {error:.1e}"


def can_take(parameter: Tensor, gradient: Tensor, group: dict[str, Any], state: dict[str, Any]) -> bool:
    """Whether a weight with its gradient and its ``state``, which has a basis, is one for the kernels."""
    is_plain = group["mode"] == Mode.GALORE and group["implementation"] == Implementation.GROUPED
    is_adam = group["inner"] == Inner.ADAMW or (group["inner"] == Inner.ADAM and not group["weight_decay"])
    if not (is_plain and is_adam and is_available(parameter.device)):
        return False
    if "exponent" in state or "row_avg_sq" in state:  # of another inner rule, which the group had before
        return False
    moments = [state[key] for key in ("exp_avg", "exp_avg_sq") if key in state]
    if len({moment.shape for moment in moments}) > 1:  # of the mode "rowwise", likewise
        return False
    tensors = [parameter, gradient, state["basis"], *moments]
    if not all(tensor.dtype == torch.float32 and tensor.is_contiguous() for tensor in tensors):
        return False
    sizes = (state["rank"], parameter.shape[0], math.prod(parameter.shape[1:]))
    return (
        all(size % MULTIPLE == 0 for size in sizes)
        and all(tensor.data_ptr() % MULTIPLE == 0 for tensor in tensors)
        and parameter.numel() < 2**31
    )


@functools.cache
def _kernels() -> Any:
    from surco.optim import grouped_kernels

    return grouped_kernels


@dataclass(slots=True)
class GroupedStep:
    """Launches, and what they need again: the tiles of a set of shapes, the table of a set of addresses."""

    _tiles: dict[Any, tuple[dict[bool, Tensor], Tensor, Tensor]] = field(default_factory=dict)
    _tables: dict[tuple[int, ...], Tensor] = field(default_factory=dict)

    def __call__(self, works: list[Projected]) -> None:
        """One step of weights of one group, device and rank; counts it, or that it was skipped, in their states.

        Args:
            works: open, with ``gradient`` as stored and the moments created.
        """
        with torch.cuda.device_of(works[0].parameter):
            flags = self._launched(works)
        # The one wait for the device, when all is launched.
        for work, flag in zip(works, flags.tolist(), strict=True):
            work.state["skipped_steps" if flag else "step"] += 1

    def _launched(self, works: list[Projected]) -> Tensor:
        """The launches; flags [weights] that say where the projected gradient is not finite."""
        kernels = _kernels()
        group, device, r = works[0].group, works[0].parameter.device, works[0].state["rank"]
        shapes = tuple((*_shape(work), bool(work.state["is_left"])) for work in works)
        sides, flat, out = self._tiles_of(shapes, r, device)
        sizes = [(columns if is_left else rows) * r for rows, columns, is_left in shapes]
        projected = torch.empty(sum(sizes), device=device)
        table = self._table_of(works, shapes, sizes, projected)
        corrections = _upload([number for work in works for number in _corrections(work)], torch.float32, device)
        flags = torch.zeros(len(works), dtype=torch.int32, device=device)
        rows, columns, depth = PROJECT_TILE
        for is_left, tiles in sides.items():
            kernels.project[(len(tiles),)](
                    table, tiles, flags, r, IS_LEFT=is_left, BM=rows, BN=columns, BK=depth, PRECISION=PROJECT_PRECISION,
                    num_warps=WARPS, num_stages=STAGES,
                )  # fmt: skip
        betas = group["betas"]
        kernels.adam[(len(flat),)](
            table, flat, flags, corrections, betas[0], betas[1], r, BLOCK=ADAM_BLOCK, num_warps=4
        )
        rate, decay, is_late = rates(group)
        rate *= float(group["scale"])
        rows, columns, depth = WRITE_TILE
        kernels.write[(len(out),)](
            table, out, flags, rate * (1.0 - decay) if is_late else rate, 1.0 - decay, r, BM=rows, BN=columns, BK=depth,
            PRECISION=WRITE_PRECISION, num_warps=WARPS, num_stages=STAGES,
        )  # fmt: skip
        return flags

    def _tiles_of(
        self, shapes: tuple[tuple[int, int, bool], ...], r: int, device: torch.device
    ) -> tuple[dict[bool, Tensor], Tensor, Tensor]:
        """Tiles of the projections by side (True: left), of the moments, of the weights; each [tiles, 3] int32."""
        key = (shapes, r, device)
        if key not in self._tiles:
            sides: dict[bool, list[tuple[int, int, int]]] = {}
            flat, out = [], []
            for weight, (rows, columns, is_left) in enumerate(shapes):
                count = columns if is_left else rows
                sides.setdefault(is_left, []).extend(_grid(weight, count, r, PROJECT_TILE))
                flat += [(weight, piece, 0) for piece in range(-(-count * r // ADAM_BLOCK))]
                out += _grid(weight, rows, columns, WRITE_TILE)

            def on_device(tiles: list[tuple[int, int, int]]) -> Tensor:
                return torch.tensor(tiles, dtype=torch.int32, device=device)

            on_side = {is_left: on_device(tiles) for is_left, tiles in sides.items()}
            self._tiles[key] = (on_side, on_device(flat), on_device(out))
        return self._tiles[key]

    def _table_of(
        self, works: list[Projected], shapes: tuple[tuple[int, int, bool], ...], sizes: list[int], projected: Tensor
    ) -> Tensor:
        """[weights, FIELDS] int64 of addresses and sizes; kept, since most loops come back to the same addresses."""
        entries: list[int] = []
        place = projected.data_ptr()
        for work, (rows, columns, is_left), size in zip(works, shapes, sizes, strict=True):
            state, gradient = work.state, work.gradient
            assert gradient is not None
            basis, weight = state["basis"].data_ptr(), work.parameter.data_ptr()
            addresses = [gradient.data_ptr(), basis, state["exp_avg"].data_ptr(), state["exp_avg_sq"].data_ptr()]
            ends = [columns, rows] if is_left else [rows, columns]
            factors = [basis, place] if is_left else [place, basis]
            entries += [*addresses, place, weight, *ends, columns, columns, *factors, rows, columns]
            place += 4 * size
        key = tuple(entries)
        if key not in self._tables:
            if len(self._tables) >= _TABLES_KEPT:
                self._tables.clear()
            self._tables[key] = _upload(entries, torch.int64, projected.device)
        return self._tables[key]


def _shape(work: Projected) -> tuple[int, int]:
    return work.parameter.shape[0], math.prod(work.parameter.shape[1:])


def _grid(weight: int, rows: int, columns: int, tile: tuple[int, int, int]) -> list[tuple[int, int, int]]:
    """(weight, row, column) of the tiles of a matrix."""
    places = [(i, j) for i in range(-(-rows // tile[0])) for j in range(-(-columns // tile[1]))]
    return [(weight, i, j) for i, j in places]


def _corrections(work: Projected) -> tuple[float, float, float]:
    """Bias corrections of m and sqrt(v), and epsilon after them."""
    group, step = work.group, work.state["step"] + 1
    first, second = 1.0 - group["betas"][0] ** step, math.sqrt(1.0 - group["betas"][1] ** step)
    eps = float(group["eps"])
    return first, second, eps / second if group["conventions"] == Conventions.GALORE_TORCH else eps


def _upload(numbers: list[Any], dtype: torch.dtype, device: torch.device) -> Tensor:
    """A tensor on the device without a wait for it."""
    host = torch.tensor(numbers, dtype=dtype)
    return host.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else host.to(device)
