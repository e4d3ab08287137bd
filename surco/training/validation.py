"""Regret on instances that training never sees."""

from __future__ import annotations

import numpy as np
import torch

from solvers.fanout import MapPool
from surco.bridge import to_torch
from surco.instance_family import Family, Split, collate
from surco.training.steps import Learner


class Validation:
    """The first ``count`` validation instances of a family, each with the value of the field's best rule.

    Args:
        family: whose instances.
        count: of them.
    """

    def __init__(self, family: Family, count: int) -> None:
        self.instances = [family.sample(Split.VALIDATION, seed=k) for k in range(count)]
        self.references = [family.reference(instance.problem) for instance in self.instances]

    def regret(self, learner: Learner, pool: MapPool | None) -> float:
        """Mean of (f(x*(c)) - reference) / scale, without noise; inf where the oracle found no point."""
        learner.network.eval()
        regrets: list[float] = []
        for first in range(0, len(self.instances), learner.settings.batch):
            part = self.instances[first : first + learner.settings.batch]
            batch = learner.batch(part)
            with torch.no_grad():
                costs = learner.costs(batch.features)
                x, has_point = learner.family.solve(batch, part, costs[:, None], pool=pool)
                exact = collate([instance.features for instance in part])  # float64, for the verdict
                values = learner.family.objective(exact.features, x[:, 0].double().cpu())
                scale = learner.family.scale(exact.features)
            known = to_torch(self.references[first : first + len(part)])
            regrets += torch.where(has_point[:, 0].cpu(), (values - known) / scale, torch.inf).tolist()
        return float(np.mean(regrets))
