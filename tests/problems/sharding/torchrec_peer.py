"""The peer: TorchRec's own enumerator and estimator on the same tables. Optional; see `REQUIREMENTS`.

`python -m tests.problems.sharding.torchrec_peer FILE` writes the numbers of `CASES` as a reference file, so that the
comparison also runs where TorchRec is not installed.
"""

from __future__ import annotations

import json
import sys
import warnings
from pathlib import Path

import torch

from problems.sharding import DataType, Device, Optimizer, Table, Workload

REQUIREMENTS = (
    "pip install --no-deps torchrec==1.8.0 fbgemm-gpu-cpu==1.8.0 tensordict pyvers pyre-extensions typing-inspect "
    "mypy-extensions cloudpickle"
)
REFERENCE = Path(__file__).with_name("torchrec_reference.json")


def case(count, per_host, batch, optimizer, tables, memory_gib=80):
    devices = [Device(f"d{i}", memory_gib * 2**30, host=i // per_host) for i in range(count)]
    return tables, devices, Workload(batch_size=batch, optimizer=optimizer, reserve=0.0)


def some_tables(dtype):
    dims, pooling = (4, 16, 32, 64, 96, 128, 256), (0.0, 0.05, 0.7, 1.0, 3.3, 20.0, 140.0)
    return [
        Table(f"t{i}", rows, dim, p, dtype)
        for i, (rows, dim, p) in enumerate(
            zip((3, 1000, 39060, 10**6, 77, 4 * 10**6, 12345), dims, pooling, strict=True)
        )
    ]


CASES = {
    "one host of 8, float32": case(8, 8, 2048, Optimizer.SGD, some_tables(DataType.FLOAT32)),
    "one host of 4, float16, Adam": case(4, 4, 513, Optimizer.ADAM, some_tables(DataType.FLOAT16)),
    "two hosts of 8, float32, Adagrad": case(16, 8, 4096, Optimizer.ADAGRAD, some_tables(DataType.FLOAT32)),
    "two hosts of 2, row-wise Adagrad": case(4, 2, 64, Optimizer.ROWWISE_ADAGRAD, some_tables(DataType.FLOAT32)),
}


def peer_numbers(tables, devices, workload):
    """Per table: [fwd compute, fwd comms, bwd comms, bwd compute] in ms and HBM bytes, by TorchRec."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import torchrec
        from torchrec import optim as optimizers
        from torchrec.distributed.embedding_types import EmbeddingComputeKernel
        from torchrec.distributed.embeddingbag import EmbeddingBagCollectionSharder
        from torchrec.distributed.planner import ParameterConstraints, Topology
        from torchrec.distributed.planner.enumerators import EmbeddingEnumerator
        from torchrec.distributed.types import ShardingType
        from torchrec.modules.embedding_configs import DataType as PeerType
        from torchrec.modules.embedding_configs import EmbeddingBagConfig

        types = {DataType.FLOAT32: PeerType.FP32, DataType.FLOAT16: PeerType.FP16}
        classes = {
            Optimizer.SGD: torch.optim.SGD,
            Optimizer.ADAM: torch.optim.Adam,
            Optimizer.ADAGRAD: torch.optim.Adagrad,
            Optimizer.ROWWISE_ADAGRAD: optimizers.RowWiseAdagrad,
        }
        module = torchrec.EmbeddingBagCollection(
            device=torch.device("meta"),
            tables=[
                EmbeddingBagConfig(
                    name=t.name, num_embeddings=t.rows, embedding_dim=t.dim, feature_names=[t.name],
                    data_type=types[t.dtype],
                )
                for t in tables
            ],
        )  # fmt: skip
        for parameter in module.parameters():
            parameter._optimizer_classes = [classes[workload.optimizer]]
        world = len(devices)
        topology = Topology(
            world_size=world,
            compute_device="cuda",
            local_world_size=sum(d.host == 0 for d in devices),
            hbm_cap=devices[0].memory_bytes,
        )
        constraints = {
            t.name: ParameterConstraints(
                sharding_types=[ShardingType.TABLE_WISE.value],
                compute_kernels=[EmbeddingComputeKernel.FUSED.value],
                pooling_factors=[t.pooling_factor],
            )
            for t in tables
        }
        enumerator = EmbeddingEnumerator(topology, batch_size=workload.batch_size, constraints=constraints)
        options = enumerator.enumerate(module, [EmbeddingBagCollectionSharder()])
    found = {}
    for option in options:
        (shard,) = option.shards
        perf = shard.perf
        found[option.name] = {
            "ms": [perf.fwd_compute, perf.fwd_comms, perf.bwd_comms, perf.bwd_compute],
            "hbm_bytes": shard.storage.hbm,
        }
    return [found[t.name] for t in tables]


if __name__ == "__main__":
    import torchrec

    reference = {
        "provenance": {"torchrec": torchrec.__version__, "torch": torch.__version__, "install": REQUIREMENTS},
        "cases": {name: peer_numbers(*values) for name, values in CASES.items()},
    }
    Path(sys.argv[1]).write_text(json.dumps(reference, indent=1) + "\n", encoding="utf-8")
