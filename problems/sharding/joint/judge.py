"""The independent judge of joint sharding plans: TorchRec's own planner objects rate a plan.

Nothing here uses the project's formulas: tables and topology become TorchRec's, its enumerator cuts the tables as the
plan says, its estimators price the shards, its performance models rate them. TorchRec is optional (`REQUIREMENTS`).
"""

from __future__ import annotations

import contextlib
import logging
import math
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from problems.sharding.joint.plan import JointPlan, ShardingType
from problems.sharding.joint.spec import JointSpec, Objective
from problems.sharding.tables import GIB_BYTES, DataType, Optimizer
from solvers.oracle import Array
from surco.errors import InvalidInputError, MissingExtraError
from surco.protocols import Verification

if TYPE_CHECKING:
    from problems.sharding.joint.problem import JointProblem

REQUIREMENTS = (
    "pip install --no-deps torchrec==1.8.0 fbgemm-gpu-cpu==1.8.0 tensordict pyvers pyre-extensions typing-inspect "
    "mypy-extensions cloudpickle"
)


@dataclass(frozen=True, slots=True)
class Verdict:
    """What TorchRec says of a plan.

    Attributes:
        rating: its max-rank performance, ms.
        critical_path: its critical path (comms and compute), ms.
        hbm_bytes: [W] bytes on each rank.
        is_feasible: whether every rank holds its bytes less the reserve.
        loads_ms: [W] total of each rank.
    """

    rating: float
    critical_path: float
    hbm_bytes: Array
    is_feasible: bool
    loads_ms: Array


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """TorchRec without its warnings and log lines."""
    logger = logging.getLogger("torchrec")
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)


class TorchRecJudge:
    """TorchRec's view of a spec.

    Args:
        spec: alike devices only; TorchRec knows one bandwidth for all.

    Raises:
        MissingExtraError: TorchRec is not installed.
        InvalidInputError: devices that TorchRec cannot describe.
    """

    def __init__(self, spec: JointSpec) -> None:
        if len({device.speed for device in spec.devices}) != 1:
            raise InvalidInputError("TorchRec describes devices of one bandwidth only.")
        self.spec = spec
        with quiet():
            try:
                import torchrec
                from torchrec import optim as optimizers
                from torchrec.distributed.planner import Topology
                from torchrec.modules.embedding_configs import DataType as PeerType
            except ImportError as error:
                raise MissingExtraError(f"The judge needs TorchRec: {REQUIREMENTS}") from error
            types = {
                DataType.FLOAT32: PeerType.FP32, DataType.FLOAT16: PeerType.FP16, DataType.BFLOAT16: PeerType.BF16,
                DataType.INT8: PeerType.INT8,
            }  # fmt: skip
            classes = {
                Optimizer.SGD: torch.optim.SGD,
                Optimizer.ADAM: torch.optim.Adam,
                Optimizer.ADAGRAD: torch.optim.Adagrad,
                Optimizer.ROWWISE_ADAGRAD: optimizers.RowWiseAdagrad,
            }
            self.module = torchrec.EmbeddingBagCollection(
                device=torch.device("meta"),
                tables=[
                    torchrec.EmbeddingBagConfig(
                        name=t.name, num_embeddings=t.rows, embedding_dim=t.dim, feature_names=[t.name],
                        data_type=types[t.dtype],
                    )
                    for t in spec.tables
                ],
            )  # fmt: skip
            for parameter in self.module.parameters():
                parameter._optimizer_classes = [classes[spec.workload.optimizer]]  # pyright: ignore
            device = spec.devices[0]
            self.topology = Topology(
                world_size=spec.world_size,
                compute_device="cuda",
                local_world_size=spec.local_world_size,
                hbm_cap=min(d.memory_bytes for d in spec.devices),
                hbm_mem_bw=device.hbm_gib_per_s * GIB_BYTES / 1000,
                intra_host_bw=device.intra_host_gib_per_s * GIB_BYTES / 1000,
                inter_host_bw=device.inter_host_gib_per_s * GIB_BYTES / 1000,
            )

    def constraints(
        self, types: Mapping[str, list[str]] | None = None, widths: Mapping[str, int] | None = None, *, fused: bool
    ) -> dict[str, Any]:
        """ParameterConstraints: pooling factors always, types and widths of column shards where given.

        Args:
            types: table -> sharding types.
            widths: table -> least width of a column shard.
            fused: leave out the offloading kernels.
        """
        from torchrec.distributed.planner import ParameterConstraints

        found = {}
        for table in self.spec.tables:
            options: dict[str, Any] = {"pooling_factors": [table.pooling_factor]}
            if types is not None:
                options["sharding_types"] = list(types[table.name])
            if widths is not None and table.name in widths:
                options["min_partition"] = widths[table.name]
            if fused:
                options["compute_kernels"] = ["fused", "dense"]
            found[table.name] = ParameterConstraints(**options)
        return found

    def options(self, types: Mapping[str, str], widths: Mapping[str, int]) -> list[Any]:
        """One priced ShardingOption per table, in the order of the tables."""
        from torchrec.distributed.embeddingbag import EmbeddingBagCollectionSharder
        from torchrec.distributed.planner.enumerators import EmbeddingEnumerator

        with quiet():
            enumerator = EmbeddingEnumerator(
                self.topology,
                batch_size=self.spec.workload.batch_size,
                constraints=self.constraints({name: [kind] for name, kind in types.items()}, widths, fused=True),
            )
            found = enumerator.enumerate(self.module, [EmbeddingBagCollectionSharder()])  # pyright: ignore
        by_name = {option.name: option for option in found}
        assert len(found) == len(by_name) == len(self.spec.tables), "expected one option per table"
        return [by_name[table.name] for table in self.spec.tables]

    def judge(self, plan: JointPlan) -> Verdict:
        """Rate a plan.

        Raises:
            InvalidInputError: TorchRec cuts a table into other shards than the plan says.
        """
        widths = {p.table: p.shard_dims[0] for p in plan.placements if p.shard_dims}
        options = self.options({p.table: p.sharding_type.value for p in plan.placements}, widths)
        for option in options:
            placement = plan.placement(option.name)
            dims = list(placement.shard_dims)
            if placement.sharding_type is ShardingType.GRID_SHARD:
                dims = [dim for dim in dims for _ in range(self.spec.local_world_size)]
            sizes = [shard.size[1] for shard in option.shards]
            if len(option.shards) != len(placement.ranks) or (dims and sizes != dims):
                raise InvalidInputError(f"TorchRec cuts {option.name!r} into {sizes}, the plan into {dims}.")
            if option.compute_kernel != placement.kernel:
                raise InvalidInputError(f"TorchRec's kernel of {option.name!r} is {option.compute_kernel}.")
            for shard, rank in zip(option.shards, placement.ranks, strict=True):
                shard.rank = rank
        return self.rate(options)

    def rate(self, options: list[Any]) -> Verdict:
        """Rate options whose shards have ranks."""
        from torchrec.distributed.planner.perf_models import NoopPerfModel
        from torchrec.distributed.planner.stats import _calculate_critical_path

        hbm, loads = np.zeros(self.spec.world_size), np.zeros(self.spec.world_size)
        for option in options:
            for shard in option.shards:
                hbm[shard.rank] += shard.storage.hbm
                loads[shard.rank] += shard.perf.total
        free = [int((1 - self.spec.workload.reserve) * d.memory_bytes) for d in self.spec.devices]
        fits = bool(np.all(hbm <= np.array(free) - self.spec.reserved_bytes))
        rating = float(NoopPerfModel(self.topology).rate(options))
        return Verdict(rating, float(_calculate_critical_path(options).total()), hbm, fits, loads)


def verify(problem: JointProblem, x: torch.Tensor) -> Verification:
    """TorchRec's verdict on a design [A]: confirmed if it finds the same score and room for every shard."""
    verdict = TorchRecJudge(problem.joint_spec).judge(problem.plan(x))
    value = verdict.rating if problem.joint_spec.objective is Objective.RATING else verdict.critical_path
    ours = float(problem.objective(x))
    facts = {"rating_ms": verdict.rating, "critical_path_ms": verdict.critical_path, "value_ms": ours}
    return Verification(verdict.is_feasible and math.isclose(value, ours, rel_tol=1e-9), facts)
