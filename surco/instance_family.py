"""Families: seeded distributions of problems with features, the ground on which a prior is trained and judged.

A family draws instances (``sample``), describes each as a dict of tensors in one schema (``features``), and values
padded batches of designs without a Python loop over instances (``objective``). Tensors of one name may differ in size
from instance to instance; `collate` pads them with zeros, so that a feature of ones is its own mask.
"""

from __future__ import annotations

import enum
import zlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Protocol
from weakref import WeakKeyDictionary

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from solvers.fanout import MapPool
from solvers.oracle import Array, LinearOracle
from surco.bridge import to_numpy, to_torch
from surco.errors import InvalidInputError, UnknownIdError
from surco.protocols import Problem
from surco.registry import closest, domain_names

Features = dict[str, Tensor]
Index = NDArray[np.int64]

VARIABLES = "variables"
"""Name of the feature of ones that has the shape of the design; flattened, it is in the order of x."""


class Split(enum.StrEnum):
    """Disjoint parts of a family."""

    TRAIN = "train"
    VALIDATION = "validation"
    TEST = "test"


@dataclass(frozen=True, slots=True)
class Schema:
    """What a surrogate network of the family expects.

    Attributes:
        name: of the layout, with its version, for example ``"routes-1"``; two families of one layout share priors.
        channels: name of a feature -> size of its fixed dimension (the others vary from instance to instance).
    """

    name: str
    channels: Mapping[str, int] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Plain data."""
        return {"name": self.name, "channels": dict(self.channels)}

    def check(self, other: Mapping[str, Any], what: str) -> None:
        """Raise InvalidInputError unless ``other``, a schema's plain data, is this one."""
        if dict(other) != self.to_json():
            raise InvalidInputError(
                f"Expected {what} of schema {self.to_json()}, got {dict(other)}. Train a prior on this family."
            )


@dataclass(frozen=True, slots=True)
class Instance:
    """One drawn problem with its features."""

    problem: Problem
    features: Features
    split: Split
    seed: int


@dataclass(frozen=True, slots=True)
class Batch:
    """Padded features [B, ...] of B instances; zeros beyond the size of each."""

    features: Features

    def __len__(self) -> int:
        return len(self.variables)

    @property
    def variables(self) -> Tensor:
        """Bool [B, ...], the entries of a padded design that exist."""
        return self.features[VARIABLES] > 0

    def to(self, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> Batch:
        """On a device; floating point features in ``dtype``."""
        return Batch(
            {
                name: value.to(device=device, dtype=dtype if value.is_floating_point() else None)
                for name, value in self.features.items()
            }
        )

    def rows(self, padded: Tensor) -> list[Tensor]:
        """Designs or costs [B, ..., *design shape] without padding: B tensors [..., n_b]."""
        masks = self.variables.flatten(1)
        lead = padded.shape[1 : padded.ndim - (self.variables.ndim - 1)]
        flat = padded.reshape(len(masks), *lead, -1)
        return [row[..., mask] for row, mask in zip(flat, masks, strict=True)]

    def padded(self, rows: Sequence[Tensor]) -> Tensor:
        """Inverse of `rows`, zeros where padded."""
        shape = self.variables.shape[1:]
        masks = self.variables.flatten(1)
        lead = rows[0].shape[:-1]
        out = rows[0].new_zeros(len(masks), *lead, masks.shape[1])
        for b, (row, mask) in enumerate(zip(rows, masks, strict=True)):
            out[b][..., mask] = row
        return out.reshape(len(masks), *lead, *shape)


def collate(items: Sequence[Mapping[str, Tensor]]) -> Batch:
    """Pad features of one schema to their largest sizes and stack them."""
    features: Features = {}
    for name, first in items[0].items():
        values = [item[name] for item in items]
        size = [max(value.shape[k] for value in values) for k in range(first.ndim)]
        stacked = first.new_zeros(len(values), *size)
        for b, value in enumerate(values):
            stacked[(b, *(slice(0, length) for length in value.shape))] = value
        features[name] = stacked
    return Batch(features)


class Family(ABC):
    """A distribution of problems. A domain fills in the five abstract methods.

    Attributes:
        id: for example ``"sharding/dlrm-50t-8d-nonlinear-v0"``.
        schema: of the features.
    """

    id: str
    schema: Schema

    # ------------------------------------------------------------------ to fill in

    @abstractmethod
    def draw(self, split: Split, rng: np.random.Generator) -> Problem:
        """Draw one problem of a split; all randomness from ``rng``."""

    @abstractmethod
    def features(self, problem: Problem) -> Features:
        """Describe a problem in the schema; it need not be drawn from the family.

        Raises:
            InvalidInputError: a problem that the schema cannot describe.
        """

    @abstractmethod
    def objective(self, features: Features, x: Tensor) -> Tensor:
        """Objective of padded designs [B, ..., *design shape] -> [B, ...]; differentiable, no loop over instances."""

    @abstractmethod
    def network(self, **config: Any) -> torch.nn.Module:
        """A fresh surrogate network: batched features -> costs [B, *design shape], zero where padded."""

    @abstractmethod
    def reference(self, problem: Problem) -> float:
        """A value of f to measure regret against: the best that the field's rules reach."""

    # ------------------------------------------------------------------ may be replaced

    gradient: str = "perturbed"
    """Name of the gradient that training uses by default, see :mod:`surco.training.gradients`."""

    training: Mapping[str, Any] = MappingProxyType({})
    """Settings of training with that gradient, where others than those of `surco.TrainConfig` are better."""

    def relabeling(self, problem: Problem, costs: Array) -> Index | None:
        """Names under which the problem's oracle understands costs [R, n], where it breaks a symmetry; None: their own.

        Returns:
            [R, n] permutations p: the oracle is asked for ``costs[r, p[r]]``, and entry j of its answer is entry
            p[r, j] of the design.
        """
        return None

    def scale(self, features: Features) -> Tensor:
        """[B], the size of f: the loss of training is f over scale."""
        variables = features[VARIABLES]
        return variables.new_ones(len(variables))

    def solve(
        self,
        batch: Batch,
        instances: Sequence[Instance],
        costs: Tensor,
        *,
        pool: MapPool | None = None,
        is_relaxed: bool = False,
    ) -> tuple[Tensor, Tensor]:
        """Vertices of padded costs [B, M, *design shape]; with ``is_relaxed`` of the linear relaxations instead.

        Returns:
            x like ``costs``, and has_point [B, M] bool; x is zero without a point.

        Raises:
            InvalidInputError: ``is_relaxed``, and an oracle that offers no relaxation.
        """
        questions = [
            Question(self.id, instance.split, instance.seed, to_numpy(row), is_relaxed)
            for instance, row in zip(instances, batch.rows(costs), strict=True)
        ]
        if pool is None:
            found = [
                ask(self, instance.problem, row.costs, is_relaxed=is_relaxed)
                for row, instance in zip(questions, instances, strict=True)
            ]
        else:
            found = list(pool.map(_answer, questions))
        x = batch.padded([to_torch(point) for point, _ in found]).to(costs)
        has_point = torch.from_numpy(np.stack([ok for _, ok in found])).to(costs.device)
        return x, has_point

    def local_values(self, features: Features, x: Tensor) -> Tensor:
        """Values [B, *design shape] of f after each single change of x [B, *design shape].

        Only for designs that are one choice in each of T rows, shape [T, D]: entry (t, d) is f with row t moved to d.

        Raises:
            InvalidInputError: the family has no such designs.
        """
        raise InvalidInputError(f"Family `{self.id}` has no single changes; use another gradient than `local`.")

    def measured(self, features: Features, x: Tensor) -> Tensor:
        """What can be measured of padded designs [B, M, *design shape] to learn a landscape from, [B, M, ...].

        Raises:
            InvalidInputError: the family measures nothing but the objective.
        """
        raise InvalidInputError(f"Family `{self.id}` offers no measurements; use another gradient than `landscape`.")

    # ------------------------------------------------------------------ given

    def sample(self, split: Split | str = Split.TRAIN, *, seed: int = 0) -> Instance:
        """The instance ``seed`` of a split; equal arguments give equal instances.

        Raises:
            InvalidInputError: no such split, or a negative seed.
        """
        try:
            split = Split(split)
        except ValueError as error:
            raise InvalidInputError(
                f"Expected `split` to be one of {[s.value for s in Split]}, got {split!r}."
            ) from error
        if isinstance(seed, bool) or not isinstance(seed, int) or seed < 0:
            raise InvalidInputError(f"Expected `seed` to be an integer >= 0, got {seed!r}.")
        entropy = [zlib.crc32(self.id.encode()), zlib.crc32(split.value.encode()), seed]
        problem = self.draw(split, np.random.default_rng(np.random.SeedSequence(entropy)))
        return Instance(problem, self.features(problem), split, seed)


@dataclass(frozen=True, slots=True)
class Question:
    """Costs [M, n] of one instance, on their way to a worker, which draws the instance again."""

    family: str
    split: Split
    seed: int
    costs: Array
    is_relaxed: bool = False


_KNOWN: dict[tuple[str, Split, int], Instance] = {}
_KNOWN_LIMIT = 4096


def _answer(question: Question) -> tuple[Array, NDArray[np.bool_]]:
    """Body of a worker: vertices [M, n] (zero without a point) and has_point [M] bool."""
    key = (question.family, question.split, question.seed)
    source = family(question.family)
    if key not in _KNOWN:
        if len(_KNOWN) >= _KNOWN_LIMIT:
            _KNOWN.clear()
        _KNOWN[key] = source.sample(question.split, seed=question.seed)
    return ask(source, _KNOWN[key].problem, question.costs, is_relaxed=question.is_relaxed)


def ask(family: Family, problem: Problem, costs: Array, *, is_relaxed: bool = False) -> tuple[Array, NDArray[np.bool_]]:
    """Vertices [M, n] of costs [M, n] in the names of the costs (zero without a point), and has_point [M] bool.

    With ``is_relaxed`` the points are those of the oracle's linear relaxation, which may be fractional. The rows of one
    call start from each other's basis; no call starts from an earlier one's, so that answers do not depend on what
    this process was asked before.

    Raises:
        InvalidInputError: ``is_relaxed``, and the oracle has no ``relaxation``.
    """
    oracle = relaxation(problem) if is_relaxed else problem.oracle
    if getattr(problem.oracle, "needs_nonnegative_costs", False):
        costs = np.maximum(costs, 0.0)
    if is_relaxed:
        reset = getattr(oracle, "reset", None)
        if callable(reset):
            reset()
    names = None if is_relaxed else family.relabeling(problem, costs)  # a relaxation breaks no symmetry
    found = oracle.solve(costs if names is None else np.take_along_axis(costs, names, axis=1))
    x = np.where(found.has_point[:, None], found.x, 0.0)
    if names is not None:
        own = np.zeros_like(x)
        np.put_along_axis(own, names, x, axis=1)
        x = own
    return x, found.has_point


_RELAXATIONS: WeakKeyDictionary[Any, LinearOracle] = WeakKeyDictionary()


def relaxation(problem: Problem) -> LinearOracle:
    """The linear relaxation of a problem's oracle, made once.

    Raises:
        InvalidInputError: the oracle offers none.
    """
    oracle: Any = problem.oracle
    if oracle not in _RELAXATIONS:
        make = getattr(oracle, "relaxation", None)
        if not callable(make):
            raise InvalidInputError(
                f"The oracle {type(oracle).__name__} offers no linear relaxation; train with `is_relaxed=False`."
            )
        made: Any = make()
        _RELAXATIONS[oracle] = made
    return _RELAXATIONS[oracle]


class FamilySource(Protocol):
    """What a domain offers to have families: `families` and `family`."""

    def families(self) -> Mapping[str, str]:
        """Id -> one line of description."""
        ...

    def family(self, id: str) -> Family:
        """The family of an id."""
        ...


def families() -> dict[str, str]:
    """All families of the installed domains, with a line of description each."""
    return {id: line for name in domain_names() for id, line in _families_of(name).items()}


def family(id: str) -> Family:
    """The family of an id.

    Raises:
        UnknownIdError: no such family; the message names the closest one.

    Example:
        >>> import surco
        >>> surco.family("paths/grid-5-code-v0").sample("test", seed=1).problem.oracle.n
        40
    """
    name = id.partition("/")[0]
    known = _families_of(name) if name in domain_names() else {}
    if id not in known:
        raise UnknownIdError(f"No family `{id}`.{closest(id, known or families())}")
    return _source(name).family(id)


def _source(name: str) -> Any:
    from surco.registry import _domain

    return _domain(name)


def _families_of(name: str) -> Mapping[str, str]:
    source: Callable[[], Mapping[str, str]] | None = getattr(_source(name), "families", None)
    return source() if source is not None else {}


def instances(family: Family, split: Split, seeds: Iterable[int]) -> list[Instance]:
    """Several instances of a split."""
    return [family.sample(split, seed=seed) for seed in seeds]
