"""Settings of one training run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from surco.errors import InvalidInputError
from surco.registry import closest


@dataclass(frozen=True, slots=True)
class TrainConfig:
    """How a prior is trained.

    Attributes:
        gradient: ``"local"``, ``"perturbed"``, ``"score"`` or ``"identity"``, see :mod:`surco.training.gradients`;
            the family's own choice where empty.
        batch: instances a step.
        samples: perturbed costs of each instance.
        sigma: size of the noise; relative to the root mean square of the costs, for ``local`` absolute.
        is_relaxed: take the gradient's points from the linear relaxation of each oracle, warm-started from row to row;
            validation asks the oracle itself.
        parts: parts of a batch: the oracle answers for one while the network works on the next. The weights depend on
            it, but not on how many workers answer. 0: two where the device is not the CPU and the gradient asks the
            oracle for whole designs one by one, else one.
        step_size: of Adam, after the warm-up; falls to a twentieth along a half cosine.
        warmup: steps in which the step size grows from zero.
        clip: largest norm of the gradient.
        instances: distinct training instances, drawn before the first step; each step takes some of them.
        validation: validation instances.
        validate_every: steps between two validations.
        patience: validations without a better regret after which training stops.
        save_seconds: a checkpoint is at most about this old.
        network: keyword arguments of the family's network.
        device: of network and objective.
        is_bf16: run the network in bfloat16 where the device has it (the objective stays in float32).
        is_compiled: compile the network with ``torch.compile``.
        is_captured: record the steps as CUDA graphs and replay them (``device`` has to be one of CUDA).
        threads: of torch on the CPU.
        tensorboard: also write TensorBoard events into the output folder.
    """

    gradient: str = ""
    batch: int = 16
    samples: int = 4
    sigma: float = 0.1
    is_relaxed: bool = False
    parts: int = 0
    step_size: float = 1e-3
    warmup: int = 20
    clip: float = 1.0
    instances: int = 512
    validation: int = 32
    validate_every: int = 50
    patience: int = 30
    save_seconds: float = 10.0
    network: Mapping[str, Any] = field(default_factory=dict)
    device: str = "cpu"
    is_bf16: bool = False
    is_compiled: bool = False
    is_captured: bool = False
    threads: int = 1
    tensorboard: bool = False

    def __post_init__(self) -> None:
        for name in ("is_relaxed", "is_bf16", "is_compiled", "is_captured", "tensorboard"):
            if not isinstance(getattr(self, name), bool):
                raise InvalidInputError(f"Expected `{name}` to be true or false, got {getattr(self, name)!r}.")
        if not isinstance(self.network, Mapping):
            raise InvalidInputError(f"Expected `network` to be keyword arguments, got {self.network!r}.")
        for name in ("batch", "samples", "instances", "validation", "validate_every", "patience", "threads"):
            if not isinstance(getattr(self, name), int) or getattr(self, name) < 1:
                raise InvalidInputError(
                    f"Expected `{name}` to be an integer of at least 1, got {getattr(self, name)!r}."
                )
        if not isinstance(self.parts, int) or self.parts < 0:
            raise InvalidInputError(f"Expected `parts` to be an integer of at least 0, got {self.parts!r}.")
        for name in ("sigma", "step_size", "clip"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, (int, float)) or not value > 0:
                raise InvalidInputError(f"Expected `{name}` > 0, got {getattr(self, name)!r}.")

    @classmethod
    def of(cls, options: Mapping[str, Any]) -> TrainConfig:
        """From keyword arguments.

        Raises:
            InvalidInputError: an unknown one; the message names the closest.
        """
        known = [f.name for f in fields(cls)]
        unknown = sorted(set(options) - set(known))
        if unknown:
            raise InvalidInputError(f"Training has no option `{unknown[0]}`.{closest(unknown[0], known)}")
        return cls(**options)

    def to_json(self) -> dict[str, Any]:
        """Plain data; the parts that decide the weights."""
        return {**asdict(self), "network": dict(self.network)}
