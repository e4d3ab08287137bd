"""Recommender models whose embedding tables get sharded: train them, then export their tables with true bytes.

    from problems.sharding.embeddings import PlantedClicks, TrainConfig, train
    data = PlantedClicks(rows=(5000, 800, 60), pooling=(1, 3, 1)).draw(100_000, seed=1)
    result = train(data, TrainConfig(optimizer="galore-rowwise", rank=4))

``tables_from_model`` turns model, optimizer and batches into the table entries of a sharding spec.
"""

from problems.sharding.embeddings.config import ModelConfig, TrainConfig
from problems.sharding.embeddings.data import ClickData
from problems.sharding.embeddings.export import tables_from_model
from problems.sharding.embeddings.models import ClickModel, build_model
from problems.sharding.embeddings.planted import PlantedClicks
from problems.sharding.embeddings.trainer import TrainResult, train

__all__ = [
    "ClickData",
    "ClickModel",
    "ModelConfig",
    "PlantedClicks",
    "TrainConfig",
    "TrainResult",
    "build_model",
    "tables_from_model",
    "train",
]
