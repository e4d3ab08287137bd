"""What every estimator does with the problem: ask the oracle once, value the answers once, differentiate f there.

A row that the oracle could not answer, or whose value is not a finite number, takes no part in a mean or a gradient;
it stays visible in the :class:`~surco.protocols.Estimate` as a NaN atom or as the value that came.
"""

from __future__ import annotations

import torch
from torch import Tensor

from surco.bridge import to_numpy, to_torch
from surco.errors import CutGradientError, InvalidInputError
from surco.protocols import Problem, is_differentiable


def check_costs(problem: Problem, costs: Tensor) -> Tensor:
    """``costs`` [B, n], detached.

    Raises:
        InvalidInputError: another shape or an integer dtype.
    """
    n = problem.oracle.n
    if costs.ndim != 2 or costs.shape[1] != n:
        hint = " Try `costs[None]`." if tuple(costs.shape) == (n,) else ""
        raise InvalidInputError(f"Expected `costs` of shape [B, {n}], got {list(costs.shape)}.{hint}")
    if not costs.is_floating_point():
        raise InvalidInputError(f"Expected floating point `costs`, got {costs.dtype}. Try `costs.double()`.")
    return costs.detach()


def require_gradient(problem: Problem, estimator: object) -> None:
    """Refuse a problem without gradients of f, for an estimator that needs them.

    Raises:
        InvalidInputError: ``problem.is_differentiable`` is False.
    """
    if not is_differentiable(problem):
        raise InvalidInputError(
            f"Expected a differentiable objective, because {type(estimator).__name__} needs the gradient of f, but "
            f"`{type(problem).__name__}.is_differentiable` is False. Try ScoreFunction() (`score-function`): it needs "
            "values only."
        )


def as_solved(problem: Problem, costs: Tensor) -> Tensor:
    """The costs that the oracle is asked for: clipped at zero for one that declares ``needs_nonnegative_costs``.

    Clipping is a part of the map from costs to vertices, so the score function of the noise stays exact.
    """
    return costs.clamp(min=0) if getattr(problem.oracle, "needs_nonnegative_costs", False) else costs


def solve_atoms(problem: Problem, costs: Tensor) -> tuple[Tensor, Tensor]:
    """Vertices of ``costs`` [..., n] in one oracle call.

    Returns:
        atoms [..., n] in the dtype and on the device of ``costs``, NaN without a point; has_point [...] bool.
    """
    flat = costs.reshape(-1, costs.shape[-1])
    batch = problem.oracle.solve(to_numpy(as_solved(problem, flat)))
    atoms = to_torch(batch.x, like=costs)
    has_point = (to_torch(batch.has_point, like=costs) > 0) & torch.isfinite(atoms).all(-1)
    atoms = torch.where(has_point[:, None], atoms, torch.nan)
    return atoms.reshape(costs.shape), has_point.reshape(costs.shape[:-1])


def values_at(problem: Problem, points: Tensor, has_point: Tensor) -> Tensor:
    """F at ``points`` [..., n] in one objective call, without gradient; NaN where ``has_point`` [...] is False.

    Equal points are valued once.
    """
    values = points.new_full(has_point.shape, torch.nan)
    if has_point.any():
        distinct, place = _distinct(points[has_point])
        with torch.no_grad():
            values[has_point] = _objective(problem, distinct).to(values)[place]
    return values


def values_and_gradients(
    problem: Problem, points: Tensor, has_point: Tensor, *, has_gradient: Tensor | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    """F and its gradient at ``points`` [..., n] in one objective call.

    Args:
        problem: the problem.
        points: [..., n], vertices or means of vertices.
        has_point: [...] bool; the other points are not passed to the objective.
        has_gradient: [...] bool, where the gradient is wanted; everywhere if None.

    Returns:
        values [...], NaN where ``has_point`` is False; gradients [..., n], zero where unknown; is_known [...] bool,
        where value and gradient both are finite numbers.

    Raises:
        CutGradientError: autograd does not lead from the values back to x, for example because the objective takes
            an argmax, rounds, or leaves torch.
    """
    values = points.new_full(has_point.shape, torch.nan)
    gradients = torch.zeros_like(points)
    if not has_point.any():
        return values, gradients, torch.zeros_like(has_point)
    distinct, place = _distinct(points[has_point])
    distinct.requires_grad_()
    with torch.enable_grad():
        found = _objective(problem, distinct)
        is_finite = torch.isfinite(found.detach())
        gradient = None
        if found.requires_grad:
            (gradient,) = torch.autograd.grad(found, distinct, is_finite.to(found), allow_unused=True)
    if gradient is None:
        raise CutGradientError(
            f"Expected the objective of {type(problem).__name__} to be differentiable, but its graph is cut: autograd "
            "finds no way from f back to x. An argmax, a round, a one_hot, .item(), .detach() or NumPy inside of it "
            "does that. Take the loss at x itself, or set `is_differentiable = False` and use ScoreFunction()."
        )
    values[has_point] = found.detach().to(values)[place]
    gradients[has_point] = gradient.to(gradients)[place]
    is_known = torch.isfinite(values) & torch.isfinite(gradients).all(-1)
    if has_gradient is not None:
        is_known = is_known & has_gradient
    return values, torch.where(is_known[..., None], gradients, 0.0), is_known


def mean_value(values: Tensor) -> Tensor:
    """Mean of the finite ones of ``values`` [B, M], as [B]; inf where there are none."""
    is_finite = torch.isfinite(values)
    count = is_finite.sum(-1)
    total = torch.where(is_finite, values, 0.0).sum(-1)
    return torch.where(count > 0, total / count.clamp(min=1), torch.inf)


def rms_or_one(x: Tensor) -> Tensor:
    """Root mean square |x| / sqrt(n) of x [..., n], as [..., 1]; 1 where it is zero."""
    rms = x.square().mean(-1, keepdim=True).sqrt()
    return torch.where(rms > 0, rms, 1.0)


def _objective(problem: Problem, x: Tensor) -> Tensor:
    values = problem.objective(x)
    if not isinstance(values, Tensor) or values.shape != x.shape[:-1]:
        came = list(values.shape) if isinstance(values, Tensor) else type(values).__name__
        raise InvalidInputError(
            f"Expected `objective` to map x {list(x.shape)} to a tensor of shape {list(x.shape[:-1])}, got {came}. "
            "Sum over the last dimension only."
        )
    return values


def _distinct(points: Tensor) -> tuple[Tensor, Tensor]:
    """Distinct rows of ``points`` [K, n] in order of appearance, and the place [K] of each row among them."""
    seen: dict[bytes, int] = {}
    place = [seen.setdefault(row.tobytes(), len(seen)) for row in to_numpy(points)]
    first = [0] * len(seen)
    for row in range(len(place) - 1, -1, -1):
        first[place[row]] = row
    return points.detach()[first], torch.tensor(place, device=points.device)
