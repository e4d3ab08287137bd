"""A trained surrogate: costs of a new instance by one forward pass."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from surco import provenance
from surco.atomic import write_atomic, write_text
from surco.bridge import to_numpy, to_torch
from surco.diverse import DistantProblem
from surco.errors import InvalidInputError
from surco.instance_family import Family, collate, family
from surco.protocols import Problem

WEIGHTS, CARD = "prior.safetensors", "prior.json"
VERSION = 1


@dataclass(frozen=True)
class Prior:
    """A surrogate network with the family whose features it reads.

    Attributes:
        family: the family it was trained on; its schema decides which problems fit.
        network: on the CPU, float32.
        config: keyword arguments that rebuild the network.
        training: what is known about its training: settings, steps, seconds, validation regret.
    """

    family: Family
    network: nn.Module
    config: Mapping[str, Any] = field(default_factory=dict)
    training: Mapping[str, Any] = field(default_factory=dict)

    def costs(self, problem: Problem) -> Tensor:
        """Surrogate costs [n] float64 of a problem, in the names that its oracle understands.

        Raises:
            InvalidInputError: the family's schema does not describe this problem.
        """
        problem = undisguised(problem)
        batch = collate([self.family.features(problem)])
        with torch.no_grad():
            costs = self.network(batch.to(dtype=torch.float32).features).double()
        own = to_numpy(batch.rows(costs)[0])[None]
        names = self.family.relabeling(problem, own)
        return to_torch(own[0] if names is None else own[0, names[0]])

    def check(self, problem: Problem) -> None:
        """Raise InvalidInputError unless the schema describes this problem."""
        self.family.features(undisguised(problem))

    def fits(self, problem: Problem) -> bool:
        """Whether the schema describes this problem."""
        try:
            self.check(problem)
        except InvalidInputError:
            return False
        return True

    def save(self, folder: str | Path) -> Path:
        """Write ``prior.safetensors`` and ``prior.json`` into ``folder``, each atomically; returns the folder."""
        from safetensors.torch import save_file

        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        weights = {name: value.detach().cpu().contiguous().clone() for name, value in self.network.state_dict().items()}
        write_atomic(folder / WEIGHTS, lambda file: save_file(weights, file))
        card = {
            "version": VERSION,
            "family": self.family.id,
            "schema": self.family.schema.to_json(),
            "network": dict(self.config),
            "training": dict(self.training),
            "versions": provenance.versions(),
        }
        write_text(folder / CARD, json.dumps(card, indent=2))
        return folder

    @classmethod
    def load(cls, folder: str | Path) -> Prior:
        """Read what `save` wrote, on any machine.

        Raises:
            InvalidInputError: no prior there, of another version, or of another schema than this version's family.
        """
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        folder = Path(folder)
        if not (folder / CARD).is_file() or not (folder / WEIGHTS).is_file():
            raise InvalidInputError(
                f"Expected a prior ({CARD} and {WEIGHTS}) in `{folder}`, found none. "
                "Try `surco train FAMILY --out DIR`."
            )
        try:
            card = json.loads((folder / CARD).read_text(encoding="utf-8"))
            if not isinstance(card, dict) or not isinstance(card.get("family"), str):
                raise InvalidInputError(f"`{folder / CARD}` is not the card of a prior: it names no family.")
            if card["version"] != VERSION:
                raise InvalidInputError(f"`{folder}` holds a prior of version {card['version']}, expected {VERSION}.")
            source = family(card["family"])
            source.schema.check(card["schema"], f"the prior in `{folder}`")
            network = source.network(**card["network"])
            weights = load_file(folder / WEIGHTS)
            if not all(bool(torch.isfinite(value).all()) for value in weights.values()):
                raise InvalidInputError(f"The weights in `{folder}` are not finite. Train the prior again.")
            network.load_state_dict(weights)
        except (SafetensorError, OSError, AttributeError, ValueError, KeyError, TypeError, RuntimeError) as error:
            if isinstance(error, InvalidInputError):
                raise
            raise InvalidInputError(f"`{folder}` does not hold a readable prior: {error}.") from error
        return cls(source, network.eval(), card["network"], card["training"])


def undisguised(problem: Problem) -> Problem:
    """The problem itself, behind the penalty that keeps several designs apart: the oracle is the same."""
    while isinstance(problem, DistantProblem):
        problem = problem.inner
    return problem


def as_prior(prior: Prior | str | Path) -> Prior:
    """A prior itself, or the one saved in a folder."""
    return prior if isinstance(prior, Prior) else Prior.load(prior)
