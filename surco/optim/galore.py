"""GaLore: Adam-family optimization with moments in a low-rank subspace of the gradient, dense or row-sparse."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor
from torch.distributed import ProcessGroup
from torch.optim import Optimizer

from surco.errors import InvalidInputError
from surco.optim import grouped
from surco.optim.advance import advance, is_rowwise
from surco.optim.direction import adafactor_direction, are_finite
from surco.optim.distributed import gather_rows
from surco.optim.moments import check_state, create_moments
from surco.optim.options import SKETCHES, Inner, Mode, Projection, check_group
from surco.optim.refresh import refresh_basis
from surco.optim.update import Projected, as_matrix, finish, sketch


class GaLore(Optimizer):
    r"""Low-rank Adam: the moments of R = G P instead of those of the gradient G.

    Every ``update_gap`` steps the basis P [n, r] becomes the r dominant directions of the gradient; in between

        R = G P,   m, v = moments of R,   W <- W - lr * scale * (m_hat / (sqrt(v_hat) + eps)) P'

    with G [N, n] the gradient turned so that the projected side (by default the shorter) is n wide. The state of a
    weight is 4 (2 N r + n r) bytes, with ``inner="adamw8bit"`` N (2 r + 1) + 4 n r. States are float32 whatever the
    dtype of the weight. Weights of more than two dimensions are flattened behind the first; vectors, and groups with
    ``rank=None``, get the inner rule itself, without ``scale``.

    For embedding tables take ``mode="rowwise"`` with ``covariance_decay=0.9`` (a batch touches few rows, so that its
    gradient alone is a noisy sample of the row space) and learning rates of Adam: low-rank momentum, but one second
    moment a row, and the part of the gradient outside the subspace followed at the same scale. On clicks it is level
    with SparseAdam at 4 (N (r + 1) + n r) bytes, where the mode "galore" is behind: equal steps along all r directions
    favor the weak ones, and what a rare row has outside the subspace is lost (benchmarks/galore_quality.py).

    Sparse gradients (``nn.EmbeddingBag(sparse=True)``) touch only the rows that were looked up: no pass over the
    table, untouched rows and their moments stay bit for bit. As in ``torch.optim.SparseAdam``, idle moments do not
    decay and the bias correction counts the steps of the table. Weight decay acts on touched rows only.

    Gradients with NaN or infinity leave the weight, the moments and the basis alone; a zero gradient at a refresh
    keeps the old basis. Both are counted in the state (``skipped_steps``, ``kept_bases``).

    Args:
        params: parameters or parameter groups; every option below may be set by group.
        lr: learning rate. ``scale`` multiplies the update too, so rates are about ten times those of AdamW.
        betas: decay of the first and second moment.
        eps: added to the root of the second moment.
        weight_decay: see ``Inner`` for how it acts.
        rank: columns of the basis; "auto" takes at the first refresh the fewest that hold ``energy``; None projects
            nothing. Clipped to the shorter side.
        update_gap: steps between refreshes.
        scale: factor of the projected update; None takes the value of the paper of the mode (``DEFAULT_SCALE``).
        projection: a value of ``Projection``.
        mode: a value of ``Mode``.
        inner: a value of ``Inner``.
        refresh: a value of ``Refresh``.
        covariance_decay: decay of a running mean of G'G (n x n) from which bases are taken; 0 takes them from the last
            gradient alone. Costs 4 n^2 bytes and N n^2 operations a step.
        rotate_moments: turn the moments into the new basis at a refresh; False leaves them as they are, as in the
            reference implementation.
        stagger: spread the refreshes of the parameters over the gap, so that no step pays for all.
        energy: share of the squared gradient norm that ``rank="auto"`` keeps.
        conventions: a value of ``Conventions``.
        implementation: a value of ``Implementation``. "grouped" takes float32 weights on an NVIDIA GPU together
            (``surco.optim.grouped`` says which, and what was measured) and is "fused" for all others.
        stochastic_rounding: round bfloat16 weights so that small updates survive in the mean.
        seed: of random bases and sketches.
        process_group: ranks that share one basis by summing their n x n Gram matrices.
        has_local_gradients: the ranks hold replicas of the tables and their sparse gradients are *not* yet averaged:
            exchange the touched rows, projected to r floats in the mode "galore", n floats in the others. Leave False
            under DistributedDataParallel and for sharded tables. Every rank must then hold a gradient, be it without
            rows, at every step.

    Raises:
        InvalidInputError: an option is outside its range, or a sparse gradient meets an option without a lazy form.

    Source: arXiv 2403.03507, algorithm 2.

    Example:
        >>> import torch
        >>> weight = torch.nn.Parameter(torch.zeros(6, 4))
        >>> optimizer = GaLore([weight], lr=0.1, rank=2, update_gap=10)
        >>> (weight - torch.ones(6, 4)).square().sum().backward()
        >>> _ = optimizer.step()
        >>> optimizer.state[weight]["exp_avg"].shape
        torch.Size([6, 2])
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 1e-2,
        *,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        rank: int | str | None = 128,
        update_gap: int = 200,
        scale: float | None = None,
        projection: str = "std",
        mode: str = "galore",
        inner: str = "adamw",
        refresh: str = "auto",
        covariance_decay: float = 0.0,
        rotate_moments: bool = True,
        stagger: bool = True,
        energy: float = 0.95,
        conventions: str = "torch",
        implementation: str = "grouped",
        stochastic_rounding: bool = True,
        seed: int = 0,
        process_group: ProcessGroup | None = None,
        has_local_gradients: bool = False,
    ) -> None:
        if process_group is not None and not isinstance(process_group, ProcessGroup):
            raise InvalidInputError(
                f"Expected `process_group` to be a group of torch.distributed, such as dist.group.WORLD, or None; "
                f"got {process_group!r}."
            )
        self._grouped = grouped.GroupedStep()
        self._places: dict[int, int] = {}  # id of a parameter -> number of its group
        self.process_group = process_group
        self.has_local_gradients = has_local_gradients
        defaults = {
            "lr": lr,
            "betas": betas,
            "eps": eps,
            "weight_decay": weight_decay,
            "rank": rank,
            "update_gap": update_gap,
            "scale": scale,
            "projection": projection,
            "mode": mode,
            "inner": inner,
            "refresh": refresh,
            "covariance_decay": covariance_decay,
            "rotate_moments": rotate_moments,
            "stagger": stagger,
            "energy": energy,
            "conventions": conventions,
            "implementation": implementation,
            "stochastic_rounding": stochastic_rounding,
            "seed": seed,
        }
        super().__init__(params, defaults)

    # ------------------------------------------------------------------ torch.optim.Optimizer

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a group of parameters; its options are checked."""
        super().add_param_group(param_group)
        for parameter in param_group["params"]:
            if not parameter.is_floating_point():
                raise InvalidInputError(
                    f"Expected real floating-point parameters; got {tuple(parameter.shape)} of {parameter.dtype}. "
                    "Give complex weights as torch.view_as_real."
                )
        check_group(self.param_groups[-1])
        self._places.update({id(parameter): len(self.param_groups) - 1 for parameter in param_group["params"]})

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Rebuild what torch does not copy; a process group cannot be copied and is left out."""
        super().__setstate__(state)
        self.__dict__.setdefault("process_group", None)
        self.__dict__.setdefault("has_local_gradients", False)
        self._grouped = grouped.GroupedStep()
        self._places = {id(p): number for number, group in enumerate(self.param_groups) for p in group["params"]}

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:  # type: ignore[override]
        """One step on every parameter that has a gradient.

        Args:
            closure: evaluates the model again and returns the loss.

        Returns:
            The loss of ``closure``, or None.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        batch: list[Projected] = []
        together: dict[tuple[Any, ...], list[Projected]] = {}
        for group in self.param_groups:
            for parameter in group["params"]:
                work = self._prepared(parameter, group, can_group=True)
                if work is None:
                    continue
                if work.is_open:
                    together.setdefault((id(group), parameter.device, work.state["rank"]), []).append(work)
                    continue
                batch.append(work)
                # On a CPU a parameter at a time reuses the same small buffers; a GPU wants few, large launches.
                if parameter.device.type == "cpu":
                    self._applied(batch)
                    batch = []
        self._applied(batch)
        for works in together.values():
            self._grouped(works)
        return loss

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load a state from any device, each tensor in its own dtype (torch would cast it to that of the weight).

        Raises:
            InvalidInputError: the state of a parameter is of another optimizer, or of a weight of another shape.
        """
        pairs = [(number, group) for group in state_dict["param_groups"] for number in group["params"]]
        for (number, group), parameter in zip(pairs, self._parameters(), strict=False):
            by_rows = group.get("mode") == Mode.ROWWISE
            check_state(state_dict["state"].get(number, {}), tuple(parameter.shape), is_rowwise=by_rows)
        # torch also turns strings into generators; so every entry is taken from the source again.
        super().load_state_dict(state_dict)
        numbers = itertools.chain.from_iterable(group["params"] for group in state_dict["param_groups"])
        for number, parameter in zip(numbers, self._parameters(), strict=True):
            for key, value in state_dict["state"].get(number, {}).items():
                is_tensor = isinstance(value, Tensor)
                self.state[parameter][key] = value.to(device=parameter.device, copy=True) if is_tensor else value
        for group in self.param_groups:
            check_group(group)

    def state_bytes(self) -> int:
        """Bytes of all tensors of the state."""
        tensors = (value for state in self.state.values() for value in state.values() if isinstance(value, Tensor))
        return sum(tensor.numel() * tensor.element_size() for tensor in tensors)

    # ------------------------------------------------------------------ the two halves of a step

    @torch.no_grad()
    def prepare(self, parameter: Tensor, *, is_new_step: bool = True, with_norm: bool = False) -> Projected | None:
        """Project the gradient of one parameter, after a refresh of its basis where one is due.

        Args:
            parameter: with ``grad`` set, dense or sparse.
            is_new_step: False for a further micro-batch of the same step: no refresh.
            with_norm: also take the norm of the full gradient, for clipping.

        Returns:
            None without a gradient, or where the gradient is zero or not finite and there is no basis yet.
        """
        return self._prepared(parameter, self._group_of(parameter), is_new_step=is_new_step, with_norm=with_norm)

    def _prepared(
        self,
        parameter: Tensor,
        group: dict[str, Any],
        *,
        is_new_step: bool = True,
        with_norm: bool = False,
        can_group: bool = False,
    ) -> Projected | None:
        """``prepare`` without its own guard; ``can_group`` leaves the projection to the grouped kernels if they can."""
        gradient = parameter.grad
        if gradient is None or not parameter.numel():
            return None
        state = self.state[parameter]
        if not state:
            state.update(step=0, refreshes=0, kept_bases=0, skipped_steps=0, phase=self._phase(parameter, group))
        rows: Tensor | None = None
        if gradient.is_sparse:
            self._check_sparse(parameter, group)
            gradient = gradient.coalesce()
            rows, matrix = gradient.indices()[0], gradient.values().to(torch.float32)
        else:
            matrix = as_matrix(gradient)
            if matrix.dtype != torch.float32:
                matrix = matrix.to(torch.float32)
            if group["inner"] == Inner.ADAM and group["weight_decay"] and is_new_step:
                matrix = matrix.add(as_matrix(parameter.data), alpha=float(group["weight_decay"]))
        norm = torch.linalg.vector_norm(matrix).square() if with_norm else None
        if not _is_projected(parameter, group):
            work = Projected(parameter, state, group, matrix.contiguous(), None, rows, norm)
            return self._exchanged(work, None)
        if "is_left" not in state:
            state["is_left"] = rows is None and _side(matrix, group["projection"]) == "left"
        oriented = matrix.t() if state["is_left"] else matrix
        if is_new_step:
            refresh_basis(state, group, oriented, is_sparse=rows is not None, process_group=self.process_group)
        if "rank" not in state:
            return None
        if can_group and rows is None and grouped.can_take(parameter, gradient, group, state):
            if "exp_avg" not in state:
                create_moments(state, oriented.shape[0], state["rank"], device=parameter.device, is_8bit=False)
            return Projected(parameter, state, group, matrix, matrix, None, is_open=True)
        basis = self._basis(state, group, oriented)
        keeps = group["mode"] != Mode.GALORE
        work = Projected(parameter, state, group, torch.mm(oriented, basis), oriented if keeps else None, rows, norm)
        return self._exchanged(work, basis)

    @torch.no_grad()
    def apply(self, works: list[Projected]) -> None:
        """Advance the moments and write the weights of prepared parameters."""
        self._applied(works)

    def _applied(self, works: list[Projected]) -> None:
        works = self._finite(works)
        batches: dict[tuple[Any, ...], list[Projected]] = {}
        for work in works:
            work.state["step"] += 1
            self._create_moments(work)
            group = work.group
            if group["inner"] == Inner.ADAFACTOR and "row_avg_sq" in work.state:
                finish(work, adafactor_direction(work.values, work.state, step=work.state["step"]))
                continue
            key = (id(group), work.state["step"], work.parameter.device, is_rowwise(work))
            batches.setdefault(key, []).append(work)
        for batch in batches.values():
            advance(batch)

    # ------------------------------------------------------------------ parts

    def _parameters(self) -> list[Tensor]:
        return [parameter for group in self.param_groups for parameter in group["params"]]

    def _group_of(self, parameter: Tensor) -> dict[str, Any]:
        # load_state_dict makes new group dicts, hence the place of the group and not the group itself.
        place = self._places.get(id(parameter))
        if place is not None:
            return self.param_groups[place]
        raise InvalidInputError("Expected a parameter of this optimizer; add it with add_param_group().")

    def _phase(self, parameter: Tensor, group: dict[str, Any]) -> int:
        if not group["stagger"]:
            return 0
        projected = [other for other in self._parameters() if _is_projected(other, self._group_of(other))]
        place = next((index for index, other in enumerate(projected) if other is parameter), 0)
        return place * group["update_gap"] // max(1, len(projected))

    def _check_sparse(self, parameter: Tensor, group: dict[str, Any]) -> None:
        if parameter.dim() != 2:
            raise InvalidInputError(
                f"Expected a sparse gradient of a table [N, d]; got a weight {tuple(parameter.shape)}."
            )
        if group["inner"] == Inner.ADAFACTOR:
            raise InvalidInputError(
                "inner='adafactor' has no row-lazy form; use 'adamw' or 'adamw8bit' for sparse tables."
            )
        if group["inner"] == Inner.ADAM and group["weight_decay"]:
            raise InvalidInputError(
                "L2 decay would touch every row of a sparse table; use inner='adamw' (touched rows only)."
            )
        if group["projection"] in (Projection.LEFT, Projection.REVERSE_STD):
            raise InvalidInputError(
                f"projection={group['projection']!r} would project the rows of a sparse table; use 'std' or 'right'."
            )

    def _basis(self, state: dict[str, Any], group: dict[str, Any], matrix: Tensor) -> Tensor:
        if group["mode"] in SKETCHES:
            return sketch(state, matrix.shape[1], matrix.device)
        return state["basis"]

    def _exchanged(self, work: Projected, basis: Tensor | None) -> Projected:
        if self.has_local_gradients and work.rows is not None:
            return gather_rows(work, basis, self.process_group)
        return work

    def _create_moments(self, work: Projected) -> None:
        state, group = work.state, work.group
        if "exp_avg" in state or "exponent" in state or "row_avg_sq" in state:
            return
        count = work.parameter.shape[0] if work.rows is not None else work.values.shape[0]
        device, columns = work.values.device, work.values.shape[1]
        if group["inner"] == Inner.ADAFACTOR and columns > 1:
            state["row_avg_sq"] = torch.zeros(count, dtype=torch.float32, device=device)
            state["column_avg_sq"] = torch.zeros(columns, dtype=torch.float32, device=device)
            return
        # One byte codes pay only where a row has more than one entry; vectors are small anyway.
        is_8bit = group["inner"] == Inner.ADAMW_8BIT and work.parameter.dim() >= 2
        create_moments(state, count, columns, device=device, is_8bit=is_8bit, is_rowwise=is_rowwise(work))

    def _finite(self, works: list[Projected]) -> list[Projected]:
        """The works whose projected gradients are finite; the others are counted. One synchronization a device."""
        devices: dict[torch.device, list[Projected]] = {}
        for work in works:
            if work.values.numel():
                devices.setdefault(work.values.device, []).append(work)
        kept = []
        for group in devices.values():
            for work, is_finite in zip(group, are_finite([work.values for work in group]), strict=True):
                if is_finite:
                    kept.append(work)
                else:
                    work.state["skipped_steps"] += 1
        return kept


def _is_projected(parameter: Tensor, group: dict[str, Any]) -> bool:
    return parameter.dim() >= 2 and group["rank"] is not None


def _side(matrix: Tensor, projection: str) -> str:
    if projection in (Projection.LEFT, Projection.RIGHT):
        return projection
    is_tall = matrix.shape[0] >= matrix.shape[1]
    return "right" if is_tall == (projection == Projection.STD) else "left"
