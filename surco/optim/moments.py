"""Storage of the low-rank moments: float32 or one byte each, whole or row by row, and their turn into a new basis.

A parameter's moments m, v are [N, r] whatever its shape (v is [N, 1] in the mode "rowwise"); they live in the
optimizer's state as plain tensors.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from surco.errors import InvalidInputError
from surco.optim.blockwise import pack_rows, unpack_rows

_MATRICES = ("exp_avg", "exp_avg_sq", "exp_avg_code", "exp_avg_sq_code")
# Rows that are turned at a time, so that a refresh of a huge table needs little extra memory. A CPU takes what its
# cache holds: temporaries of 64 MB made the turn of a million rows 3 (float32) and 4 (8-bit) times as slow.
CHUNK_ROWS = 1 << 20
CHUNK_ENTRIES_CPU = 1 << 17


def create_moments(
    state: dict[str, Any], rows: int, columns: int, *, device: torch.device, is_8bit: bool, is_rowwise: bool = False
) -> None:
    """Put zero moments [rows, columns] into a parameter's ``state``; with ``is_rowwise`` the second is [rows, 1]."""
    second = 1 if is_rowwise else columns
    if is_8bit:
        state["exp_avg_code"] = torch.zeros(rows, columns, dtype=torch.int8, device=device)
        state["exp_avg_sq_code"] = torch.zeros(rows, second, dtype=torch.uint8, device=device)
        state["exponent"] = torch.zeros(rows, dtype=torch.int8, device=device)
    else:
        state["exp_avg"] = torch.zeros(rows, columns, dtype=torch.float32, device=device)
        state["exp_avg_sq"] = torch.zeros(rows, second, dtype=torch.float32, device=device)


def table_state_bytes(
    rows: int, columns: int, rank: int, *, is_8bit: bool = False, is_rowwise: bool = False, has_covariance: bool = False
) -> int:
    """Bytes of the state of a table [rows, columns] at a rank: moments, basis, and the running covariance.

    4 (2 N r + n r) in the mode "galore", 4 (N (r + 1) + n r) in "rowwise"; with one-byte codes N (2 r + 1) + 4 n r and
    N (r + 2) + 4 n r. The covariance adds 4 n^2. Counted from the tensors themselves, without their memory.
    """
    state: dict[str, Any] = {}
    nowhere = torch.device("meta")
    create_moments(state, rows, rank, device=nowhere, is_8bit=is_8bit, is_rowwise=is_rowwise)
    state["basis"] = torch.empty(columns, rank, dtype=torch.float32, device=nowhere)
    if has_covariance:
        state["covariance"] = torch.empty(columns, columns, dtype=torch.float32, device=nowhere)
    return sum(tensor.numel() * tensor.element_size() for tensor in state.values())


def read_moments(state: dict[str, Any], rows: Tensor | slice | None = None) -> tuple[Tensor, Tensor]:
    """(m, v) in float32 of some rows, of all rows where None. Whole float32 moments come as the state itself."""
    if "exponent" in state:
        keys = ("exp_avg_code", "exp_avg_sq_code", "exponent")
        return unpack_rows(*(_take(state[key], rows) for key in keys))
    return _take(state["exp_avg"], rows), _take(state["exp_avg_sq"], rows)


def _take(tensor: Tensor, rows: Tensor | slice | None) -> Tensor:
    if isinstance(rows, Tensor):
        return tensor.index_select(0, rows)
    return tensor if rows is None else tensor[rows]


def write_moments(state: dict[str, Any], first: Tensor, second: Tensor, rows: Tensor | None, step: int) -> None:
    """Store (m, v) of some rows, of all rows where None, in the precision of the state."""
    if "exponent" in state:
        numbers = rows if rows is not None else first.shape[0]
        codes = pack_rows(first, second, numbers, step)
        pairs = zip(("exp_avg_code", "exp_avg_sq_code", "exponent"), codes, strict=True)
    else:
        pairs = iter((("exp_avg", first), ("exp_avg_sq", second)))
    for key, values in pairs:
        if rows is None:
            state[key].copy_(values)  # a no-op where the kernels worked on the state in place
        else:
            state[key].index_copy_(0, rows, values)


def rotate_moments(state: dict[str, Any], old: Tensor, new: Tensor, step: int, *, is_rowwise: bool = False) -> None:
    """Turn the first moment from the basis ``old`` [n, r] into ``new`` [n, r], in place, a chunk of rows at a time.

    With Q = old' new: m' = m Q, the projection of the same momentum. The second moment stays with its column, since the
    j-th direction of the new basis has about the energy of the j-th of the old one: turning it as a diagonal
    covariance, v Q*Q, lets the largest entry leak into all others and slows training. It is raised to m'^2 where it is
    below, so that no entry of the next step is longer than one. A second moment of whole rows (``is_rowwise``) has no
    directions and stays.

    Source: the projection-aware first moment of LDAdam (arXiv 2410.16103); the second moment is ours.
    """
    turn = old.T @ new
    count = (state["exponent"] if "exponent" in state else state["exp_avg"]).shape[0]
    chunk = max(1, CHUNK_ENTRIES_CPU // new.shape[1]) if new.device.type == "cpu" else CHUNK_ROWS
    for begin in range(0, count, chunk):
        part = slice(begin, min(begin + chunk, count))
        first, second = read_moments(state, part)
        turned = first @ turn
        if "exponent" in state:
            numbers = torch.arange(part.start, part.stop, device=first.device)
            raised = second if is_rowwise else torch.maximum(second, turned.square())
            write_moments(state, turned, raised, numbers, step)
        else:
            first.copy_(turned)
            if not is_rowwise:
                torch.maximum(second, turned.square_(), out=second)


def check_state(state: dict[str, Any], shape: tuple[int, ...], *, is_rowwise: bool = False) -> None:
    """Check that the saved ``state`` is of this optimizer, of a parameter of ``shape`` and of the mode.

    The fused kernels trust their tensors: one of another size would be read and written past its end.

    Raises:
        InvalidInputError: it is not; the message names the first entry that differs.
    """
    if not state:
        return
    if "phase" not in state:
        raise InvalidInputError(
            f"Expected a state of GaLore for the parameter {shape}; got the entries {', '.join(map(str, state))}."
        )
    rows = shape[0] if shape else 1
    columns = math.prod(shape[1:])
    if state.get("is_left"):
        rows, columns = columns, rows
    width = state.get("rank", columns)
    second = 1 if is_rowwise and "rank" in state else width
    expected = dict.fromkeys(_MATRICES, (rows, width)) | {
        "exp_avg_sq": (rows, second),
        "exp_avg_sq_code": (rows, second),
        "exponent": (rows,),
        "row_avg_sq": (rows,),
        "column_avg_sq": (width,),
        "basis": (columns, width),
        "covariance": (columns, columns),
    }
    for key, size in expected.items():
        if key in state and tuple(state[key].shape) != size:
            raise InvalidInputError(
                f"Expected `{key}` of shape {list(size)} for the parameter {shape}; the saved state has "
                f"{list(state[key].shape)}. It belongs to another model, or to another order of its parameters."
            )
