"""Training of surrogate networks on families of instances: SurCo-prior."""

from __future__ import annotations

from surco.training.config import TrainConfig
from surco.training.prior import Prior, as_prior
from surco.training.trainer import train

__all__ = ["Prior", "TrainConfig", "as_prior", "train"]
