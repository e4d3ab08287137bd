"""One rank of a training step under our plan: ``python -m tests.problems.sharding_handover.train_step FOLDER RANK``.

FOLDER has ``plan.json`` (the JSON form of a ShardingPlan) and ``case.pt``: full weights, a batch for each rank, the
learning rate. Writes ``rank{RANK}.pt``: outputs of this rank, and its blocks of the weights after the step.
"""

from __future__ import annotations

import json
import os
import sys
import warnings
from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed as dist

warnings.simplefilter("ignore")  # TorchRec's own, at import; this process does nothing else


def build_model(tables, device="cpu"):
    """The model that is sharded: an EmbeddingBagCollection inside a module, and a fixed linear head."""
    import torchrec

    class Model(torch.nn.Module):
        def __init__(self):
            super().__init__()
            configs = [
                torchrec.EmbeddingBagConfig(
                    name=t["name"],
                    num_embeddings=t["rows"],
                    embedding_dim=t["dim"],
                    feature_names=t["features"],
                    pooling=torchrec.PoolingType[t["pooling"].upper()],
                )
                for t in tables
            ]
            self.sparse = torchrec.EmbeddingBagCollection(tables=configs, device=torch.device(device))

        def forward(self, batch):
            found = self.sparse(batch).to_dict()  # sharded, the features come in another order
            return torch.cat([found[name] for table in tables for name in table["features"]], dim=1)

    return Model()


def batch_of(part):
    from torchrec import KeyedJaggedTensor

    return KeyedJaggedTensor.from_lengths_sync(keys=part["keys"], values=part["values"], lengths=part["lengths"])


def main(folder: Path, rank: int) -> None:
    from torchrec.distributed import DistributedModelParallel
    from torchrec.distributed.embeddingbag import EmbeddingBagCollectionSharder
    from torchrec.distributed.types import ShardingEnv

    from problems.sharding.handover import sharding_plan_of_text

    text = json.loads((folder / "plan.json").read_text())
    case = torch.load(folder / "case.pt", weights_only=True)
    world = text["world_size"]
    store = dist.FileStore(str(folder / "store"), world)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=world, timeout=timedelta(seconds=60))
    from fbgemm_gpu.split_embedding_configs import EmbOptimType

    fused = {"optimizer": EmbOptimType.EXACT_SGD, "learning_rate": case["learning_rate"]}
    model = DistributedModelParallel(
        module=build_model(case["tables"]),
        env=ShardingEnv.from_process_group(dist.group.WORLD),
        device=torch.device("cpu"),
        plan=sharding_plan_of_text(text, module_of={t["name"]: "sparse" for t in case["tables"]}),
        sharders=[EmbeddingBagCollectionSharder(fused_params=fused)],
    )
    blocks = {}
    with torch.no_grad():
        for key, value in model.state_dict().items():
            name = key.split(".")[-2]
            full = case["weights"][name]
            if hasattr(value, "local_shards"):
                blocks[name] = []
                for shard in value.local_shards():
                    (row, column), (rows, columns) = shard.metadata.shard_offsets, shard.metadata.shard_sizes
                    shard.tensor.copy_(full[row : row + rows, column : column + columns])
                    blocks[name].append((row, column, shard.tensor))
            else:
                value.copy_(full)
                blocks[name] = [(0, 0, value)]
    outputs = model(batch_of(case["parts"][rank]))
    (outputs * case["head"]).sum(1).mean().backward()
    unfused = [p for p in model.parameters() if p.grad is not None]
    torch.optim.SGD(unfused, lr=case["learning_rate"]).step() if unfused else None
    found = {
        "outputs": outputs.detach(),
        "unfused": len(unfused),
        "blocks": {n: [(r, c, t.detach().clone()) for r, c, t in held] for n, held in blocks.items()},
    }
    torch.save(found, folder / f"rank{rank}.pt")
    dist.barrier()
    dist.destroy_process_group()


if __name__ == "__main__":
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    torch.set_num_threads(1)
    main(Path(sys.argv[1]), int(sys.argv[2]))
