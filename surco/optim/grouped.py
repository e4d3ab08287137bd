"""The dense step on a GPU in four launches for all weights, whatever their number.

A small weight costs a GPU less than its launches, and the product G P [N, r] of one weight has too few tiles to fill
it. Grouped kernels (``surco.optim.grouped_kernels``) take all weights of a batch at once, on the matrix units: a
float32 product as three of TF32 or six of bfloat16, whose error is that of float32 (2e-7 of the norm, as cuBLAS). The
check for NaN and infinity is a flag that the kernels read on the device; the host reads it once, after the last launch.

It is chosen by ``implementation="grouped"``. Where Triton or CUDA is missing, or a weight is of another kind, the plain
step of ``surco.optim.galore`` does the same.
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from surco.optim.options import Conventions, Implementation, Inner, Mode
from surco.optim.update import Projected, rates

FIELDS = 14  # G, P, m, v, R, W (addresses), N, n, row strides of G and W, A, B (addresses), rows, columns
# The fastest of 8 and 7 tiles and 3 precisions on an H100, weights of 2048 x 2048 to 2048 x 8192, ranks 128 and 256:
# milliseconds for six weights at rank 128, cuBLAS 0.37 for the projection.
PROJECT_TILE, PROJECT_PRECISION = (64, 128, 32), "bf16x6"  # rows, columns, depth: 0.27; as TF32 three times 0.61
WRITE_TILE, WRITE_PRECISION = (64, 64, 32), "tf32x3"  # 0.29; as bfloat16 six times 0.33
WARPS, STAGES = 4, 3
ADAM_BLOCK = 1024
_DEVICES = ("cuda",)
_TABLES_KEPT = 16  # gradients come back to the same addresses in most loops


@functools.cache
def is_available() -> bool:
    """Whether the kernels can run here: CUDA, matrix units with TF32 and bfloat16, and a Triton that splits float32."""
    if not torch.cuda.is_available() or torch.cuda.get_device_capability() < (8, 0):
        return False
    try:
        import triton  # pyright: ignore[reportMissingImports]
    except ImportError:
        return False
    return tuple(int(part) for part in triton.__version__.split(".")[:2]) >= (3, 6)


def can_take(parameter: Tensor, gradient: Tensor, group: dict[str, Any], rank: int) -> bool:
    """Whether a weight with its projected gradient of ``rank`` columns is one for the kernels."""
    if parameter.device.type not in _DEVICES or not is_available():
        return False
    is_plain = group["mode"] == Mode.GALORE and group["implementation"] == Implementation.GROUPED
    is_adam = group["inner"] == Inner.ADAMW or (group["inner"] == Inner.ADAM and not group["weight_decay"])
    if not (is_plain and is_adam and parameter.dtype == gradient.dtype == torch.float32):
        return False
    tensors = (parameter, gradient)
    columns = math.prod(parameter.shape[1:])
    return (
        all(tensor.is_contiguous() and tensor.data_ptr() % 16 == 0 for tensor in tensors)
        and rank % 16 == 0
        and parameter.shape[0] % 16 == 0
        and columns % 16 == 0
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
