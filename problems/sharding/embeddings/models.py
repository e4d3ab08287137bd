"""DLRM and DCN-v2 on pooled multi-hot embedding tables."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from problems.sharding.embeddings.config import Architecture, ModelConfig
from problems.sharding.embeddings.data import ClickData


class PooledTables(nn.Module):
    """One ``nn.EmbeddingBag`` a feature, with sparse gradients.

    A table has one row more than ids: the last one is the empty place of shorter bags; it is never read nor updated.

    Args:
        names: of the features.
        rows: ids of each.
        dim: width of all.
        pooling: "sum" or "mean".
        is_sparse: whether gradients are sparse.
        dtype: of the weights.
        generator: draws the initial weights, normal with deviation 1 / sqrt(dim) / 4.
    """

    def __init__(
        self,
        names: Sequence[str],
        rows: Sequence[int],
        dim: int,
        *,
        pooling: str = "sum",
        is_sparse: bool = True,
        dtype: torch.dtype = torch.float32,
        generator: torch.Generator,
    ) -> None:
        super().__init__()
        self.bags = nn.ModuleDict()
        for name, count in zip(names, rows, strict=True):
            weight = torch.randn(count + 1, dim, generator=generator) * (0.25 * dim**-0.5)
            weight[count] = 0.0
            bag = nn.EmbeddingBag.from_pretrained(
                weight.to(dtype), freeze=False, mode=pooling, sparse=is_sparse, padding_idx=count
            )
            # Module names must not hold dots.
            self.bags[name.replace(".", "_")] = bag

    def forward(self, ids: Sequence[Tensor]) -> Tensor:
        """Bags [B, k_t] for each table -> pooled embeddings [B, T, dim] in float32."""
        pooled = [bag(part) for bag, part in zip(self.bags.values(), ids, strict=True)]
        return torch.stack(pooled, dim=1).to(torch.float32)


class CrossLayer(nn.Module):
    """x0 * (U V' x + b) + x, the low-rank cross of DCN-v2, equation 2."""

    def __init__(self, width: int, rank: int) -> None:
        super().__init__()
        self.down, self.up = nn.Linear(width, rank, bias=False), nn.Linear(rank, width)

    def forward(self, first: Tensor, x: Tensor) -> Tensor:
        """[B, width] both."""
        return first * self.up(self.down(x)) + x


class ClickModel(nn.Module):
    """Pooled tables, a network on dense features, an interaction, and a network that ends in the logit.

    Args:
        config: of the model.
        names: of the features.
        rows: ids of each.
        dense: number of dense features, may be 0.
        is_sparse: whether the tables have sparse gradients.
        dtype: of the tables.
        generator: draws all initial weights.
    """

    def __init__(
        self,
        config: ModelConfig,
        names: Sequence[str],
        rows: Sequence[int],
        dense: int,
        *,
        is_sparse: bool = True,
        dtype: torch.dtype = torch.float32,
        generator: torch.Generator,
    ) -> None:
        super().__init__()
        self.config = config
        self.tables = PooledTables(
            names, rows, config.dim, pooling=config.pooling, is_sparse=is_sparse, dtype=dtype, generator=generator
        )
        self.bottom = network((dense, *config.bottom, config.dim)) if dense else None
        vectors = len(rows) + (1 if dense else 0)
        self.cross = nn.ModuleList()
        if config.architecture == Architecture.DLRM:
            interactions = vectors * (vectors - 1) // 2 + vectors * config.dim
        else:
            interactions = vectors * config.dim
            self.cross.extend(CrossLayer(interactions, config.cross_rank) for _ in range(config.cross_layers))
        self.top = network((interactions, *config.top, 1))
        self.register_buffer("pairs", torch.triu_indices(vectors, vectors, offset=1), persistent=False)
        for name, layer in self.named_modules():
            if isinstance(layer, nn.Linear) and not name.startswith("tables"):
                draw_(layer, generator)

    def forward(self, ids: Sequence[Tensor], dense: Tensor) -> Tensor:
        """Logits [B] of bags [B, k_t] a table and dense features [B, D]."""
        vectors = self.tables(ids)
        if self.bottom is not None:
            vectors = torch.cat([self.bottom(dense)[:, None].to(vectors.dtype), vectors], dim=1)
        flat = vectors.flatten(1)
        if self.config.architecture == Architecture.DLRM:
            first, second = self.get_buffer("pairs")
            products = (vectors @ vectors.transpose(1, 2))[:, first, second]
            return self.top(torch.cat([flat, products], dim=1)).squeeze(1)
        x = flat
        for layer in self.cross:
            x = layer(flat, x)
        return self.top(x).squeeze(1)

    def table_parameters(self) -> list[nn.Parameter]:
        """Weights of the tables, in the order of the features."""
        return list(self.tables.parameters())

    def network_parameters(self) -> list[nn.Parameter]:
        """All other weights."""
        known = {id(parameter) for parameter in self.table_parameters()}
        return [parameter for parameter in self.parameters() if id(parameter) not in known]


def network(widths: Sequence[int]) -> nn.Sequential:
    """Linear layers with ReLU between them."""
    layers: list[nn.Module] = []
    for first, second in itertools.pairwise(widths):
        layers += [nn.Linear(first, second), nn.ReLU()]
    return nn.Sequential(*layers[:-1])


@torch.no_grad()
def draw_(layer: nn.Linear, generator: torch.Generator) -> None:
    """Glorot normal weights, zero bias, from ``generator`` (a module of torch would take the global one)."""
    deviation = (2.0 / (layer.in_features + layer.out_features)) ** 0.5
    layer.weight.copy_(torch.randn(layer.weight.shape, generator=generator) * deviation)
    if layer.bias is not None:
        layer.bias.zero_()


def build_model(
    data: ClickData, config: ModelConfig, *, seed: int, is_sparse: bool = True, dtype: torch.dtype = torch.float32
) -> ClickModel:
    """A model for the features of ``data``, on the CPU, with weights drawn from ``seed``."""
    generator = torch.Generator().manual_seed(seed)
    dense = data.dense.shape[1]
    return ClickModel(config, data.names, data.rows, dense, is_sparse=is_sparse, dtype=dtype, generator=generator)
