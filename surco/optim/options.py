"""Choices of the low-rank optimizer and the check of a parameter group."""

from __future__ import annotations

import math
from collections.abc import MutableMapping
from enum import StrEnum
from typing import Any

from torch import Tensor

from surco.errors import InvalidInputError


class Mode(StrEnum):
    """How the low-rank moments become a weight update.

    Sources: GaLore (arXiv 2403.03507), Fira (arXiv 2410.01623), APOLLO and APOLLO-Mini (arXiv 2412.05270); the second
    moment by rows is that of row-wise Adam for embedding tables (FBGEMM's partial row-wise Adam).
    """

    GALORE = "galore"  # project, adapt, project back: the update lies in the subspace
    ROWWISE = "rowwise"  # low-rank momentum, one second moment a row, the rest of the gradient without momentum
    FIRA = "fira"  # GaLore plus the residual outside the subspace, scaled row by row
    APOLLO = "apollo"  # the moments of a random sketch scale the rows of the raw gradient
    APOLLO_MINI = "apollo-mini"  # the same with one sketch direction and one factor a tensor


class Inner(StrEnum):
    """The adaptive rule inside the subspace."""

    ADAM = "adam"  # weight decay enters the gradient (L2)
    ADAMW = "adamw"  # decoupled weight decay
    ADAFACTOR = "adafactor"  # factored second moment, no first moment
    ADAMW_8BIT = "adamw8bit"  # AdamW with one byte a moment


class Projection(StrEnum):
    """Which side of a weight [m, n] is projected."""

    STD = "std"  # the shorter side, the cheapest state
    REVERSE_STD = "reverse_std"  # the longer side
    LEFT = "left"  # the rows, P is m x r
    RIGHT = "right"  # the columns, P is n x r


class Refresh(StrEnum):
    """How a new basis is found."""

    AUTO = "auto"  # Gram for tall or small gradients, filtered iteration for large squarish ones
    GRAM = "gram"  # eigenvectors of the small Gram matrix: exact
    POWER = "power"  # filtered orthogonal iteration from the old basis
    SVD = "svd"  # torch.linalg.svd, the slow judge
    RANDOM = "random"  # an orthonormal random basis, for ablations


class Conventions(StrEnum):
    """Where epsilon and weight decay act.

    Adam divides small entries of a projected gradient by themselves, so weights agree to 1e-4 only if the singular
    vectors do, whose last digits and signs are LAPACK's: with "galore-torch" the automatic refresh of a dense weight is
    the SVD, unless a running covariance or a process group asks for a Gram matrix. A Gram refresh finds the same
    subspace (the same energy to 1e-8) but its vectors only up to rounding: after one step the weights differ from
    galore-torch's by up to 6e-4, after 50 by up to 1.1e-3, against 9e-6 with the SVD (benchmarks/galore.py).
    """

    TORCH = "torch"  # epsilon after bias correction, decay before the update
    GALORE_TORCH = "galore-torch"  # epsilon before bias correction, decay after the update


class Implementation(StrEnum):
    """Which kernels run the elementwise part."""

    GROUPED = "grouped"  # dense float32 weights on a GPU in four launches for all (Triton); others as "fused"
    FUSED = "fused"  # one kernel for all parameters of a group
    FOREACH = "foreach"  # multi-tensor operations
    COMPILE = "compile"  # torch.compile of the elementwise rule


SKETCHES = (Mode.APOLLO, Mode.APOLLO_MINI)  # their basis is random and has no spectrum
DEFAULT_SCALE = {
    Mode.GALORE: 0.25,
    Mode.ROWWISE: 1.0,
    Mode.FIRA: 0.25,
    Mode.APOLLO: 1.0,
    Mode.APOLLO_MINI: math.sqrt(128.0),
}
"""Factor of the projected update where the group names none: the values the papers use; one where rates are Adam's."""

_CHOICES: dict[str, type[StrEnum]] = {
    "mode": Mode,
    "inner": Inner,
    "projection": Projection,
    "refresh": Refresh,
    "conventions": Conventions,
    "implementation": Implementation,
}


def check_group(group: MutableMapping[str, Any]) -> None:
    """Check one parameter group and write its choices as plain strings, so that a checkpoint holds plain data.

    Args:
        group: options of one parameter group, changed in place.

    Raises:
        InvalidInputError: an option is unknown or outside its range; the message names the accepted values.
    """
    for key, enum in _CHOICES.items():
        try:
            group[key] = enum(group[key]).value
        except ValueError as error:
            accepted = ", ".join(member.value for member in enum)
            raise InvalidInputError(f"Expected `{key}` to be one of {accepted}; got {group[key]!r}.") from error
    rank = group["rank"]
    if rank is not None and rank != "auto" and not (_is_whole(rank) and rank >= 1):
        raise InvalidInputError(f"Expected `rank` to be a positive int, 'auto' or None (no projection); got {rank!r}.")
    if not (_is_whole(group["update_gap"]) and group["update_gap"] >= 1):
        raise InvalidInputError(f"Expected `update_gap` to be a positive int (steps); got {group['update_gap']!r}.")
    if group["scale"] is None:
        group["scale"] = DEFAULT_SCALE[Mode(group["mode"])]
    betas = group["betas"]
    is_pair = isinstance(betas, tuple | list) and len(betas) == 2
    if not (is_pair and all(0.0 <= _number(beta) < 1.0 for beta in betas)):
        raise InvalidInputError(f"Expected `betas` to be two numbers in [0, 1); got {betas!r}.")
    for key in ("lr", "eps", "weight_decay", "scale"):
        if not 0.0 <= _number(group[key]) < math.inf:
            raise InvalidInputError(f"Expected `{key}` to be a finite number >= 0; got {group[key]!r}.")
    for key in ("rotate_moments", "stagger", "stochastic_rounding"):
        if not isinstance(group[key], bool):
            raise InvalidInputError(f"Expected `{key}` to be True or False; got {group[key]!r}.")
    if not _is_whole(group["seed"]):
        raise InvalidInputError(f"Expected `seed` to be an int; got {group['seed']!r}.")
    if not 0.0 <= _number(group["covariance_decay"]) < 1.0:
        raise InvalidInputError(f"Expected `covariance_decay` in [0, 1); got {group['covariance_decay']!r}.")
    if not 0.0 < _number(group["energy"]) <= 1.0:
        raise InvalidInputError(
            f"Expected `energy` in (0, 1], the share that rank='auto' keeps; got {group['energy']!r}."
        )
    if group["mode"] == Mode.ROWWISE and group["inner"] == Inner.ADAFACTOR:
        raise InvalidInputError(
            "mode='rowwise' has a second moment of its own; use inner 'adam', 'adamw' or 'adamw8bit'."
        )
    is_sketch = group["mode"] in SKETCHES
    if is_sketch and rank == "auto" and group["mode"] == Mode.APOLLO:
        raise InvalidInputError("rank='auto' needs a learned basis; mode 'apollo' draws a random one. Give a number.")


def _is_whole(value: Any) -> bool:
    """Whether ``value`` is an int; True and False are not."""
    return isinstance(value, int) and not isinstance(value, bool)


def _number(value: Any) -> float:
    """A number, or the number in a tensor of one element (as schedulers write), as a float; NaN for anything else."""
    if isinstance(value, Tensor):
        return float(value) if value.numel() == 1 else math.nan
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else math.nan
